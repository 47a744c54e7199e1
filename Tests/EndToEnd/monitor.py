"""A client of a monitor, for scenarios."""
import json
import socket
import time

from terminal import Failed


class Monitor:
    """One QMP connection: commands, their answers, and events in the order in which they came."""

    def __init__(self, path, seconds=20):
        end = time.monotonic() + seconds
        while True:
            self.socket = socket.socket(socket.AF_UNIX)
            try:
                self.socket.connect(path)
                break
            except OSError:
                self.socket.close()
                if time.monotonic() > end:
                    raise Failed(f"no monitor at {path}")
                time.sleep(0.05)
        self.data, self.events = b"", []
        self._message(seconds)
        self.run("qmp_capabilities")

    def _message(self, seconds):
        end = time.monotonic() + seconds
        while b"\n" not in self.data:
            self.socket.settimeout(max(end - time.monotonic(), 0.01))
            try:
                piece = self.socket.recv(65536)
            except TimeoutError:
                raise Failed(f"the monitor says nothing for {seconds} s")
            if not piece:
                raise Failed("the monitor has hung up")
            self.data += piece
        line, self.data = self.data.split(b"\n", 1)
        return json.loads(line)

    def answer(self, command, arguments, seconds=60):
        """The whole reply, be it `return` or `error`."""
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            message = self._message(seconds)
            if "event" not in message:
                return message
            self.events.append(message)

    def run(self, command, **arguments):
        # Names in Python have no hyphens, and few in QMP have underscores.
        arguments = {name if name in ("bps_rd", "bps_wr", "iops_rd", "iops_wr") else name.replace("_", "-"): value
                     for name, value in arguments.items()}
        reply = self.answer(command, arguments)
        if "error" in reply:
            raise Failed(f"{command}: {reply['error']}")
        return reply["return"]

    def human(self, line, wanted=""):
        """Runs a line of the human monitor, which must say `wanted`, or nothing."""
        text = self.run("human-monitor-command", command_line=line)
        if wanted not in text or not wanted and text.strip():
            raise Failed(f"{line}: {text!r}")
        return text

    def event(self, name, seconds=60, **data):
        """The first event of that name, and with that data; it and what came before it are forgotten."""
        end = time.monotonic() + seconds
        while True:
            for index, event in enumerate(self.events):
                if event["event"] == name and all(event["data"].get(key) == value for key, value in data.items()):
                    del self.events[:index + 1]
                    return event
            if time.monotonic() > end:
                raise Failed(f"no {name} {data}: {[event['event'] for event in self.events]}")
            try:
                message = self._message(max(end - time.monotonic(), 0.01))
            except Failed as problem:
                if "says nothing" not in str(problem):
                    raise
                continue
            self.events.append(message)

    def close(self):
        self.socket.close()
