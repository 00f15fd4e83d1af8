"""Placement policies on all usable traces: python benchmarks/hybrid_quality.py [--quick] (about 25 minutes).

Three tables, ablations, other loads, and adaptation after a change of phase. Latencies are over those of fast-only on
the same trace at the same pace; lower is better.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import DATA, RESULTS, publish, table

from tunewright.agents.placement import learning, shadow
from tunewright.agents.placement import policies as P
from tunewright.envs.storage.hybrid.devices import load_devices
from tunewright.envs.storage.hybrid.reward import LOGARITHM
from tunewright.envs.storage.hybrid.world import FULL
from tunewright.knowledge.blocktrace import paged, read_trace
from tunewright.knowledge.synthetic import generate

HERE = Path(__file__).parent
SPLIT = tomllib.loads((HERE / "placement_split.toml").read_text())
CONFIGS = ("performance", "cost", "triple", "quad")
SEEDED = ("random", "archivist", "rnn-hss", "sibyl", "sibyl-code", "harmonia")
PRIOR = ("cde", "hps", "archivist", "rnn-hss")
PUBLISHED = ("sibyl", "sibyl-code", "harmonia")
SIMPLE = ("lru", "lru-write", "second-touch")
AHEAD = (16, -16, -64, -256)
COMMAND = "python benchmarks/hybrid_quality.py"


def workloads(quick: bool) -> dict[str, tuple[str, object]]:
    """Name -> (part of the split, trace in pages)."""
    found = {}
    for part in ("tuning", "reporting"):
        for name in SPLIT[part]["real"]:
            cut = read_trace(DATA / "block" / name, limit=5000 if quick else None)
            found[cut.name.removeprefix("msr.cut.per_10k.")[:16]] = (part, paged(cut))
        for kind in SPLIT[part]["synthetic"]:
            found[f"~{kind}"] = (part, paged(generate(kind, requests=5000 if quick else 50_000)))
    return found


def seeds_of(setup, policy, seeds):
    return [P.replay(setup, policy, seed=s).mean_us for s in (range(seeds) if policy in SEEDED else (0,))]


def interval(values):
    """Mean and half the 95 % interval (Student's t)."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, 0.0
    t = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}[len(values)]
    return mean, t * statistics.stdev(values) / math.sqrt(len(values))


def measure(setup, seeds):
    """All policies on one trace and configuration: name -> latencies over fast-only, one a seed."""
    floor = P.replay(setup, "fast-only").mean_us
    found = {"fast_us": floor}
    rows = {}
    for policy in ("slow-only", "random", *SIMPLE, *PRIOR, *PUBLISHED):
        rows[policy] = seeds_of(setup, policy, seeds)
    full = replace(setup, mechanisms=FULL)
    for policy in (*SIMPLE, *PRIOR, *PUBLISHED):
        rows[f"{policy}+"] = seeds_of(full, policy, seeds)
    for policy in ("lru", "second-touch"):
        for ahead in AHEAD:
            rows[f"{policy}+ahead{ahead}"] = [P.replay(replace(full, ahead=ahead), policy).mean_us]
    rows["tunewright"] = [P.replay(setup, "tunewright").mean_us]
    rows["clairvoyant"] = [P.replay(setup, "oracle").mean_us]
    found["rows"] = {k: [v / floor for v in vs] for k, vs in rows.items()}
    return found


def mean_of(cell, policy):
    return statistics.fmean(cell["rows"][policy])


def best(cell, names):
    return min((mean_of(cell, n), n) for n in names)


MECHANISMS = tuple(f"{p}+" for p in SIMPLE)
WITH_AHEAD = (*MECHANISMS, *(f"{p}+ahead{a}" for p in ("lru", "second-touch") for a in AHEAD))


def known(cell):
    return min(statistics.fmean(v) for v in cell["rows"].values())


def geo(values):
    return math.exp(statistics.fmean(map(math.log, values)))


