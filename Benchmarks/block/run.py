#!/usr/bin/env python3
"""goliath-img beside qemu-img: the same work by turns, minima of wall and CPU seconds.

    Benchmarks/block/run.py [--runs 5] [--only REGEX] [--folder DIR] [--json FILE] [--goliath-img PATH] [--qemu-img PATH]

Every case runs with each tool in turn; of all runs the least wall time, CPU seconds (user and system, of the whole process) and greatest
resident memory are kept. `ratio` is goliath-img's CPU seconds, or wall seconds, divided by qemu-img's. `bar` and `aim` are what the ratio (the
better of the two kinds is not chosen: the case says which) is to stay below.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

import images

HERE = os.path.dirname(os.path.abspath(__file__))


def run(command):
    """Wall seconds, CPU seconds, MiB, exit status."""
    null = os.open(os.devnull, os.O_RDWR)
    start = time.monotonic()
    child = os.posix_spawn(
        command[0], command, os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, null, 1), (os.POSIX_SPAWN_DUP2, null, 2)])
    _, status, usage = os.wait4(child, 0)
    wall = time.monotonic() - start
    os.close(null)
    code = os.waitstatus_to_exitcode(status)
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, code


class Case:
    def __init__(self, name, ours, theirs=None, bar=None, aim=None, measure="cpu", prepare=None,
                 allowed=(0,), repeat=1, operations=None):
        self.name, self.ours, self.theirs = name, ours, theirs or ours
        self.bar, self.aim, self.measure, self.prepare = bar, aim, measure, prepare
        self.allowed, self.repeat, self.operations = allowed, repeat, operations


def cases(folder):
    at = lambda name: os.path.join(folder, name)
    made = {}

    def generate(kind, *numbers):
        def make(path):
            words = [sys.executable, os.path.join(HERE, "images.py"), kind, path, *map(str, numbers)]
            return json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
        return make

    def image(name, make):
        if name not in made:
            made[name] = make(at(name))
        return at(name)

    def mixed(name, size):
        return lambda: image(name, generate("mixed", size))

    def qcow2_of(name, raw, size, *options):
        def make():
            image(raw, generate("mixed", size))
            image(name, lambda path: subprocess.run(
                ["qemu-img", "convert", "-O", "qcow2", *options, at(raw), path], check=True))
        return make

    def fresh(name, source, make, damage=None):
        def prepare():
            places = None
            if source not in made:
                made[source] = make(at(source))
            places = made[source]
            subprocess.run(["cp", "--sparse=always", at(source), at(name)], check=True)
            if damage:
                damage(at(name), places)
        return prepare

    def scattered():
        image("scattered.qcow2", generate("scattered"))

    def full():
        image("full.qcow2", generate("full"))

    big, small = 2 << 30, 512 << 20
    to_qcow2 = ["convert", "-f", "raw", "-O", "qcow2", at("mixed.raw"), at("out.qcow2")]
    to_raw = ["convert", "-f", "qcow2", "-O", "raw", at("mixed.qcow2"), at("out.raw")]
    best = ["-W", "-m", "8"]

    def compressed(kind):
        words = ["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", f"compression_type={kind}",
                 at("small.raw"), at("out.qcow2")]
        return words, words[:1] + best + words[1:]

    zlib, zlib_best = compressed("zlib")
    zstd, zstd_best = compressed("zstd")

    def overlay():
        image("mixed.raw", generate("mixed", big))
        image("base2.raw", generate("mixed", big, 2))
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", at("mixed.raw"), "-F", "raw",
                        at("overlay.qcow2")], check=True)

    def child():
        image("small.raw", generate("mixed", small))
        image("small.qcow2", lambda path: subprocess.run(
            ["qemu-img", "convert", "-O", "qcow2", at("small.raw"), path], check=True))
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", at("below.qcow2"), str(small)],
                       check=True)
        shutil.copy(at("small.qcow2"), at("child.qcow2"))
        subprocess.run(["qemu-img", "rebase", "-u", "-b", at("below.qcow2"), "-F", "qcow2",
                        at("child.qcow2")], check=True)

    reads = 200_000
    yield Case("start (--help)", ["--help"], repeat=20, measure="wall")
    yield Case("create 10G", ["create", "-q", "-f", "qcow2", at("new.qcow2"), "10G"], repeat=5)
    yield Case("create 100G metadata", ["create", "-q", "-f", "qcow2", "-o", "preallocation=metadata",
                                        at("new.qcow2"), "100G"])
    yield Case("convert raw to qcow2, 2 GiB", to_qcow2, to_qcow2[:1] + best + to_qcow2[1:], 1.0,
               prepare=mixed("mixed.raw", big), measure="wall")
    yield Case("convert qcow2 to raw, 2 GiB", to_raw, to_raw[:1] + best + to_raw[1:], 1.0,
               prepare=qcow2_of("mixed.qcow2", "mixed.raw", big), measure="wall")
    yield Case("convert -c zlib, 512 MiB", zlib, zlib_best, 0.7, 0.6, prepare=mixed("small.raw", small))
    yield Case("convert -c zstd, 512 MiB", zstd, zstd_best, 0.7, 0.6, prepare=mixed("small.raw", small))
    for kind in "zlib", "zstd":
        name = f"{kind}.qcow2"
        words = ["convert", "-f", "qcow2", "-O", "raw", at(name), at("out.raw")]
        yield Case(f"read back {kind}, 512 MiB", words, words[:1] + best + words[1:],
                   prepare=qcow2_of(name, "small.raw", small, "-c", "-o", f"compression_type={kind}"))
    yield Case("check, scattered 100 GiB", ["check", at("scattered.qcow2")], None, 0.1, 0.04,
               prepare=scattered)
    yield Case("check -r leaks, a table lost", ["check", "-q", "-r", "leaks", at("damaged.qcow2")], None,
               0.1, 0.04, prepare=fresh("damaged.qcow2", "scattered.qcow2", generate("scattered"),
                                        images.lose_table))
    yield Case("check, 1.6 M clusters in order", ["check", at("full.qcow2")], prepare=full)
    yield Case("map --output=json, 400 k entries", ["map", "--output=json", at("alternating.qcow2")], None,
               0.4, 0.15, prepare=lambda: image("alternating.qcow2", generate("alternating")))
    yield Case("snapshot -c, 100 GiB mapped", ["snapshot", "-c", "one", at("snap.qcow2")], None, 0.4, 0.15,
               prepare=fresh("snap.qcow2", "full.qcow2", generate("full")))
    read = ["bench", "-q", "-c", str(reads), "-d", "1", "-S", "1234567168", "-f", "qcow2",
            at("full.qcow2")]
    yield Case("random 4 KiB reads, 100 GiB, depth 1", read, None, 0.8, 0.5, prepare=full,
               operations=reads)
    deep = [word if word != "1" else "32" for word in read]
    yield Case("random 4 KiB reads, 100 GiB, depth 32", deep, None, 0.8, 0.5, prepare=full,
               operations=reads)
    yield Case("compare raw qcow2, 2 GiB",
               ["compare", "-f", "raw", "-F", "qcow2", at("mixed.raw"), at("mixed.qcow2")],
               prepare=qcow2_of("mixed.qcow2", "mixed.raw", big), measure="wall")
    yield Case("rebase to another base, 2 GiB",
               ["rebase", "-b", at("base2.raw"), "-F", "raw", at("overlay.qcow2")], prepare=overlay,
               measure="wall")
    yield Case("commit 512 MiB", ["commit", "-q", at("child.qcow2")], prepare=child, measure="wall")
    yield Case("measure, 2 GiB", ["measure", "-O", "qcow2", at("mixed.raw")],
               prepare=mixed("mixed.raw", big))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--folder", default=None, help="where images are made (a new one in /dev/shm or TMPDIR)")
    parser.add_argument("--json", default=None)
    parser.add_argument("--goliath-img", default=None)
    parser.add_argument("--qemu-img", default=shutil.which("qemu-img"))
    options = parser.parse_args()
    ours = options.goliath_img or os.path.join(HERE, "../../.build/release/goliath-img")
    if not options.qemu_img:
        sys.exit("run.py: qemu-img is not there (apt install qemu-utils)")
    parent = options.folder or ("/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    folder = tempfile.mkdtemp(prefix="goliath-block-", dir=parent)
    results = []
    print(f"{'case':42} {'wall':>15} {'CPU':>15} {'MiB':>9}  {'wall':>5} {'CPU':>5}  bar")
    try:
        for case in cases(folder):
            if not re.search(options.only, case.name):
                continue
            best = {"goliath": None, "qemu": None}
            for _ in range(options.runs):
                for tool in "qemu", "goliath":
                    words = case.ours if tool == "goliath" else case.theirs
                    program = ours if tool == "goliath" else options.qemu_img
                    if case.prepare:
                        case.prepare()
                    wall = cpu = memory = 0
                    for _ in range(case.repeat):
                        sample = run([program, *words])
                        if sample[3] not in case.allowed:
                            sys.exit(f"run.py: {tool} {' '.join(words)}: status {sample[3]}")
                        wall += sample[0] / case.repeat
                        cpu += sample[1] / case.repeat
                        memory = max(memory, sample[2])
                    old = best[tool] or (wall, cpu, memory)
                    best[tool] = (min(old[0], wall), min(old[1], cpu), max(old[2], memory))
            mine, other = best["goliath"], best["qemu"]
            ratios = [mine[i] / other[i] if other[i] else 0 for i in (0, 1)]
            chosen = ratios[0 if case.measure == "wall" else 1]
            verdict = "" if case.bar is None else ("met" if chosen <= case.bar else "MISSED")
            results.append({
                "case": case.name, "goliath": dict(zip(("wall", "cpu", "mib"), mine)),
                "qemu": dict(zip(("wall", "cpu", "mib"), other)),
                "wall_ratio": ratios[0], "cpu_ratio": ratios[1], "measure": case.measure,
                "bar": case.bar, "aim": case.aim,
                "operations": case.operations})
            print(f"{case.name:42} {mine[0]:7.4f}/{other[0]:7.4f} {mine[1]:7.4f}/{other[1]:7.4f} "
                  f"{mine[2]:4.0f}/{other[2]:4.0f}  {ratios[0]:5.2f} {ratios[1]:5.2f}  "
                  f"{case.bar or '':>4} {case.measure if case.bar else '':4} {verdict}", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=2)


if __name__ == "__main__":
    main()
