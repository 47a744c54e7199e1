#!/usr/bin/env python3
"""A whole Debian in a qcow2 image: booted by SeaBIOS and GRUB from IDE and from virtio, used, and found sound afterwards.

    debian.py PROGRAM IMAGE-PROGRAM SCRIPTS-FOLDER TREE [--accel tcg|kvm] [--keep]

SCRIPTS-FOLDER holds debian-image; TREE is where the installed system is kept from one run to the next. Prints a line for each step that
held; status 0 when all did, 77 when the system cannot be installed here. Works the same with QEMU and qemu-img.
"""
import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

from terminal import Failed, Terminal, served

PATIENCE = 240


class Scenario:
    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.started = time.monotonic()
        self.disk = os.path.join(folder, "debian.qcow2")

    def say(self, step):
        print(f"{time.monotonic() - self.started:7.2f} s  {step}", flush=True)

    def tool(self, *words, capture=False):
        return subprocess.run([self.options.tool, *words], check=True, stdout=subprocess.PIPE if capture else None).stdout

    def boot(self, *words):
        guest = Terminal([self.options.program, "-accel", self.options.accel, "-m", "512", "-smp", "2", "-nographic",
                          "-monitor", "none", *words, "-net", "user", "-net", "nic,model=virtio"])
        guest.expect("goliath-guest login: ", PATIENCE)
        guest.send("root\r")
        guest.expect("# ", PATIENCE)
        # No echo: what is looked for is then the answer. No colours, no prompt that colours it.
        guest.send("stty -echo; PS1='# '; bind 'set enable-bracketed-paste off'; dmesg -n 1\r")
        guest.run("true", seconds=PATIENCE)
        return guest

    def power_off(self, guest):
        guest.send("poweroff\r")
        status = guest.end(PATIENCE)
        if status:
            raise Failed(f"the program ended with status {status}")
        self.tool("check", "-q", self.disk)

    def run(self):
        raw = os.path.join(self.folder, "debian.img")
        subprocess.run([os.path.join(self.options.scripts, "debian-image"), raw, self.options.tree], check=True)
        self.tool("convert", "-f", "raw", "-O", "qcow2", raw, self.disk)
        self.tool("compare", "-q", raw, self.disk)
        os.unlink(raw)
        self.say("Debian is installed in a qcow2 image")

        guest = self.boot("-hda", self.disk)
        self.say("SeaBIOS, GRUB, login on the serial port; from IDE")
        guest.run("findmnt -n -o SOURCE /", "/dev/sda1")
        guest.run("systemctl is-system-running --wait", "running", PATIENCE)
        guest.run("ip -4 -o addr show", r"10\.0\.2\.15", PATIENCE)
        content = os.urandom(8 << 20)
        with served(self.folder, content) as address:
            guest.run(f"wget -q -O /root/file {address}; md5sum /root/file", hashlib.md5(content).hexdigest(), PATIENCE)
        self.say("the network is configured, a file is fetched")
        self.power_off(guest)
        self.say("power off; the image is sound")

        self.tool("snapshot", "-c", "installed", self.disk)
        guest = self.boot("-drive", f"file={self.disk},if=virtio")
        self.say("SeaBIOS, GRUB, login on the serial port; from virtio")
        guest.run("findmnt -n -o SOURCE /", "/dev/vda1")
        guest.run("md5sum /root/file", hashlib.md5(content).hexdigest(), PATIENCE)
        guest.run("rm /root/file; dd if=/dev/zero of=/root/zeros bs=1M count=32 conv=fsync 2>/dev/null && sync", seconds=PATIENCE)
        self.power_off(guest)
        names = [snapshot["name"] for snapshot in json.loads(self.tool("info", "--output=json", self.disk, capture=True))["snapshots"]]
        if names != ["installed"]:
            raise Failed(f"snapshots: {names}")
        self.tool("snapshot", "-a", "installed", self.disk)
        self.tool("check", "-q", self.disk)
        self.say("what was written is found again; a snapshot brings back what was there")


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("program", "tool", "scripts", "tree"):
        arguments.add_argument(name)
    arguments.add_argument("--accel", default="tcg")
    arguments.add_argument("--keep", action="store_true", help="keep the folder, print its name")
    options = arguments.parse_args()
    for program in ("mmdebstrap", "grub-mkimage"):
        if not shutil.which(program):
            print(f"SKIPPED: {program} is not installed")
            return 77
    if os.geteuid():
        print("SKIPPED: only root can give the installed files their owners")
        return 77
    folder = tempfile.mkdtemp(prefix="debian-")
    try:
        Scenario(options, folder).run()
        return 0
    except (Failed, subprocess.SubprocessError) as problem:
        print(f"FAILED: {problem}")
        return 1
    finally:
        if options.keep:
            print(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
