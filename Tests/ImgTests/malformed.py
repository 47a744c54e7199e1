#!/usr/bin/env python3
"""Images that somebody made to harm, and files that are no images, under goliath-img: each command ends by itself, with a status of its
own and not by a signal, within CPU seconds and MiB of memory.

  malformed.py GOLIATH-IMG [--seconds 1] [--memory 64] [--every 1] [--only NAME] [--verbose]

Both are of the child alone, user and system, as the kernel counted them (wait4). `--every 7` runs each seventh command only, the same ones each
time: every image, and every command, is among them.
"""
import argparse, os, resource, shutil, signal, struct, subprocess, sys, tempfile

OPTIONS = argparse.ArgumentParser()
OPTIONS.add_argument("tool")
OPTIONS.add_argument("--seconds", type=float, default=1)
OPTIONS.add_argument("--memory", type=float, default=64)
OPTIONS.add_argument("--verbose", action="store_true")
OPTIONS.add_argument("--only")
OPTIONS.add_argument("--every", type=int, default=1)
ARGUMENTS = OPTIONS.parse_args()
CLUSTER = 65536
COPIED = 1 << 63
COMPRESSED = 1 << 62


def header(size=1 << 30, bits=16, l1=3, l1_size=2, table=1, table_clusters=1, snapshots=0,
           snapshots_at=0, backing=(0, 0), version=3, order=4, incompatible=0, extra=b"",
           crypt=0, length=104, magic=b"QFI\xfb"):
    unit = 1 << min(bits, 21)
    at = lambda cluster: cluster * unit if cluster < 1 << 20 else cluster
    text = magic + struct.pack(
        ">IQIIQIIQQIIQ", version, backing[0], backing[1], bits, size, crypt, l1_size, at(l1),
        at(table), table_clusters, snapshots, snapshots_at)
    if version == 3:
        text += struct.pack(">QQQII", incompatible, 0, 0, order, length)
    return text + extra


def quads(*values):
    return struct.pack(">%dQ" % len(values), *values)


def image(path, parts, size=None):
    with open(path, "wb") as file:
        for at, data in parts:
            file.seek(at)
            file.write(data)
        if size is not None:
            file.truncate(size)


def plain(path, l1=None, l2=None, refcounts=None, table=None, end=8 * CLUSTER, **more):
    """Header, refcount table, block, L1 table, L2 table in clusters 0 to 4, data in 5 and 6."""
    image(path, [
        (0, header(**more)), (CLUSTER, table if table is not None else quads(2 * CLUSTER)),
        (2 * CLUSTER, refcounts if refcounts is not None else struct.pack(">7H", *[1] * 7)),
        (3 * CLUSTER, l1 if l1 is not None else quads(4 * CLUSTER | COPIED)),
        (4 * CLUSTER, l2 if l2 is not None else quads(5 * CLUSTER | COPIED, 6 * CLUSTER | COPIED)),
        (5 * CLUSTER, b"data" * 32768)], end)


CASES = {}


def case(function):
    CASES[function.__name__.replace("_", " ")] = function
    return function


def simple(name, **more):
    CASES[name] = lambda path: plain(path, **more)


# Nothing wrong, so that the others are known to fail for their own reason.
simple("a good image")

# References.
simple("L1 refers to itself", l1=quads(3 * CLUSTER | COPIED))
simple("L2 refers to itself", l2=quads(*[4 * CLUSTER | COPIED] * 8192))
simple("L2 refers to the header", l2=quads(*[COPIED] * 8192))
CASES["all of L1 is one L2 table"] = lambda path: image(path, [
    (0, header(size=1 << 42, l1_size=8192)), (CLUSTER, quads(2 * CLUSTER)),
    (2 * CLUSTER, struct.pack(">7H", *[1] * 7)), (3 * CLUSTER, quads(*[4 * CLUSTER | COPIED] * 8192)),
    (4 * CLUSTER, quads(*[5 * CLUSTER | COPIED] * 8192))], 8 * CLUSTER)
