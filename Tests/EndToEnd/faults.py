#!/usr/bin/env python3
"""What happens to a machine on several nodes when things go wrong, with the whole program.

    faults.py GOLIATH [--shell GOLIATH-SHELL] SCENARIO...

Nodes are processes in network namespaces of their own, joined by a switch that this program is: taps, whose frames it passes, delays, loses
or throws away. Run it in namespaces of its own (`unshare -rnm`). The guest is a few instructions of ours at the reset vector: every vCPU
counts in a page of its own and in one that all share, and writes a dot to the serial port now and then.

Prints a line for each step; ends with status 0 when all held, 1 with what did not.
"""
import argparse
import ctypes
import fcntl
import glob
import heapq
import json
import mmap
import os
import random
import re
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time

LEASE = 1.5
# Where a delay is to be only a delay, on a machine that may be busy.
PATIENT = "lease-ms=8000"
# A loaded machine is patient; what is measured is said.
PATIENCE = float(os.environ.get("GOLIATH_TEST_PATIENCE", "60"))


class Failed(Exception):
    pass


def expect(condition, what, got=""):
    if not condition:
        raise Failed(f"{what}: {got}")


def until(condition, what, seconds=None):
    end = time.monotonic() + (seconds or PATIENCE)
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Failed(f"not within {seconds or PATIENCE} s: {what}")
        time.sleep(0.005)


def say(text):
    print(f"{time.monotonic() - START:7.2f} s  {text}", flush=True)


START = time.monotonic()

# MARK: the guest


def firmware(path, shares=True):
    """A ROM of 64 KiB: vCPU 0 begins at the reset vector, sends INIT and SIPI with vector 0xF0 to all others, which begin at its first byte.

    All enter flat protected mode, say 'B' or 'A' at port 0x3F8, and count: with `lock inc` at 0x30000, with `inc` at 0x20000 + 4096 times
    the APIC's number; a dot after each 256 rounds. Without `shares` each has only its own page."""
    code = bytes.fromhex(
        "eb2c0000000000000000000000000000"  # jmp ap; the table of segments:
        "0000000000000000ffff0000009bcf00ffff00000093cf00170010000f00"
        "fa2e660f011628000f20c00c010f22c066ea96000f000800"  # ap: cli; lgdt; cr0 |= 1; jmp 8:ap32
        "fa2e660f011628000f20c00c010f22c066ea5e000f000800"  # bsp: the same; jmp 8:bsp32
        "66b810008ed88ed066baf803b042ee"  # bsp32: ds = ss = 16; out 'B'
        "c705f000e0feff010000"  # APIC on
        "c7050003e0fe00450c00b9204e0000f390e2fc"  # INIT to the others; a while
        "c7050003e0fef0460c00eb0f"  # SIPI to the others; jmp work
        "66b810008ed88ed066baf803b041ee"  # ap32: ds = ss = 16; out 'A'
        "8b1d2000e0fec1eb18c1e30c81c30000020031c9"  # work: ebx = 0x20000 + 4096 * id
        "f0ff0500000300ff03f39041f7c1ff00000075ecb02eeeebe7")
    if not shares:
        code = code.replace(bytes.fromhex("f0ff0500000300"), b"\x90" * 7)
    rom = bytearray(65536)
    rom[:len(code)] = code
    rom[0xFFF0:0xFFF5] = bytes.fromhex("ea460000f0")
    with open(path, "wb") as file:
        file.write(rom)


SHARED = 0x30000

# MARK: the network

LIBC = ctypes.CDLL(None, use_errno=True)
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 2, 0x1000


def damaged(frame):
    """The frame with a byte of the first header in its TCP payload changed and a checksum that fits; nil when there is none."""
    if len(frame) < 54 or frame[12:14] != b"\x08\0" or frame[23] != 6:
        return None
    size = struct.unpack(">H", frame[16:18])[0]
    start = 14 + (frame[14] & 15) * 4
    data = start + (frame[start + 12] >> 4) * 4
    if 14 + size < data + 32 or frame[data:data + 2] not in (b"\x4c\x47", b"\x17\x03"):
        return None
    out = bytearray(frame[:14 + size])
    out[data + 25] ^= 0x5A
    out[start + 16:start + 18] = b"\0\0"
    part = bytes(out[26:34]) + struct.pack(">BBH", 0, 6, len(out) - start) + bytes(out[start:])
    part += b"\0" * (len(part) & 1)
    total = sum(struct.unpack(f">{len(part) // 2}H", part))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    out[start + 16:start + 18] = struct.pack(">H", ~total & 0xFFFF)
    return bytes(out)


class Switch:
    """The cable between the nodes' namespaces, in a process of its own: frames from each to each, as the links between them are."""

    UP, DOWN = 1, 0

    def __init__(self, count):
        self.count = count
        self.names = [f"node{number}" for number in range(count)]
        self.addresses = [f"10.77.0.{number + 1}" for number in range(count)]
        # For each ordered pair: up, delay in microseconds, loss in millionths, segments that are to be damaged.
        self.matrix = mmap.mmap(-1, 4096)
        taps = []
        for number, name in enumerate(self.names):
            self.run("ip", "netns", "add", name)
            taps.append(self.tap(name))
            for line in (f"link set lo up", f"addr add {self.addresses[number]}/24 dev wire",
                         f"link set wire address 02:00:00:00:00:{number + 1:02x}", "link set wire up"):
                self.run("ip", "-n", name, *line.split())
        for number in range(count):
            for other in range(count):
                if other != number:
                    self.run("ip", "-n", self.names[number], "neigh", "add", self.addresses[other], "lladdr",
                             f"02:00:00:00:00:{other + 1:02x}", "dev", "wire", "nud", "permanent")
                self.set(number, other, True)
        self.process = os.fork()
        if self.process == 0:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            try:
                self.serve(taps)
            finally:
                os._exit(0)
        for tap in taps:
            os.close(tap)

    @staticmethod
    def run(*words):
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        expect(done.returncode == 0, " ".join(words), done.stdout)

    @staticmethod
    def tap(name):
        here = os.open("/proc/self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{name}", os.O_RDONLY)
        try:
            expect(LIBC.setns(there, 0) == 0, "setns", os.strerror(ctypes.get_errno()))
            tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", b"wire", IFF_TAP | IFF_NO_PI))
            return tap
        finally:
            expect(LIBC.setns(here, 0) == 0, "setns", "back")
            os.close(here)
            os.close(there)

    def set(self, a, b, up, delay=0.0, loss=0.0, damage=0):
        """One way, from a to b. `damage`: so many TCP segments get another byte, and a checksum that fits."""
        at = (a * 8 + b) * 16
        self.matrix[at:at + 16] = struct.pack("<IIII", up, int(delay * 1e6), int(loss * 1e6), damage)

    def link(self, a, b, up=True, delay=0.0, loss=0.0):
        """Both ways; `delay` in seconds, `loss` a share."""
        self.set(a, b, up, delay, loss)
        self.set(b, a, up, delay, loss)

    def cut(self, *groups):
        """No frame passes between groups of nodes."""
        for one in groups:
            for other in groups:
                if one is not other:
                    for a in one:
                        for b in other:
                            self.link(a, b, up=False)

    def heal(self):
        for a in range(self.count):
            for b in range(self.count):
                self.set(a, b, True)

    def serve(self, taps):
        chance = random.Random(7)
        waiting, number = [], 0
        poll = select.poll()
        for tap in taps:
            poll.register(tap, select.POLLIN)
        index = {tap: position for position, tap in enumerate(taps)}
        parent = os.getppid()
        while os.getppid() == parent:
            now = time.monotonic()
            while waiting and waiting[0][0] <= now:
                _, _, tap, frame = heapq.heappop(waiting)
                self.put(tap, frame)
            wait = max(0, (waiting[0][0] - now) * 1000) if waiting else 500
            for tap, _ in poll.poll(wait):
                try:
                    frame = os.read(tap, 65536)
                except OSError:
                    continue
                source, target = index[tap], frame[5] - 1
                if frame[:5] != b"\2\0\0\0\0" or not 0 <= target < len(taps):
                    continue
                at = (source * 8 + target) * 16
                up, delay, loss, damage = struct.unpack("<IIII", self.matrix[at:at + 16])
                if not up or (loss and chance.random() * 1e6 < loss):
                    continue
                if damage:
                    changed = damaged(frame)
                    if changed:
                        frame = changed
                        self.matrix[at + 12:at + 16] = struct.pack("<I", damage - 1)
                if delay:
                    number += 1
                    heapq.heappush(waiting, (time.monotonic() + delay / 1e6, number, taps[target], frame))
                else:
                    self.put(taps[target], frame)

    @staticmethod
    def put(tap, frame):
        try:
            os.write(tap, frame)
        except OSError:
            pass

    def close(self):
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name])


