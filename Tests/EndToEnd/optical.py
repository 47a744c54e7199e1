#!/usr/bin/env python3
"""A disc that boots, made by xorriso with ISOLINUX; a disk with GRUB beside it; four drives; media that come and go.

    optical.py PROGRAM IMAGE-PROGRAM SCRIPTS-FOLDER [--accel tcg]

Prints a line for each step that held; status 0 when all did, 77 when the disc cannot be made here. Works the same with QEMU and qemu-img.
"""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time

from monitor import Monitor
from terminal import Failed, Terminal

ISOLINUX, MODULES = "/usr/lib/ISOLINUX/isolinux.bin", "/usr/lib/syslinux/modules/bios/ldlinux.c32"
PATIENCE = 120


class Scenario:
    def __init__(self, options, folder):
        self.options, self.folder, self.started = options, folder, time.monotonic()
        self.guest = None
        # busybox here has no eject.
        source = ("#include <fcntl.h>\n#include <linux/cdrom.h>\n#include <sys/ioctl.h>\n"
                  "int main(int n, char **words) { return n < 2 || ioctl(open(words[1], O_RDONLY | O_NONBLOCK), CDROMEJECT, 0) != 0; }\n")
        subprocess.run(["gcc", "-O1", "-static", "-x", "c", "-o", self.path("eject"), "-"], input=source, text=True, check=True)
        subprocess.run([os.path.join(options.scripts, "guest"), folder, "", self.path("eject")], check=True)

    def path(self, name):
        return os.path.join(self.folder, name)

    def say(self, step):
        print(f"{time.monotonic() - self.started:7.2f} s  {step}", flush=True)

    def disc(self, name, boots):
        """A disc with a file that says its name; `boots`: with the guest's kernel and ISOLINUX."""
        tree = self.path("tree")
        os.makedirs(os.path.join(tree, "isolinux"))
        with open(os.path.join(tree, "marker"), "w", encoding="ascii") as file:
            file.write(f"this-is-{name}\n")
        words = []
        if boots:
            for source, target in ((ISOLINUX, "isolinux/isolinux.bin"), (MODULES, "isolinux/ldlinux.c32"), (self.path("vmlinuz"), "vmlinuz"),
                                   (self.path("initrd-devices.gz"), "initrd.gz")):
                shutil.copy(source, os.path.join(tree, target))
            with open(os.path.join(tree, "isolinux/isolinux.cfg"), "w", encoding="ascii") as file:
                file.write("SERIAL 0 115200\nDEFAULT linux\nPROMPT 0\nLABEL linux\n  LINUX /vmlinuz\n  INITRD /initrd.gz\n"
                           f"  APPEND console=ttyS0 panic=-1 no_timer_check quiet booted-from-{name}\n")
            words = ["-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"]
        subprocess.run(["xorriso", "-as", "mkisofs", "-quiet", "-R", "-V", name.upper(), *words, "-o", self.path(name), tree], check=True,
                       stderr=subprocess.DEVNULL)
        shutil.rmtree(tree)
        return self.path(name)

    def start(self, *words):
        if os.path.exists(self.path("qmp")):
            os.unlink(self.path("qmp"))
        self.guest = Terminal([self.options.program, "-accel", self.options.accel, "-m", "256", "-nodefaults", "-display", "none", "-serial",
                               "stdio", "-qmp", f"unix:{self.path('qmp')},server=on,wait=off", *words])
        self.monitor = Monitor(self.path("qmp"))

    def shell(self):
        self.guest.expect("HELLO-FROM-INIT", PATIENCE)
        self.guest.expect("# ", PATIENCE)
        self.guest.send("stty -echo; PS1='# '\r")
        self.guest.run("modprobe ata_piix && modprobe sd_mod && modprobe sr_mod && modprobe isofs && mkdir -p /disc", seconds=PATIENCE)
        self.guest.run("n=0; until [ -b /dev/sr0 ]; do n=$((n+1)); [ $n -lt 200 ] || break; sleep 0.1; done; [ -b /dev/sr0 ]", seconds=PATIENCE)

    def end(self):
        self.monitor.run("quit")
        if self.guest.end(60):
            raise Failed("the program's status")

    def run(self):
        first, second, third = self.disc("first", True), self.disc("second", True), self.disc("third", False)
        disks = []
        for index in range(3):
            disks.append(self.path(f"disk{index}"))
            with open(disks[-1], "wb") as file:
                file.write(os.urandom(1 << 20) if index else b"\0" * (1 << 20))
        # Each boots from the first disc, however it is said; an empty disk is no way to boot.
        for words in (["-cdrom", first], ["-hda", disks[0], "-cdrom", first, "-boot", "d"], ["-hda", disks[0], "-cdrom", first, "-boot", "order=dc"],
                      ["-drive", f"file={second},if=none,id=b,media=cdrom", "-device", "ide-cd,drive=b,bus=ide.0", "-drive",
                       f"file={first},if=none,id=a,media=cdrom", "-device", "ide-cd,drive=a,bus=ide.1,bootindex=0"]):
            self.start(*words)
            self.shell()
            self.guest.run("cat /proc/cmdline", "booted-from-first", PATIENCE)
            self.end()
        self.say("ISOLINUX and Linux come from the disc: -cdrom, -boot d, -boot order=dc, bootindex")

        self.start("-hda", disks[0], "-hdb", disks[1], "-cdrom", first, "-hdd", disks[2], "-boot", "order=d,menu=off")
        self.shell()
        guest, monitor = self.guest, self.monitor
        # The first access after a change may fail with the news of it.
        mount = "{ for n in 1 2 3 4 5; do mount -t iso9660 -o ro /dev/sr0 /disc 2>/dev/null && break; sleep 0.2; done; }"
        # Which is which, the kernel decides: it looks at both channels at once.
        names = []
        for disk in disks:
            total = subprocess.run(["md5sum", disk], check=True, stdout=subprocess.PIPE, text=True).stdout[:32]
            names.append(guest.run("md5sum /dev/sda /dev/sdb /dev/sdc", f"{total}  (/dev/sd[abc])", PATIENCE)[1])
        guest.run(f"dd if={names[1]} of={names[0]} bs=64k oflag=direct 2>/dev/null && "
                  f"dd if={names[2]} of={names[0]} bs=4k count=16 seek=100 2>/dev/null; sync")
        subprocess.run(["cmp", "-n", "65536", disks[2], disks[0], "0", str(100 * 4096)], check=True)
        subprocess.run(["cmp", "-n", str(100 * 4096), disks[1], disks[0]], check=True)
        guest.run("mount -t iso9660 -o ro /dev/sr0 /disc && cat /disc/marker", "this-is-first", PATIENCE)
        self.say("four drives: three disks and the disc")

        # The kernel keeps the door locked while the disc is mounted.
        drive = next(block["device"] for block in monitor.run("query-block") if block["removable"] and block.get("inserted"))
        reply = monitor.answer("eject", {"device": drive})
        if "is locked and force was not specified, wait for tray to open and try again" not in str(reply.get("error")):
            raise Failed(f"eject of a locked disc: {reply}")
        guest.run("cat /disc/marker; umount /disc", "this-is-first")
        self.say("a mounted disc is locked")

        guest.run("eject /dev/sr0")
        self.tray(True)
        monitor.run("blockdev-change-medium", device=drive, filename=second, format="raw")
        guest.run(mount + " && cat /disc/marker && umount /disc", "this-is-second", PATIENCE)
        self.say("ejected by the guest, another disc by QMP")

        monitor.human(f"change {drive} {third} raw")
        guest.run(mount + " && cat /disc/marker && umount /disc", "this-is-third", PATIENCE)
        monitor.run("eject", device=drive)
        self.tray(True)
        guest.run("! mount -t iso9660 -o ro /dev/sr0 /disc 2>/dev/null", seconds=PATIENCE)
        monitor.run("blockdev-change-medium", device=drive, filename=first)
        self.tray(False)
        guest.run(mount + " && cat /disc/marker", "this-is-first", PATIENCE)
        self.say("changed by HMP, ejected by QMP, and put in again")
        # Force takes it even from a guest that holds it.
        monitor.run("eject", device=drive, force=True)
        guest.run("umount /disc; true")
        self.end()
        self.say("taken by force")

    def tray(self, is_open):
        event = self.monitor.event("DEVICE_TRAY_MOVED")
        while event["data"]["tray-open"] != is_open:
            event = self.monitor.event("DEVICE_TRAY_MOVED")


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("program", "tool", "scripts"):
        arguments.add_argument(name)
    arguments.add_argument("--accel", default="tcg")
    options = arguments.parse_args()
    if not shutil.which("xorriso") or not shutil.which("gcc") or not os.path.exists(ISOLINUX) or not os.path.exists(MODULES):
        print("SKIPPED: gcc, xorriso, isolinux or syslinux-common is not installed")
        return 77
    folder = tempfile.mkdtemp(prefix="optical-")
    scenario = Scenario(options, folder)
    try:
        scenario.run()
        return 0
    except (Failed, subprocess.SubprocessError) as problem:
        print(f"FAILED: {problem}")
        return 1
    finally:
        if scenario.guest:
            scenario.guest.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
