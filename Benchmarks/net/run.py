#!/usr/bin/env python3
"""TCP between a guest and its host (user networking) and between two guests (a socket pair), under goliath's software CPU and QEMU's.

    Benchmarks/net/run.py [--goliath PATH] [--rounds 3] [--megabytes 128] [--trips 20000] [--json FILE]

Each figure is the best of the rounds: MB/s for sending and receiving as the guest sees it, microseconds for a round trip of one byte, and CPU
seconds of the whole process for the transfer with the guest's boot. Fewer round trips measure the translation of code more than its run. Needs the release build, Debian's kernel, busybox and gcc.
"""

import argparse
import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time

here = pathlib.Path(__file__).resolve().parent
root = here.parent.parent

INIT = """#!/bin/busybox sh
export PATH=/bin:/sbin
/bin/busybox mkdir -p /sbin /usr/bin /usr/sbin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
modprobe virtio_pci
modprobe virtio_net
ip link set lo up
for word in $(cat /proc/cmdline); do
  case $word in goliath.run=*) eval "$(echo "${word#goliath.run=}" | tr '+' ' ')" ;; esac
done
poweroff -f
"""


def guest(folder):
    subprocess.run(["gcc", "-O2", "-static", "-o", folder / "peer", here / "peer.c"], check=True)
    (folder / "init").write_text(INIT)
    subprocess.run([root / "scripts/guest", folder, folder / "init", folder / "peer"], check=True)


def start(program, folder, command, network):
    accelerator = "tcg,thread=multi" if "qemu" in str(program) else "tcg"
    return subprocess.Popen(
        [program, "-accel", accelerator, "-m", "256", "-nodefaults", "-display", "none", "-serial", "stdio",
         "-kernel", folder / "vmlinuz", "-initrd", folder / "initrd-devices.gz",
         "-append", f"console=ttyS0 quiet panic=-1 goliath.run={command.replace(' ', '+')}", "-no-reboot"] + network,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    text = process.communicate(timeout=400)[0].decode(errors="replace")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = re.search(r"peer-result (\S+) (\d+) ([\d.]+)", text)
    if not found:
        sys.exit(f"no result:\n{text}")
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return int(found[2]), float(found[3]), spent


def wait_for(port):
    """Until somebody listens: a program that cannot connect at its start does not try again."""
    entry = f"0100007F:{port:04X} 00000000:0000 0A"
    for _ in range(1000):
        if entry in pathlib.Path("/proc/net/tcp").read_text():
            return
        time.sleep(0.01)
    sys.exit(f"nobody listens on port {port}")


def user(program, folder, mode, amount, port):
    other = {"send": "receive", "receive": "send", "ping": "pong"}[mode]
    server = subprocess.Popen([folder / "peer", other, "listen", str(port), str(amount)], stdout=subprocess.DEVNULL)
    command = ("ip addr add 10.0.2.15/24 dev eth0;ip link set eth0 up;ip route add default via 10.0.2.2;"
               f"peer {mode} 10.0.2.2 {port} {amount}")
    try:
        return finish(start(program, folder, command, ["-nic", "user,model=virtio-net-pci"]))
    finally:
        server.kill()
        server.wait()


def pair(program, folder, mode, amount, port):
    other = {"send": "receive", "ping": "pong"}[mode]
    setup = "ip addr add 10.9.0.{}/24 dev eth0;ip link set eth0 up;peer {} {} 5000 {}"
    device = "virtio-net-pci,netdev=n,mac=52:54:00:00:00:0{}"
    first = start(program, folder, setup.format(1, other, "listen", amount),
                  ["-netdev", f"socket,id=n,listen=127.0.0.1:{port}", "-device", device.format(1)])
    wait_for(port)
    second = start(program, folder, "sleep 1;" + setup.format(2, mode, "10.9.0.1", amount),
                   ["-netdev", f"socket,id=n,connect=127.0.0.1:{port}", "-device", device.format(2)])
    try:
        result = finish(second)
        first.communicate(timeout=60)
        return result
    finally:
        first.kill()
        first.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--goliath", default=root / ".build/release/goliath")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=128)
    parser.add_argument("--trips", type=int, default=20000)
    parser.add_argument("--only", default="", help="cases whose title has this")
    parser.add_argument("--json")
    options = parser.parse_args()
    programs = {"goliath": str(options.goliath), "qemu": "qemu-system-x86_64"}
    size = options.megabytes << 20
    cases = [("user send", user, "send", size), ("user receive", user, "receive", size),
             ("user round trip", user, "ping", options.trips), ("pair send", pair, "send", size),
             ("pair round trip", pair, "ping", options.trips)]
    figures = {}
    port = 20000 + os.getpid() % 20000
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        guest(folder)
        for title, run, mode, amount in cases:
            if options.only not in title:
                continue
            for _ in range(options.rounds):
                for program, path in programs.items():
                    port += 1
                    done, seconds, spent = run(path, folder, mode, amount, port)
                    value = seconds / done * 1e6 if mode == "ping" else done / seconds / 1e6
                    best = figures.get(f"{title} {program}")
                    if best is None or (value < best[0] if mode == "ping" else value > best[0]):
                        figures[f"{title} {program}"] = (value, spent)
            ours, theirs = figures[f"{title} goliath"], figures[f"{title} qemu"]
            factor = theirs[0] / ours[0] if mode == "ping" else ours[0] / theirs[0]
            unit = "us" if mode == "ping" else "MB/s"
            print(f"{title:16} goliath {ours[0]:8.1f} {unit} ({ours[1]:.1f} CPU s)"
                  f"  qemu {theirs[0]:8.1f} {unit} ({theirs[1]:.1f} CPU s)  x {factor:.2f}", flush=True)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(figures, indent=1) + "\n")


main()
