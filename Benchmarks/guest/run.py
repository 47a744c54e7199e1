#!/usr/bin/env python3
"""CPU time of programs inside a guest, under goliath and under QEMU's TCG, as multiples of the same programs' native CPU time.

    Benchmarks/guest/run.py [PROGRAM|GROUP...] [--smp 1,2] [--rounds 3] [--scale 1] [--json FILE]

Needs the release build, Debian's kernel and busybox (`make test` installs and builds all). README.md beside this file says what
is measured and why. The exit status is 1 if a checksum differs, a program fails or a guest dies.
"""

import argparse
import json
import math
import os
import pathlib
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time

here = pathlib.Path(__file__).resolve().parent
root = here.parent.parent
build = root / ".build/benchmark-guest"
binary = build / "bench"

GROUPS = ["integer", "fp_simd", "copy", "system", "codegen", "scaling"]
# Functions that jit_cold makes at scale 1, each run twice (codegen.c: rounds times slots).
FRESH_FUNCTIONS = 18 * 16384
# group: (of native, of TCG, text of the bar, text of the aim); `system` is judged with two processors.
BARS = {
    "integer": (2.0, 0.45, "≤ 2.0 native, ≤ 0.45 TCG", "≤ 1.5 native"),
    "fp_simd": (2.0, 0.15, "≤ 2.0 native, ≤ 0.15 TCG", "≤ 1.4 native"),
    "system": (None, 0.5, "≤ 0.5 TCG with -smp 2", "≤ 0.25 TCG"),
    "codegen": (None, 0.5, "≤ 0.5 TCG", "≤ 0.3 TCG"),
}


def make():
    """The static binary and the initramfs, when a source is newer."""
    build.mkdir(parents=True, exist_ok=True)
    sources = sorted((here / "programs").glob("*.[ch]"))
    image = build / "initrd.gz"
    newest = max(path.stat().st_mtime for path in [*sources, here / "init", root / "scripts/guest"])
    if image.exists() and binary.exists() and min(image.stat().st_mtime, binary.stat().st_mtime) > newest:
        return
    subprocess.run(["gcc", "-O2", "-static", "-no-pie", "-fno-pie", "-pthread", "-Wall", "-Wextra", "-fno-math-errno",
                    "-ffp-contract=off", "-o", binary, *(path for path in sources if path.suffix == ".c")], check=True)
    subprocess.run([root / "scripts/guest", build, here / "init", binary], check=True)


def listed_programs():
    """Group by name, in the order of the tables."""
    lines = subprocess.check_output([binary, "--list"], text=True).splitlines()
    return {name: group for name, group in map(str.split, lines) if group != "base"}


class Failure(Exception):
    pass


def parse(line, name):
    words = line.split()
    if len(words) != 3 or words[0] != name:
        raise Failure(f"{name} printed: {line!r}")
    if words[2] == "unknown":
        raise Failure(f"{name}: the binary does not know it")
    return float(words[1]), words[2]


class Native:
    """Each program as a process of this machine; its CPU time with its children's is what the kernel accounted."""

    def run(self, name, scale, limit):
        begin = time.perf_counter()
        process = subprocess.Popen([binary, name, str(scale)], stdout=subprocess.PIPE, text=True)
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
        wall = time.perf_counter() - begin
        if status != 0:
            raise Failure(f"{name} ended with status {status}")
        inside, checksum = parse(output, name)
        return {"cpu": usage.ru_utime + usage.ru_stime, "wall": wall, "inside": inside, "checksum": checksum}

    def close(self):
        pass


