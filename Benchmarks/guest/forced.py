#!/usr/bin/env python3
"""The benchmark's programs in guests whose translator is forced into unusual ways: their checksums must be the native ones.

    Benchmarks/guest/forced.py [PROGRAM|GROUP...] [--smp 1,2] [--scale 0.02] [--modes NAME,...]

Speed is not measured. Needs what run.py needs. The exit status is 1 if a checksum differs, a program fails or a guest dies.
"""

import argparse
import sys

import run

MODES = {
    "default": "",
    "interpreter": ",x-translate=off",
    "at-once": ",x-threshold=0",
    "exact-flags": ",x-threshold=0,x-exact-flags=on",
    "one-insn": ",x-threshold=0,one-insn-per-tb=on",
    "three-insns": ",x-threshold=0,x-max-insns=3",
    "tiny-tlb": ",x-threshold=0,x-tlb-entries=4",
    "flushing": ",x-threshold=1,x-flush-every=1000",
    "tiny-cache": ",x-threshold=0,x-code-cache=262144",
    "requests": ",x-threshold=0,x-request-every=50,x-seed=7",
    "everything": ",x-threshold=0,x-max-insns=7,x-tlb-entries=8,x-flush-every=3000,x-code-cache=524288,x-request-every=90",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs="*")
    parser.add_argument("--smp", default="1,2")
    parser.add_argument("--scale", type=float, default=0.02)
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--goliath", default=str(run.root / ".build/release/goliath"))
    parser.add_argument("--cpu", default="max")
    parser.add_argument("--limit", type=float, default=240, help="seconds of wall clock for one run of a program")
    arguments = parser.parse_args()
    run.make()
    group_of = run.listed_programs()
    programs = [name for name, group in group_of.items()
                if not arguments.programs or name in arguments.programs or group in arguments.programs]
    native, failures = run.Native(), 0
    expected = {name: native.run(name, arguments.scale, arguments.limit)["checksum"] for name in programs}
    for mode in arguments.modes.split(","):
        arguments.goliath_options = MODES[mode]
        for cpus in arguments.smp.split(","):
            bad, guest, boot = [], None, None
            for name in programs:
                try:
                    if guest is None:
                        guest = run.Guest(run.command(arguments, "goliath", cpus), run.build / f"forced-{mode}-{cpus}.log")
                        boot = guest.boot["cpu"]
                    checksum = guest.run(name, arguments.scale, arguments.limit)["checksum"]
                    if checksum != expected[name]:
                        bad.append(f"{name}: {checksum} instead of {expected[name]}")
                except run.Failure as failure:
                    bad.append(f"{name}: {failure}")
                    if guest is None:
                        break
                    guest.close()
                    guest = None
            if guest is not None:
                guest.close()
            failures += len(bad)
            took = f"boot {boot:.2f} CPU s" if boot is not None else "no boot"
            print(f"{mode:13} -smp {cpus}: {took}; {len(programs) - len(bad)} of {len(programs)} equal", flush=True)
            for text in bad:
                print(f"  {text}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
