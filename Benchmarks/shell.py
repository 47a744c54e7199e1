#!/usr/bin/env python3
"""One `query-status` asked by a program that starts, asks, prints and ends: goliath-shell beside socat and qmp-shell.

    Benchmarks/shell.py [ROUNDS [SERVER]]

Minimum and median over ROUNDS (31), the clients in turn, on SERVER (qemu-system-x86_64) `-machine none`; milliseconds of wall clock and of
CPU. Needs the release build; clients that are not installed are left out.
"""

import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

root = pathlib.Path(__file__).resolve().parent.parent
rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 31
server = sys.argv[2] if len(sys.argv) > 2 else "qemu-system-x86_64"
shell = str(root / ".build/release/goliath-shell")
requests = b'{"execute":"qmp_capabilities"}\n{"execute":"query-status"}\n'


def clients(path):
    yield "goliath-shell -c", [shell, path, "-c", "query-status"], b""
    yield "goliath-shell --json -c", [shell, "--json", path, "-c", "query-status"], b""
    if shutil.which("socat"):
        yield "socat, JSON typed", ["socat", "-t5", "-", f"UNIX-CONNECT:{path}"], requests
    if shutil.which("qmp-shell"):
        yield "qmp-shell", ["qmp-shell", path], b"query-status\n"


def run(command, text):
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    process.stdin.write(text)
    process.stdin.close()
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    elapsed = time.perf_counter() - begin
    process.returncode = status
    if status or b"prelaunch" not in output:
        sys.exit(f"{command[0]} failed: {output!r}")
    return elapsed * 1e3, (usage.ru_utime + usage.ru_stime) * 1e3


with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "qmp")
    process = subprocess.Popen(
        [server, "-machine", "none", "-display", "none", "-nodefaults", "-S", "-qmp", f"unix:{path},server=on,wait=off"]
    )
    try:
        subprocess.run([shell, "--retry", path, "-q", "-c", "query-status"], check=True)
        times = {name: [] for name, _, _ in clients(path)}
        for _ in range(rounds):
            for name, command, text in clients(path):
                times[name].append(run(command, text))
    finally:
        process.kill()
        process.wait()

print(f"{'client':26}{'wall ms, minimum':>18}{'median':>9}{'CPU ms, minimum':>18}{'median':>9}")
for name, pairs in times.items():
    wall, cpu = zip(*pairs)
    print(
        f"{name:26}{min(wall):18.2f}{statistics.median(wall):9.2f}{min(cpu):18.2f}{statistics.median(cpu):9.2f}"
    )