def show(value):
    return f"{value:,.3g}" if value < 1e5 else f"{value:.1e}"


def table_one(cells, names):
    """Published designs against the baselines that their papers used, each with the plainest mechanisms."""
    rows, gains = [], {p: [] for p in PUBLISHED}
    for name in names:
        cell = cells[name]
        prior, which = best(cell, PRIOR)
        row = [name, show(mean_of(cell, "slow-only")), *(show(mean_of(cell, p)) for p in PRIOR)]
        for p in PUBLISHED:
            middle, half = interval(cell["rows"][p])
            gain = 100 * (prior / middle - 1)
            gains[p].append(prior / middle)
            row.append(f"{show(middle)} ± {show(half)} ({gain:+.0f} %)")
        rows.append([*row, which])
    rows.append(["**geometric mean**", show(geo([mean_of(cells[n], "slow-only") for n in names])),
                 *(show(geo([mean_of(cells[n], p) for n in names])) for p in PRIOR),
                 *(f"{show(geo([mean_of(cells[n], p) for n in names]))} ({100 * (geo(gains[p]) - 1):+.0f} %)" for p in PUBLISHED), ""])  # fmt: skip
    return table(("trace", "slow-only", *PRIOR, *(f"{p} (over best prior)" for p in PUBLISHED), "best prior"), rows)


def table_two(cells, names):
    """The same with extent eviction, backlog gating and idle reserve for all."""
    columns = (*(f"{p}+" for p in PRIOR), *(f"{p}+" for p in PUBLISHED), *MECHANISMS)
    rows = [[n, *(show(mean_of(cells[n], c)) for c in columns), best(cells[n], columns)[1]] for n in names]
    rows.append(["**geometric mean**", *(show(geo([mean_of(cells[n], c) for n in names])) for c in columns), ""])
    return table(("trace", *columns, "best"), rows)


def closed(own, heuristic, limit):
    return (heuristic - own) / (heuristic - limit) if heuristic > limit else 1.0


def table_three(cells, names, parts):
    """tunewright against the best heuristic of each trace, and the best known."""
    rows = []
    for n in names:
        cell = cells[n]
        own, limit = mean_of(cell, "tunewright"), known(cell)
        plain, plain_name = best(cell, MECHANISMS)
        ahead, ahead_name = best(cell, WITH_AHEAD)
        rows.append([n, parts[n], show(own), f"{show(plain)} {plain_name}", f"{100 * (plain / own - 1):+.1f} %",
                     f"{show(ahead)} {ahead_name}", f"{100 * (ahead / own - 1):+.1f} %", show(limit)])  # fmt: skip
    return table(
        ("trace", "split", "tunewright", "best heuristic", "gain", "best with read-ahead", "gain", "best known"), rows
    )


def summary(cells, names, label):
    """One line of geometric means: the best single heuristic, ours, the best known, the share of the gap closed."""
    own, limit = (geo([f(cells[n]) for n in names]) for f in (lambda c: mean_of(c, "tunewright"), known))
    row = [label, str(len(names)), show(own), show(limit)]
    for group in (MECHANISMS, WITH_AHEAD):
        value, which = min((geo([mean_of(cells[n], p) for n in names]), p) for p in group)
        row += [f"{show(value)} {which}", f"{100 * closed(own, value, limit):.0f} %"]
    return row


