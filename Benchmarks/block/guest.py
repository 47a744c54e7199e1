#!/usr/bin/env python3
"""A disk in a guest under tcg: goliath beside QEMU, by turns.

    Benchmarks/block/guest.py [--runs 3] [--device virtio|ide] [--format raw|qcow2] [--smp 1] [--goliath PATH] [--json FILE]

The guest (scripts/guest with its drivers) runs disk.c: 4 KiB at random places, one and eight at a time, and 1 MiB after another, each past
the guest's own cache. Of all runs the greatest number of operations (MiB) in a second counts, and the least processor time of the whole
program for one. `ratio` is goliath's rate divided by QEMU's: 1 is the bar, 2 the aim.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def make(folder):
    """The guest with the program in it: kernel and initramfs."""
    program = os.path.join(folder, "disk")
    subprocess.run(["gcc", "-O2", "-static", "-pthread", "-o", program, str(ROOT / "Benchmarks/block/disk.c")], check=True)
    subprocess.run([str(ROOT / "scripts/guest"), folder, "", program], check=True)
    return os.path.join(folder, "vmlinuz"), os.path.join(folder, "initrd-devices.gz")


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(command, limit):
    """Runs a guest; for each kind of access its rate in a second, MiB in a second, and CPU microseconds for each."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    results, begun, end = {}, {}, time.monotonic() + limit
    try:
        for line in child.stdout:
            words = line.split()
            if len(words) == 2 and words[0] == "BEGIN":
                begun[words[1]] = cpu_seconds(child.pid)
            elif len(words) == 5 and words[0] == "END":
                count, size, nanoseconds = map(int, words[2:])
                results[words[1]] = {
                    "rate": count / nanoseconds * 1e9, "mib": size / nanoseconds * 1e9 / (1 << 20),
                    "cpu": (cpu_seconds(child.pid) - begun[words[1]]) / count * 1e6}
            elif "DISK-DONE" in line:
                return results
            if time.monotonic() > end:
                break
        raise SystemExit(f"{command[0]}: the guest did not finish: {results}")
    finally:
        child.kill()
        child.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--device", choices=["virtio", "ide"], default="virtio")
    parser.add_argument("--format", choices=["raw", "qcow2"], default="raw")
    parser.add_argument("--smp", default="1")
    parser.add_argument("--cache", default="writeback")
    parser.add_argument("--goliath", default=str(ROOT / ".build/release/goliath"))
    parser.add_argument("--qemu", default="qemu-system-x86_64")
    parser.add_argument("--limit", type=float, default=180)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    best = {}
    with tempfile.TemporaryDirectory() as folder:
        kernel, initrd = make(folder)
        image = os.path.join(folder, "disk.img")
        with open(image, "wb") as file:
            for _ in range(256):
                file.write(os.urandom(1 << 20))
        if arguments.format == "qcow2":
            subprocess.run(["qemu-img", "convert", "-O", "qcow2", image, image + ".qcow2"], check=True)
            image += ".qcow2"
        device = "vda" if arguments.device == "virtio" else "sda"
        driver = "virtio_blk" if arguments.device == "virtio" else "sd_mod"
        script = f"modprobe+virtio_pci;modprobe+ata_piix;modprobe+{driver};sleep+2;disk+/dev/{device}"
        for turn in range(arguments.runs):
            for name, program in [("goliath", arguments.goliath), ("qemu", arguments.qemu)]:
                results = measure(
                    [program, "-accel", "tcg", "-m", "256", "-smp", arguments.smp, "-nodefaults", "-display", "none", "-serial",
                     "stdio", "-kernel", kernel, "-initrd", initrd, "-append", f"console=ttyS0 panic=-1 goliath.run={script}",
                     "-drive", f"file={image},format={arguments.format},if={arguments.device},cache={arguments.cache}"],
                    arguments.limit)
                for case, figures in results.items():
                    kept = best.setdefault(case, {}).setdefault(name, figures)
                    kept["rate"], kept["mib"] = max(kept["rate"], figures["rate"]), max(kept["mib"], figures["mib"])
                    kept["cpu"] = min(kept["cpu"], figures["cpu"])
    print(f"{'access':26}{'goliath/s':>11}{'qemu/s':>11}{'MiB/s':>9}{'qemu':>9}{'CPU us':>9}{'qemu':>9}{'ratio':>7}{'CPU':>7}")
    for case, figures in best.items():
        ours, theirs = figures["goliath"], figures["qemu"]
        print(f"{case:26}{ours['rate']:11.0f}{theirs['rate']:11.0f}{ours['mib']:9.1f}{theirs['mib']:9.1f}{ours['cpu']:9.1f}"
              f"{theirs['cpu']:9.1f}{ours['rate'] / theirs['rate']:7.2f}{ours['cpu'] / theirs['cpu']:7.2f}")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(best, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
