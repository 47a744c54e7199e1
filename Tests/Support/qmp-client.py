#!/usr/bin/env python3
"""Drives a QMP monitor of a machine without processors with PyPI's qemu.qmp.

Argument: the monitor's Unix socket. Exit status: 0 when everything is as expected, 1 with a
traceback when not, 77 when the package is missing.
"""

import asyncio
import sys

try:
    from qemu.qmp import EventListener, ExecuteError, QMPClient
except ImportError:
    print("qemu.qmp is not installed (PyPI package qemu.qmp)")
    sys.exit(77)


async def converse(path: str) -> None:
    client = QMPClient("test")
    events = EventListener()
    client.register_listener(events)
    await client.connect(path)
    assert client.greeting.QMP.version["qemu"]["major"] == 7, client.greeting

    await client.execute("cont")
    assert (await events.get())["event"] == "RESUME"
    assert (await client.execute("query-status"))["status"] == "running"
    await client.execute("stop")
    assert (await events.get())["event"] == "STOP"

    answers = await asyncio.gather(*(client.execute("query-status") for _ in range(200)))
    assert all(answer["status"] == "paused" for answer in answers)

    names = {entry["name"] for entry in await client.execute("query-commands")}
    schema = await client.execute("query-qmp-schema")
    described = {entry["name"] for entry in schema if entry["meta-type"] == "command"}
    assert names == described and "human-monitor-command" in names

    try:
        await client.execute("no-such-command")
        raise AssertionError("an unknown command was accepted")
    except ExecuteError as error:
        assert error.error_class == "CommandNotFound", error
    try:
        await client.execute("set-action", {"reboot": "never"})
        raise AssertionError("a bad argument was accepted")
    except ExecuteError as error:
        assert "'reboot' does not accept value 'never'" in str(error), error

    with open("/dev/null", "rb") as null:
        client.send_fd_scm(null.fileno())
        await client.execute("getfd", {"fdname": "null"})
    await client.execute("closefd", {"fdname": "null"})

    await client.execute("system_powerdown")
    assert (await events.get())["event"] == "POWERDOWN"
    await client.execute("quit")
    last = await events.get()
    assert last["event"] == "SHUTDOWN" and last["data"]["reason"] == "host-qmp-quit", last
    await client.disconnect()


asyncio.run(asyncio.wait_for(converse(sys.argv[1]), 30))
print("ok")
