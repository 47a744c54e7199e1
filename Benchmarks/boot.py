#!/usr/bin/env python3
"""Kernel start to the initramfs's marker under the software CPUs: CPU seconds of goliath and of QEMU's TCG, side by side.

    Benchmarks/boot.py [ROUNDS]

Medians over ROUNDS (3), the two programs in turn. Needs the release build and .build/guest (`make run` or `make test` made both).
"""

import os
import pathlib
import statistics
import subprocess
import sys

root = pathlib.Path(__file__).resolve().parent.parent
guest = root / ".build/guest"
programs = {
    "goliath": [str(root / ".build/release/goliath"), "-accel", "tcg", "-cpu", "max"],
    "qemu": ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-net", "none"],
}
rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3


def boot(command, cpus):
    """CPU seconds until the process has ended, which the guest brings about after its marker."""
    process = subprocess.Popen(
        command + ["-m", "256", "-smp", str(cpus), "-nographic", "-no-reboot", "-kernel", guest / "vmlinuz",
                   "-initrd", guest / "initrd.gz",
                   "-append", "console=ttyS0 panic=-1 goliath.run=poweroff+-f"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if b"HELLO-FROM-INIT" not in output or status != 0:
        sys.exit(f"{command[0]} did not get there (status {status}):\n{output[-2000:].decode(errors='replace')}")
    return usage.ru_utime + usage.ru_stime


print(f"{'':8}{'goliath s':>12}{'qemu tcg s':>12}{'ratio':>8}")
for cpus in (1, 2):
    seconds = {name: [] for name in programs}
    for _ in range(rounds):
        for name, command in programs.items():
            seconds[name].append(boot(command, cpus))
    ours, theirs = (statistics.median(seconds[name]) for name in programs)
    print(f"-smp {cpus:<3}{ours:12.2f}{theirs:12.2f}{ours / theirs:8.2f}")
