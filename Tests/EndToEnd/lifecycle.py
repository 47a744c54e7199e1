"""Drives a Linux guest through its life with PyPI's qemu.qmp and a telnet client.

    lifecycle.py GOLIATH FOLDER-OF-THE-GUEST ACCELERATOR

Prints a line for each step; ends with status 0 when all of them held.
"""

import asyncio
import os
import re
import sys
import telnetlib
import tempfile

from qemu.qmp import ConnectError, ExecuteError, QMPClient

GOLIATH, GUEST, ACCELERATOR = sys.argv[1:4]
PATIENCE = 300


class Machine:
    """One goliath with a QMP socket, a telnet monitor, and its serial port on standard input and output."""

    def __init__(self, folder, *arguments, append=""):
        self.qmp_path = os.path.join(folder, "qmp")
        self.arguments = [
            GOLIATH, "-accel", ACCELERATOR, "-cpu", "max", "-m", "256", "-smp", "2", "-display", "none",
            "-serial", "stdio", "-kernel", GUEST + "/vmlinuz", "-initrd", GUEST + "/initrd.gz",
            "-append", "console=ttyS0 panic=-1 no_timer_check quiet " + append, "-qmp", f"unix:{self.qmp_path},server=on,wait=off",
            "-monitor", "telnet:127.0.0.1:0,server=on,wait=off", *arguments]
        self.output = b""
        self.events = []

    async def __aenter__(self):
        self.process = await asyncio.create_subprocess_exec(
            *self.arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT)
        self.reader = asyncio.create_task(self._read())
        # The socket's name is there a moment before the program listens.
        for _ in range(400):
            self.qmp = QMPClient("lifecycle")
            try:
                await self.qmp.connect(self.qmp_path)
                break
            except ConnectError:
                await asyncio.sleep(0.02)
        self.listener = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_):
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        for task in (self.reader, self.listener):
            task.cancel()
        try:
            await self.qmp.disconnect()
        except Exception:  # the other side is gone, which is what was tested
            pass

    async def _read(self):
        while chunk := await self.process.stdout.read(65536):
            self.output += chunk

    async def _listen(self):
        async for event in self.qmp.events:
            self.events.append(event)

    async def wait_for(self, text, times=1):
        async def poll():
            while self.output.count(text.encode()) < times:
                await asyncio.sleep(0.02)
        try:
            await asyncio.wait_for(poll(), PATIENCE)
        except asyncio.TimeoutError:
            raise AssertionError(f"no {text!r} (x{times}) in:\n{self.output[-3000:].decode(errors='replace')}")

    async def event(self, name):
        async def poll():
            while True:
                for event in self.events:
                    if event["event"] == name:
                        self.events.remove(event)
                        return event
                await asyncio.sleep(0.02)
        return await asyncio.wait_for(poll(), PATIENCE)

    async def status(self):
        return (await self.qmp.execute("query-status"))["status"]

    def type(self, line):
        self.process.stdin.write(line.encode() + b"\n")

    async def end(self):
        return await asyncio.wait_for(self.process.wait(), PATIENCE)


def step(text):
    print("ok:", text, flush=True)


