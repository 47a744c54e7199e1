#!/usr/bin/env python3
"""Kernel start to the initramfs's marker under the software CPUs: CPU seconds of goliath and of QEMU's TCG, side by side.

    Benchmarks/boot.py [ROUNDS] [--smp 1,2] [--json FILE] [--goliath PATH] [--goliath-options ,OPTION=VALUE]

Medians over ROUNDS (3), the two programs in turn: at the moment the marker arrives, and when the process has ended, which the guest
brings about at once. Needs the release build and .build/guest (`make run` or `make test` made both).
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

root = pathlib.Path(__file__).resolve().parent.parent
guest = root / ".build/guest"
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("rounds", nargs="?", type=int, default=3)
parser.add_argument("--smp", default="1,2")
parser.add_argument("--json")
parser.add_argument("--goliath", default=str(root / ".build/release/goliath"))
parser.add_argument("--goliath-options", default="", help="appended to -accel tcg")
arguments = parser.parse_args()
programs = {
    "goliath": [arguments.goliath, "-accel", "tcg" + arguments.goliath_options, "-cpu", "max", "-net", "none"],
    "qemu": ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-net", "none"],
}


def boot(command, cpus):
    """CPU seconds to the marker and to the end of the process; wall-clock seconds to the marker."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        command + ["-m", "256", "-smp", cpus, "-nographic", "-no-reboot", "-kernel", guest / "vmlinuz",
                   "-initrd", guest / "initrd.gz",
                   "-append", "console=ttyS0 panic=-1 goliath.run=poweroff+-f"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    # Linux's clock number of another process's CPU time.
    clock, output, marker, wall = ~process.pid << 3 | 2, b"", None, None
    while data := os.read(process.stdout.fileno(), 65536):
        output += data
        if marker is None and b"HELLO-FROM-INIT" in output:
            marker, wall = time.clock_gettime(clock), time.perf_counter() - begin
    _, status, usage = os.wait4(process.pid, 0)
    if marker is None or status != 0:
        sys.exit(f"{command[0]} did not get there (status {status}):\n{output[-2000:].decode(errors='replace')}")
    return {"marker": marker, "end": usage.ru_utime + usage.ru_stime, "wall": wall}


def median(runs, figure):
    return statistics.median(run[figure] for run in runs)


print(f"CPU seconds{'':5}{'goliath marker':>16}{'end':>8}{'qemu marker':>14}{'end':>8}{'ratio marker':>15}{'end':>8}")
figures = {}
for cpus in arguments.smp.split(","):
    runs = {name: [] for name in programs}
    for _ in range(arguments.rounds):
        for name, command in programs.items():
            runs[name].append(boot(command, cpus))
    figures[cpus] = runs
    marker, end = ([median(runs[name], figure) for name in programs] for figure in ("marker", "end"))
    print(f"-smp {cpus:<11}{marker[0]:16.2f}{end[0]:8.2f}{marker[1]:14.2f}{end[1]:8.2f}"
          f"{marker[0] / marker[1]:15.2f}{end[0] / end[1]:8.2f}", flush=True)
if arguments.json:
    pathlib.Path(arguments.json).write_text(json.dumps(figures, indent=1) + "\n")