# MARK: nodes


def only_last(arguments, option="-accel"):
    """The arguments without earlier ones of this option, which would be tried first."""
    last = max((index for index, word in enumerate(arguments) if word == option), default=0)
    return [word for index, word in enumerate(arguments)
            if not any(arguments[place] == option and place < last for place in (index, max(index - 1, 0)))]


class Node:
    """One goliath with QMP and human monitor on unix sockets."""

    def __init__(self, number, arguments, folder, namespace=None, label="", monitors=True):
        self.number, self.folder = number, folder
        self.prefix = os.path.join(folder, f"{label}n{number}")
        self.errors = open(self.prefix + ".err", "w+b")
        self.output = open(self.prefix + ".out", "w+b")
        words = ["ip", "netns", "exec", namespace] if namespace else []
        words += [OPTIONS.goliath, *only_last(arguments)]
        if monitors:
            words += ["-qmp", f"unix:{self.prefix}.qmp,server=on,wait=off",
                      "-monitor", f"unix:{self.prefix}.hmp,server=on,wait=off"]
        self.events, self.answers, self.lock = [], {}, threading.Condition()
        self.qmp_socket, self.hmp_socket, self.last = None, None, 0
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=self.output, stderr=self.errors)
        NODES.append(self)

    # QMP

    def connect(self):
        self.qmp_socket = self.dial(".qmp")
        self.lines = self.qmp_socket.makefile("r")
        self.lines.readline()
        threading.Thread(target=self.read, daemon=True).start()
        self.qmp("qmp_capabilities")
        return self

    def dial(self, suffix):
        def attempt():
            expect(self.process.poll() is None, f"node {self.number} runs", self.text)
            made = socket.socket(socket.AF_UNIX)
            try:
                made.connect(self.prefix + suffix)
                return made
            except OSError:
                made.close()
        return until(attempt, f"node {self.number} listens at {suffix}")

    def read(self):
        try:
            for line in self.lines:
                message = json.loads(line)
                with self.lock:
                    if "event" in message:
                        self.events.append((time.monotonic(), message))
                    else:
                        self.answers[message.get("id")] = message
                    self.lock.notify_all()
        except (OSError, ValueError):
            pass
        with self.lock:
            self.lines = None
            self.lock.notify_all()

    def ask(self, command, seconds=None, /, **arguments):
        """The whole reply."""
        with self.lock:
            self.last += 1
            number = self.last
        self.qmp_socket.sendall(json.dumps(
            {"execute": command, "id": number,
             "arguments": {key.replace("_", "-"): value for key, value in arguments.items()}}).encode())
        with self.lock:
            done = self.lock.wait_for(lambda: number in self.answers or self.lines is None, seconds or PATIENCE)
            expect(done, f"node {self.number} answers {command}", "nothing")
            expect(number in self.answers, f"node {self.number} answers {command}", "it ended: " + self.text)
            return self.answers.pop(number)

    def qmp(self, command, seconds=None, /, **arguments):
        reply = self.ask(command, seconds, **arguments)
        expect("return" in reply, f"node {self.number}: {command}", reply)
        return reply["return"]

    def error(self, command, /, **arguments):
        reply = self.ask(command, **arguments)
        expect("error" in reply, f"node {self.number}: {command} fails", reply)
        return reply["error"]["desc"]

    def event(self, name, seconds=None, since=0, **wanted):
        """The first event of that name with these data, and when it came."""
        def find():
            for when, message in self.events:
                if message["event"] == name and when >= since and all(
                        message["data"].get(key) == value for key, value in wanted.items()):
                    return when, message["data"]
        with self.lock:
            if self.lock.wait_for(find, seconds or PATIENCE):
                return find()
        raise Failed(f"node {self.number} tells no {name} {wanted}; but {[e for _, e in self.events]}; {self.text}")

    def none(self, name):
        with self.lock:
            found = [message for _, message in self.events if message["event"] == name]
        expect(not found, f"node {self.number} tells no {name}", found)

    # The human monitor

    def hmp(self, line, seconds=None):
        """What the human monitor on its own socket prints."""
        if not self.hmp_socket:
            self.hmp_socket = self.dial(".hmp")
            self.hmp_read(seconds)
        self.hmp_socket.sendall(line.encode() + b"\n")
        text = self.hmp_read(seconds)
        text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text).replace("\r", "")
        return text.split("\n", 1)[1] if "\n" in text else text

    def hmp_read(self, seconds=None):
        data, end = b"", time.monotonic() + (seconds or PATIENCE)
        while not data.endswith(b"(qemu) "):
            left = end - time.monotonic()
            ready = select.select([self.hmp_socket], [], [], max(left, 0))[0]
            expect(ready, f"node {self.number}'s human monitor answers", data)
            part = self.hmp_socket.recv(65536)
            expect(part, f"node {self.number}'s human monitor stays", data)
            data += part
        return data[:-7].decode(errors="replace")

    # The rest

    @property
    def text(self):
        with open(self.errors.name, "rb") as file:
            return file.read().decode(errors="replace")

    @property
    def serial(self):
        with open(self.output.name, "rb") as file:
            return file.read()

    def word(self, address=SHARED):
        text = self.qmp("human-monitor-command", command_line=f"xp /1wx {address:#x}")
        found = re.search(r": (0x[0-9a-f]{8})", text)
        return int(found.group(1), 16) if found else text.strip()

    def cluster(self):
        return self.qmp("query-cluster")

    def states(self):
        return [node["state"] for node in self.cluster()["nodes"]]

    def wait(self, seconds=None):
        try:
            return self.process.wait(seconds or PATIENCE)
        except subprocess.TimeoutExpired:
            raise Failed(f"node {self.number} does not end: {self.text}")

    def kill(self, number=signal.SIGKILL):
        os.kill(self.process.pid, number)

    def quit(self):
        """Asks it to end and waits for that; the reply may be cut off by the end."""
        start = time.monotonic()
        try:
            self.qmp_socket.sendall(b'{"execute":"quit"}')
        except OSError:
            pass  # a node that it is still connected with was asked before
        status = self.wait()
        expect(status == 0, f"node {self.number} quits", f"status {status}: {self.text}")
        return time.monotonic() - start


NODES = []