class Guest:
    """A booted guest that runs the programs named on its serial line while this side reads the VMM process's CPU clock."""

    def __init__(self, command, log):
        self.folder = tempfile.TemporaryDirectory()
        self.monitor = os.path.join(self.folder.name, "monitor")
        command = [*command, "-monitor", f"unix:{self.monitor},server=on,wait=off"]
        begin = time.perf_counter()
        self.log = open(log, "wb")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log)
        # Linux's clock number of another process's CPU time (clock_getcpuclockid): nanoseconds, all threads, ended ones too.
        self.clock = ~self.process.pid << 3 | 2
        self.pending = b""
        try:
            self.wait_for("bench-ready", 400)
        except Failure:
            self.close()
            raise
        self.boot = {"cpu": self.cpu(), "wall": time.perf_counter() - begin}

    def cpu(self):
        try:
            return time.clock_gettime(self.clock)
        except OSError:
            raise Failure("the process has ended") from None

    def settled(self):
        """The CPU clock once the guest has come to rest: the last characters' interrupts are the last work."""
        last = self.cpu()
        for _ in range(50):
            time.sleep(0.004)
            now = self.cpu()
            if now - last < 0.0002:
                return now
            last = now
        return last

    def line(self, deadline):
        while b"\n" not in self.pending:
            if not select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))[0]:
                raise Failure(f"no answer; last: {self.pending[-200:]!r}")
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                raise Failure(f"the guest is gone; last: {self.pending[-200:]!r}")
            self.log.write(data)
            self.log.flush()
            self.pending += data
        line, self.pending = self.pending.split(b"\n", 1)
        return line.decode(errors="replace").strip()

    def wait_for(self, text, seconds):
        deadline = time.monotonic() + seconds
        last = ""
        while True:
            line = self.line(deadline)
            if line.endswith(text):
                return last
            last = line

    def run(self, name, scale, limit):
        deadline = time.monotonic() + limit
        before = self.settled()
        begin = time.perf_counter()
        self.process.stdin.write(f"{name} {scale}\n".encode())
        self.process.stdin.flush()
        lines = [self.line(deadline)]
        while not lines[-1].startswith("done "):
            lines.append(self.line(deadline))
        wall = time.perf_counter() - begin
        cpu = self.settled() - before
        if lines[-1] != "done 0" or len(lines) < 2:
            raise Failure(f"{name}: {' / '.join(lines)}")
        inside, checksum = parse(lines[-2], name)
        return {"cpu": cpu, "wall": wall, "inside": inside, "checksum": checksum}

    def idle(self, seconds=1.0):
        """CPU milliseconds in a second in which the guest has nothing to do."""
        before, begin = self.settled(), time.perf_counter()
        time.sleep(seconds)
        return (self.cpu() - before) / (time.perf_counter() - begin) * 1e3

    def info_jit(self):
        """The text of `info jit`: what was translated so far, and in goliath what it cost."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(self.monitor)
            text = b""
            while not text.endswith(b"(qemu) "):
                text += client.recv(65536)
            client.sendall(b"info jit\n")
            text = b""
            while not text.endswith(b"(qemu) "):
                text += client.recv(65536)
        lines = text.decode(errors="replace").replace("\r", "").split("\n")
        return "\n".join(lines[1:-1])

    def close(self):
        self.process.kill()
        self.process.wait()
        self.log.close()
        self.folder.cleanup()


def command(arguments, engine, cpus):
    if engine == "tcg":
        program = [arguments.qemu, "-accel", "tcg" + arguments.tcg_options]
    else:
        program = [arguments.goliath, "-accel", "tcg" + arguments.goliath_options]
    return [*program, "-cpu", arguments.cpu, "-smp", str(cpus), "-m", "512", "-net", "none", "-nographic", "-no-reboot",
            "-kernel", build / "vmlinuz", "-initrd", build / "initrd.gz",
            "-append", "console=ttyS0 quiet panic=-1 bench=serve"]


class Measurement:
    """Figures by engine and program over all rounds; `engine` is native, tcg-1, goliath-2 and so on."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.runs, self.base, self.boots, self.idles, self.failures = {}, {}, {}, {}, []

    def fail(self, text):
        self.failures.append(text)
        print(f"FAILURE: {text}", file=sys.stderr, flush=True)

    def start(self, engine):
        """A booted engine with its cost of running a program that does nothing, or none."""
        try:
            if engine == "native":
                runner = Native()
            else:
                name, cpus = engine.split("-")
                log = build / f"{engine}.log"
                runner = Guest(command(self.arguments, name, cpus), log)
                self.boots.setdefault(engine, []).append(runner.boot)
            runner.run("nothing", 1, 60)
            base = statistics.median(runner.run("nothing", 1, 60)["cpu"] for _ in range(5))
            self.base.setdefault(engine, []).append(base)
            if engine != "native":
                self.idles.setdefault(engine, []).append(runner.idle())
            return runner, base
        except Failure as failure:
            self.fail(f"{engine} does not start: {failure}")
            if engine != "native" and "runner" in locals():
                runner.close()
            return None

    def round(self, engines, programs):
        running = {engine: self.start(engine) for engine in engines}
        for name in programs:
            for engine in engines:
                if running[engine] is None:
                    continue
                runner, base = running[engine]
                try:
                    result = runner.run(name, self.arguments.scale, self.arguments.limit)
                    result["cpu"] -= base
                    self.runs.setdefault(name, {}).setdefault(engine, []).append(result)
                    if self.arguments.verbose:
                        print(f"{name} {engine} {result['cpu']:.4f} (inside {result['inside']:.4f}) {result['checksum']}",
                              file=sys.stderr, flush=True)
                except Failure as failure:
                    self.fail(f"{engine}: {name}: {failure}")
                    runner.close()
                    running[engine] = self.start(engine)
        for engine, value in running.items():
            if value is None:
                continue
            if self.arguments.info_jit and engine != "native":
                try:
                    print(f"{engine}: info jit after the round\n{value[0].info_jit()}\n", file=sys.stderr, flush=True)
                except OSError as error:
                    self.fail(f"{engine}: the monitor does not answer: {error}")
            value[0].close()

    def median(self, name, engine, figure="cpu"):
        results = [r for r in self.runs.get(name, {}).get(engine, []) if r["checksum"] != "skipped"]
        return statistics.median(r[figure] for r in results) if results else None

    def compare_checksums(self):
        for name, engines in self.runs.items():
            seen = {}
            for engine, results in engines.items():
                for result in results:
                    if result["checksum"] != "skipped":
                        seen.setdefault(result["checksum"], set()).add(engine)
            if len(seen) > 1:
                self.fail(f"{name}: checksums differ: " +
                          ", ".join(f"{value} ({' '.join(sorted(who))})" for value, who in seen.items()))


