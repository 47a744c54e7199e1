#!/usr/bin/env python3
"""Drives an emulator through unmodified libvirt: one daemon of its own, in a folder of its own, without privileges.

    libvirt.py EMULATOR GUEST-FOLDER [--type qemu|kvm] [--machine pc] [--disks qemu-img] [--cluster] [--keep]

GUEST-FOLDER holds vmlinuz and initrd.gz (scripts/guest). With --disks the guest has a disk in a qcow2 image and a network, is given
more of both while it runs, and has snapshots taken; the argument is the program that makes images. With --cluster the guest runs on two
nodes, of which the daemon drives the first. Prints a line for each step that held; ends with status 0
when all did, 77 when libvirt is not installed, 1 with the step and what was said otherwise. Works the same with
QEMU as EMULATOR, which is how the steps themselves were checked.
"""
import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from terminal import Failed, Terminal, served

# libvirt adds a USB controller and a memory balloon by itself.
DOMAIN = """<domain type='{type}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <memory unit='MiB'>256</memory>
  <vcpu>2</vcpu>
  <os>
    <type arch='x86_64' machine='{machine}'>hvm</type>
    <kernel>{guest}/vmlinuz</kernel>
    <initrd>{guest}/{initrd}</initrd>
    <cmdline>console=ttyS0 panic=-1 no_timer_check {words}</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>{emulator}</emulator>
    <serial type='pty'><target port='0'/></serial>
    <console type='pty'><target type='serial' port='0'/></console>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
{devices}  </devices>
{extra}</domain>
"""

# What the daemon takes for the emulator of a machine on two nodes: starts node 1 with what its line must have like node 0's, then becomes node 0.
NODES = """#!{python}
import os, subprocess, sys
words, one = sys.argv[1:], []
if "-cluster" in words:
    alike = ("-machine", "-accel", "-cpu", "-m", "-smp", "-kernel", "-initrd", "-append", "-global", "-rtc", "-boot",
             "-overcommit", "-no-hpet", "-no-acpi", "-uuid", "-smbios", "-cluster")
    for index, word in enumerate(words):
        if word in alike or word == "-object" and "memory-backend" in words[index + 1]:
            one.append(word)
            if index + 1 < len(words) and not words[index + 1].startswith("-"):
                one.append(words[index + 1].replace("node=0", "node=1") if word == "-cluster" else words[index + 1])
    with open({folder!r} + "/node1.log", "wb") as log, open({folder!r} + "/node1.pid", "w") as pid:
        process = subprocess.Popen(
            [{emulator!r}, *one, "-nodefaults", "-display", "none", "-monitor", "none", "-qmp",
             "unix:" + {folder!r} + "/node1.qmp,server=on,wait=off"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        pid.write(str(process.pid))
os.execv({emulator!r}, [{emulator!r}, *words])
"""

CLUSTER = """  <qemu:commandline>
    <qemu:arg value='-cluster'/>
    <qemu:arg value='id=libvirt,node=0,peers=unix:{folder}/c/0+unix:{folder}/c/1,on-node-loss=shutdown'/>
  </qemu:commandline>
"""

DISK = """<disk type='file' device='disk'>
  <driver name='qemu' type='{format}' cache='{cache}' discard='unmap'/>
  <source file='{file}'/>
  <target dev='{target}' bus='virtio'/>
  <serial>{target}-serial</serial>
</disk>
"""

NETWORK = """<interface type='user'>
  <mac address='{mac}'/>
  <model type='virtio'/>
</interface>
"""