class Cluster:
    """Nodes of one machine; in namespaces with a switch, or on this host over unix sockets."""

    serial = 0

    def __init__(self, count=2, switch=True, options=(), cluster="", each=lambda number: [], memory="dsm", run=True,
                 credentials="insecure=on", label=None, m="8M", folder=None, start=True, shares=True, name=None):
        Cluster.serial += 1
        self.id = name or f"f{os.getpid()}-{Cluster.serial}"
        self.folder = folder or tempfile.mkdtemp(prefix="goliath-faults-")
        FOLDERS.append(self.folder)
        self.label = label or ""
        self.count, self.memory = count, memory
        self.net = Switch(count) if switch else None
        SWITCHES.extend([self.net] if switch else [])
        if switch:
            self.peers = "+".join(self.net.addresses)
        else:
            os.chmod(self.folder, 0o700)
            self.peers = "+".join(f"unix:{self.folder}/node{number}" for number in range(count))
            credentials = "" if credentials == "insecure=on" else credentials
        firmware(self.folder + "/rom", shares)
        self.common = ["-accel", "tcg", "-nodefaults", "-nographic", "-m", m, "-smp", str(count),
                       "-bios", self.folder + "/rom", *options]
        self.text = ",".join(part for part in (f"id={self.id}", f"peers={self.peers}", f"memory={memory}", credentials,
                                               cluster) if part)
        self.each = each
        self.nodes = []
        if start:
            # The others' monitors are connected before the last one can make the cluster complete, which takes a moment only.
            for number in range(count):
                if number == count - 1:
                    for node in self.nodes:
                        node.connect()
                self.nodes.append(self.start(number))
            self.nodes[-1].connect()
            if run:
                self.running()
                for node in self.nodes[:-1]:
                    node.event("CLUSTER_NODE_JOINED", peer=count - 1)

    def arguments(self, number):
        serial = ["-serial", "stdio"] if number == 0 else ["-serial", "none"]
        return self.common + serial + ["-cluster", f"node={number},{self.text}"] + self.each(number)

    def start(self, number, label=None, arguments=None, monitors=True):
        return Node(number, arguments or self.arguments(number), self.folder,
                    self.net.names[number] if self.net else None, self.label if label is None else label, monitors)

    def running(self):
        """All vCPUs have been seen to count."""
        for node in self.nodes:
            until(lambda: all(one["state"] == "joined" for one in node.qmp("query-cluster")["nodes"]),
                  f"node {node.number} sees all joined")
        until(lambda: self.nodes[0].serial.count(b"A") == self.count - 1 and b"B" in self.nodes[0].serial,
              "all vCPUs begin")
        self.counts(self.nodes[0], *range(self.count))
        return self

    def counts(self, node, *vcpus):
        """These vCPUs go on counting, as that node sees it."""
        for vcpu in vcpus:
            address = 0x20000 + 4096 * vcpu
            before = node.word(address)
            until(lambda: node.word(address) != before, f"vCPU {vcpu} counts on")

    def end(self):
        for node in self.nodes:
            if node.process.poll() is None:
                node.kill(signal.SIGCONT)
        alive = [node for node in self.nodes if node.process.poll() is None]
        if alive:
            alive[0].qmp_socket.sendall(b'{"execute":"quit"}')
        for node in alive:
            expect(node.wait() == 0, f"node {node.number} ends in order", node.text)
        self.clean()

    def clean(self):
        """Nothing of this cluster is left behind."""
        left = [path for path in glob.glob("/dev/shm/*") if self.id in path]
        expect(not left, "nothing is left in /dev/shm", left)
        left = glob.glob(self.folder + "/node*")
        expect(not left, "no sockets are left", left)
        if self.net:
            self.net.close()
            SWITCHES.remove(self.net)
            self.net = None


FOLDERS, SWITCHES = [], []

# MARK: scenarios


def pair(first, second, what=(), status=1, common=()):
    """Two nodes that must not become one machine; both must say all of `what`."""
    cluster = Cluster(switch=False, start=False, options=common)
    nodes = [cluster.start(0, arguments=cluster.arguments(0) + first, monitors=False),
             cluster.start(1, arguments=cluster.arguments(1) + second, monitors=False)]
    started = time.monotonic()
    for node in nodes:
        expect(node.wait() == status, f"node {node.number}'s status {status}", node.text)
        for words in what:
            expect(words in node.text, f"node {node.number} says '{words}'", node.text)
        expect(len(node.text.strip().split("\n")) == 1, "one line", node.text)
    cluster.clean()
    return nodes, time.monotonic() - started


def refusals():
    """What the nodes do not have alike is named on both sides, and neither starts."""
    folder = tempfile.mkdtemp(prefix="goliath-faults-")
    FOLDERS.append(folder)
    for name in ("a", "b"):
        os.mkdir(f"{folder}/{name}")
        firmware(f"{folder}/{name}/own.bin")
        with open(f"{folder}/{name}/own.bin", "r+b") as file:
            file.seek(0x8000)
            file.write(name.encode())
        with open(f"{folder}/{name}/kernel", "wb") as file:
            file.write(name.encode() * 100000)
    a, b = folder + "/a", folder + "/b"
    for first, second, what in (
            (["-m", "16M"], ["-m", "32M"], ["-m differs: node 1 has 32M, node 0 has 16M"]),
            (["-smp", "2"], ["-smp", "4"], ["-smp differs: node 1 has 4", "node 0 has 2"]),
            (["-smp", "2,sockets=2"], ["-smp", "2,cores=2"],
             ["-smp differs: node 1 has 2,maxcpus=2,sockets=1,dies=1,cores=2,threads=1,"
              " node 0 has 2,maxcpus=2,sockets=2,dies=1,cores=1,threads=1"]),
            (["-kernel", a + "/kernel"], ["-kernel", b + "/kernel"], ["-kernel differs: node 1 has sha256:"]),
            (["-kernel", a + "/kernel"], [], ["-kernel differs: node 1 has none, node 0 has sha256:"]),
            (["-kernel", a + "/kernel", "-initrd", a + "/kernel", "-append", "x"],
             ["-kernel", a + "/kernel", "-initrd", b + "/kernel", "-append", "y"],
             ["-initrd differs: node 1 has sha256:", "-append differs: node 1 has y, node 0 has x"]),
            (["-cpu", "qemu64"], ["-cpu", "qemu64,-sse3"], ["-cpu differs: node 1 has qemu64,-sse3, node 0 has qemu64"]),
            (["-bios", a + "/own.bin"], ["-bios", b + "/own.bin"], ["-bios differs: node 1 has sha256:"]),
            # The same name, found in different folders.
            (["-L", a, "-bios", "own.bin"], ["-L", b, "-bios", "own.bin"], ["-bios differs: node 1 has sha256:"]),
            (["-machine", "hpet=off"], [], ["-machine hpet differs: node 1 has on, node 0 has off"]),
            (["-m", "16M", "-append", "x", "-kernel", a + "/kernel"], ["-m", "32M", "-append", "z=1", "-kernel", a + "/kernel"],
             ["-m differs: node 1 has 32M, node 0 has 16M", "-append differs: node 1 has z=1, node 0 has x"])):
        nodes, seconds = pair(first, second, what)
        say(f"refused within {seconds:.2f} s: {nodes[1].text.strip()[:150]}")
    # The same contents in different folders are the same.
    firmware(b + "/own.bin")
    firmware(a + "/own.bin")
    cluster = Cluster(switch=False, each=lambda number: ["-L", (a, b)[number], "-bios", "own.bin"])
    cluster.end()
    say("firmware of the same contents at different places is the same")


def cpus():
    """What one host's CPU lacks the guest lacks on all, unless that is not to be."""
    def each(number):
        return ["-accel", "tcg,x-without=avx2+sse4.2"] if number == 1 else []
    for model in ("max", "Haswell"):
        cluster = Cluster(switch=False, options=["-cpu", model], each=each)
        for node in cluster.nodes:
            expect("node 1 lacks sse4.2 avx2; the guest does without" in node.text, "both sides tell what a CPU lacks",
                   node.text)
        features = cluster.nodes[0].hmp("info registers -a")
        expect("CPU#1" in features or "EAX" in features, "registers of both", features)
        cluster.end()
    nodes, _ = pair(["-cpu", "max,enforce"],
                    ["-cpu", "max,enforce", "-accel", "tcg,x-without=avx2"], ["CPU features differ: node 1 lacks avx2"])
    say(nodes[1].text.strip())


def noticed(node, start, victim, what, event="CLUSTER_NODE_LOST", more=0, **wanted):
    """How long after `start` the node told; not more than the lease and 200 ms (and `more`)."""
    data = {"peer": victim} if victim is not None else {}
    data.update(wanted)
    when, facts = node.event(event, since=start, **data)
    seconds = when - start
    FIGURES.append((what, seconds))
    say(f"{what}: node {node.number} tells {event} after {seconds * 1000:.0f} ms ({facts.get('reason')})")
    expect(seconds <= LEASE + 0.2 + more + SLACK, f"{what}: noticed within the lease and 200 ms", f"{seconds:.3f} s")
    return facts


FIGURES = []
# A machine that does other things as well may take longer; a quiet one must not.
SLACK = float(os.environ.get("GOLIATH_TEST_SLACK", "0"))


