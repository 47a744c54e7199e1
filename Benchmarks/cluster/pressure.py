#!/usr/bin/env python3
"""A guest under load on several nodes: all its vCPUs sort, count under locks, and keep a ballast and a disk, and every result is checked.

    Benchmarks/cluster/pressure.py [SECONDS] [--nodes 2] [--smp N] [--memory 256] [--use 128] [--kind shm|unix|tcp] [--delay-us 0]
                                   [--goliath PATH] [--limit SECONDS]

The program in the guest is Tests/EndToEnd/pressure.c; `--use` MiB of the guest's memory are its own, the rest is for the kernel and what it caches
of the disk. With `--delay-us`, everything between nodes arrives so much later: a proxy stands between them (`--kind tcp` only). Ends with
status 0 and a line of figures when the guest found every result right and all nodes ended well.
"""

import argparse
import heapq
import os
import pathlib
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

root = pathlib.Path(__file__).resolve().parent.parent.parent
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("seconds", nargs="?", type=float, default=20)
parser.add_argument("--nodes", type=int, default=2)
parser.add_argument("--smp", type=int, help="vCPUs of the machine (default: one for each node)")
parser.add_argument("--memory", type=int, default=256)
parser.add_argument("--use", type=int, default=128)
parser.add_argument("--kind", choices=["shm", "unix", "tcp"], default="tcp")
parser.add_argument("--delay-us", type=float, default=0)
parser.add_argument("--accel", default="tcg")
parser.add_argument("--goliath", default=str(root / ".build/release/goliath"))
parser.add_argument("--guest", default=str(root / ".build/guest"))
parser.add_argument("--limit", type=float, help="give up after so many seconds (default: 300 more than twice SECONDS)")
arguments = parser.parse_args()
cpus = arguments.smp or arguments.nodes
limit = arguments.limit or 300 + 2 * arguments.seconds


class Proxy(threading.Thread):
    """Passes connections to `port` on, each byte `delay` seconds after it came, in order."""

    def __init__(self, port, delay):
        super().__init__(daemon=True)
        self.port, self.delay = port, delay
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()[1]
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.waiting, self.number, self.backlog = [], 0, {}

    def run(self):
        while True:
            timeout = max(self.waiting[0][0] - time.monotonic(), 0) if self.waiting else None
            for key, _ in self.selector.select(timeout):
                if key.fileobj is self.listener:
                    self.connect()
                else:
                    self.receive(key.fileobj, key.data)
            while self.waiting and self.waiting[0][0] <= time.monotonic():
                _, _, target, data = heapq.heappop(self.waiting)
                self.send(target, data)

    def connect(self):
        near, _ = self.listener.accept()
        try:
            far = socket.create_connection(("127.0.0.1", self.port))
        except OSError:
            near.close()
            return
        for one, other in ((near, far), (far, near)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.selector.register(one, selectors.EVENT_READ, other)

    def receive(self, source, target):
        try:
            data = source.recv(1 << 18)
        except OSError:
            data = b""
        if not data:
            self.selector.unregister(source)
        self.number += 1
        heapq.heappush(self.waiting, (time.monotonic() + self.delay, self.number, target, data))

    @staticmethod
    def send(target, data):
        try:
            if data:
                target.sendall(data)
            else:
                target.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def free_ports(count):
    """Port numbers that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def clusters(folder):
    """What each node's `-cluster` says."""
    count = arguments.nodes
    ports = free_ports(count)
    for node in range(count):
        if arguments.kind == "tcp":
            # The higher node connects to the lower one: through a proxy, where there is a delay.
            near = [port if other >= node or not arguments.delay_us else start_proxy(port)
                    for other, port in enumerate(ports)]
            peers = "+".join(f"127.0.0.1:{port}" for port in near)
        else:
            peers = "+".join(f"unix:{folder}/node-{number}" for number in range(count))
        first, last = node * cpus // count, (node + 1) * cpus // count - 1
        memory = f"memory=shm,shm-path=/goliath-pressure-{os.getpid()}" if arguments.kind == "shm" else "memory=dsm"
        yield f"id=pressure,node={node},vcpus={first}-{last},peers={peers},{memory},lease-ms=20000"


def start_proxy(port):
    proxy = Proxy(port, arguments.delay_us / 1e6)
    proxy.start()
    return proxy.address


def main():
    if arguments.delay_us and arguments.kind != "tcp":
        sys.exit("a delay needs --kind tcp")
    folder = tempfile.mkdtemp(prefix="goliath-pressure-")
    nodes = []
    try:
        subprocess.run(["cc", "-O2", "-static", "-pthread", "-o", f"{folder}/program", str(root / "Tests/EndToEnd/pressure.c")], check=True)
        with open(f"{folder}/disk", "wb") as disk:
            disk.truncate(64 << 20)
        run = ("modprobe+virtio_pci;modprobe+virtio_blk;cat+/dev/vdb+>/tmp/p;chmod+755+/tmp/p;"
               f"/tmp/p+sort+{arguments.seconds:.0f}+{arguments.use}+/dev/vda;echo+status+$?;poweroff+-f")
        # A busy host and long delays make the guest's kernel think that its vCPUs hang.
        words = "quiet panic=-1 no_timer_check nowatchdog rcupdate.rcu_cpu_stall_suppress=1"
        begin = time.monotonic()
        for node, cluster in enumerate(clusters(folder)):
            line = [arguments.goliath, "-accel", arguments.accel, "-cpu", "max", "-m", str(arguments.memory), "-smp", str(cpus),
                    "-display", "none", "-nodefaults", "-serial", "stdio", "-no-reboot", "-kernel", arguments.guest + "/vmlinuz", "-initrd",
                    arguments.guest + "/initrd-devices.gz", "-append", f"console=ttyS0 {words} goliath.run={run}", "-cluster", cluster]
            for name in ("disk", "program") if node == 0 else ():
                line += ["-drive", f"file={folder}/{name},format=raw,if=virtio"]
            output = subprocess.PIPE if node == 0 else open(f"{folder}/output-{node}", "wb")
            nodes.append(subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT))
        end = threading.Timer(limit, lambda: [node.kill() for node in nodes])
        end.start()
        text = b""
        while data := os.read(nodes[0].stdout.fileno(), 65536):
            text += data
            sys.stdout.write(data.decode(errors="replace"))
            sys.stdout.flush()
        statuses = [node.wait() for node in nodes]
        end.cancel()
        for node in range(1, len(nodes)):
            sys.stdout.write(f"--- node {node}: " + open(f"{folder}/output-{node}", errors="replace").read()[-2000:] + "\n")
        print(f"{arguments.nodes} nodes, {cpus} vCPUs, {arguments.kind}, delay {arguments.delay_us} us, statuses {statuses}, "
              f"{time.monotonic() - begin:.1f} s, {text.count(b'round ')} rounds")
        if b"PRESSURE OK" not in text or b"MISMATCH" in text or b"status 0" not in text or b"Call Trace" in text or any(statuses):
            sys.exit("pressure: FAILED")
        print("pressure: ok")
    finally:
        for node in nodes:
            if node.poll() is None:
                node.kill()
        shutil.rmtree(folder, ignore_errors=True)


main()
