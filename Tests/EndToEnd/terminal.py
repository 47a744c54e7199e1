"""A program on a terminal of its own, and what it says there; a file for guests to fetch."""
import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time


class Failed(Exception):
    """A step did not give what it must."""


@contextlib.contextmanager
def served(folder, content):
    """Serves a file of these bytes by HTTP while the block runs; gives the address by which a guest with user networking reaches it."""
    path = os.path.join(folder, "served")
    os.mkdir(path)
    with open(os.path.join(path, "file"), "wb") as file:
        file.write(content)
    server = subprocess.Popen([sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", path, "0"],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        number = re.search(r"port (\d+)", server.stdout.readline())[1]
        yield f"http://10.0.2.2:{number}/file"
    finally:
        server.kill()
        server.wait()


class Terminal:
    def __init__(self, words, environment=None):
        self.process, self.terminal = pty.fork()
        if self.process == 0:
            os.execvpe(words[0], words, environment or dict(os.environ))
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

    def run(self, command, pattern="", seconds=60):
        """Runs a line in a shell there to its end, which must be good; answers what its output matched."""
        self.send(f"{command}; echo en''d-$?\r")
        found = self.expect(pattern, seconds) if pattern else None
        ended = self.expect(r"end-(\d+)", seconds)
        if ended[1] != "0":
            raise Failed(f"in the guest: {command}: {ended[0]}")
        return found

    def end(self, seconds=60):
        """Waits for the program's end; answers its status."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if select.select([self.terminal], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self.terminal, 65536).decode("utf-8", "replace")
                except OSError:
                    pass
            ended, status = os.waitpid(self.process, os.WNOHANG)
            if ended:
                os.close(self.terminal)
                self.process = 0
                return os.waitstatus_to_exitcode(status)
        raise Failed(f"no end after {seconds} s; had {self.text[-400:]!r}")

    def close(self):
        if not self.process:
            return
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        os.close(self.terminal)
        self.process = 0