def frozen(cluster, survivors, lost):
    """The survivors stand, and say so."""
    for node in survivors:
        status = until(lambda: node.cluster() if node.cluster()["state"] == "frozen" else None,
                       f"node {node.number} is frozen")
        for number in lost:
            entry = status["nodes"][number]
            expect(entry["state"] == "lost", f"node {node.number} says node {number} is lost", status)
            expect(entry.get("reason"), f"node {node.number} says why node {number} is lost", status)
        expect(status.get("reason"), "the reason is told", status)
        expect(status["epoch"] > 1 or node.number in lost, "a new epoch", status)
        text = node.hmp("info cluster")
        expect(": frozen, epoch" in text and "reason: " in text, f"info cluster of node {node.number}", text)
        for number in lost:
            expect(f"node {number}: lost at" in text, f"info cluster of node {node.number}", text)
        until(lambda: not node.qmp("query-status")["running"], f"node {node.number} does not run")
        expect("VM status: paused" in node.hmp("info status"), "info status", node.hmp("info status"))
        start = time.monotonic()
        reply = node.ask("cont")
        expect("The cluster is frozen: " in reply.get("error", {}).get("desc", ""), "cont is refused", reply)
        expect(not node.qmp("query-status")["running"], f"cont changes nothing on node {node.number}")
        expect(time.monotonic() - start < 10, "monitors answer", time.monotonic() - start)
    if survivors and survivors[0].number == 0:
        before = len(survivors[0].serial)
        time.sleep(0.3)
        expect(len(survivors[0].serial) == before, "the guest stands", "it writes on")


def finish(cluster, survivors):
    for node in reversed(survivors):
        seconds = node.quit()
        expect(seconds < 10, f"node {node.number} quits soon", seconds)
    cluster.clean()


def kill(victim, policy, memory="dsm", count=2):
    what = f"kill -9 of node {victim} of {count}, {memory}, {policy}"
    cluster = Cluster(count, cluster=f"on-node-loss={policy}", memory=memory, switch=memory == "dsm")
    survivors = [node for node in cluster.nodes if node.number != victim]
    start = time.monotonic()
    cluster.nodes[victim].kill()
    for node in survivors:
        facts = noticed(node, start, victim, what)
        expect(facts["vcpus"] == [victim] and facts["reason"], "whose vCPUs are gone", facts)
        node.event("CLUSTER_FROZEN", since=start)
        if policy == "shutdown":
            expect(node.wait() == 3, f"node {node.number} ends with status 3", node.text)
    cluster.nodes[victim].process.wait()
    if policy == "shutdown":
        return cluster.clean()
    frozen(cluster, survivors, [victim])
    if victim == 0:
        expect("node 0" in survivors[0].error("cluster-continue", accept_loss=True), "without node 0 nothing goes on")
    finish(cluster, survivors)


def kills():
    for victim in (1, 0):
        for policy in ("pause", "shutdown"):
            kill(victim, policy)
    kill(1, "pause", "shm")
    kill(0, "shutdown", "shm")
    kill(2, "pause", count=3)


def again():
    """What a killed node leaves behind stops no new start of the same cluster."""
    folder = tempfile.mkdtemp(prefix="goliath-faults-")
    for memory in ("shm", "dsm"):
        name = f"again{os.getpid()}"
        # Node 0 alone, killed while it waits: the object and the sockets are there.
        cluster = Cluster(switch=False, memory=memory, folder=folder, name=name, start=False)
        for victims in ((0,), (1,), (0, 1)):
            nodes = [cluster.start(number, label=f"v{memory}" + "".join(map(str, victims))) for number in victims]
            for number in victims:
                if len(victims) == 1:
                    until(lambda: os.path.exists(f"{folder}/node{number}"), "the socket is there")
                    if number == 0 and memory == "shm":
                        until(lambda: os.path.exists(f"/dev/shm/{name}"), "the object is there")
            for node in nodes:
                node.kill()
                node.process.wait()
            cluster.nodes = [cluster.start(number, label=f"a{memory}" + "".join(map(str, victims))).connect()
                             for number in range(2)]
            cluster.running().end()
            say(f"{memory}: starts after node {' and '.join(map(str, victims))} killed while joining")
        # Both at once while the guest runs, then again.
        cluster.nodes = [cluster.start(number, label=f"r{memory}").connect() for number in range(2)]
        cluster.running()
        for node in cluster.nodes:
            node.kill()
        for node in cluster.nodes:
            node.process.wait()
        cluster.clean()
        cluster.nodes = [cluster.start(number, label=f"s{memory}").connect() for number in range(2)]
        cluster.running().end()
        say(f"{memory}: starts after all were killed while the guest ran")


def cut():
    """The link goes."""
    cluster = Cluster()
    start = time.monotonic()
    cluster.net.cut([0], [1])
    noticed(cluster.nodes[0], start, 1, "link cut")
    noticed(cluster.nodes[1], start, None, "link cut", event="CLUSTER_FROZEN")
    noticed(cluster.nodes[1], start, 0, "link cut")
    cluster.nodes[0].event("CLUSTER_FROZEN", since=start)
    frozen(cluster, cluster.nodes[:1], [1])
    frozen(cluster, cluster.nodes[1:], [0])
    # The link comes back: what was lost stays lost.
    cluster.net.heal()
    time.sleep(1)
    frozen(cluster, cluster.nodes[:1], [1])
    frozen(cluster, cluster.nodes[1:], [0])
    finish(cluster, cluster.nodes)
    # One way only: what node 1 sends is lost, what it hears it hears.
    for a, b in ((1, 0), (0, 1)):
        cluster = Cluster()
        start = time.monotonic()
        cluster.net.set(a, b, False)
        noticed(cluster.nodes[0], start, 1, f"cut from {a} to {b} only")
        # Heartbeats say for how long their receiver was not heard, so both know.
        noticed(cluster.nodes[1], start, 0, f"cut from {a} to {b} only")
        frozen(cluster, cluster.nodes[:1], [1])
        frozen(cluster, cluster.nodes[1:], [0])
        finish(cluster, cluster.nodes)
    # Shorter than the lease: the guest waits, and goes on.
    cluster = Cluster(cluster=PATIENT)
    cluster.net.cut([0], [1])
    time.sleep(0.9)
    cluster.net.heal()
    time.sleep(1.5)
    cluster.counts(cluster.nodes[0], 0, 1)
    for node in cluster.nodes:
        node.none("CLUSTER_NODE_LOST")
        expect(node.cluster()["state"] == "running", "runs on", node.cluster())
    say("a cut of 0.9 s is only a delay")
    cluster.end()


def partition():
    """Node 1 alone, nodes 0 and 2 together; then they go on without it."""
    cluster = Cluster(3, shares=False)
    start = time.monotonic()
    cluster.net.cut([1], [0, 2])
    for number in (0, 2):
        noticed(cluster.nodes[number], start, 1, "partition 1|02")
    noticed(cluster.nodes[1], start, 0, "partition 1|02")
    frozen(cluster, [cluster.nodes[0], cluster.nodes[2]], [1])
    frozen(cluster, cluster.nodes[1:2], [0])
    reply = cluster.nodes[0].ask("cluster-continue", accept_loss=True)
    if time.monotonic() - start < LEASE + 0.3:
        expect("may still run" in reply.get("error", {}).get("desc", ""), "not before its lease is over", reply)
    expect("must be true" in cluster.nodes[0].error("cluster-continue", accept_loss=False), "only with accept-loss")
    def proceed():
        return "return" in cluster.nodes[2].ask("cluster-continue", accept_loss=True)
    until(lambda: "return" in reply or proceed(), "the rest goes on")
    for number in (0, 2):
        cluster.nodes[number].event("CLUSTER_RESUMED", since=start)
    until(lambda: cluster.nodes[0].cluster()["state"] == "running", "the cluster runs")
    if not cluster.nodes[0].qmp("query-status")["running"]:
        cluster.nodes[0].qmp("cont")
    cluster.counts(cluster.nodes[0], 0, 2)
    text = cluster.nodes[0].word(0x21000)
    expect(isinstance(text, str) and "annot" in text, "the lost page is not read as zeros", text)
    say(f"lost page: {text}")
    # Node 1 stays where it is, whatever it hears.
    cluster.net.heal()
    time.sleep(0.5)
    frozen(cluster, cluster.nodes[1:2], [0])
    cluster.counts(cluster.nodes[0], 0, 2)
    cluster.nodes[1].quit()
    cluster.nodes[0].qmp("quit")
    for number in (2, 0):
        expect(cluster.nodes[number].wait() == 0, f"node {number} ends", cluster.nodes[number].text)
    cluster.clean()
    # Nodes 1 and 2 lose each other, node 0 has both.
    cluster = Cluster(3)
    start = time.monotonic()
    cluster.net.cut([1], [2])
    until(lambda: cluster.nodes[0].cluster()["state"] == "frozen", "frozen")
    lost = [number for number, state in enumerate(cluster.nodes[0].states()) if state == "lost"]
    expect(lost in ([1], [2]), "one of the two", cluster.nodes[0].cluster())
    noticed(cluster.nodes[0], start, lost[0], "partition 1|2")
    frozen(cluster, [cluster.nodes[0], cluster.nodes[3 - lost[0]]], lost)
    frozen(cluster, [cluster.nodes[lost[0]]], [])
    finish(cluster, cluster.nodes)


