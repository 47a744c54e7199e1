#!/usr/bin/env python3
"""Start of the Debian kernel on several nodes beside the same machine on one node: wall seconds, and CPU seconds of all nodes.

    Benchmarks/cluster/boot.py [ROUNDS] [--nodes 2] [--smp 2] [--kinds shm,dsm-unix,dsm-tcp] [--accel tcg] [--json FILE] [--goliath PATH]

Medians over ROUNDS (3), the kinds in turn: from the start of the first process to the marker of the initramfs on node 0's serial port, and
to the end of all processes, which the guest brings about at once. Needs the release build and .build/guest (`make run` or `make test` made
both). `ratio` is to one node with as many vCPUs.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

root = pathlib.Path(__file__).resolve().parent.parent.parent
guest = root / ".build/guest"
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("rounds", nargs="?", type=int, default=3)
parser.add_argument("--nodes", type=int, default=2)
parser.add_argument("--smp", type=int, help="vCPUs of the machine (default: one for each node)")
parser.add_argument("--kinds", default="shm,dsm-unix,dsm-tcp")
parser.add_argument("--accel", default="tcg")
parser.add_argument("--memory", default="512")
parser.add_argument("--limit", type=float, default=300)
parser.add_argument("--json")
parser.add_argument("--goliath", default=str(root / ".build/release/goliath"))
arguments = parser.parse_args()
cpus = arguments.smp or arguments.nodes


def free_ports(count):
    """Port numbers that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def machine():
    return [arguments.goliath, "-accel", arguments.accel, "-cpu", "max", "-m", arguments.memory, "-smp", str(cpus), "-nographic",
            "-no-reboot", "-net", "none", "-kernel", str(guest / "vmlinuz"), "-initrd", str(guest / "initrd.gz"),
            "-append", "console=ttyS0 panic=-1 no_timer_check goliath.run=nproc+;+poweroff+-f"]


def commands(kind, folder):
    """The command line of every node."""
    if kind == "one":
        return [machine()]
    count = arguments.nodes
    if kind == "dsm-tcp":
        peers = "+".join(f"127.0.0.1:{port}" for port in free_ports(count))
    else:
        peers = "+".join(f"unix:{folder}/node-{number}" for number in range(count))
    lines = []
    for number in range(count):
        first, last = number * cpus // count, (number + 1) * cpus // count - 1
        cluster = f"id=bench,node={number},vcpus={first}-{last},peers={peers},insecure=on"
        if kind == "shm":
            cluster += f",memory=shm,shm-path=/goliath-bench-{os.getpid()}"
        else:
            cluster += ",memory=dsm"
        lines.append(machine() + ["-cluster", cluster, "-monitor", "none"])
    return lines


def seconds_of_children():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def boot(kind):
    """Wall seconds to the marker, and to the end of all processes; CPU seconds of all of them."""
    folder = tempfile.mkdtemp(prefix="goliath-cluster-")
    before, begin = seconds_of_children(), time.perf_counter()
    nodes = []
    try:
        for number, line in enumerate(commands(kind, folder)):
            output = subprocess.PIPE if number == 0 else open(f"{folder}/output-{number}", "wb")
            nodes.append(subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT))
        output, marker = b"", None
        while data := os.read(nodes[0].stdout.fileno(), 65536):
            output += data
            if marker is None and b"HELLO-FROM-INIT" in output:
                marker = time.perf_counter() - begin
            if time.perf_counter() - begin > arguments.limit:
                break
        failed = marker is None
        for node in nodes:
            if failed:
                node.kill()
            failed = node.wait() != 0 or failed
        cpu = seconds_of_children() - before
        if failed:
            others = "".join(f"\n--- node {n}\n" + open(f"{folder}/output-{n}").read()[-2000:] for n in range(1, len(nodes)))
            sys.exit(f"{kind}: it did not get there:\n{output[-3000:].decode(errors='replace')}{others}")
        return {"marker": marker, "end": time.perf_counter() - begin, "cpu": cpu}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


kinds = ["one"] + arguments.kinds.split(",")
runs = {kind: [] for kind in kinds}
for _ in range(arguments.rounds):
    for kind in kinds:
        runs[kind].append(boot(kind))
print(f"{arguments.nodes} nodes, {cpus} vCPUs, {arguments.accel}")
print(f"{'':10}{'marker s':>10}{'end s':>10}{'CPU s':>10}{'ratio':>8}")
for kind in kinds:
    figures = {name: statistics.median(run[name] for run in runs[kind]) for name in ("marker", "end", "cpu")}
    base = statistics.median(run["marker"] for run in runs["one"])
    print(f"{kind:10}{figures['marker']:10.2f}{figures['end']:10.2f}{figures['cpu']:10.2f}{figures['marker'] / base:8.2f}")
if arguments.json:
    pathlib.Path(arguments.json).write_text(json.dumps(runs, indent=1) + "\n")