class Daemon:
    """A libvirtd without privileges, with all its files under one folder."""

    def __init__(self, folder):
        self.folder = folder
        self.environment = dict(os.environ)
        for name, part in (("HOME", "home"), ("XDG_RUNTIME_DIR", "run"), ("XDG_CONFIG_HOME", "config"),
                           ("XDG_CACHE_HOME", "cache"), ("XDG_DATA_HOME", "data")):
            path = os.path.join(folder, part)
            os.makedirs(path, mode=0o700, exist_ok=True)
            self.environment[name] = path
        # Root would make it the system's daemon; another user id is enough for it to be a session's.
        self.prefix = [] if os.geteuid() else ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
        self.log = os.path.join(folder, "libvirtd.log")
        os.makedirs(os.path.join(folder, "config/libvirt"), exist_ok=True)
        with open(os.path.join(folder, "config/libvirt/libvirtd.conf"), "w") as file:
            file.write(f'log_outputs="1:file:{self.log}"\n'
                       'log_filters="1:qemu 3:event 3:object 3:util 3:rpc 3:remote"\n')
        self.process = None

    def start(self):
        self.process = subprocess.Popen(self.prefix + ["libvirtd"], env=self.environment,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        until(lambda: self.virsh("uri", check=False).returncode == 0, 20, "the daemon answers")

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def command(self, *words):
        return self.prefix + ["virsh", "-q", "-c", "qemu:///session", *words]

    def virsh(self, *words, check=True, seconds=60):
        done = subprocess.run(self.command(*words), env=self.environment, text=True, timeout=seconds,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if check and done.returncode:
            raise Failed(f"virsh {' '.join(words)}: {done.stdout.strip()} {done.stderr.strip()}")
        return done

    def text(self, *words):
        return self.virsh(*words).stdout


class Console(Terminal):
    """`virsh console` on a terminal of its own."""

    def __init__(self, daemon, domain):
        super().__init__(daemon.command("console", domain, "--force"), environment=daemon.environment)

    def prompt(self, seconds=60):
        """Waits for the guest's shell. What it said before the console was there is gone, so Enter is pressed now and then."""
        end = time.monotonic() + seconds
        while True:
            try:
                return self.expect(r"[#$] ", 4)
            except Failed as failure:
                if time.monotonic() > end or "closed" in str(failure):
                    raise
                self.send("\r")


def hear_interrupts():
    """A job in the background may have been started deaf to SIGINT, which is how virsh is told to end."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def until(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"not within {seconds} s: {what}")
        time.sleep(0.1)


def expect(condition, what, got=""):
    if not condition:
        raise Failed(f"{what}: {got}")


class Scenario:
    """What an administrator does with one guest, in order."""

    def __init__(self, daemon, options):
        self.daemon, self.options, self.name = daemon, options, "goliath-test"
        self.started = time.monotonic()

    def say(self, step):
        print(f"{time.monotonic() - self.started:7.2f} s  {step}", flush=True)

    def state(self):
        return self.daemon.text("domstate", self.name).strip()

    def define(self, words="", devices="", initrd="initrd.gz", extra="", emulator=None):
        path = os.path.join(self.daemon.folder, "domain.xml")
        with open(path, "w") as file:
            file.write(DOMAIN.format(type=self.options.type, machine=self.options.machine, name=self.name,
                                     guest=os.path.abspath(self.options.guest), words=words, initrd=initrd,
                                     devices=devices, extra=extra,
                                     emulator=emulator or os.path.abspath(self.options.emulator)))
        # The daemon starts the emulator to learn what it can do.
        self.daemon.virsh("define", path, seconds=240)

    def run(self):
        virsh, text = self.daemon.virsh, self.daemon.text
        expect("hvm" in text("capabilities"), "capabilities name no hvm guest")
        self.say("capabilities")
        offers = text("domcapabilities", "--emulatorbin", os.path.abspath(self.options.emulator),
                      "--virttype", self.options.type, "--machine", self.options.machine)
        expect("<mode name='custom' supported='yes'>" in offers, "no CPU models offered", offers)
        self.say("domcapabilities")
        self.define()
        self.say("define")
        events = subprocess.Popen(self.daemon.command("event", "--all", "--loop", "--domain", self.name),
                                  env=self.daemon.environment, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, preexec_fn=hear_interrupts)
        time.sleep(0.5)
        virsh("start", self.name)
        self.say("start")
        console = Console(self.daemon, self.name)
        console.prompt()
        console.send("echo guest-$((40 + 2))\r")
        console.expect(r"guest-42")
        self.say("console reaches the guest's prompt")

        information = text("dominfo", self.name)
        expect(re.search(r"State:\s+running", information) and re.search(r"CPU\(s\):\s+2", information),
               "dominfo", information)
        self.say("dominfo")
        statistics = text("domstats", self.name)
        expect("state.state=1" in statistics and "vcpu.current=2" in statistics, "domstats", statistics)
        self.say("domstats")
        count = text("vcpucount", self.name, "--live", "--active").strip()
        expect(count == "2", "vcpucount", count)
        expect("running" in text("qemu-monitor-command", self.name, '{"execute":"query-status"}'), "QMP command")
        expect("VM status: running" in text("qemu-monitor-command", self.name, "--hmp", "info status"),
               "HMP command")
        self.say("qemu-monitor-command, both kinds")

        virsh("suspend", self.name)
        expect(self.state() == "paused", "suspend", self.state())
        self.say("suspend")
        virsh("resume", self.name)
        expect(self.state() == "running", "resume", self.state())
        console.send("echo again-$((1 + 1))\r")
        console.expect("again-2")
        self.say("resume")

        virsh("reset", self.name)
        console.expect("HELLO-FROM-INIT")
        console.prompt()
        self.say("reset")

        self.daemon.stop()
        self.daemon.start()
        expect(self.state() == "running", "after the daemon's restart", self.state())
        console.close()
        console = Console(self.daemon, self.name)
        # virsh drops what is typed before it has set up the terminal, and says nothing when it has.
        time.sleep(1)
        console.send("\recho daemon-$((2 + 2))\r")
        console.expect("daemon-4")
        self.say("daemon restart with a running guest")

        events = subprocess.Popen(self.daemon.command("event", "--all", "--loop", "--domain", self.name),
                                  env=self.daemon.environment, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, preexec_fn=hear_interrupts)
        time.sleep(0.5)
        # The guest has no ACPI daemon: its shell waits for the power button's first event itself.
        watch = ("insmod /lib/button.ko; insmod /lib/evdev.ko; "
                 "B=$(grep -l 'Power Button' /sys/class/input/input*/name | head -n 1); "
                 "E=$(basename $(ls -d ${B%/name}/event*)); "
                 "(head -c 24 /dev/input/$E >/dev/null; ACTION -f) & echo watch-$E\r")
        console.send(watch.replace("ACTION", "reboot"))
        console.expect(r"watch-event\d")
        time.sleep(0.5)
        virsh("reboot", self.name)
        console.expect("HELLO-FROM-INIT")
        console.prompt()
        self.say("reboot")
        console.send(watch.replace("ACTION", "poweroff"))
        console.expect(r"watch-event\d")
        time.sleep(0.5)
        virsh("shutdown", self.name)
        until(lambda: self.state() == "shut off", 30, "shut off after shutdown")
        self.say("shutdown")
        virsh("start", self.name)
        virsh("destroy", self.name)
        expect(self.state() == "shut off", "destroy", self.state())
        self.say("start, destroy")
        events.send_signal(signal.SIGINT)
        seen = events.communicate(timeout=10)[0]
        for kind in ("Shutdown Finished", "Stopped", "Started Booted", "Resumed"):
            expect(kind in seen, f"event {kind} was not seen", seen)
        self.say("events")
        virsh("undefine", self.name)

    # Two nodes

    def run_cluster(self):
        virsh, text, folder = self.daemon.virsh, self.daemon.text, self.daemon.folder
        os.mkdir(folder + "/c", 0o700)
        emulator = folder + "/nodes"
        with open(emulator, "w") as file:
            file.write(NODES.format(python=sys.executable, folder=folder, emulator=os.path.abspath(self.options.emulator)))
        os.chmod(emulator, 0o755)
        self.define(extra=CLUSTER.format(folder=folder), emulator=emulator)
        virsh("start", self.name, seconds=240)
        # At once: what the guest says before somebody looks is gone.
        console = Console(self.daemon, self.name)
        self.say("start of two nodes")
        count = text("vcpucount", self.name, "--live", "--active").strip()
        expect(count == "2", "vcpucount", count)
        statistics = text("domstats", self.name)
        expect("state.state=1" in statistics and "vcpu.current=2" in statistics, "domstats", statistics)
        vcpus = self.monitor("query-cpus-fast")
        expect([vcpu["node"] for vcpu in vcpus] == [0, 1], "a vCPU on each node", vcpus)
        expect([node["state"] for node in self.monitor("query-cluster")["nodes"]] == ["joined", "joined"], "query-cluster")
        self.say("all vCPUs are seen")
        console.prompt(seconds=400)
        console.send("echo cpus-$(grep -c ^processor /proc/cpuinfo)\r")
        console.expect(r"cpus-2")
        self.say("the guest has both")
        one = lambda: self.monitor("cluster-execute", node=1, command="query-status")["status"]
        virsh("suspend", self.name)
        expect(self.state() == "paused" and one() == "paused", "suspend", self.state())
        virsh("resume", self.name)
        expect(self.state() == "running" and one() == "running", "resume", self.state())
        console.send("echo again-$((1 + 1))\r")
        console.expect("again-2")
        self.say("suspend and resume of both nodes")
        virsh("reset", self.name)
        console.prompt(seconds=400)
        self.say("reset")
        with open(folder + "/node1.pid") as file:
            number = int(file.read())
        virsh("destroy", self.name)
        expect(self.state() == "shut off", "destroy", self.state())

        def gone():
            try:
                with open(f"/proc/{number}/stat") as file:
                    return file.read().rsplit(")", 1)[1].split()[0] == "Z"
            except OSError:
                return True
        until(gone, 30, "node 1 ends with node 0")
        virsh("undefine", self.name)
        console.close()
        self.say("destroy ends both nodes")

    # Disks and networks

    def image(self, name, *words):
        path = os.path.join(self.daemon.folder, name)
        subprocess.run([self.options.disks, "create", "-q", *words[:-1], path, words[-1]], check=True)
        return path

    def attach(self, text):
        """Gives the running guest a device; answers the file that names it."""
        path = os.path.join(self.daemon.folder, "device.xml")
        with open(path, "w") as file:
            file.write(text)
        self.daemon.virsh("attach-device", self.name, path, "--live")
        return path

    def monitor(self, command, /, **arguments):
        request = json.dumps({"execute": command, "arguments": arguments})
        return json.loads(self.daemon.text("qemu-monitor-command", self.name, request))["return"]

    def run_disks(self):
        virsh, text, folder = self.daemon.virsh, self.daemon.text, self.daemon.folder
        first = self.image("first.qcow2", "-f", "qcow2", "256M")
        second = self.image("second.img", "-f", "raw", "64M")
        self.define(
            devices=DISK.format(format="qcow2", cache="none", file=first, target="vda")
            + NETWORK.format(mac="52:54:00:aa:00:01"), initrd="initrd-devices.gz")
        virsh("start", self.name)
        console = Console(self.daemon, self.name)
        console.prompt()

        guest = console.run
        guest("dmesg -n 1; for m in virtio_pci virtio_blk virtio_net; do modprobe $m || exit; done")
        guest("cat /sys/block/vda/serial", "vda-serial")
        guest("mke2fs /dev/vda >/dev/null && mount /dev/vda /root")
        self.say("start with a disk in a qcow2 image")

        content = os.urandom(3 << 20)
        with served(folder, content) as address:
            guest("ip link set eth0 up; udhcpc -q -n -i eth0 -s /bin/true 2>&1", r"lease of 10\.0\.2\.15")
            guest("ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2")
            guest(f"wget -q -O /root/file {address} && md5sum /root/file", hashlib.md5(content).hexdigest())
        self.say("a file comes through user networking")

        self.attach(DISK.format(format="raw", cache="writeback", file=second, target="vdb"))
        until_in_guest = "for i in $(seq 100); do [ -e {0} ] && break; sleep 0.1; done; [ -e {0} ]"
        guest(until_in_guest.format("/dev/vdb"))
        guest("dd if=/root/file of=/dev/vdb bs=1M 2>/dev/null && sync")
        with open(second, "rb") as file:
            expect(file.read(len(content)) == content, "what the guest wrote to the disk that was added")
        virsh("blockresize", self.name, "vdb", "96M")
        guest("for i in $(seq 50); do [ $(cat /sys/block/vdb/size) = 196608 ] && break; sleep 0.1; done; "
              "cat /sys/block/vdb/size", "196608")
        self.say("a disk is added, written, and grown")
        card = self.attach(NETWORK.format(mac="52:54:00:aa:00:02"))
        guest(until_in_guest.format("/sys/class/net/eth1") + " && cat /sys/class/net/eth1/address", "52:54:00:aa:00:02")
        self.say("a network card is added")

        # Something is always being written while the image gets a new top.
        console.send("(while :; do dd if=/root/file of=/root/copy bs=64k conv=fsync 2>/dev/null; "
                     "cmp /root/file /root/copy || echo DIF''FERS; done) &\r")
        console.expect(r"# ")
        for number in range(3):
            virsh("snapshot-create-as", self.name, f"top{number}", "--disk-only", "--atomic", "--no-metadata",
                  "--diskspec", f"vda,file={folder}/top{number}.qcow2", "--diskspec", "vdb,snapshot=no")
            expect(f"top{number}.qcow2" in text("domblklist", self.name), "the new top is in use")
            time.sleep(0.5)
        node = next(node["node-name"] for node in self.monitor("query-named-block-nodes", flat=True)
                    if node["file"].endswith("top2.qcow2") and node["drv"] == "qcow2")
        self.monitor("blockdev-snapshot-internal-sync", device=node, name="inside")
        virsh("blkdeviotune", self.name, "vda", "--total-iops-sec", "2000")
        expect(re.search(r"total_iops_sec\s*:\s*2000", text("blkdeviotune", self.name, "vda")), "throttling")
        virsh("blkdeviotune", self.name, "vda", "--total-iops-sec", "0")
        expect(int(re.search(r"wr_bytes (\d+)", text("domblkstat", self.name, "vda"))[1]) > len(content), "statistics")
        expect(re.search(r"Capacity:\s+268435456", text("domblkinfo", self.name, "vda")), "size of the disk")
        guest("kill %1; sleep 1; sync; cmp /root/file /root/copy; true")
        expect("DIFFERS" not in console.text, "what the guest read back", console.text)
        self.say("snapshots under load, throttling, statistics")

        virsh("detach-disk", self.name, "vdb", "--live")
        guest("for i in $(seq 100); do [ -e /dev/vdb ] || break; sleep 0.1; done; [ ! -e /dev/vdb ]")
        virsh("detach-device", self.name, card, "--live")
        guest("for i in $(seq 100); do [ -e /sys/class/net/eth1 ] || break; sleep 0.1; done; [ ! -e /sys/class/net/eth1 ]")
        until(lambda: "vdb" not in text("domblklist", self.name), 20, "the daemon has forgotten the disk")
        self.say("disk and card are taken away")

        guest("umount /root")
        console.send("poweroff -f\r")
        until(lambda: self.state() == "shut off", 30, "shut off after power off")
        for name in ("first.qcow2", "top0.qcow2", "top1.qcow2", "top2.qcow2"):
            subprocess.run([self.options.disks, "check", "-q", os.path.join(folder, name)], check=True)
        chain = json.loads(subprocess.run([self.options.disks, "info", "--backing-chain", "--output=json",
                                           os.path.join(folder, "top2.qcow2")], check=True, stdout=subprocess.PIPE).stdout)
        expect(len(chain) == 4 and chain[0]["snapshots"][0]["name"] == "inside", "the chain of images", chain)
        self.say("images are sound")
        # Of a domain that does not run the daemon takes snapshots with the program for images.
        virsh("snapshot-create-as", self.name, "off")
        virsh("start", self.name)
        console.close()
        console = Console(self.daemon, self.name)
        console.prompt()
        console.run("dmesg -n 1; modprobe virtio_pci; modprobe virtio_blk; mount /dev/vda /root && rm /root/file && umount /root")
        virsh("destroy", self.name)
        virsh("snapshot-revert", self.name, "off")
        virsh("start", self.name)
        console.close()
        console = Console(self.daemon, self.name)
        console.prompt()
        console.run("dmesg -n 1; modprobe virtio_pci; modprobe virtio_blk; mount /dev/vda /root && md5sum /root/file",
              hashlib.md5(content).hexdigest())
        virsh("destroy", self.name)
        virsh("snapshot-delete", self.name, "off")
        virsh("undefine", self.name)
        console.close()
        self.say("snapshot of a domain that is off")


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("emulator")
    arguments.add_argument("guest")
    arguments.add_argument("--type", default="qemu", choices=("qemu", "kvm"))
    arguments.add_argument("--machine", default="pc")
    arguments.add_argument("--disks", metavar="QEMU-IMG", help="the program that makes images; the steps with disks and networks")
    arguments.add_argument("--cluster", action="store_true", help="a guest on two nodes")
    arguments.add_argument("--keep", action="store_true", help="keep the daemon's folder, print its name")
    options = arguments.parse_args()
    for program in ("libvirtd", "virsh"):
        if not shutil.which(program) and not os.path.exists(f"/usr/sbin/{program}"):
            print(f"SKIPPED: {program} is not installed")
            return 77
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if not os.geteuid() and subprocess.run(["unshare", "--user", "--map-user=1000", "true"],
                                           stderr=subprocess.DEVNULL).returncode:
        print("SKIPPED: root may not make a user namespace here, and a session's daemon does not run as root")
        return 77
    # Short, because sockets live in it.
    folder = tempfile.mkdtemp(prefix="gl")
    daemon = Daemon(folder)
    try:
        if options.disks:
            options.disks = shutil.which(options.disks)
            # The daemon looks for the program under QEMU's name.
            programs = os.path.join(folder, "bin")
            os.mkdir(programs)
            os.symlink(options.disks, os.path.join(programs, "qemu-img"))
            daemon.environment["PATH"] = programs + ":" + os.environ["PATH"]
        daemon.start()
        scenario = Scenario(daemon, options)
        (scenario.run_cluster if options.cluster else scenario.run_disks if options.disks else scenario.run)()
        return 0
    except (Failed, subprocess.SubprocessError) as problem:
        print(f"FAILED: {problem}")
        return 1
    finally:
        daemon.virsh("destroy", "goliath-test", check=False)
        if os.path.exists(folder + "/node1.pid"):
            with open(folder + "/node1.pid") as file:
                number = int(file.read())
            # It may be another's number by now.
            if os.path.exists(f"/proc/{number}/cmdline") and folder in open(f"/proc/{number}/cmdline").read():
                os.kill(number, signal.SIGKILL)
        daemon.stop()
        if options.keep:
            print(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