def stopped():
    """A node that stands still, for less and for more than its lease."""
    for victim in (1, 0):
        cluster = Cluster(cluster=PATIENT)
        other = cluster.nodes[1 - victim]
        cluster.nodes[victim].kill(signal.SIGSTOP)
        start = time.monotonic()
        other.event("CLUSTER_NODE_SUSPECT", peer=victim)
        time.sleep(max(0, 1.0 - (time.monotonic() - start)))
        cluster.nodes[victim].kill(signal.SIGCONT)
        until(lambda: other.states() == ["joined", "joined"], "no suspicion is left")
        cluster.counts(other, 0, 1)
        for node in cluster.nodes:
            node.none("CLUSTER_NODE_LOST")
            node.none("CLUSTER_FROZEN")
        say(f"node {victim} stopped for 1 s: only slow")
        cluster.end()
        cluster = Cluster()
        other = cluster.nodes[1 - victim]
        start = time.monotonic()
        cluster.nodes[victim].kill(signal.SIGSTOP)
        noticed(other, start, victim, f"node {victim} stopped for 3 s")
        other.event("CLUSTER_FROZEN", since=start)
        frozen(cluster, [other], [victim])
        time.sleep(max(0, 3.0 - (time.monotonic() - start)))
        start = time.monotonic()
        cluster.nodes[victim].kill(signal.SIGCONT)
        cluster.nodes[victim].event("CLUSTER_FROZEN", since=start, seconds=3 + SLACK)
        cluster.nodes[victim].event("CLUSTER_NODE_LOST", since=start, peer=1 - victim)
        frozen(cluster, [cluster.nodes[victim]], [1 - victim])
        frozen(cluster, [other], [victim])
        finish(cluster, cluster.nodes)


def weather():
    """Delay and loss make the guest slow, nothing else."""
    for delay, loss in ((0.001, 0), (0, 0.01), (0.02, 0.03)):
        cluster = Cluster(run=False, cluster=PATIENT)
        cluster.net.link(0, 1, delay=delay, loss=loss)
        cluster.running()
        start, before = time.monotonic(), cluster.nodes[0].word()
        time.sleep(3)
        rounds = (cluster.nodes[0].word() - before) / (time.monotonic() - start)
        for node in cluster.nodes:
            node.none("CLUSTER_NODE_LOST")
            node.none("CLUSTER_PROTOCOL_ERROR")
        rtt = cluster.nodes[0].cluster()["nodes"][1]["rtt-us"]
        say(f"delay {delay * 1000:.0f} ms, loss {loss:.0%}: {rounds:.0f} rounds a second, rtt {rtt:.0f} us")
        expect(rtt >= 2e6 * delay, "the round trip is told in microseconds", rtt)
        cluster.end()


def damage():
    """Bytes that are not what was sent: the frame is refused, the cluster stands, nobody computes with them."""
    cluster = Cluster()
    start = time.monotonic()
    cluster.net.set(1, 0, True, damage=1)
    noticed(cluster.nodes[0], start, 1, "damaged frame", event="CLUSTER_PROTOCOL_ERROR")
    cluster.nodes[0].event("CLUSTER_NODE_LOST", since=start, peer=1)
    cluster.nodes[1].event("CLUSTER_NODE_LOST", since=start, peer=0)
    frozen(cluster, cluster.nodes[:1], [1])
    finish(cluster, cluster.nodes)


# MARK: operations of all nodes


class Asking:
    """A command that is under way at a node's monitor."""

    def __init__(self, node, command, seconds=None):
        self.node, self.command, self.reply, self.failure = node, command, None, None
        self.thread = threading.Thread(target=self.run, args=(seconds,), daemon=True)
        self.thread.start()

    def run(self, seconds):
        try:
            self.reply = self.node.ask(self.command, seconds)
        except Failed as failure:
            self.failure = failure

    @property
    def over(self):
        return not self.thread.is_alive()

    def result(self):
        """What it returned, or its error's words."""
        self.thread.join()
        if self.failure:
            raise self.failure
        return self.reply.get("error", {}).get("desc")


def agree(cluster, nodes, running, what):
    """All these nodes say that the guest runs, or that it does not, and so it is."""
    until(lambda: all(node.qmp("query-status")["running"] == running for node in nodes), f"{what}: all nodes agree")
    states = {node.qmp("query-status")["status"] for node in nodes}
    expect(len(states) == 1, f"{what}: one state", states)
    vcpus = [node.number for node in nodes]
    if running:
        cluster.counts(nodes[0], *vcpus)
    else:
        before = [nodes[0].word(0x20000 + 4096 * vcpu) for vcpu in vcpus]
        time.sleep(0.2)
        after = [nodes[0].word(0x20000 + 4096 * vcpu) for vcpu in vcpus]
        expect(before == after, f"{what}: nobody runs", (before, after))


def operations():
    """`stop`, `cont` and `system_reset` while a node stands still, or dies in their midst, over tcp and unix sockets."""
    for switch in (True, False):
        links = "tcp" if switch else "unix"
        cluster = Cluster(3, switch=switch, cluster="lease-ms=60000")
        slow(cluster, links)
        given_up(cluster, links, "stop" if switch else "cont")
        cluster.end()
        for victim, asked, pause in ((2, 1, None), (0, 1, None), (1, 0, 0.0), (2, 0, 0.003), (0, 2, 0.001)):
            dies(links, switch, victim, asked, pause)


def slow(cluster, links):
    """A node that stands still for less than the operation's limit: all wait for it, then it is done."""
    nodes = cluster.nodes
    boots = nodes[0].serial.count(b"B")
    for command, victim, asked, running in (("stop", 2, 1, False), ("cont", 1, 2, True), ("stop", 0, 1, False),
                                            ("cont", 2, 0, True), ("system_reset", 1, 2, True)):
        what = f"{links}: {command} at node {asked} while node {victim} stands still"
        nodes[victim].kill(signal.SIGSTOP)
        start = time.monotonic()
        asking = Asking(nodes[asked], command)
        time.sleep(1)
        # A reset is answered when it is asked for, as ever.
        early = asking.over
        nodes[victim].kill(signal.SIGCONT)
        expect(asking.result() is None, what, asking.reply)
        expect(command == "system_reset" or not early, f"{what}: it was done without it", asking.reply)
        if command == "system_reset":
            until(lambda: nodes[0].serial.count(b"B") == boots + 1, f"{what}: the guest boots again")
        else:
            for node in nodes:
                node.event("STOP" if command == "stop" else "RESUME", since=start)
        agree(cluster, nodes, running, what)
        say(f"{what}: done {time.monotonic() - start:.2f} s after it was asked for")