simple("the refcount table refers to itself", table=quads(*[CLUSTER] * 8192))
simple("the refcount table is one block", table=quads(*[2 * CLUSTER] * 8192))
simple("refcount table in the L1 table", table=quads(3 * CLUSTER), l1=quads(2 * CLUSTER))
simple("L1 is the refcount table", l1=quads(2 * CLUSTER))
simple("all counts are huge", refcounts=b"\xff" * CLUSTER)
simple("no counts at all", refcounts=b"")
simple("no refcount table", table=b"")
simple("unaligned entries", l1=quads(4 * CLUSTER + 512 | COPIED), l2=quads(5 * CLUSTER + 512))
simple("reserved bits", l1=quads(4 * CLUSTER | COPIED | 0x7F << 56 | 0x1FF))
simple("entries beyond the end of all files", l2=quads(*[0x00FF_FFFF_FFFF_0000 | COPIED] * 8192))
simple("tables beyond the end", l1=quads(0x00FF_FFFF_FFFF_0000 | COPIED), table=quads(1 << 55))
simple("compressed clusters of nothing", l2=quads(*[COMPRESSED | 1 << 55] * 8192))
simple("compressed clusters of everything", l2=quads(*[COMPRESSED | 0x3FFF << 48] * 8192))
simple("compressed clusters of the tables", l2=quads(*[COMPRESSED | 0x3F << 54 | 4 * CLUSTER] * 8192))


@case
def a_compressed_cluster_that_grows(path):
    import zlib
    data = zlib.compressobj(9, zlib.DEFLATED, -12)
    data = data.compress(bytes(1 << 24)) + data.flush()
    plain(path, l2=quads(*[COMPRESSED | 0x3F << 56 | 5 * CLUSTER] * 8192))
    with open(path, "r+b") as file:
        file.seek(5 * CLUSTER)
        file.write(data)


# Numbers of the header.
for field, name, width in [(4, "version", 4), (8, "backing offset", 8), (16, "backing length", 4),
                           (20, "cluster bits", 4), (24, "size", 8), (32, "encryption", 4),
                           (36, "L1 entries", 4), (40, "L1 offset", 8), (48, "refcount table", 8),
                           (56, "refcount clusters", 4), (60, "snapshot count", 4),
                           (64, "snapshot offset", 8), (72, "incompatible", 8),
                           (80, "compatible", 8), (88, "autoclear", 8), (96, "refcount order", 4),
                           (100, "header length", 4)]:
    for value in [0, 1, 0xFF, (1 << 31) - 1, (1 << width * 8) - 1, 1 << width * 8 - 1,
                  ((1 << width * 8) - 1) & ~0xFFFF]:
        def damage(path, field=field, width=width, value=value):
            plain(path)
            with open(path, "r+b") as file:
                file.seek(field)
                file.write(value.to_bytes(8, "big")[8 - width:])
        CASES["%s is %#x" % (name, value)] = damage
simple("the largest L1 table", l1_size=4194304)
simple("the largest refcount table", table_clusters=128)


@case
def an_image_of_exbibytes(path):
    image(path, [(0, header(size=(1 << 61) - 512, bits=21, l1_size=4194304, l1=3)),
                 (1 << 21, quads(2 << 21)), (2 << 21, struct.pack(">4H", 1, 1, 1, 1)),
                 (3 << 21, quads(COPIED | 40 << 21) * 4194304)], 42 << 21)


@case
def a_huge_sparse_file(path):
    plain(path, end=1 << 43)


@case
def a_huge_sparse_file_of_small_clusters(path):
    image(path, [(0, header(bits=9, l1_size=2)), (512, quads(1024)), (1536, quads(2048))], 1 << 43)


# Header extensions and backing files.
for name, extra in [
        ("an endless extension", struct.pack(">II", 0x6803F857, 0xFFFFFFFF)),
        ("extensions without end", struct.pack(">II", 0x12345678, 0) * 8000),
        ("a feature table of nonsense", struct.pack(">II", 0x6803F857, 48 * 1000) + b"\xff" * 48000),
        ("bitmaps that are everywhere", struct.pack(
            ">IIIIQQ", 0x23852875, 24, 0xFFFFFFFF, 0, 1 << 62, 1 << 62)),
        ("encryption without a header", struct.pack(">IIQQ", 0x0537BE77, 16, 1 << 62, 1 << 62)),
        ("a long data file name", struct.pack(">II", 0x44415441, 60000) + b"x" * 60000)]:
    simple(name, extra=extra, incompatible=4 if "data file" in name else 0)
