#!/usr/bin/env python3
"""Disks under load: a guest writes and checks a pattern all the time while the monitor takes snapshots, plugs, resizes and limits.

    diskload.py PROGRAM IMAGE-PROGRAM SCRIPTS-FOLDER [--accel tcg] [--only load|kill|full|errors] [--keep]

What the guest wrote is judged from outside: pattern.c's steps show for every image, overlay and snapshot whether it is what the disk was at
one moment, to the very write. Prints a line for each step that held; status 0 when all did. Works the same with QEMU and qemu-img.
"""
import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

from monitor import Monitor
from terminal import Failed, Terminal

BLOCK, STRIDE, MAGIC = 4096, 3 * 4096, 0x4E52455454415021
BLOCKS = 1024
MASK = (1 << 64) - 1


def place(thread, step):
    x = (step * 0x9E3779B97F4A7C15 + thread * 0xD1B54A32D192ED03) & MASK
    x ^= x >> 29
    x = x * 0xBF58476D1CE4E5B9 & MASK
    x ^= x >> 32
    return x % BLOCKS


class Content:
    """A disk's bytes, and what they tell of each thread."""

    def __init__(self, path, threads):
        self.path, self.steps, self.found = path, {}, {}
        with open(path, "rb") as file:
            for thread in range(threads):
                found = self.found[thread] = []
                for block in range(BLOCKS):
                    file.seek((thread * BLOCKS + block) * STRIDE)
                    data = file.read(BLOCK)
                    magic, name, step, inverse = struct.unpack_from("<QQQQ", data)
                    if step and (magic != MAGIC or name != thread << 32 | block or inverse != step ^ MASK) or data != data[:32] * 128:
                        raise Failed(f"{path}: thread {thread}, block {block} is torn or foreign: {data[:32].hex()}")
                    if any(file.read(STRIDE - BLOCK)):
                        raise Failed(f"{path}: thread {thread}, behind block {block} is what nobody wrote")
                    found.append(step)
                self.steps[thread] = max(found)

    def expect_whole(self):
        """All steps up to the last that is there, and no other: the disk at one moment."""
        for thread, found in self.found.items():
            wanted = [0] * BLOCKS
            for step in range(1, self.steps[thread] + 1):
                wanted[place(thread, step)] = step
            for block in range(BLOCKS):
                if found[block] != wanted[block]:
                    raise Failed(f"{self.path}: thread {thread} had reached step {self.steps[thread]}, block {block} is of step {found[block]} and "
                                 f"not {wanted[block]}")

    def expect_flushed(self, flushed):
        """At least what had been flushed."""
        for thread, found in self.found.items():
            wanted = [0] * BLOCKS
            for step in range(1, flushed.get(thread, 0) + 1):
                wanted[place(thread, step)] = step
            for block in range(BLOCKS):
                if found[block] < wanted[block]:
                    raise Failed(f"{self.path}: thread {thread}, block {block} is of step {found[block]}; step {wanted[block]} was flushed")


