"""Real tiers against the calibrated simulator: python benchmarks/hybrid_real.py [DIR] (about ten minutes).

Memory, a file with direct I/O, and the same with an added delay; each policy replays the first requests of each trace,
three times, in real time.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import DATA, publish, table

from tunewright.agents.placement import policies as P
from tunewright.agents.placement.real import real_setup, replay_real
from tunewright.envs.storage.hybrid.devices import load_devices
from tunewright.envs.storage.hybrid.pagestore import parse_places
from tunewright.knowledge.blocktrace import paged, read_trace
from tunewright.knowledge.synthetic import generate

POLICIES = ("slow-only", "lru", "lru-write", "tunewright", "harmonia")
ROUNDS = 3
LONGEST_GAP_US = 20_000.0


def traces():
    yield paged(generate("zipf", requests=800, pages=1200, skew=1.0, gap_us=6000))
    yield paged(generate("mixed", requests=600, pages=3000, gap_us=8000))
    for name in ("msr.cut.per_10k.rw_20_80.105.trace.gz", "ajw.1week.csv.gz"):
        yield paged(read_trace(DATA / "block" / name, limit=600))


def paced(cut, devices):
    """Let requests come at the pace at which the slow tier alone keeps up, and cut longer gaps: they take days."""
    time_us = cut.trace.time_us * P.time_scale(cut, devices)
    gaps = np.minimum(np.diff(time_us), LONGEST_GAP_US)
    return replace(cut, trace=replace(cut.trace, time_us=np.r_[0.0, np.cumsum(gaps)]))


def one_system(places, cut, label):
    """Replay every policy in every round, after measuring the tiers anew; rows of the table."""
    seen = {policy: [] for policy in POLICIES}
    paces = None
    for round in range(ROUNDS):
        setup = real_setup(P.Setup(paged=cut, devices=load_devices("performance")), places)
        paces = paces or paced(cut, setup.devices)
        setup = replace(setup, paged=paces)
        for policy in POLICIES:
            seen[policy].append(replay_real(setup, policy, places, seed=round))
    rows = []
    for policy, done in seen.items():
        real = [r.latency_us.mean() for r in done]
        ratios = [r.simulated_us.mean() / r.latency_us.mean() for r in done]
        saturated = statistics.median(real) > SATURATED * statistics.median(
            r.latency_us.mean() for r in seen["slow-only"]
        )
        ratio = statistics.median(ratios)
        mark = " saturated" if saturated else "" if 0.85 <= ratio <= 1.15 else " *"
        rows.append(
            [label, cut.trace.name[:28], f"{len(cut.first):,}", policy, f"{statistics.median(real):,.0f}",
             f"{statistics.median(r.simulated_us.mean() for r in done):,.0f}", f"{ratio:.2f}{mark}",
             f"{min(ratios):.2f} to {max(ratios):.2f}", f"{done[0].moved:,}"]
        )  # fmt: skip
        print(*rows[-1], file=sys.stderr)
    return rows


SATURATED = 5  # times slow-only's latency: the policy's own moves keep a tier busy


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="tunewright-tiers-"))
    memory = Path(tempfile.mkdtemp(prefix="tunewright-tiers-", dir="/dev/shm"))
    systems = {
        "memory and delayed file": f"fast={memory},slow={folder}/slow?delay=2ms",
        "file and delayed file": f"fast={folder}/fast,slow={folder}/slow?delay=2ms",
        "memory, file and delayed file": f"fast={memory},middle={folder}/middle,slow={folder}/slow?delay=2ms",
    }
    rows = []
    for label, spec in systems.items():
        for number, cut in enumerate(traces()):
            if number == 0 or label == next(iter(systems)):  # the other systems with one trace
                rows += one_system(parse_places(spec), cut, label)
    fair = [row for row in rows if "saturated" not in row[6]]
    inside = sum("*" not in row[6] for row in fair)
    header = (
        "tiers",
        "trace",
        "requests",
        "policy",
        "measured us",
        "simulated us",
        "simulated over measured",
        "range",
        "pages moved",
    )
    body = (
        table(header, rows)
        + f"\n\nMedians of {ROUNDS} rounds, each with its own measurement of the tiers; {inside} of {len(fair)} rows are"
        f" within 15 %, the others are marked *. {len(rows) - len(fair)} rows are of policies that saturate a tier with their"
        " own moves; there the simulator is pessimistic: on the real tiers a move whose page has meanwhile been written or"
        " moved is dropped, and a request that has waited reads its page where it is by then."
        " In the bursts of the MSR trace it is pessimistic too: a request that waits behind another pays for no waking up."
        f" Arrivals are stretched until slow-only keeps up, then gaps are cut to {LONGEST_GAP_US / 1e3:g} ms."
        " Latency is from the moment a request was due. The devices of the simulator are fitted to requests of their own"
        " on each tier beforehand (`calibrate` in agents/placement/real.py); nothing is fitted to the replays. Every page"
        " that is read is checked."
    )
    publish("hybrid_real", "Simulated and real tiers", "python benchmarks/hybrid_real.py", body)


if __name__ == "__main__":
    main()