CASES["a data file that is the image"] = lambda path: plain(
    path, incompatible=4,
    extra=struct.pack(">II", 0x44415441, 8) + os.path.basename(path).encode().ljust(8, b"\0")[:8])


def chain(length, loop):
    def make(path):
        for index in range(length):
            name = path if index == 0 else "%s.%d" % (path, index)
            last = index == length - 1
            target = path if loop else ""
            below = ("%s.%d" % (path, index + 1) if not last else target).encode()
            plain(name, backing=(1000 if below else 0, len(below)), l1=b"", l2=b"",
                  extra=struct.pack(">II", 0xE2792ACA, 5) + b"qcow2\0\0\0" + b"\0" * 8)
            if below:
                with open(name, "r+b") as file:
                    file.seek(1000)
                    file.write(below)
    return make


CASES["its own backing file"] = chain(1, True)
CASES["a loop of three"] = chain(3, True)
CASES["a chain of 300"] = chain(300, False)
for name, target in [("a FIFO", "fifo"), ("a terminal", "/dev/tty"), ("zeros", "/dev/zero"),
                     ("a folder", "/tmp"), ("nothing", "/dev/null"),
                     ("JSON without end", 'json:{"file":' * 60), ("a protocol", "nbd://nowhere"),
                     ("JSON of itself", "json:")]:
    def backed(path, target=target):
        if target == "fifo":
            target = path + ".fifo"
            os.mkfifo(target)
        if target == "json:":
            target = 'json:{"driver":"qcow2","file":{"driver":"file","filename":"%s"}}' % path
        below = target.encode()[:1023]
        plain(path, backing=(2000, len(below)), l1=b"", l2=b"")
        with open(path, "r+b") as file:
            file.seek(2000)
            file.write(below)
    CASES["its backing file is " + name] = backed


# Snapshots.
def snapshots(count, each, l1=b""):
    def make(path):
        plain(path, snapshots=count, snapshots_at=7 * CLUSTER)
        with open(path, "r+b") as file:
            file.seek(7 * CLUSTER)
            file.write(each * min(count, 2000))
            file.truncate(max(file.tell(), 8 * CLUSTER) + CLUSTER)
    return make


def snapshot(l1=3 * CLUSTER, size=1, extra=b"", extra_length=None, id=b"1", name=b"s"):
    text = struct.pack(">QIHHIIQII", l1, size, len(id), len(name), 0, 0, 0, 0,
                       len(extra) if extra_length is None else extra_length) + extra + id + name
    return text + bytes(-len(text) % 8)


CASES["two thousand snapshots of one table"] = snapshots(2000, snapshot(size=8192))
CASES["sixty thousand snapshots"] = snapshots(65536, snapshot())
CASES["a snapshot of 4 GiB of table"] = snapshots(1, snapshot(size=0xFFFFFFFF))
CASES["a snapshot beyond the file"] = snapshots(1, snapshot(l1=1 << 62, size=4194304))
CASES["a snapshot of the header"] = snapshots(1, snapshot(l1=0, size=8192))
CASES["a snapshot with endless data"] = snapshots(1, snapshot(extra_length=0xFFFFFFFF))
CASES["a snapshot with long names"] = snapshots(
    40, snapshot(id=b"1" * 65535, name=b"\xff" * 65535))

# Truncation.
for length in [0, 1, 3, 4, 71, 72, 103, 104, 512, CLUSTER, CLUSTER + 1, 3 * CLUSTER, 4 * CLUSTER + 7]:
    CASES["cut to %d bytes" % length] = lambda path, length=length: plain(path, end=length)


# What is no image.
@case
def a_FIFO(path):
    os.mkfifo(path)


@case
def a_socket(path):
    import socket
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)