async def started_paused_then_continued(folder):
    async with Machine(folder, "-S") as machine:
        assert await machine.status() == "prelaunch"
        await asyncio.sleep(0.2)
        assert b"Linux" not in machine.output and b"SeaBIOS" not in machine.output
        await machine.qmp.execute("cont")
        assert await machine.status() == "running"
        await machine.event("RESUME")
        await machine.wait_for("HELLO-FROM-INIT")
        step("-S holds the guest until cont")

        cpus = await machine.qmp.execute("query-cpus-fast")
        assert [cpu["cpu-index"] for cpu in cpus] == [0, 1]
        tasks = {int(t) for t in os.listdir(f"/proc/{machine.process.pid}/task")}
        assert {cpu["thread-id"] for cpu in cpus} <= tasks
        step("thread ids of vCPUs are the kernel's")

        await telnet_session(machine)

        # Under load: both vCPUs busy, the machine is stopped and continued many times.
        await machine.wait_for("# ")
        machine.type("(while :; do :; done) & (while :; do :; done) & echo LOA''DED")
        await machine.wait_for("LOADED")
        for _ in range(25):
            await machine.qmp.execute("stop")
            assert await machine.status() == "paused"
            await machine.qmp.execute("cont")
        assert [e["event"] for e in machine.events].count("STOP") >= 25
        machine.type("kill %1 %2; echo ALI''VE")
        await machine.wait_for("ALIVE")
        step("stop and cont under load, 25 times")

        machine.events.clear()
        await machine.qmp.execute("system_reset")
        event = await machine.event("RESET")
        assert event["data"] == {"guest": False, "reason": "host-qmp-system-reset"}
        await machine.wait_for("HELLO-FROM-INIT", times=2)
        step("system_reset boots again")

        await machine.wait_for("# ", times=3)
        machine.type("reboot -f")
        event = await machine.event("RESET")
        assert event["data"] == {"guest": True, "reason": "guest-reset"}
        await machine.wait_for("HELLO-FROM-INIT", times=3)
        step("the guest's reboot boots again")

        machine.type("poweroff -f")
        event = await machine.event("SHUTDOWN")
        assert event["data"] == {"guest": True, "reason": "guest-shutdown"}
        assert await machine.end() == 0
        step("the guest's power off ends the program")


async def telnet_session(machine):
    chardevs = await machine.qmp.execute("query-chardev")
    address = next(c["filename"] for c in chardevs if "telnet" in c["filename"])
    port = int(re.search(r":(\d+)[,\s]*server", address).group(1))

    def converse():
        with telnetlib.Telnet("127.0.0.1", port, 30) as telnet:
            banner = telnet.read_until(b"(qemu) ", 30)
            assert b"monitor - type 'help' for more information" in banner, banner
            answers = []
            for line in (b"info status", b"info cpus", b"stop", b"info status", b"cont", b"info registers"):
                telnet.write(line + b"\r")
                answers.append(telnet.read_until(b"\r\n(qemu) ", 30))
            return answers

    answers = await asyncio.get_running_loop().run_in_executor(None, converse)
    assert b"VM status: running" in answers[0], answers[0]
    assert b"CPU #1: thread_id=" in answers[1], answers[1]
    assert b"VM status: paused" in answers[3], answers[3]
    assert b"RIP=" in answers[5] and b"CR3=" in answers[5], answers[5]
    step("a telnet client drives the human monitor")


async def no_reboot_and_no_shutdown(folder):
    async with Machine(folder, "-no-reboot", append="goliath.run=reboot+-f") as machine:
        event = await machine.event("SHUTDOWN")
        assert event["data"] == {"guest": True, "reason": "guest-reset"}
        assert await machine.end() == 0
        step("-no-reboot ends the program on the guest's reboot")
    os.unlink(machine.qmp_path) if os.path.exists(machine.qmp_path) else None
    async with Machine(folder, "-no-shutdown", append="goliath.run=poweroff+-f") as machine:
        await machine.event("SHUTDOWN")
        await machine.event("STOP")
        assert await machine.status() == "shutdown"
        try:
            await machine.qmp.execute("cont")
            raise AssertionError("cont must be refused")
        except ExecuteError as error:
            assert "Resetting the Virtual Machine is required" in str(error)
        await machine.qmp.execute("system_reset")
        assert await machine.status() == "prelaunch"
        await machine.qmp.execute("quit")
        assert await machine.end() == 0
        step("-no-shutdown keeps the machine for a reset")


async def power_button_and_memory(folder):
    async with Machine(folder) as machine:
        await machine.wait_for("HELLO-FROM-INIT")
        image = os.path.join(folder, "image")
        await machine.qmp.execute("pmemsave", {"val": 0, "size": 1 << 20, "filename": image})
        assert os.path.getsize(image) == 1 << 20
        step("pmemsave writes guest memory")
        await machine.qmp.execute("system_powerdown")
        await machine.event("POWERDOWN")
        step("system_powerdown presses the button")
        await machine.qmp.execute("inject-nmi")
        await machine.wait_for("NMI")
        step("inject-nmi reaches the kernel")


async def main():
    for scenario in (started_paused_then_continued, no_reboot_and_no_shutdown, power_button_and_memory):
        with tempfile.TemporaryDirectory() as folder:
            await scenario(folder)

asyncio.run(main())
