"""Real tiers against the calibrated simulator: python benchmarks/hybrid_real.py [DIR] (about eight minutes).

Memory, a file with direct I/O, and the same with an added delay; each policy replays the first requests of each trace,
twice, in real time.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import publish, table
from tunewright.agents.placement import policies as P
from tunewright.agents.placement.real import real_setup, replay_real
from tunewright.envs.storage.hybrid.devices import load_devices
from tunewright.envs.storage.hybrid.pagestore import parse_places
from tunewright.knowledge.blocktrace import paged, read_trace
from tunewright.knowledge.synthetic import generate

DATA = Path(os.environ.get("TUNEWRIGHT_DATA") or Path(__file__).parents[2] / "shared" / "data")
POLICIES = ("slow-only", "lru", "lru-write", "tunewright", "harmonia")
ROUNDS = 2


def traces():
    yield paged(generate("zipf", requests=1200, pages=1200, skew=1.0, gap_us=6000))
    yield paged(generate("mixed", requests=900, pages=3000, gap_us=8000))
    for name in ("msr.cut.per_10k.rw_20_80.105.trace.gz", "ajw.1week.csv.gz"):
        yield paged(without_long_gaps(read_trace(DATA / "block" / name, limit=600)))


def without_long_gaps(trace, longest_us=20_000.0):
    """Cut idle time: gaps between arrivals are at most so long, or a replay in real time would take days."""
    gaps = np.minimum(np.diff(trace.time_us), longest_us)
    return replace(trace, time_us=np.r_[0.0, np.cumsum(gaps)])


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="tunewright-tiers-"))
    memory = Path(tempfile.mkdtemp(prefix="tunewright-tiers-", dir="/dev/shm"))
    systems = {
        "memory and delayed file": f"fast={memory},slow={folder}/slow?delay=2ms",
        "file and delayed file": f"fast={folder}/fast,slow={folder}/slow?delay=2ms",
        "memory, file and delayed file": f"fast={memory},middle={folder}/middle,slow={folder}/slow?delay=2ms",
    }
    rows, inside, total = [], 0, 0
    for label, spec in systems.items():
        places = parse_places(spec)
        for number, cut in enumerate(traces()):
            if number > 0 and label != next(iter(systems)):
                break  # the other systems with one trace
            setup = real_setup(P.Setup(paged=cut, devices=load_devices("performance")), places)
            # at the pace at which the slow tier alone keeps up
            setup = replace(setup, scale=P.time_scale(cut, setup.devices))
            for policy in POLICIES:
                done = [replay_real(setup, policy, places, seed=r) for r in range(ROUNDS)]
                real = [r.latency_us.mean() for r in done]
                ratio = statistics.median(r.simulated_us.mean() / r.latency_us.mean() for r in done)
                total += 1
                inside += 0.85 <= ratio <= 1.15
                rows.append(
                    [label, cut.trace.name[:28], len(setup.paged.first), policy, f"{statistics.median(real):,.0f}",
                     f"{statistics.median(r.simulated_us.mean() for r in done):,.0f}",
                     f"{ratio:.3f}" + ("" if 0.85 <= ratio <= 1.15 else " *"), f"{done[0].moved:,}"]
                )  # fmt: skip
                print(*rows[-1], file=sys.stderr)
    header = (
        "tiers",
        "trace",
        "requests",
        "policy",
        "measured us",
        "simulated us",
        "simulated over measured",
        "pages moved",
    )
    body = (
        table(header, rows)
        + f"\n\nIn the two real traces, gaps between arrivals are cut to 20 ms. Medians of {ROUNDS} replays; {inside} of {total} rows are within 15 %, the others are marked *."
        + " Latency is from the moment a request was due. The devices of the simulator are measured beforehand, one"
        + " operation at a time (`real.calibrate`); nothing is fitted to the replays. Every page that is read is checked."
    )
    publish("hybrid_real", "Simulated and real tiers", "python benchmarks/hybrid_real.py", body)


if __name__ == "__main__":
    main()