@case
def a_folder(path):
    os.mkdir(path)


@case
def a_link_to_itself(path):
    os.symlink(path, path)


for device in ["/dev/zero", "/dev/null", "/dev/full", "/dev/random", "/dev/tty", "/dev/ptmx"]:
    CASES["a link to " + device] = lambda path, device=device: os.symlink(device, path)


@case
def random_bytes(path):
    with open(path, "wb") as file:
        file.write(os.urandom(300000))


COMMANDS = [("info", ["info", "%s"]), ("info json", ["info", "--output=json", "--backing-chain", "%s"]),
            ("check", ["check", "%s"]), ("check as qcow2", ["check", "-f", "qcow2", "%s"]),
            ("repair", ["check", "-f", "qcow2", "-r", "all", "%s"]), ("map", ["map", "%s"]),
            ("map json", ["map", "--output=json", "-f", "qcow2", "%s"]),
            ("convert", ["convert", "-f", "qcow2", "-O", "qcow2", "%s", "%s.out"]),
            ("snapshots", ["snapshot", "-l", "%s"])]


def run(arguments, limit):
    """Exit status (None: it had to be killed), CPU seconds, MiB, and the end of its output."""
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=output,
                                 stderr=subprocess.STDOUT, start_new_session=True)
        timed_out = []

        def stop(*_):
            timed_out.append(True)
            child.send_signal(signal.SIGKILL)

        resource.prlimit(child.pid, resource.RLIMIT_CPU, (limit, limit))
        # What neither works nor ends.
        signal.signal(signal.SIGALRM, stop)
        signal.alarm(120)
        _, status, usage = os.wait4(child.pid, 0)
        signal.alarm(0)
        child.returncode = status
        size = output.seek(0, 2)
        output.seek(max(0, size - 300))
        text = output.read().decode(errors="replace")
    code = None if timed_out or os.WIFSIGNALED(status) and usage.ru_utime + usage.ru_stime > limit else os.waitstatus_to_exitcode(status)
    return code, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, text


def main():
    bad = count = refused = number = 0
    worst = [(0, ""), (0, "")]
    with tempfile.TemporaryDirectory(prefix="goliath-malformed-") as folder:
        for name, make in CASES.items():
            if ARGUMENTS.only and ARGUMENTS.only not in name:
                continue
            for what, command in COMMANDS:
                number += 1
                if number % ARGUMENTS.every:
                    continue
                path = os.path.join(folder, "x")
                for left in os.listdir(folder):
                    left = os.path.join(folder, left)
                    (shutil.rmtree if os.path.isdir(left) and not os.path.islink(left) else os.unlink)(left)
                # By a child: what this process holds counts as its children's memory until they are other programs.
                maker = os.fork()
                if maker == 0:
                    make(path)
                    os._exit(0)
                os.waitpid(maker, 0)
                count += 1
                line = [ARGUMENTS.tool] + [part.replace("%s", path) for part in command]
                code, cpu, memory, text = run(line, int(ARGUMENTS.seconds) + 2)
                refused += code not in (0, None)
                worst = [max(worst[0], (cpu, name + ", " + what)), max(worst[1], (memory, name + ", " + what))]
                why = ("does not end" if code is None else "signal %d" % -code if code < 0 else
                       "%.2f s" % cpu if cpu > ARGUMENTS.seconds else
                       "%.0f MiB" % memory if memory > ARGUMENTS.memory else None)
                if why:
                    bad += 1
                    print("%s, %s: %s: %s" % (name, what, why, text[-200:].strip()))
                elif ARGUMENTS.verbose:
                    print("%s, %s: %d, %.2f s, %.0f MiB: %s" % (
                        name, what, code, cpu, memory, text.strip().split("\n")[-1][:100]))
    print("%d runs, %d refused, %d bad; at most %.2f s (%s), %.0f MiB (%s)" % (
        count, refused, bad, *worst[0], *worst[1]))
    if not ARGUMENTS.only and not (0 < refused < count):
        sys.exit("all or nothing was refused")
    sys.exit(1 if bad else 0)


main()
