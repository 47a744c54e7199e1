#!/usr/bin/env python3
"""Runs schedules of the page protocol's executable reference (sim.py of the design notes) and prints what the Swift state machines must
come to with the same numbers: one line a run.

reference.py PATH-TO-SIM.PY RUNS SEED
"""
import random, sys

path, runs, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
text = open(path).read()
model = {"__name__": "reference"}
exec(compile(text[:text.index("a = sys.argv[1:]")], path, "exec"), model)
Sim, names = model["Sim"], "ISM"
for i in range(runs):
    rnd = random.Random(seed * 100003 + i)
    n = rnd.choice([2, 3, 4, 5, 8]); pages = rnd.choice([1, 2, 3])
    sim = Sim(n, pages, lambda: rnd.choice([1, 1, 2, 5, 40]) * rnd.random(), forward=rnd.random() < .7)
    left = [150 * n]
    def go(k, p, w):
        def done():
            left[0] -= 1
            if left[0] > 0: sim.at(sim.t + rnd.random() * rnd.choice([.1, 3, 20]), go, k, rnd.randrange(pages), rnd.random() < .4)
        sim.nodes[k].access(p, w, done)
    for k in range(n):
        for _ in range(2): sim.at(rnd.random(), go, k, rnd.randrange(pages), rnd.random() < .4)
    sim.run()
    state = " ".join(f"{sim.truth[p]}:{sim.homes[p].gen}:" + ",".join(
        names[k.st[p]] + (str(k.gen[p]) if k.st[p] else "") for k in sim.nodes) for p in range(pages))
    print(f"{i} {n} {pages} {sim.msgs} {state}")
