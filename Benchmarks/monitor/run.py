#!/usr/bin/env python3
"""The monitor beside QEMU 7.2's: latency, throughput, size and start, the two programs in turn within every round.

    Benchmarks/monitor/run.py [--rounds N] [--quick] [--json FILE]

Each figure is the median over the rounds of what `client.c` measures (p50 within a run); start times are minima.
Needs the release build, cc, and qemu-system-x86_64 (left out when it is not installed).
"""

import argparse
import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile

root = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(root / "Benchmarks"))
from start import start  # noqa: E402

deadline = 60
status = '{"execute":"query-status"}\n'
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--quick", action="store_true", help="leave out what takes QEMU seconds")
parser.add_argument("--json", help="write all samples to this file")
parser.add_argument("--goliath", default=str(root / ".build/release/goliath"))
options = parser.parse_args()

programs = {"goliath": options.goliath}
if shutil.which("qemu-system-x86_64"):
    programs["qemu"] = "qemu-system-x86_64"
folder = tempfile.TemporaryDirectory(prefix="monitor-")
client = os.path.join(folder.name, "client")
here = pathlib.Path(__file__).resolve().parent
subprocess.run(["cc", "-O2", "-Wall", "-o", client, str(here / "client.c")], check=True)


def path(name):
    return os.path.join(folder.name, name)


def measure(*arguments):
    text = subprocess.run(
        [client, *map(str, arguments)], check=True, capture_output=True, text=True, timeout=120)
    return json.loads(text.stdout)


class Running:
    """A program with a machine of type none, `count` monitors, and a human one."""

    def __init__(self, program, count=1):
        self.sockets = [path(f"qmp{number}") for number in range(count)]
        arguments = [program, "-machine", "none", "-nodefaults", "-display", "none"]
        for name in self.sockets:
            arguments += ["-qmp", f"unix:{name},server=on,wait=off"]
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        listener.close()
        arguments += ["-monitor", f"telnet:127.0.0.1:{self.port},server=on,wait=off"]
        self.process = subprocess.Popen(arguments)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


machines = {"none": ["-machine", "none"], "pc -S": ["-machine", "pc", "-accel", "tcg", "-m", "128", "-S"]}
samples = {}


def add(row, program, value):
    samples.setdefault(row, {}).setdefault(program, []).append(value)


def echo_round():
    name = path("echo")
    server = subprocess.Popen([client, "echo", name])
    add("round trip", "echo", measure("trip", name, 5000, status)["p50"] / 1e3)
    server.kill()
    server.wait()


for number in range(options.rounds):
    echo_round()
    for name, program in programs.items():
        slow = name == "qemu"
        with Running(program, 32) as running:
            qmp = running.sockets[0]
            add("round trip", name, measure("qmp", qmp, 500 if slow else 5000, status)["p50"] / 1e3)
        with Running(program) as running:
            qmp = running.sockets[0]
            add("round trip, 1 monitor", name, measure("qmp", qmp, 1000 if slow else 5000, status)["p50"] / 1e3)
            add("window 8", name, measure("window", qmp, 4000 if slow else 100000, 8, status)["rate"] / 1e3)
            schema = '{"execute":"query-qmp-schema"}\n'
            add("query-qmp-schema", name, measure("qmp", qmp, 5 if slow else 200, schema)["p50"] / 1e6)
            add("human line", name, measure("hmp", f"tcp:{running.port}", 5 if slow else 500, "info status")["p50"] / 1e6)
            if not slow:
                add("2 MiB of text", name, measure("large", qmp, 2 << 20, "text")["p50"] / 1e6)
                add("2 MiB of numbers", name, measure("large", qmp, 2 << 20, "list")["p50"] / 1e6)
                add("10 MiB of text", name, measure("large", qmp, 10 << 20, "text")["p50"] / 1e6)
        with Running(program, 32) as running:
            rate = measure("many", 8000 if slow else 100000, status, *running.sockets)["rate"] / 1e3
            add("32 clients", name, rate)
        for machine, arguments in machines.items():
            for _ in range(3):
                _, reply, _, private = start(program, [*arguments, "-nodefaults", "-display", "none"], folder.name)
                add(f"start {machine}", name, reply)
                add(f"memory {machine}", name, private)
if "qemu" in programs and not options.quick:
    with Running(programs["qemu"]) as running:
        add("2 MiB of text", "qemu", measure("large", running.sockets[0], 2 << 20, "text")["p50"] / 1e6)

units = {
    "round trip": "µs", "round trip, 1 monitor": "µs", "window 8": "k/s", "32 clients": "k/s",
    "query-qmp-schema": "ms", "human line": "ms",
    "2 MiB of text": "ms", "2 MiB of numbers": "ms", "10 MiB of text": "ms",
    "start none": "ms", "start pc -S": "ms", "memory none": "MiB", "memory pc -S": "MiB",
}
names = {"round trip": "round trip, 32 monitors open"}
columns = ["qemu", "goliath", "echo"]
print(f"{'':30}{'unit':>6}" + "".join(f"{name:>10}" for name in columns) + f"{'ratio':>10}")
for row, unit in units.items():
    if row not in samples:
        continue
    pick = min if row.startswith("start") else statistics.median
    found = {name: pick(values) for name, values in samples[row].items()}
    line = f"{names.get(row, row):30}{unit:>6}"
    for name in columns:
        line += f"{found[name]:10.3f}" if name in found else f"{'':10}"
    if "qemu" in found and "goliath" in found:
        line += f"{found['goliath'] / found['qemu']:10.3f}"
    print(line)
echo_trip = statistics.median(samples["round trip"]["echo"])
trip = statistics.median(samples["round trip, 1 monitor"]["goliath"])
print(f"round trip of goliath / echo server: {trip / echo_trip:.2f}")
if options.json:
    pathlib.Path(options.json).write_text(json.dumps(samples))
