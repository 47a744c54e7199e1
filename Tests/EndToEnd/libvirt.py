#!/usr/bin/env python3
"""Drives an emulator through unmodified libvirt: one daemon of its own, in a folder of its own, without privileges.

    libvirt.py EMULATOR GUEST-FOLDER [--type qemu|kvm] [--machine pc] [--verbose]

GUEST-FOLDER holds vmlinuz and initrd.gz (scripts/guest). Prints a line for each step that held; ends with status 0
when all did, 77 when libvirt is not installed, 1 with the step and what was said otherwise. Works the same with
QEMU as EMULATOR, which is how the steps themselves were checked.
"""
import argparse
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

# libvirt adds a USB controller and a memory balloon by itself.
DOMAIN = """<domain type='{type}'>
  <name>{name}</name>
  <memory unit='MiB'>256</memory>
  <vcpu>2</vcpu>
  <os>
    <type arch='x86_64' machine='{machine}'>hvm</type>
    <kernel>{guest}/vmlinuz</kernel>
    <initrd>{guest}/initrd.gz</initrd>
    <cmdline>console=ttyS0 panic=-1 {words}</cmdline>
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
  </devices>
</domain>
"""


class Failed(Exception):
    """A step did not give what it must."""


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


class Console:
    """`virsh console` on a terminal of its own."""

    def __init__(self, daemon, domain):
        self.process, self.terminal = pty.fork()
        if self.process == 0:
            words = daemon.command("console", domain, "--force")
            os.execvpe(words[0], words, daemon.environment)
        self.text = ""

    def expect(self, pattern, seconds=60):
        """Waits for a pattern; answers the match. What came up to its end is taken away."""
        end = time.monotonic() + seconds
        while True:
            found = re.search(pattern, self.text)
            if found:
                self.text = self.text[found.end():]
                return found
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.terminal], [], [], left)[0]:
                raise Failed(f"console: no {pattern!r} after {seconds} s in {self.text[-400:]!r}")
            try:
                piece = os.read(self.terminal, 65536)
            except OSError:
                raise Failed(f"console: closed before {pattern!r}; had {self.text[-400:]!r}")
            self.text += piece.decode("utf-8", "replace")

    def send(self, text):
        os.write(self.terminal, text.encode())

    def close(self):
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        os.close(self.terminal)


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

    def define(self, words=""):
        path = os.path.join(self.daemon.folder, "domain.xml")
        with open(path, "w") as file:
            file.write(DOMAIN.format(type=self.options.type, machine=self.options.machine, name=self.name,
                                     guest=os.path.abspath(self.options.guest), words=words,
                                     emulator=os.path.abspath(self.options.emulator)))
        self.daemon.virsh("define", path)

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
        console.expect(r"[#$] ")
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
        console.expect(r"[#$] ")
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
        console.expect(r"[#$] ")
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


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("emulator")
    arguments.add_argument("guest")
    arguments.add_argument("--type", default="qemu", choices=("qemu", "kvm"))
    arguments.add_argument("--machine", default="pc")
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
        daemon.start()
        Scenario(daemon, options).run()
        return 0
    except (Failed, subprocess.TimeoutExpired) as problem:
        print(f"FAILED: {problem}")
        return 1
    finally:
        daemon.virsh("destroy", "goliath-test", check=False)
        daemon.stop()
        if options.keep:
            print(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
