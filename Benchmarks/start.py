#!/usr/bin/env python3
"""Start to QMP greeting and to the first reply, and the private memory of a machine that never ran: goliath beside QEMU.

    Benchmarks/start.py [ROUNDS]

Medians over ROUNDS (21), the two programs in turn; milliseconds of wall clock, CPU milliseconds, MiB. Needs the release build.
"""

import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time

root = pathlib.Path(__file__).resolve().parent.parent
programs = {"goliath": str(root / ".build/release/goliath"), "qemu": "qemu-system-x86_64"}
machines = {
    "none": ["-machine", "none", "-display", "none", "-nodefaults"],
    "pc -m 128 -S": ["-machine", "pc", "-accel", "tcg", "-m", "128", "-S", "-nodefaults", "-display", "none"],
}
deadline = 20


def start(program, options, folder):
    """Milliseconds to greeting and to the first reply, CPU milliseconds, private MiB."""
    path = os.path.join(folder, "qmp")
    begin = time.perf_counter()
    process = subprocess.Popen([program, *options, "-qmp", f"unix:{path},server=on,wait=off"])
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(deadline)
    while True:
        try:
            client.connect(path)
            break
        except OSError:
            if process.poll() is not None or time.perf_counter() - begin > deadline:
                sys.exit(f"{program} does not listen")
            time.sleep(0.0001)
    stream = client.makefile("rwb")
    stream.readline()
    greeting = time.perf_counter() - begin
    stream.write(b'{"execute":"qmp_capabilities"}')
    stream.flush()
    stream.readline()
    reply = time.perf_counter() - begin
    time.sleep(0.05)
    with open(f"/proc/{process.pid}/smaps_rollup") as rollup:
        private = sum(int(line.split()[1]) for line in rollup if line.startswith("Private_"))
    stream.write(b'{"execute":"quit"}')
    stream.flush()
    _, _, usage = os.wait4(process.pid, 0)
    os.path.exists(path) and os.unlink(path)
    return greeting * 1e3, reply * 1e3, (usage.ru_utime + usage.ru_stime) * 1e3, private / 1024


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 21
    print(f"{'machine':16}{'program':10}{'greeting ms':>13}{'reply ms':>10}{'CPU ms':>8}{'private MiB':>13}")
    with tempfile.TemporaryDirectory() as folder:
        for machine, options in machines.items():
            runs = {name: [] for name in programs}
            for _ in range(rounds):
                for name, program in programs.items():
                    runs[name].append(start(program, options, folder))
            for name in programs:
                figures = [statistics.median(column) for column in zip(*runs[name])]
                print(f"{machine:16}{name:10}" + "{:13.2f}{:10.2f}{:8.1f}{:13.1f}".format(*figures))


if __name__ == "__main__":
    main()