def ablations(works, quick):
    """tunewright without one of its parts, and the published agents with other settings; geometric means."""
    c = shadow.CANDIDATES
    variants = {
        "tunewright": (c, FULL),
        "without read-ahead (writes only, second touch)": (tuple(x for x in c if x[1] == 0), FULL),
        "without single pages (read-ahead only)": (tuple(x for x in c if x[1] != 0), FULL),
        "and promotion without read-ahead": ((*c, (shadow.ALL, 0)), FULL),
        "and second touch with read-ahead": ((*c, (shadow.SECOND, -16)), FULL),
        "without extent eviction": (c, replace(FULL, extent=1)),
        "without backlog gating": (c, replace(FULL, gate_us=math.inf)),
        "without idle reserve": (c, replace(FULL, reserve=0.0)),
    }  # fmt: skip
    agents = {
        "harmonia as published": {},
        "reward -log2(L / L_fast)": {"reward": LOGARITHM},
        "epsilon 0.05": {"epsilon": 0.05},
        "500 random requests first": {"warmup": 500},
        "training every 100 requests": {"train_every": 100, "updates": 1, "sync_every": 100},
        "gamma 0": {"gamma": 0.0},
        "gamma 0.99": {"gamma": 0.99},
        "all but gamma 0.99": {"reward": LOGARITHM, "epsilon": 0.05, "warmup": 500, "train_every": 100,
                               "updates": 1, "sync_every": 100, "gamma": 0.0},
        "six features (no migration interval)": {"features": 6},
        "no migration agent": {"migrating": False},
    }  # fmt: skip
    body = []
    for config in ("performance", "cost"):
        devices = load_devices(config)
        rows, agent_rows = {k: [] for k in variants}, {k: [] for k in agents}
        for _, cut in works.values():
            setup = P.Setup(paged=cut, devices=devices, scale=P.time_scale(cut, devices))
            floor = P.replay(setup, "fast-only").mean_us
            for name, (candidates, mechanisms) in variants.items():
                rows[name].append(run_shadow(replace(setup, mechanisms=mechanisms), candidates) / floor)
            for name, changes in agents.items():
                changes = dict(changes)
                migrating = changes.pop("migrating", True)
                found = []
                for seed in range(1 if quick else 3):
                    pair = replace(learning.make_pair("harmonia", 2, seed, **changes), migrating=migrating)
                    found.append(P.replay(setup, "harmonia", agents=pair).mean_us / floor)
                agent_rows[name].append(statistics.fmean(found))
        body.append(f"### {config}\n")
        for found in (rows, agent_rows):
            first = geo(next(iter(found.values())))
            lines = [[k, show(geo(v)), f"{100 * (geo(v) / first - 1):+.1f} %"] for k, v in found.items()]
            body.append(table(("variant", "geometric mean over fast-only", "against the first"), lines) + "\n")
    return "\n".join(body)


def run_shadow(setup, candidates):
    candidates = np.array(candidates, np.int64)
    world = setup.world(FULL, n=len(candidates) + 1)
    requests = len(setup.paged.first)
    begin = min(shadow.first_candidate(setup.devices.tiers[-1]), len(candidates) - 1)
    latency, chosen = np.zeros(requests), np.zeros(requests, np.int64)
    carry = np.array([begin, 0], np.int64)
    shadow.replay(world.sims, candidates, np.zeros(len(candidates)), carry, chosen, latency, requests)
    return latency.mean()