def geometric_mean(values):
    values = [value for value in values if value]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def shown(value, pattern="{:.2f}"):
    return "–" if value is None else pattern.format(value)


def ratio(a, b):
    return a / b if a and b and a > 0 and b > 0 else None


def report(measured, programs, group_of, cpus):
    """A Markdown table for one number of processors, then the groups against their bars."""
    ours, theirs = f"goliath-{cpus}", f"tcg-{cpus}"
    print(f"\n### `-smp {cpus}`\n\n| program | native s | TCG × native | goliath × native | goliath / TCG |\n| --- | --- | --- | --- | --- |")
    rows, slower = {}, []
    for name in programs:
        native, tcg, goliath = (measured.median(name, engine) for engine in ("native", theirs, ours))
        row = ratio(tcg, native), ratio(goliath, native), ratio(goliath, tcg)
        rows.setdefault(group_of[name], []).append(row)
        if row[2] and row[2] > 1:
            slower.append(f"{name} {row[2]:.2f}")
        print(f"| {name} | {shown(native, '{:.4f}')} | {shown(row[0], '{:.1f}')} | {shown(row[1])} | {shown(row[2])} |")
    print(f"\n| group, geometric mean | TCG × native | goliath × native | goliath / TCG | bar | aim | |\n| --- | --- | --- | --- | --- | --- | --- |")
    for group in GROUPS:
        if group not in rows:
            continue
        of_tcg, of_goliath, quotient = (geometric_mean(column) for column in zip(*rows[group]))
        native_bar, tcg_bar, bar, aim = BARS.get(group, (None, None, "", ""))
        if group == "system" and cpus != 2:
            native_bar = tcg_bar = None
        verdict = ""
        if of_goliath is not None and (native_bar or tcg_bar):
            held = (native_bar is None or of_goliath <= native_bar) and \
                (tcg_bar is None or quotient is None or quotient <= tcg_bar)
            verdict = "held" if held else "missed"
        print(f"| {group} | {shown(of_tcg, '{:.1f}')} | {shown(of_goliath)} | {shown(quotient)} | {bar} | {aim} | {verdict} |")
    print()
    if any(measured.runs.get(name, {}).get(ours) for name in programs):
        print(f"Slower than TCG: {', '.join(slower) if slower else 'none'}.  ")
    for engine in (theirs, ours):
        notes = []
        if measured.boots.get(engine):
            notes.append(f"boot {statistics.median(b['cpu'] for b in measured.boots[engine]):.2f} CPU s")
        if measured.idles.get(engine):
            notes.append(f"idle {statistics.median(measured.idles[engine]):.1f} CPU ms a second")
        if measured.base.get(engine):
            notes.append(f"an empty program {statistics.median(measured.base[engine]) * 1e3:.2f} CPU ms (subtracted)")
        fresh, native = measured.median("jit_cold", engine), measured.median("jit_cold", "native")
        if fresh and native:
            each = (fresh - native) / (FRESH_FUNCTIONS * measured.arguments.scale) * 1e6
            notes.append(f"jit_cold {each:.2f} µs a new function beyond native")
        one, two = (measured.median(name, engine, "wall") for name in ("sha_1thread", "sha_2threads"))
        if one and two and cpus >= 2:
            notes.append(f"two threads {2 * one / two:.2f} times one (wall clock; bar 1.8, aim 1.95, on two idle cores)")
        if notes:
            print(f"{engine}: {'; '.join(notes)}.  ")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs="*", help="names of programs or groups; all without any")
    parser.add_argument("--smp", default="1,2", help="numbers of processors, by commas (1,2)")
    parser.add_argument("--rounds", type=int, default=3, help="each with fresh guests; medians are shown (3)")
    parser.add_argument("--scale", type=float, default=1, help="amount of work (1: 5 to 200 ms natively)")
    parser.add_argument("--engines", default="native,tcg,goliath")
    parser.add_argument("--goliath", default=str(root / ".build/release/goliath"))
    parser.add_argument("--qemu", default="qemu-system-x86_64")
    parser.add_argument("--goliath-options", default="", help="appended to -accel tcg, such as ,tb-size=16")
    parser.add_argument("--tcg-options", default="")
    parser.add_argument("--cpu", default="max")
    parser.add_argument("--limit", type=float, default=240, help="seconds of wall clock for one run of a program")
    parser.add_argument("--json", help="file for every single figure; - for standard output")
    parser.add_argument("--verbose", action="store_true", help="every run on standard error")
    parser.add_argument("--info-jit", action="store_true", help="each guest's `info jit` at its end, on standard error")
    parser.add_argument("--list", action="store_true", help="print the programs and their groups")
    arguments = parser.parse_args()

    make()
    group_of = listed_programs()
    if arguments.list:
        for name, group in group_of.items():
            print(f"{group:10}{name}")
        return 0
    programs = [name for name, group in group_of.items()
                if not arguments.programs or name in arguments.programs or group in arguments.programs]
    unknown = set(arguments.programs) - set(group_of) - set(GROUPS)
    if unknown:
        parser.error(f"no such program or group: {' '.join(sorted(unknown))} (--list shows them)")
    numbers = [int(word) for word in arguments.smp.split(",")]
    selected = arguments.engines.split(",")
    engines = [name for name in selected if name == "native"]
    engines += [f"{name}-{cpus}" for cpus in numbers for name in selected if name != "native"]

    measured = Measurement(arguments)
    load = os.getloadavg()[0]
    for _ in range(arguments.rounds):
        measured.round(engines, programs)
    measured.compare_checksums()

    out = sys.stderr if arguments.json == "-" else sys.stdout
    with_stdout, sys.stdout = sys.stdout, out
    print(f"{arguments.rounds} rounds, scale {arguments.scale:g}, medians of CPU seconds; load average {load:.1f} at the start, "
          f"{os.getloadavg()[0]:.1f} at the end.")
    for cpus in numbers:
        report(measured, programs, group_of, cpus)
    checked = sum(len(engines) > 1 for engines in measured.runs.values())
    print(f"\nChecksums of {checked} programs compared; {len(measured.failures)} failures.")
    for failure in measured.failures:
        print(f"- {failure}")
    sys.stdout = with_stdout
    if arguments.json:
        text = json.dumps({"rounds": arguments.rounds, "scale": arguments.scale, "load": load, "groups": group_of,
                           "runs": measured.runs, "boots": measured.boots, "idle_ms_per_s": measured.idles,
                           "empty_program_s": measured.base, "failures": measured.failures}, indent=1)
        print(text) if arguments.json == "-" else pathlib.Path(arguments.json).write_text(text + "\n")
    return 1 if measured.failures else 0


if __name__ == "__main__":
    sys.exit(main())