class Scenario:
    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.started = time.monotonic()
        self.guest = self.monitor = None
        # Threads of each pattern, by its first device.
        self.threads = {}
        subprocess.run(["gcc", "-O2", "-static", "-pthread", "-o", self.path("pattern"),
                        os.path.join(os.path.dirname(os.path.abspath(__file__)), "pattern.c")], check=True)
        subprocess.run([os.path.join(options.scripts, "guest"), folder, "", self.path("pattern")], check=True)

    def path(self, name):
        return os.path.join(self.folder, name)

    def say(self, step):
        print(f"{time.monotonic() - self.started:7.2f} s  {step}", flush=True)

    def tool(self, *words, wanted=(0,)):
        result = subprocess.run([self.options.tool, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if result.returncode not in wanted:
            raise Failed(f"{' '.join(words)}: status {result.returncode}: {result.stdout}")
        return result.stdout

    def create(self, name, size="64M", *words):
        self.tool("create", "-q", "-f", "qcow2", *words, self.path(name), size)
        return self.path(name)

    # The guest

    def start(self, *words):
        for name in ("log", "qmp"):
            if os.path.exists(self.path(name)):
                os.unlink(self.path(name))
        self.guest = Terminal([self.options.program, "-accel", self.options.accel, "-m", "256", "-smp", "2", "-nodefaults", "-display",
                               "none", "-serial", "stdio", "-serial", f"file:{self.path('log')}", "-qmp",
                               f"unix:{self.path('qmp')},server=on,wait=off", "-kernel", self.path("vmlinuz"), "-initrd",
                               self.path("initrd-devices.gz"), "-append", "console=ttyS0 panic=-1 no_timer_check quiet", *words])
        self.monitor = Monitor(self.path("qmp"))
        self.guest.expect("# ", 120)
        self.guest.send("stty -echo; PS1='# '\r")
        self.guest.run("modprobe virtio_pci && modprobe virtio_blk && modprobe ata_piix && modprobe sd_mod; stty -F /dev/ttyS1 raw -echo", seconds=60)

    def wait_for(self, device, there=True):
        self.guest.run(f"n=0; until [ {'' if there else '!'} -b /dev/{device} ]; do n=$((n+1)); [ $n -lt 300 ] || break; sleep 0.1; done; "
                       f"[ {'' if there else '!'} -b /dev/{device} ]", seconds=60)

    def begin(self, name, threads, *devices):
        """Starts the pattern in the guest's background, as no child of its shell: busybox's ends when one does while it waits for a line."""
        self.threads[devices[0]] = threads
        self.guest.run(f"(pattern {threads} {BLOCKS} /dev/ttyS1 {' '.join('/dev/' + device for device in devices)} & echo $! >/{name})")

    def lines(self):
        with open(self.path("log"), encoding="ascii", errors="replace") as file:
            text = file.read()
        lines = [line.split() for line in text[:text.rfind("\n") + 1].splitlines()]
        for line in lines:
            if line and (line[0] == "MISMATCH" or line[0].startswith("ERROR")) and not self.forgives(line):
                raise Failed(f"the guest says: {' '.join(line)}")
        return [line for line in lines if len(line) == 5]

    def forgives(self, line):
        return False

    def flushed(self, device):
        """The last flushed step of each thread of a pattern."""
        return {int(thread): int(step) for word, name, thread, step, _ in self.lines() if name == "/dev/" + device and word in ("FLUSHED", "END")}

    def progress(self, *devices, seconds=60):
        """Waits until every thread of these patterns has flushed once more."""
        before = {device: self.flushed(device) for device in devices}
        end = time.monotonic() + seconds
        for device, old in before.items():
            while True:
                new = self.flushed(device)
                if len(new) == self.threads[device] and all(step > old.get(thread, 0) for thread, step in new.items()):
                    break
                if time.monotonic() > end:
                    raise Failed(f"no progress on {device} within {seconds} s: {old}, {new}: {self.monitor.run('query-status')}")
                time.sleep(0.05)

    def finish(self, name, device):
        """Ends a pattern; all it wrote is flushed then. Answers the last step of each thread."""
        self.guest.run(f"kill $(cat /{name}); while kill -0 $(cat /{name}) 2>/dev/null; do sleep 0.1; done", seconds=90)
        end = time.monotonic() + 10
        while True:
            # The serial port sends what its driver still has.
            ends = [line for line in self.lines() if line[0] == "END" and line[1] == "/dev/" + device]
            if len(ends) == self.threads[device]:
                return {int(line[2]): int(line[3]) for line in ends}
            if time.monotonic() > end:
                raise Failed(f"ends of the pattern on {device}: {ends}")
            time.sleep(0.05)

    def end(self):
        self.monitor.run("quit")
        status = self.guest.end(60)
        if status:
            raise Failed(f"the program ended with status {status}")

    # Judging

    def content(self, name, threads, *words):
        raw = self.path("content.raw")
        self.tool("convert", "-O", "raw", *words, self.path(name), raw)
        try:
            return Content(raw, threads)
        except Failed as problem:
            raise Failed(f"{name} {' '.join(words)}: {problem}")
        finally:
            os.unlink(raw)

    def moment(self, name, threads, flushed, *words):
        """An image that must be the disk at one moment, not before that what had been flushed then."""
        content = self.content(name, threads, *words)
        try:
            content.expect_whole()
            content.expect_flushed(flushed)
        except Failed as problem:
            raise Failed(f"{name} {' '.join(words)}: {problem}")
        return content

    def check(self, *names):
        for name in names:
            self.tool("check", "-q", self.path(name))


class Load(Scenario):
    """Snapshots, hot plug, sizes and limits under load."""

    # The unplugged disk's pattern ends with an error.
    unplugged = False

    def forgives(self, line):
        return self.unplugged and len(line) > 1 and line[1] in ("/dev/vdc", "/dev/vdd") and line[0].startswith("ERROR")

    def run(self):
        a, b, c = (self.create(name) for name in ("a.qcow2", "b.qcow2", "c.qcow2"))
        self.start("-drive", f"file={a},if=none,id=a", "-device", "virtio-blk-pci,drive=a,addr=5", "-object", "iothread,id=thread", "-blockdev",
                   json.dumps({"driver": "qcow2", "node-name": "nb", "file": {"driver": "file", "filename": b}}), "-device",
                   "virtio-blk-pci,drive=nb,iothread=thread,id=b,num-queues=2,addr=6", "-drive", f"file={c},if=ide,id=c")
        monitor = self.monitor
        self.wait_for("vdb")
        self.wait_for("sda")
        self.begin("pair", 3, "vda", "vdb")
        self.begin("single", 2, "sda")
        self.progress("vda", "sda")
        self.say("the pattern runs on two virtio disks and an IDE disk")

        # What was frozen when, with what had been flushed before: (image, further words, threads, flushed).
        frozen, pairs = [], []
        tops = {"a": "a.qcow2", "b": "b.qcow2", "c": "c.qcow2"}

        def overlay(drive, number):
            frozen.append((tops[drive], [], 2 if drive == "c" else 3, self.flushed("sda" if drive == "c" else "vda")))
            tops[drive] = f"{drive}-{number}.qcow2"
            return self.path(tops[drive])

        for turn in range(2):
            monitor.run("blockdev-snapshot-sync", device="a", snapshot_file=overlay("a", f"{turn}q"), format="qcow2")
            self.progress("vda")
            monitor.human(f"snapshot_blkdev c {overlay('c', f'{turn}h')} qcow2", "")
            self.progress("sda")
            pairs.append((tops["a"], tops["b"]))
            monitor.run("transaction", actions=[
                {"type": "blockdev-snapshot-sync", "data": {"device": "a", "snapshot-file": overlay("a", f"{turn}t"), "format": "qcow2"}},
                {"type": "blockdev-snapshot-sync", "data": {"node-name": "nb" if not turn else "nb0", "snapshot-file": overlay("b", f"{turn}t"),
                                                            "snapshot-node-name": f"nb{turn}", "format": "qcow2"}}])
            self.progress("vda", "sda")
        self.say("external snapshots: by QMP, by HMP, of two disks at one moment")

        internal = []
        for turn in range(2):
            internal.append(("a", f"q{turn}", 3, self.flushed("vda")))
            monitor.run("blockdev-snapshot-internal-sync", device="a", name=f"q{turn}")
            self.progress("vda")
            internal.append(("c", f"h{turn}", 2, self.flushed("sda")))
            monitor.human(f"snapshot_blkdev_internal c h{turn}")
            self.progress("sda")
        for name in ("gone", "gone-too"):
            monitor.run("transaction", actions=[
                {"type": "blockdev-snapshot-internal-sync", "data": {"device": "a", "name": name}},
                {"type": "blockdev-snapshot-internal-sync", "data": {"device": "c", "name": name}}])
        self.progress("vda", "sda")
        monitor.run("blockdev-snapshot-delete-internal-sync", device="a", name="gone")
        monitor.human("snapshot_delete_blkdev_internal c gone-too")
        self.progress("vda", "sda")
        self.say("internal snapshots, taken and deleted")

        # A transaction that fails leaves nothing behind.
        reply = monitor.answer("transaction", {"actions": [
            {"type": "blockdev-snapshot-sync", "data": {"device": "a", "snapshot-file": self.path("never.qcow2"), "format": "qcow2"}},
            {"type": "blockdev-snapshot-sync", "data": {"device": "nowhere", "snapshot-file": self.path("never2.qcow2")}}]})
        if "error" not in reply:
            raise Failed("a snapshot of a disk that is not there was taken")
        self.progress("vda")
        inserted = {block["device"]: block["inserted"] for block in monitor.run("query-block") if "inserted" in block}
        if inserted["a"]["file"] != self.path(tops["a"]) or inserted["c"]["file"] != self.path(tops["c"]):
            raise Failed(f"query-block: {inserted}")

        for turn in range(3):
            monitor.run("stop")
            if monitor.run("query-status")["status"] != "paused":
                raise Failed("stop does not stop")
            monitor.run("cont")
            self.progress("vda", "sda")
        self.say("stop and cont under load")

        self.create("d.qcow2", "64M")
        for turn, (name, thread) in enumerate((("d", []), ("e", []))):
            file = self.path("d.qcow2")
            if turn == 0:
                monitor.run("blockdev-add", driver="qcow2", node_name="nd", file={"driver": "file", "filename": file})
                monitor.run("device_add", driver="virtio-blk-pci", drive="nd", id="plugged")
            else:
                monitor.human(f"drive_add 0 if=none,id=de,file={file},format=qcow2", "OK")
                monitor.human("device_add virtio-blk-pci,drive=de,id=plugged")
            self.wait_for("vdc")
            if turn == 1:
                # It is the first one's disk, full of its pattern.
                self.guest.run("dd if=/dev/zero of=/dev/vdc bs=1M 2>/dev/null; sync", seconds=120)
            self.begin("plugged", 2, "vdc")
            self.progress("vdc", "vda", "sda")
            if turn == 0:
                last = self.finish("plugged", "vdc")
            else:
                self.unplugged = True
                # In use: the guest's accesses fail from some moment on.
                before = {int(line[2]): int(line[3]) for line in self.lines()[-200:] if line[1] == "/dev/vdc" and line[0] == "FLUSHED"}
            if turn == 0:
                monitor.run("device_del", id="plugged")
            else:
                monitor.human("device_del plugged")
            monitor.event("DEVICE_DELETED", device="plugged")
            self.wait_for("vdc", there=False)
            if turn == 0:
                monitor.run("blockdev-del", node_name="nd")
            self.progress("vda", "sda")
            if turn == 0:
                content = self.moment("d.qcow2", 2, last)
                if content.steps != last:
                    raise Failed(f"unplugged disk: {content.steps} and not {last}")
            else:
                # As QEMU does, the drive goes with its device.
                if any(block["device"] == "de" for block in monitor.run("query-block")):
                    raise Failed("the unplugged drive is still there")
                self.moment("d.qcow2", 2, before)
            self.check("d.qcow2")
        self.say("hot plug and unplug, idle and in use")

        for index, size in enumerate((96, 128)):
            if index == 0:
                monitor.run("block_resize", device="a", size=size << 20)
            else:
                monitor.human(f"block_resize a {size}M")
            self.guest.run(f"n=0; until [ $(cat /sys/block/vda/size) = {size << 11} ]; do n=$((n+1)); [ $n -lt 100 ] || break; sleep 0.1; done; "
                           f"[ $(cat /sys/block/vda/size) = {size << 11} ]")
            self.progress("vda")
        self.say("the disk grows under the guest's hands")

        def rate(device, seconds):
            first = sum(self.flushed(device).values())
            time.sleep(seconds)
            return (sum(self.flushed(device).values()) - first) / seconds

        limits = {name: 0 for name in ("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr")}

        def throttle(device, **changed):
            monitor.run("block_set_io_throttle", **dict(limits, device=device, **changed))

        fast = rate("sda", 1.5)
        throttle("c", iops=100)
        time.sleep(0.5)
        slow = rate("sda", 2)
        # A read and a write a step, and flushes are free. How many more there could be is the host's matter.
        if not 0 < slow < 80:
            raise Failed(f"{slow} steps a second with 100 accesses allowed, {fast} without")
        monitor.human("block_set_io_throttle a 0 0 0 200 0 0")
        time.sleep(0.5)
        slower = rate("vda", 2)
        if not 0 < slower < 250:
            raise Failed(f"{slower} steps a second with 200 accesses allowed")
        throttle("c")
        monitor.human("block_set_io_throttle a 0 0 0 0 0 0")
        self.progress("vda", "sda")
        tries = 0
        while rate("sda", 1.5) < min(2 * slow, fast / 2):
            tries += 1
            if tries == 20:
                raise Failed("no limit, and still slow")
        self.say(f"limits hold: {fast:.0f} steps a second, {slow:.0f} with 100 accesses allowed")

        ends = {"vda": self.finish("pair", "vda"), "sda": self.finish("single", "sda")}
        self.end()
        self.say("the guest has found all it wrote")

        for name, words, threads, flushed in frozen:
            self.moment(name, threads, flushed, *words)
        for first, second in pairs:
            one, two = self.content(first, 3), self.content(second, 3)
            one.expect_whole()
            two.expect_whole()
            for thread, step in one.steps.items():
                # Each step writes the one disk, then the other.
                if two.steps[thread] not in (step, step - 1):
                    raise Failed(f"{first} was frozen at step {step} of thread {thread}, {second} at {two.steps[thread]}")
        for drive, name, threads, flushed in internal:
            self.moment(tops[drive], threads, flushed, "-l", f"snapshot.name={name}")
        for drive, device in (("a", "vda"), ("b", "vda"), ("c", "sda")):
            content = self.moment(tops[drive], len(ends[device]), ends[device])
            if content.steps != ends[device]:
                raise Failed(f"{tops[drive]}: {content.steps} and not {ends[device]}")
        images = sorted(name for name in os.listdir(self.folder) if name.endswith(".qcow2"))
        self.check(*images)
        self.say(f"{len(frozen)} external and {len(internal)} internal snapshots are each the disk at one moment; {len(images)} images are sound")


class Kill(Scenario):
    """The process is killed in the middle: what had been flushed is there."""

    def run(self):
        for turn, words in enumerate((["-o", "cluster_size=64k"], ["-o", "cluster_size=4k"], ["-o", "lazy_refcounts=on"])):
            a, b = self.create(f"a{turn}.qcow2", "64M", *words), self.create(f"b{turn}.qcow2", "64M", *words)
            self.start("-drive", f"file={a},if=virtio,id=a", "-drive", f"file={b},if=ide,id=b,discard=unmap")
            self.wait_for("vda")
            self.wait_for("sda")
            self.begin("first", 4, "vda")
            self.begin("second", 2, "sda")
            for _ in range(1 + turn):
                self.progress("vda", "sda")
            if turn == 1:
                self.monitor.run("blockdev-snapshot-internal-sync", device="a", name="s")
                self.progress("vda")
            os.kill(self.guest.process, signal.SIGKILL)
            if self.guest.end(30) != -signal.SIGKILL:
                raise Failed("it was not killed")
            for name, device, threads in ((f"a{turn}.qcow2", "vda", 4), (f"b{turn}.qcow2", "sda", 2)):
                flushed = self.flushed(device)
                if len(flushed) != threads:
                    raise Failed(f"nothing was flushed: {flushed}")
                # Leaks (3) are what a crash may leave; with lazy refcounts the image says that it needs repair.
                if turn == 2:
                    self.tool("check", "-q", "-r", "all", self.path(name))
                else:
                    self.tool("check", "-q", self.path(name), wanted=(0, 3))
                    self.tool("check", "-q", "-r", "leaks", self.path(name))
                self.check(name)
                self.content(name, threads).expect_flushed(flushed)
            self.say(f"killed with {' '.join(words)}: at worst leaks, and what was flushed is there")


class Full(Scenario):
    """The host's file system is full: the guest stops, and goes on when there is room."""

    def run(self):
        mounted = self.path("small")
        os.mkdir(mounted)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", mounted], stderr=subprocess.DEVNULL).returncode:
            print("SKIPPED: a full file system: this user cannot mount one", flush=True)
            return
        try:
            self.fill(mounted)
        finally:
            if self.guest:
                self.guest.close()
            subprocess.run(["umount", mounted], check=True)

    def fill(self, mounted):
        for turn, (kind, device) in enumerate((("virtio", "vda"), ("ide", "sda"))):
            image = os.path.join("small", f"{kind}.qcow2")
            subprocess.run(["mount", "-o", f"remount,size={6 + 80 * turn}m", mounted], check=True)
            self.create(image)
            if turn:
                # As full as it is.
                used = shutil.disk_usage(mounted).used
                subprocess.run(["mount", "-o", f"remount,size={used + (6 << 20)}", mounted], check=True)
            self.start("-drive", f"file={self.path(image)},if={kind},id=a")
            self.wait_for(device)
            self.begin("pattern", 3, device)
            event = self.monitor.event("BLOCK_IO_ERROR")["data"]
            wanted = {"device": "a", "operation": "write", "action": "stop", "nospace": True, "reason": "No space left on device"}
            if {key: event.get(key) for key in wanted} != wanted:
                raise Failed(f"BLOCK_IO_ERROR: {event}")
            self.monitor.event("STOP")
            if self.monitor.run("query-status")["status"] != "io-error":
                raise Failed("the machine runs")
            status = self.monitor.run("query-block")[0].get("io-status")
            if status != "nospace":
                raise Failed(f"io-status {status}")
            if "I/O status:       nospace" not in self.monitor.run("human-monitor-command", command_line="info block"):
                raise Failed("info block does not say that there is no space")
            # Still no room: it stops again.
            self.monitor.run("cont")
            self.monitor.event("BLOCK_IO_ERROR", action="stop")
            self.monitor.event("STOP")
            subprocess.run(["mount", "-o", f"remount,size={80 * (turn + 1)}m", mounted], check=True)
            self.monitor.run("cont")
            self.progress(device)
            if self.monitor.run("query-block")[0].get("io-status") != "ok":
                raise Failed("io-status after it went on")
            last = self.finish("pattern", device)
            self.end()
            self.check(image)
            content = self.moment(image, 3, last)
            if content.steps != last:
                raise Failed(f"{content.steps} and not {last}")
            self.say(f"{kind}: no room stops the guest, which goes on when there is some; nothing is lost")


class Errors(Scenario):
    """Failing accesses, as werror and rerror say."""

    def forgives(self, line):
        return line[0].startswith("ERROR")

    def run(self):
        for kind, device in (("virtio", "vda"), ("ide", "sda")):
            self.policy(kind, device)

    def policy(self, kind, device):
        name = f"{kind}.raw"
        self.tool("create", "-q", "-f", "raw", self.path(name), "64M")
        # The first write of the one block of the pattern and the first read of another.
        rules = [{"event": "none", "iotype": iotype, "sector": block * STRIDE // 512, "errno": 5, "once": "on"}
                 for iotype, block in (("write", 5), ("read", 7))]
        words = ",".join(f"file.inject-error.{index}.{key}={value}" for index, rule in enumerate(rules) for key, value in rule.items())
        drive = f"driver=raw,file.driver=blkdebug,file.image.driver=file,file.image.filename={self.path(name)},{words},if={kind},id=a"
        self.start("-drive", drive + ",werror=stop,rerror=stop")
        self.wait_for(device)
        seen = []
        self.begin("pattern", 2, device)
        for _ in range(2):
            event = self.monitor.event("BLOCK_IO_ERROR")["data"]
            if event["action"] != "stop" or event["nospace"]:
                raise Failed(f"BLOCK_IO_ERROR: {event}")
            seen.append(event["operation"])
            self.monitor.event("STOP")
            if self.monitor.run("query-block")[0].get("io-status") != "failed":
                raise Failed("io-status")
            self.monitor.run("cont")
        self.progress(device)
        if sorted(seen) != ["read", "write"]:
            raise Failed(f"failed: {seen}")
        last = self.finish("pattern", device)
        self.end()
        self.moment(name, 2, last, "-f", "raw")
        self.say(f"{kind}: an error stops the guest, which never hears of it")

        # Reported: the guest hears of it, and the machine runs on.
        self.start("-drive", drive + ",werror=report,rerror=report")
        self.wait_for(device)
        for words in (f"if=/dev/{device} of=/dev/null bs=4096 skip={7 * STRIDE // 4096} count=1 iflag=direct",
                      f"if=/dev/zero of=/dev/{device} bs=4096 seek={5 * STRIDE // 4096} count=1 oflag=direct"):
            # A driver tries again; at the latest then it is well.
            self.guest.run(f"dd {words} || dd {words}", seconds=90)
            event = self.monitor.event("BLOCK_IO_ERROR")["data"]
            wanted = {"device": "a", "action": "report", "operation": "read" if "/dev/null" in words else "write", "reason": "Input/output error"}
            if {key: value for key, value in event.items() if key != "node-name"} != wanted or self.monitor.run("query-status")["status"] != "running":
                raise Failed(f"BLOCK_IO_ERROR: {event}")
        self.end()
        self.say(f"{kind}: an error is reported, and the machine runs")


SCENARIOS = {"load": Load, "kill": Kill, "full": Full, "errors": Errors}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("program", "tool", "scripts"):
        arguments.add_argument(name)
    arguments.add_argument("--accel", default="tcg")
    arguments.add_argument("--only", choices=SCENARIOS)
    arguments.add_argument("--keep", action="store_true", help="keep the folder, print its name")
    options = arguments.parse_args()
    folder = tempfile.mkdtemp(prefix="diskload-")
    scenario = None
    try:
        for name, kind in SCENARIOS.items():
            if options.only in (None, name):
                os.makedirs(os.path.join(folder, name))
                scenario = kind(options, os.path.join(folder, name))
                scenario.run()
        return 0
    except (Failed, subprocess.SubprocessError) as problem:
        print(f"FAILED: {problem}")
        if scenario and scenario.guest and scenario.guest.process:
            with contextlib.suppress(Failed):
                scenario.guest.end(2)
            print(scenario.guest.text[-2000:])
        return 1
    finally:
        if scenario and scenario.guest:
            scenario.guest.close()
        if options.keep:
            print(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