def loads(works):
    """A quarter and four times the load; saturated policies are marked."""
    rows = []
    for config in ("performance", "cost"):
        devices = load_devices(config)
        for factor in (0.25, 1.0, 4.0):
            found = {p: [] for p in (*MECHANISMS, "lru+ahead-16", "lru+ahead-64", "lru+ahead-256", "tunewright")}
            full_up = dict.fromkeys(found, 0)
            for _, cut in works.values():
                setup = P.Setup(paged=cut, devices=devices, scale=P.time_scale(cut, devices) / factor)
                floor, slow = (P.replay(setup, p) for p in ("fast-only", "slow-only"))
                for p in found:
                    if p == "tunewright":
                        done = P.replay(setup, p)
                    else:
                        name, _, ahead = p.partition("+")
                        ahead = int(ahead.removeprefix("ahead") or 0)
                        done = P.replay(replace(setup, mechanisms=FULL, ahead=ahead), name)
                    found[p].append(done.mean_us / floor.mean_us)
                    tail = slice(-max(1, len(done.latency_us) // 10), None)
                    full_up[p] += done.latency_us[tail].mean() > 5 * slow.latency_us[tail].mean()
            rows.append([config, f"x{factor:g}", *(show(geo(v)) + (f" ({full_up[p]} saturated)" if full_up[p] else "")
                                                   for p, v in found.items())])  # fmt: skip
    return table(("devices", "load", *found), rows)


def adaptation():
    """Requests after a change of phase until the mean of 500 is within a tenth of what that phase settles at."""
    rows = []
    for config in ("performance", "cost"):
        devices = load_devices(config)
        cut = paged(generate("phases", requests=80_000, phases=4))
        setup = P.Setup(paged=cut, devices=devices, scale=P.time_scale(cut, devices))
        for policy in ("tunewright", "sibyl", "sibyl-code", "harmonia", "lru"):
            latency = P.replay(setup, policy, seed=1).latency_us.reshape(4, 20_000)
            needed = []
            for phase in latency[1:]:
                settled = phase[-5000:].mean()
                windows = np.convolve(phase, np.ones(500) / 500, "valid")
                inside = np.flatnonzero(windows <= 1.1 * settled)
                needed.append(int(inside[0]) if len(inside) else 20_000)
            rows.append([config, policy, *needed, show(latency.mean())])
    return table(("devices", "policy", "phase 2", "phase 3", "phase 4", "mean latency, us"), rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="first 5,000 requests, two seeds: to see that it works")
    quick = parser.parse_args().quick
    begun = time.perf_counter()
    works, seeds = workloads(quick), 2 if quick else 5
    parts = {n: part for n, (part, _) in works.items()}
    results: dict[str, dict[str, dict]] = {}
    for config in CONFIGS:
        devices = load_devices(config)
        for name, (_, cut) in works.items():
            scale = P.time_scale(cut, devices)
            setup = P.Setup(paged=cut, devices=devices, scale=scale)
            results.setdefault(config, {})[name] = {"scale": scale, **measure(setup, seeds)}
            print(f"{config} {name} {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    once = [n for n, (_, cut) in works.items() if once_share(cut) > 0.9]
    groups = {
        "real traces": [n for n in works if not n.startswith("~")],
        "real traces, without those touched once": [n for n in works if not n.startswith("~") and n not in once],
        "synthetic": [n for n in works if n.startswith("~")],
        "all held out": [n for n in works if parts[n] == "reporting"],
        "all": list(works),
    }
    body = [f"More than nine in ten pages are touched once in: {', '.join(once)}. `~` marks synthetic workloads."]
    lines = [[config, *summary(results[config], names, label)] for config in CONFIGS for label, names in groups.items()]
    body.append("## In one table: tunewright, the best single heuristic, and the best known\n\n" + table(
        ("devices", "over", "traces", "tunewright", "best known", "best heuristic", "gap closed", "best heuristic with fixed read-ahead", "gap closed"), lines))  # fmt: skip
    for config in CONFIGS:
        cells = results[config]
        for title, text in (
            ("1. The published designs against the baselines of their papers, plain mechanisms", table_one(cells, groups["real traces"])),
            ("2. The same with the mechanisms for all: extent eviction, backlog gating, idle reserve", table_two(cells, groups["real traces"])),
            ("3. tunewright", table_three(cells, list(works), parts)),
        ):  # fmt: skip
            body.append(f"## {config}: {title}\n\n{text}")
        factors = ", ".join(f"{n} x{c['scale']:g}" for n, c in cells.items())
        body.append(f"Factors on inter-arrival times, {config}: {factors}.")
    body.append("## Ablations (all traces)\n\n" + ablations(works, quick))
    body.append("## Other loads (all traces)\n\n" + loads(works))
    body.append("## Adaptation after a change of phase, in requests\n\n" + adaptation())
    name = "hybrid_quality_quick" if quick else "hybrid_quality"
    publish(name, "Quality of data placement", COMMAND, "\n\n".join(body))
    if not quick:
        (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def once_share(cut):
    count = cut.touches()
    return np.mean(count[count > 0] == 1)


if __name__ == "__main__":
    main()