def given_up(cluster, links, command):
    """A node that stands still for longer: the operation ends with its error, and nothing is half done."""
    nodes = cluster.nodes
    if command == "cont":
        nodes[0].qmp("stop")
    before = command == "stop"
    agree(cluster, nodes, before, f"{links}: before {command}")
    start = time.monotonic()
    nodes[2].kill(signal.SIGSTOP)
    reason = Asking(nodes[1], command).result()
    expect(reason and "node 2 did not prepare within 10 s" in reason, f"{links}: {command} is given up", reason)
    say(f"{links}: {command} given up after {time.monotonic() - start:.2f} s: {reason}")
    nodes[2].kill(signal.SIGCONT)
    agree(cluster, nodes, before, f"{links}: after {command}")
    for node in nodes:
        with node.lock:
            told = [message["event"] for when, message in node.events
                    if when >= start and message["event"] in ("STOP", "RESUME")]
        expect(not told, f"{links}: node {node.number} tells nothing of what did not happen", told)
    expect(Asking(nodes[1], command).result() is None, f"{links}: {command} once more")
    agree(cluster, nodes, not before, f"{links}: {command} once more")
    if command == "stop":
        nodes[2].qmp("cont")
        agree(cluster, nodes, True, f"{links}: cont")


def dies(links, switch, victim, asked, pause):
    """kill -9 in the midst of `stop`: while the victim stands still (`pause` is None), or so many seconds after it was asked for."""
    what = f"{links}: kill -9 of node {victim} in the midst of stop at node {asked}" + (
        "" if pause is None else f", {pause * 1000:.0f} ms after it")
    cluster = Cluster(3, switch=switch)
    nodes = cluster.nodes
    survivors = [node for node in nodes if node.number != victim]
    if pause is None:
        nodes[victim].kill(signal.SIGSTOP)
    asking = Asking(nodes[asked], "stop")
    time.sleep(0.3 if pause is None else pause)
    expect(pause is not None or not asking.over, f"{what}: it is under way", asking.reply)
    start = time.monotonic()
    nodes[victim].kill()
    reason = asking.result()
    expect(pause is not None or re.search(f"[Nn]ode {victim} (is|was) lost", reason or ""), what, asking.reply)
    say(f"{what}: answered {(time.monotonic() - start) * 1000:.0f} ms after that: {reason or 'done'}")
    for node in survivors:
        noticed(node, start, victim, what)
    frozen(cluster, survivors, [victim])
    agree(cluster, survivors, False, what)
    if victim != 0:
        # Not before its lease is surely over.
        until(lambda: "return" in survivors[1].ask("cluster-continue", accept_loss=True), f"{what}: go on without it")
        expect(Asking(survivors[1], "cont").result() is None, f"{what}: cont without it")
        until(lambda: all(node.qmp("query-status")["running"] for node in survivors), f"{what}: cont without it")
        survivors[0].qmp("stop")
        agree(cluster, survivors, False, f"{what}: stop without it")
    finish(cluster, survivors)


# MARK: who may join


