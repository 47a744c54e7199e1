#!/usr/bin/env python3
"""Figures of clusters with their bars, as a Markdown table: pages, runs, interrupts and ports between two nodes, each beside raw sockets in the same run.

    Benchmarks/cluster/run.py [--rounds 5] [--quick] [--only pages,links,guest,revoke,boot,compute] [--json FILE] [--goliath PATH] [--programs FOLDER]

`compute` only when it is asked for: it says something on a machine with two processors that do nothing else.

Needs the release build, gcc for the guest, and for `boot` .build/guest. Each figure is the median of ROUNDS medians; within a program, short rounds of
everything that is compared take turns. Both nodes on one processor and on two: on one, a wake-up is a change of threads, which flatters nobody;
on two, it is an interrupt between processors. Wall-clock time, so on a machine that does nothing else.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

here = pathlib.Path(__file__).resolve().parent
root = here.parent.parent
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--number", type=int, default=10000)
parser.add_argument("--quick", action="store_true", help="one round of few")
parser.add_argument("--only", default="pages,links,guest,revoke,boot")
parser.add_argument("--json")
parser.add_argument("--programs", default=str(root / ".build/release"))
parser.add_argument("--goliath")
arguments = parser.parse_args()
if arguments.quick:
    arguments.rounds, arguments.number = 1, 2000
programs = pathlib.Path(arguments.programs)
goliath = arguments.goliath or str(programs / "goliath")
wanted = set(arguments.only.split(","))
processors = sorted(os.sched_getaffinity(0))
places = [("one processor", f"{processors[-1]},{processors[-1]}")]
if len(processors) > 1:
    places.append(("two", f"{processors[0]},{processors[-1]}"))


def measured(program, *words):
    """Medians over the rounds of the medians that a program prints."""
    found = {}
    for _ in range(arguments.rounds):
        text = subprocess.run([programs / program, *words, "json"], check=True, capture_output=True, text=True, timeout=300).stdout
        for name, figures in json.loads(text).items():
            found.setdefault(name, []).append(figures["median"])
    return {name: statistics.median(values) for name, values in found.items()}


rows = []


def row(what, figure, bar, aim, note):
    def number(value):
        return f"{value:.2f}" if value < 10 else f"{value:.1f}"
    verdict = "aim" if figure <= aim else "yes" if figure <= bar else "**no**"
    rows.append({"what": what, "figure": figure, "bar": bar, "aim": aim, "met": verdict, "note": note})
    print(f"| {what} | {number(figure)} | {bar} | {aim} | {verdict} | {note} |", flush=True)


def pages():
    for kind in ["unix", "tcp"]:
        for place, cpus in places:
            got = measured("benchmark-pages", kind, str(arguments.number), f"cpus={cpus}")
            base = got["raw 4 KiB"]
            for name in ["page to write", "page to read", "page to its home"]:
                row(f"{name}, {kind}, {place}", got[name] / base, 1.5, 1.2, f"{got[name]:.1f} µs, raw 4 KiB {base:.1f}")
            row(f"grant, {kind}, {place}", got["grant"] / got["raw small"], 1.5, 1.2,
                f"{got['grant']:.1f} µs, raw small {got['raw small']:.1f}")
            row(f"run of 64 pages, µs a page, {kind}, {place}", got["run of 64"] / 64, 2, 1,
                f"raw {got['raw 64 pages'] / 64:.2f}")


raw = {}


def links():
    for kind in ["unix", "tcp"]:
        for place, cpus in places:
            got = measured("benchmark-links", kind, str(arguments.number), f"cpus={cpus}")
            raw[kind, place] = got
            row(f"request and reply on ctl, {kind}, {place}", got["frame small"] / got["raw small"], 1.5, 1.2,
                f"{got['frame small']:.1f} µs, raw {got['raw small']:.1f}")


operations = 16  # of a round: COUNT in guest.S


def serial(process):
    """What the guest says: microseconds of one operation by letter, each the median of its rounds."""
    cycles, clocks, limit = {}, [], time.monotonic() + 300
    while time.monotonic() < limit:
        letter = process.stdout.read(1).decode()
        if letter == "c":
            now = time.monotonic()
            clocks.append((now, int(process.stdout.read(8), 16)))
        elif letter in ("i", "p", "l"):
            cycles.setdefault(letter, []).append(int(process.stdout.read(8), 16))
        elif letter in ("e", ""):
            break
    if set(cycles) != {"i", "p", "l"} or len(clocks) != 2:
        sys.exit(f"the guest did not finish: {[(name, len(all)) for name, all in cycles.items()]}")
    (start, first), (end, last) = clocks
    megahertz = ((last - first) % (1 << 32)) * 1024 / (end - start) / 1e6
    got = {letter: statistics.median(values) / megahertz / operations for letter, values in cycles.items()}
    # A round of ports is begun and ended by an interrupt.
    got["p"] -= got["i"] / operations
    return got


def cluster_run(elf, kind, cpus, look):
    """What `look` makes of node 0 of a flat guest on two nodes, one of them on each of `cpus`."""
    with tempfile.TemporaryDirectory(prefix="goliath-") as folder:
        if kind == "tcp":
            import socket
            sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
            peers = "+".join(f"127.0.0.1:{one.getsockname()[1]}" for one in sockets)
            for one in sockets:
                one.close()
        else:
            peers = "+".join(f"unix:{folder}/node-{number}" for number in range(2))
        nodes = []
        for number in range(2):
            cpu = int(cpus.split(",")[number])
            nodes.append(subprocess.Popen(
                [goliath, "-accel", "tcg", "-cpu", "max", "-m", "64", "-smp", "2", "-nodefaults", "-display", "none", "-kernel", elf,
                 *(["-serial", "stdio"] if number == 0 else []), "-no-reboot",
                 "-cluster", f"id=bench,node={number},peers={peers},insecure=on,"
                 + (f"memory=shm,shm-path=/goliath-bench-{os.getpid()}" if kind == "shm" else "memory=dsm")],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=lambda cpu=cpu: os.sched_setaffinity(0, {cpu})))
        try:
            return look(nodes[0])
        finally:
            for node in nodes:
                node.terminate()
            for node in nodes:
                node.wait(timeout=30)


def guest():
    with tempfile.TemporaryDirectory() as folder:
        elf = f"{folder}/guest.elf"
        subprocess.run(["gcc", "-m32", "-nostdlib", "-static", "-Wl,-Ttext=0x100000,--build-id=none", "-o", elf, here / "guest.S"], check=True)
        for kind in ["unix", "tcp"]:
            for place, cpus in places:
                all_runs = [cluster_run(elf, kind, cpus, serial) for _ in range(arguments.rounds)]
                got = {letter: statistics.median(run[letter] for run in all_runs) for letter in "ipl"}
                base = raw[kind, place]
                half = base["raw small, woken"] / 2
                row(f"interrupt of a vCPU of the other node, {kind}, {place}", got["i"] / 2 / half, 1.5, 1.2,
                    f"{got['i'] / 2:.1f} µs handler to handler; half a raw round trip with a wake-up {half:.1f}, without {base['raw small'] / 2:.1f}")
                row(f"port read from the other node, {kind}, {place}", got["p"] / base["raw small"], 1.5, 1.2,
                    f"{got['p']:.1f} µs, raw small {base['raw small']:.1f}; on node 0 {got['l']:.2f}")


def computing(process):
    """Seconds between the s and the e of a guest that computes."""
    start = None
    while letter := process.stdout.read(1):
        if letter == b"s":
            start = time.monotonic()
        elif letter == b"e" and start is not None:
            return time.monotonic() - start
    sys.exit("the guest that computes did not finish")


def compute():
    """Work done in a second by two nodes with a vCPU each, by that of one vCPU on one node. Least times of the rounds, which take turns."""
    if len(processors) < 2:
        return print("| independent threads | | 1.7 | 1.95 | | needs two processors |")
    cpus = f"{processors[0]},{processors[-1]}"
    times = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in (1, 2):
            subprocess.run(["gcc", "-m32", "-nostdlib", "-static", "-Wl,-Ttext=0x100000,--build-id=none", f"-Wa,--defsym,VCPUS={count}",
                            "-o", f"{folder}/{count}.elf", here / "compute.S"], check=True)
        for _ in range(arguments.rounds):
            with subprocess.Popen(
                    [goliath, "-accel", "tcg", "-cpu", "max", "-m", "64", "-nodefaults", "-display", "none", "-kernel", f"{folder}/1.elf",
                     "-serial", "stdio", "-no-reboot"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as alone:
                times.setdefault("one", []).append(computing(alone))
                alone.terminate()
            for kind in ("shm", "unix", "tcp"):
                times.setdefault(kind, []).append(cluster_run(f"{folder}/2.elf", kind, cpus, computing))
    for kind in ("shm", "unix", "tcp"):
        ratio = 2 * min(times["one"]) / min(times[kind])
        # More is better here.
        verdict = "aim" if ratio >= 1.95 else "yes" if ratio >= 1.7 else "**no**"
        name = "shm" if kind == "shm" else f"DSM {kind}"
        rows.append({"what": f"independent threads on two nodes, {name}", "figure": ratio, "bar": 1.7, "aim": 1.95, "met": verdict, "note": ""})
        print(f"| independent threads on two nodes, {name} | {ratio:.2f} | ≥ 1.7 | 1.95 | {verdict} | "
              f"{min(times[kind]):.2f} s, one vCPU half as much in {min(times['one']):.2f} s |", flush=True)


def revoke():
    got = measured("benchmark-revoke", str(max(arguments.number // 10, 200)))
    for name in ["take all rights", "take the right to write"]:
        row(f"revoke a page in use: {name}, µs", got[name], 25, 10,
            f"not in use {got['a page not in use']:.2f}; a word between the same threads {got['a word there and back']:.2f}")


def boot():
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [here / "boot.py", str(min(arguments.rounds, 3)), "--goliath", goliath, "--json", file.name]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found = json.load(open(file.name))
    print("\n```\n" + json.dumps(found, indent=1) + "\n```")


print("| | figure | bar | aim | met | |\n| --- | --- | --- | --- | --- | --- |")
if "pages" in wanted:
    pages()
if "links" in wanted or "guest" in wanted:
    links()
if "guest" in wanted:
    guest()
if "revoke" in wanted:
    revoke()
if "boot" in wanted:
    boot()
if "compute" in wanted:
    compute()
if arguments.json:
    pathlib.Path(arguments.json).write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
