"""Writes and migrates pages until it is killed; every acknowledged write is told on standard output first come."""

import random
import sys

from tunewright.envs.storage.hybrid.pagestore import PageStore, TierFile, parse_places
from tunewright.envs.storage.hybrid.real import payload

spec, seed = sys.argv[1], int(sys.argv[2])
store = PageStore([TierFile(p, 64) for p in parse_places(spec)])
store.recover()
pages = list(range(120))
if not store.version:
    store.write(pages, [payload(p, 1) for p in pages], 1)
print("ready", flush=True)
rng = random.Random(seed)
while True:
    first = rng.randrange(len(pages) - 16)
    some = list(range(first, first + rng.randrange(1, 16)))
    if rng.random() < 0.4:
        versions = [store.version[p] + 1 for p in some]
        store.write(some, [payload(p, v) for p, v in zip(some, versions, strict=True)], rng.randrange(2))
        print("wrote", *(f"{p}:{v}" for p, v in zip(some, versions, strict=True)), flush=True)
    else:
        store.move(some, rng.randrange(2))
