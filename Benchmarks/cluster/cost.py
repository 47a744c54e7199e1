#!/usr/bin/env python3
"""How the cost of page transactions grows from 2 to 64 nodes: an event-driven model of the protocol with measured constants.

    Benchmarks/cluster/cost.py [--small µs] [--page µs] [--send µs] [--serve µs] [--table] [--svg docs/images/cluster-cost.svg]
    Benchmarks/cluster/cost.py --measured FILE.json      constants of a `run.py --json` run

The model knows what the protocol's messages are and whom each waits for (docs/cluster.md): a home that orders a page's transactions, one
owner or many readers, invalidations to all readers at once, data sent on by the owner itself. A message takes half a round trip of its size, a node
sends one after the other (`--send`: what one more costs its sender), and serves one after the other (`--serve`). Links do not
compete: so these are the latencies of one transaction at a time, and of all nodes that want one page in turn.
"""

import argparse
import heapq
import json
import pathlib

NODES = [2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]


class Model:
    """Nodes that take messages in turn; each message is served for a while, then sends its own."""

    def __init__(self, nodes, constants):
        self.small, self.page, self.send, self.serve = constants
        self.now, self.order, self.events = 0.0, 0, []
        self.free = [0.0] * nodes          # when a node's receiver is idle again
        self.line = [0.0] * nodes          # when a node's sender is idle again
        self.messages = 0

    def post(self, source, target, has_page, action):
        """A message that is being sent from now on; `action` runs at the target when it has been served."""
        if source == target:
            return self.later(self.now, action)
        self.messages += 1
        # The first message's sending is part of the measured half round trip; those behind it wait their turn.
        start = max(self.now, self.line[source])
        self.line[source] = start + self.send
        way = (self.page if has_page else self.small) / 2
        arrival = start + way
        # The same for serving: only what comes while the node is busy waits.
        begin = max(arrival, self.free[target])
        self.free[target] = begin + self.serve
        self.later(begin, action)

    def later(self, when, action):
        self.order += 1
        heapq.heappush(self.events, (when, self.order, action))

    def run(self):
        while self.events:
            self.now, _, action = heapq.heappop(self.events)
            action()


def read_from_home(nodes, constants):
    """A reads; the home has the bytes."""
    model, end = Model(nodes, constants), []
    model.post(1, 0, False, lambda: model.post(0, 1, True, lambda: end.append(model.now)))
    model.run()
    return end[0], model.messages


def write_from_third(nodes, constants):
    """A writes; another than A and the home owns: the home has it sent on, and hears from it."""
    if nodes < 3:
        return write_from_home(nodes, constants)
    model, end = Model(nodes, constants), []

    def forward():
        model.post(2, 1, True, lambda: end.append(model.now))
        model.post(2, 0, False, lambda: None)

    model.post(1, 0, False, lambda: model.post(0, 2, False, forward))
    model.run()
    return end[0], model.messages


def read_from_third(nodes, constants):
    """A reads what a third node owns: its bytes go back to the home, which sends them."""
    if nodes < 3:
        return read_from_home(nodes, constants)
    model, end = Model(nodes, constants), []
    answer = lambda: model.post(0, 1, True, lambda: end.append(model.now))
    model.post(1, 0, False, lambda: model.post(0, 2, False, lambda: model.post(2, 0, True, answer)))
    model.run()
    return end[0], model.messages


def write_from_home(nodes, constants):
    return read_from_home(nodes, constants)


def upgrade(nodes, constants):
    """A writes what all nodes read: all drop their copies at once, then A may."""
    model, end = Model(nodes, constants), []
    readers = [node for node in range(nodes) if node not in (0, 1)]
    left = [len(readers)]

    def acknowledged():
        left[0] -= 1
        if left[0] <= 0:
            model.post(0, 1, False, lambda: end.append(model.now))

    def invalidate():
        if not readers:
            return acknowledged()
        for reader in readers:
            model.post(0, reader, False, lambda reader=reader: model.post(reader, 0, False, acknowledged))

    model.post(1, 0, False, invalidate)
    model.run()
    return end[0], model.messages


def pass_round(nodes, constants):
    """All nodes write one page at the same moment: from the first request until the last has had it."""
    model, end, queue = Model(nodes, constants), [], []
    busy, owner = [False], [0]

    def request(node):
        queue.append(node)
        begin()

    def begin():
        if busy[0] or not queue:
            return
        busy[0] = True
        node, old = queue.pop(0), owner[0]

        def given():
            end.append(model.now)

        def done():
            owner[0], busy[0] = node, False
            begin()

        if old == 0:
            model.post(0, node, True, given)
            done()
        else:
            def forward():
                model.post(old, node, True, given)
                model.post(old, 0, False, done)
            model.post(0, old, False, forward)

    for node in range(1, nodes):
        model.post(node, 0, False, lambda node=node: request(node))
    model.run()
    return max(end), model.messages