def certificates(folder, cluster):
    """Folders of credentials below `folder`: good for each node, and several that are not."""
    script = f"""
      set -e
      cd {folder}
      for k in ca ca2 n; do certtool --generate-privkey --key-type ecdsa --outfile $k.key; done
      for k in ca ca2; do
        printf '%s\n' 'cn = "Test CA"' ca cert_signing_key 'expiration_days = 7000' >t
        certtool --generate-self-signed --load-privkey $k.key --template t --outfile $k.pem
      done
      node() {{ # folder, authority, name, dates
        mkdir $1; cp $2.pem $1/ca-cert.pem
        printf '%s\n' "cn = \\"$3\\"" "dns_name = \\"$3\\"" tls_www_server tls_www_client signing_key "$4" "$5" >t
        certtool --generate-certificate --load-ca-privkey $2.key --load-ca-certificate $2.pem --load-privkey n.key \
          --template t --outfile $1/server-cert.pem
        cp $1/server-cert.pem $1/client-cert.pem; cp n.key $1/server-key.pem; cp n.key $1/client-key.pem
      }}
      for n in 0 1 2; do node x$n ca {cluster}-node-$n 'expiration_days = 7000'; done
      node otherca ca2 {cluster}-node-1 'expiration_days = 7000'
      cp ca.pem otherca/ca-cert.pem
      node distrust ca2 {cluster}-node-1 'expiration_days = 7000'
      node othername ca other-node-1 'expiration_days = 7000'
      node expired ca {cluster}-node-1 'activation_date = "2001-01-01 00:00:00"' 'expiration_date = "2002-01-01 00:00:00"'
      mkdir p wrongkey othercluster
      key() {{ head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n'; }}
      for n in 0 1 2; do echo "{cluster}/$n:$(key)"; done > p/keys.psk
      for n in 0 1 2; do echo "{cluster}/$n:$(key)"; done > wrongkey/keys.psk
      sed 's/{cluster}/other/' p/keys.psk > othercluster/keys.psk
      chmod 600 */keys.psk
    """
    done = subprocess.run(["bash", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    expect(done.returncode == 0, "the certificates can be made", done.stdout)


def x509(path):
    return ["-object", f"tls-creds-x509,id=t,dir={path},endpoint=server"]


def psk(path):
    return ["-object", f"tls-creds-psk,id=t,dir={path},endpoint=server"]


def enter(namespace):
    """A socket that connects from a namespace."""
    here, there = os.open("/proc/self/ns/net", os.O_RDONLY), os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        expect(LIBC.setns(there, 0) == 0, "setns", namespace)
        made = socket.socket()
    finally:
        LIBC.setns(here, 0)
        os.close(here)
        os.close(there)
    return made


def hello(cluster, number, name=None):
    """HELLO of a node, on the stream of pages."""
    text = (name or cluster.id).encode()
    body = struct.pack("<HBBQQIII", 0, number, cluster.count, 0, 0, cluster.count, 1, number)
    body += struct.pack("<I", len(text)) + text + struct.pack("<I", 4) + b"test"
    return struct.pack("<HBBHBBIIIIQ", 0x474C, 1, 0, 0x01, number, 0, len(body), 0, 0, 0, 1) + body


def impostor(cluster, folder, authority, name=None):
    """Connects with other certificates and says that it is node 1; the type of the frame that answers it, if one does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(authority)
    if folder:
        context.load_cert_chain(folder + "/client-cert.pem", folder + "/client-key.pem")
    made = enter(cluster.net.names[1])
    made.settimeout(10)
    made.connect((cluster.net.addresses[0], 7710))
    try:
        with context.wrap_socket(made) as session:
            session.sendall(hello(cluster, 1, name))
            data = session.recv(4096)
            return struct.unpack("<H", data[4:6])[0] if len(data) >= 32 else None
    except OSError:
        return None


ERROR = 0x10


def attack(cluster, target=0, port=7710):
    """From a peer's address: garbage, half a frame, silence, a great many connections, a byte now and then."""
    address, source = (cluster.net.addresses[target], port + target), cluster.net.names[1 if target == 0 else 0]
    chance, node = random.Random(11), cluster.nodes[target]
    hello = struct.pack("<HBBHBBIIIIQ", 0x474C, 1, 0, 1, 1, 0, 64, 0, 0, 0, 0) + bytes(64)
    for size, data in ((0, b""), (1, None), (31, None), (32, None), (4096, None), (1 << 20, None), (0, b"GET / HTTP/1.0\r\n\r\n"),
                       (0, hello[:20]), (0, hello), (0, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40))):
        made = enter(source)
        made.settimeout(10)
        made.connect(address)
        try:
            made.sendall(chance.randbytes(size) if data is None else data)
            made.shutdown(socket.SHUT_WR)
            got = made.recv(65536)
        except OSError:
            got = b""
        expect(node.process.poll() is None, "node 0 lives", node.text)
        made.close()
    many = []
    for _ in range(300):
        made = enter(source)
        made.setblocking(False)
        made.connect_ex(address)
        many.append(made)
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        for made in many[:6]:
            try:
                made.send(b"\x4c")
            except OSError:
                pass
        expect(node.qmp("query-status")["status"] == "prelaunch", "monitors answer under a flood")
        time.sleep(0.1)
    with open(f"/proc/{node.process.pid}/status") as file:
        threads = int(re.search(r"Threads:\s*(\d+)", file.read()).group(1))
    expect(threads < 24, "a flood makes few threads", threads)
    return many


def credentials():
    """Nobody without credentials gets past the handshake; node 0 goes on waiting for the right one."""
    for kind in ("x509", "psk"):
        name = f"c{os.getpid()}{kind}"
        folder = tempfile.mkdtemp(prefix="goliath-faults-")
        FOLDERS.append(folder)
        certificates(folder, name)
        right = (lambda n: x509(f"{folder}/x{n}")) if kind == "x509" else (lambda n: psk(f"{folder}/p"))
        way = "tls-creds=t" if kind == "x509" else "psk=t"
        cluster = Cluster(start=False, name=name, credentials=way, each=right)
        cluster.nodes = [cluster.start(0).connect()]
        zero = cluster.nodes[0]
        until(lambda: zero.cluster()["state"] == "joining", "node 0 waits")
        plain = cluster.common + ["-serial", "none", "-cluster",
                                  f"node=1,id={name},peers={cluster.peers},memory=dsm,insecure=on"]
        with_ = lambda path, make, way: (
            cluster.common + ["-serial", "none", "-cluster", f"node=1,id={name},peers={cluster.peers},memory=dsm,{way}"]
            + make(path))
        wrong = {"no credentials": plain,
                 "another authority": with_(folder + "/distrust", x509, "tls-creds=t"),
                 "a certificate for another name": with_(folder + "/othername", x509, "tls-creds=t"),
                 "node 0's certificate": with_(folder + "/x0", x509, "tls-creds=t"),
                 "another key": with_(folder + "/wrongkey", psk, "psk=t"),
                 "a key of another cluster": with_(folder + "/othercluster", psk, "psk=t")}
        for what, arguments in wrong.items():
            if ("certificate" in what or "authority" in what) != (kind == "x509") and what != "no credentials":
                if what not in ("another key", "node 0's certificate"):
                    continue
            arguments = [word + ",join-timeout=2" if word.startswith("node=1,") else word for word in arguments]
            one = cluster.start(1, label="w" + re.sub(r"\W", "", what), arguments=arguments, monitors=False)
            expect(one.wait() == 1, f"{what}: refused", one.text)
            say(f"{kind}: {what}: {one.text.strip()[:240]}")
            expect(zero.process.poll() is None, f"node 0 goes on after {what}", zero.text)
            expect(not zero.cluster()["nodes"][1]["state"] == "joined", "nobody has joined", zero.cluster())
        if kind == "x509":
            for what in ("otherca", "othername", "expired", "x0", "x2", None):
                got = impostor(cluster, f"{folder}/{what}" if what else None, folder + "/ca.pem")
                expect(got == (ERROR if what in ("othername", "x0", "x2") else None), f"{what}: who it is is not believed", got)
                expect(zero.cluster()["nodes"][1]["state"] == "joining", "nobody has joined", zero.cluster())
            expect(impostor(cluster, folder + "/x1", folder + "/ca.pem", "other") == ERROR, "the right one is heard", zero.text)
            say("x509: nobody else is let in")
        many = attack(cluster)
        one = cluster.start(1).connect()
        cluster.nodes.append(one)
        cluster.running()
        for made in many:
            made.close()
        for node in cluster.nodes:
            status = node.cluster()
            expect(status["nodes"][1 - node.number]["tls"] is True, "the links are protected", status)
            expect("tls" in node.hmp("info cluster"), "info cluster")
        say(f"{kind}: node 0 says {sorted(set(zero.text.strip().split(chr(10))))[:4]}")
        # Nobody listens once all are there.
        made = enter(cluster.net.names[1])
        made.settimeout(5)
        expect(made.connect_ex((cluster.net.addresses[0], 7710)) != 0, "no connection comes later", "one did")
        made.close()
        if kind == "x509":
            start = time.monotonic()
            cluster.net.set(1, 0, True, damage=1)
            noticed(zero, start, 1, "damaged TLS record")
            frozen(cluster, [zero], [1])
            finish(cluster, cluster.nodes)
        else:
            cluster.end()


# MARK: the cluster's API


def joining():
    """Monitors answer while a node waits for the others; what needs the machine waits; the end takes everything back."""
    for memory in ("dsm", "shm"):
        for number in (0, 1):
            for way in ("quit", "hmp", "term"):
                cluster = Cluster(switch=False, memory=memory, start=False)
                node = cluster.start(number).connect()
                cluster.nodes = [node]
                until(lambda: os.path.exists(f"{cluster.folder}/node{number}"), "it listens")
                expect(node.qmp("query-status", 5)["status"] == "prelaunch", "query-status")
                status = node.cluster()
                expect(status["state"] == "joining" and [n["state"] for n in status["nodes"]].count("joining") == 1,
                       "query-cluster while joining", status)
                expect("prelaunch" in node.hmp("info status", 5), "info status", node.hmp("info status"))
                expect("joining, epoch" in node.hmp("info cluster", 5), "info cluster", node.hmp("info cluster"))
                if number == 1:
                    until(lambda: node.cluster()["nodes"][0].get("reason"), "why it has not joined yet")
                start = time.monotonic()
                if way == "quit":
                    node.quit()
                elif way == "hmp":
                    node.hmp_socket.sendall(b"quit\n")
                else:
                    node.kill(signal.SIGTERM)
                expect(node.wait() == 0, f"{way} while joining", node.text)
                expect(time.monotonic() - start < 5, "soon", time.monotonic() - start)
                cluster.clean()
    # What needs the machine is answered when it is there.
    cluster = Cluster(switch=False, start=False)
    zero = cluster.start(0).connect()
    other = socket.socket(socket.AF_UNIX)
    other.connect(zero.prefix + ".qmp")
    lines = other.makefile("r")
    lines.readline()
    other.sendall(b'{"execute":"qmp_capabilities"}{"execute":"query-cpus-fast"}{"execute":"query-status"}')
    lines.readline()
    expect(not select.select([other], [], [], 0.5)[0], "query-cpus-fast waits", "it does not")
    expect(zero.qmp("query-status")["status"] == "prelaunch", "others do not wait")
    one = cluster.start(1).connect()
    cluster.nodes = [zero, one]
    cluster.running()
    answers = []
    while len(answers) < 2:
        message = json.loads(lines.readline())
        if "return" in message:
            answers.append(message["return"])
    expect([cpu["props"].get("node-id", 0) is not None for cpu in answers[0]] == [True, True], "both vCPUs", answers)
    other.close()
    cluster.end()


def hot(node, seen):
    """The page that all write is among those that move often, unless this machine is too slow for that."""
    start, before = time.monotonic(), node.qmp("query-dsm", node=0)["invalidations"]
    try:
        until(seen, "the shared page is hot", 10)
    except Failed:
        rate = (node.qmp("query-dsm", node=0)["invalidations"] - before) / (time.monotonic() - start)
        say(f"the shared page leaves node 0 {rate:.0f} times a second")
        if rate > 400:
            raise


def api():
    """Commands of any node at any node, events of all, metrics, the shell."""
    paths = tempfile.mkdtemp(prefix="goliath-faults-")
    FOLDERS.append(paths)
    cluster = Cluster(3, each=lambda n: ["-metrics", f"unix:{paths}/m{n}"])
    zero, one, two = cluster.nodes
    for node in cluster.nodes:
        for target in range(3):
            told = node.qmp("cluster-execute", node=target, command="query-cluster")
            expect(told["node"] == target, "who answers", told)
        vcpus = node.qmp("query-cpus-fast")
        expect([cpu["cpu-index"] for cpu in vcpus] == [0, 1, 2], "all vCPUs at each node", vcpus)
        expect([cpu["node"] for cpu in vcpus] == [0, 1, 2], "with their nodes", vcpus)
        for target in range(3):
            expect(f"node {target}: pages of 4096" in node.hmp(f"info dsm {target}"), "info dsm", node.hmp("info dsm"))
        hot(node, lambda: any(page["address"] == SHARED for page in node.qmp("query-dsm-hot-pages")))
        hot(node, lambda: "0000000000030000" in node.hmp("info dsm-hot"))
        expect("node 2: joined" in node.hmp("info cluster"), "info cluster", node.hmp("info cluster"))
        lines = node.hmp("info cpus")
        expect(all(f"CPU #{n}" in lines for n in range(3)), "info cpus", lines)
    expect("not there" in zero.error("cluster-execute", node=9, command="query-status")
           or "no node 9" in zero.error("cluster-execute", node=9, command="query-status"), "no such node")
    expect("has not been found" in zero.error("cluster-execute", node=1, command="nonsense"), "no such command")
    # What a monitor of one node asks for happens on all, and all tell.
    two.qmp("stop")
    for node in cluster.nodes:
        _, data = node.event("STOP")
        expect(data.get("node") == 0, "who tells", data)
        until(lambda: node.qmp("query-status")["status"] == "paused", "paused everywhere")
    one.hmp("cont")
    for node in cluster.nodes:
        node.event("RESUME")
        until(lambda: node.qmp("query-status")["running"], "running everywhere")
    one.qmp("cluster-execute", node=2, command="chardev-add",
            arguments={"id": "r", "backend": {"type": "ringbuf", "data": {"size": 64}}})
    expect(any(c["label"] == "r" for c in two.qmp("query-chardev")), "a device of node 2's")
    expect(not any(c["label"] == "r" for c in one.qmp("query-chardev")), "and only there")
    cluster.counts(two, 0, 1, 2)
    # Metrics.
    for node in cluster.nodes:
        text = metrics(f"{paths}/m{node.number}")
        for name in METRICS:
            expect(re.search(rf"^{name}(_bucket|_sum|_count|)(\{{| )", text, re.M), f"node {node.number} has {name}", text[-6000:])
        for line in text.split("\n"):
            expect(not line or line.startswith("# ") or re.fullmatch(
                r'[a-z_]+(\{[a-z_]+="[^"\n]*"(,[a-z_]+="[^"\n]*")*\})? -?[0-9.e+-]+(Inf)?', line), "Prometheus's text", line)
        expect(f'goliath_cluster_state{{node="{node.number}",state="running"}} 1' in text, "state", text)
        if node.number:
            expect(value(text, "goliath_io_forward_total", kind="port-write") > 0, "ports of node 0", text)
        else:
            expect(value(text, "goliath_ipi_total", mode="init", remote="yes") >= 2, "INIT to others", text)
            expect(value(text, "goliath_ipi_total", mode="startup", remote="yes") >= 2, "SIPI to others", text)
    if OPTIONS.shell:
        done = subprocess.run([OPTIONS.shell, "cluster", "top", "-n", "2", "-d", "0.5", zero.prefix + ".qmp"],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
        expect(done.returncode == 0, "cluster top", done.stdout)
        for words in (cluster.id + ": running", "NODE", "2     joined"):
            expect(words in done.stdout, f"cluster top shows {words}", done.stdout)
        say("cluster top:\n" + done.stdout)
    start = time.monotonic()
    one.kill()
    for node in (zero, two):
        node.event("CLUSTER_FROZEN", since=start)
        text = metrics(f"{paths}/m{node.number}")
        expect(f'goliath_cluster_state{{node="{node.number}",state="frozen"}} 1' in text, "state", text)
        expect(f'goliath_peer_up{{node="{node.number}",peer="1"}} 0' in text, "peer", text)
        expect("not there (lost)" in node.error("cluster-execute", node=1, command="query-status"), "a lost node")
        expect(len(node.qmp("query-cpus-fast")) >= 2, "vCPUs of the others")
        node.qmp("query-dsm-hot-pages")
    finish(cluster, [zero, two])


METRICS = """goliath_cluster_state goliath_cluster_epoch goliath_peer_up goliath_peer_rtt_seconds
    goliath_peer_clock_error_seconds goliath_frames_total goliath_bytes_total goliath_queue_depth goliath_dsm_faults_total
    goliath_dsm_fault_seconds goliath_dsm_pages goliath_dsm_invalidations_total goliath_dsm_transfers_total
    goliath_dsm_prefetch_total goliath_dsm_held_revocations_total goliath_dsm_pin_wait_seconds goliath_dsm_hot_pages
    goliath_ipi_total goliath_ipi_seconds goliath_io_forward_total goliath_io_forward_seconds goliath_eoi_forward_total
    goliath_dropped_epoch_frames_total goliath_protocol_errors_total""".split()


def metrics(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(path)
        made.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        data = b""
        while part := made.recv(65536):
            data += part
    head, text = data.decode().split("\r\n\r\n", 1)
    expect(" 200 " in head and "text/plain; version=0.0.4" in head, "metrics", head)
    return text


def value(text, name, **labels):
    total = 0.0
    for line in text.split("\n"):
        if line.startswith(name + "{") and all(f'{key}="{text_}"' in line for key, text_ in labels.items()):
            total += float(line.rsplit(" ", 1)[1])
    return total


def check():
    """`goliath-shell cluster check` meets, compares, says, and ends."""
    def run(first, second, switch=False):
        cluster = Cluster(switch=switch, start=False)
        lines = [cluster.arguments(0) + first, cluster.arguments(1) + second]
        words = [["ip", "netns", "exec", cluster.net.names[n]] if switch else [] for n in range(2)]
        made = [subprocess.Popen(words[n] + [OPTIONS.shell, "cluster", "check", "--", OPTIONS.goliath,
                                                  *only_last(lines[n])],
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for n in range(2)]
        results = [(process.communicate(timeout=PATIENCE)[0], process.returncode) for process in made]
        cluster.clean()
        expect(results[0] == results[1], "both say the same", results)
        return results[0]
    text, status = run([], [], switch=True)
    say("check:\n" + text)
    expect(status == 0 and "the nodes agree" in text and "rtt" in text and "of memory" in text, "alike", text)
    text, status = run(["-cpu", "max"], ["-m", "16M", "-cpu", "max", "-accel", "tcg,x-without=avx2"])
    say("check:\n" + text)
    expect(status == 1 and "the nodes would not start" in text, "differing", text)
    expect("differs: -m: node 0 has 8M, node 1 has 16M" in text, "-m", text)
    expect("warning: CPU features differ: node 1 lacks avx2" in text, "CPU features", text)
    text, status = run(["-cpu", "max,enforce"], ["-cpu", "max,enforce", "-accel", "tcg,x-without=avx2"])
    expect(status == 1 and "differs: CPU features differ: node 1 lacks avx2" in text, "enforce", text)
    # Nobody there.
    cluster = Cluster(switch=False, start=False, cluster="join-timeout=1")
    done = subprocess.run([OPTIONS.shell, "cluster", "check", OPTIONS.goliath, *cluster.arguments(0)],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE)
    expect(done.returncode == 1 and "not joined within 1 s: node 1 (" in done.stdout, "who is missing", done.stdout)
    cluster.clean()


SCENARIOS = {"refusals": refusals, "cpus": cpus, "kills": kills, "again": again, "cut": cut, "partition": partition,
             "stopped": stopped, "weather": weather, "damage": damage, "operations": operations,
             "credentials": credentials, "joining": joining, "api": api, "check": check}


def main():
    global OPTIONS
    parser = argparse.ArgumentParser()
    parser.add_argument("goliath")
    parser.add_argument("--shell")
    parser.add_argument("scenario", nargs="*")
    OPTIONS = parser.parse_args()
    # Namespaces by name, of these namespaces only.
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], stderr=subprocess.DEVNULL)
    status = 0
    for name in OPTIONS.scenario or SCENARIOS:
        try:
            SCENARIOS[name]()
            say(f"{name}: held")
        except Failed as failure:
            say(f"FAILED: {name}: {failure}")
            for node in NODES[-3:]:
                say(f"node {node.number}: {node.process.poll()} {node.text[-2000:]}")
            status = 1
        finally:
            for node in NODES:
                if node.process.poll() is None:
                    node.process.kill()
                    node.process.wait()
            NODES.clear()
            for net in list(SWITCHES):
                net.close()
                SWITCHES.remove(net)
    subprocess.run(["rm", "-rf", *FOLDERS])
    sys.exit(status)


main()