KINDS = [
    ("read or write, the home has the page", read_from_home),
    ("write, a third node has it", write_from_third),
    ("read, a third node has it", read_from_third),
    ("write what all nodes read", upgrade),
    ("all write one page: until the last has it", pass_round),
]
COLORS = ["#1f77b4", "#2ca02c", "#9467bd", "#d62728", "#ff7f0e"]


def table(constants):
    small, page, send, serve = constants
    print(f"Constants: small round trip {small:g} µs, with a page {page:g}, one more message for its sender {send:g}, for its receiver {serve:g}.\n")
    print("| µs (messages) | " + " | ".join(str(nodes) for nodes in (2, 4, 8, 16, 32, 64)) + " |")
    print("| --- |" + " --- |" * 6)
    for name, kind in KINDS:
        cells = [kind(nodes, constants) for nodes in (2, 4, 8, 16, 32, 64)]
        print(f"| {name} | " + " | ".join(f"{time:.0f} ({messages})" for time, messages in cells) + " |")


def plot(constants, path):
    """Both axes logarithmic."""
    import math
    width, height, left, right, top, bottom = 760, 440, 60, 300, 20, 50
    curves = [(name, [(nodes, kind(nodes, constants)[0]) for nodes in NODES]) for name, kind in KINDS]
    low = 10 ** math.floor(math.log10(min(time for _, points in curves for _, time in points)))
    high = 10 ** math.ceil(math.log10(max(time for _, points in curves for _, time in points)))
    across = lambda nodes: left + (width - left - right) * math.log2(nodes / 2) / 5
    up = lambda time: height - bottom - (height - top - bottom) * math.log10(time / low) / math.log10(high / low)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="white"/>']
    value = low
    while value <= high:
        out.append(f'<path d="M{left} {up(value):.1f}H{width - right}" stroke="#ccc"/>'
                   f'<text x="{left - 6}" y="{up(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
        value *= 10
    for nodes in (2, 4, 8, 16, 32, 64):
        out.append(f'<path d="M{across(nodes):.1f} {top}V{height - bottom}" stroke="#eee"/>'
                   f'<text x="{across(nodes):.1f}" y="{height - bottom + 18}" text-anchor="middle">{nodes}</text>')
    out.append(f'<text x="{(left + width - right) / 2}" y="{height - 12}" text-anchor="middle">nodes</text>'
               f'<text x="16" y="{(top + height - bottom) / 2}" transform="rotate(-90 16 {(top + height - bottom) / 2})" '
               'text-anchor="middle">microseconds</text>')
    for (name, points), color in zip(curves, COLORS):
        line = " ".join(f"{across(nodes):.1f},{up(time):.1f}" for nodes, time in points)
        out.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
    ends = sorted(((up(points[-1][1]), name, color) for (name, points), color in zip(curves, COLORS)))
    last = -100
    for y, name, color in ends:
        last = max(y, last + 15)
        out.append(f'<text x="{width - right + 8}" y="{last + 4:.1f}" fill="{color}">{name}</text>')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(out) + "\n</svg>\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=float, default=8.4, help="round trip without a page, protocol included (tcp, one processor)")
    parser.add_argument("--page", type=float, default=9.6, help="round trip with a page in one direction")
    parser.add_argument("--send", type=float, default=2.0, help="one more message, for its sender")
    parser.add_argument("--serve", type=float, default=2.5, help="one more message, for its receiver")
    parser.add_argument("--measured", help="figures of run.py, for the round trips")
    parser.add_argument("--place", default="two")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--svg")
    arguments = parser.parse_args()
    if arguments.measured:
        rows = {row["what"]: row["note"] for row in json.loads(pathlib.Path(arguments.measured).read_text())}
        arguments.small = float(rows[f"grant, tcp, {arguments.place}"].split()[0])
        arguments.page = float(rows[f"page to write, tcp, {arguments.place}"].split()[0])
    constants = (arguments.small, arguments.page, arguments.send, arguments.serve)
    if arguments.svg:
        plot(constants, pathlib.Path(arguments.svg))
    if arguments.table or not arguments.svg:
        table(constants)


if __name__ == "__main__":
    main()
