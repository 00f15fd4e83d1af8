"""How often a verdict's interval holds the truth, and how often a gain is shown: python benchmarks/verdicts.py.

The verification's own rule runs on simulated runs: a candidate that is better by a known ratio, under many kinds of
noise. ``--sessions N`` sets how many verifications each figure comes from.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from common import publish, table

from tunewright.measuring import estimates
from tunewright.measuring.intervals import miss_rate
from tunewright.measuring.protocol import TRUST, verify
from tunewright.sessions.session import Session
from tunewright.space import Int, Space
from tunewright.store.plan import Plan
from tunewright.store.store import Store
from tunewright.target import BaseTarget, Measurement, Metric

SPEED = Metric(name="speed", direction="max")
CANDIDATE, DEFAULT = {"name": "candidate"}, {"name": "default"}
Noise = Callable[[bool, int], float]  # (is it the candidate, number of the run) -> logarithm of the noise


def gaussian(rng: np.random.Generator) -> Noise:
    return lambda candidate, n: rng.normal(0, 0.1)


def noisier_candidate(rng: np.random.Generator) -> Noise:
    return lambda candidate, n: rng.normal(0, 0.15 if candidate else 0.05)


def noisier_default(rng: np.random.Generator) -> Noise:
    return lambda candidate, n: rng.normal(0, 0.05 if candidate else 0.15)


def drift(rng: np.random.Generator) -> Noise:
    return lambda candidate, n: rng.normal(0, 0.05) + 0.03 * n


def random_walk(rng: np.random.Generator) -> Noise:
    walk = np.cumsum(rng.normal(0, 0.1, 100))
    return lambda candidate, n: walk[n] + rng.normal(0, 0.02)


def autoregressive(rng: np.random.Generator) -> Noise:
    state = [rng.normal(0, 0.1)]
    for _ in range(100):
        state.append(0.95 * state[-1] + rng.normal(0, 0.1 * math.sqrt(1 - 0.95**2)))
    return lambda candidate, n: state[n]


def level_steps(rng: np.random.Generator) -> Noise:
    levels = np.where(rng.random(100) < 0.15, rng.normal(0, 0.2, 100), np.nan)
    levels[0] = 0.0
    for n in range(1, 100):
        levels[n] = levels[n - 1] if math.isnan(levels[n]) else levels[n]
    return lambda candidate, n: levels[n] + rng.normal(0, 0.03)


def outliers(rng: np.random.Generator) -> Noise:
    return lambda candidate, n: rng.normal(0, 1.0 if rng.random() < 0.1 else 0.05)


def bimodal(rng: np.random.Generator) -> Noise:
    return lambda candidate, n: rng.choice([-0.1, 0.1]) + rng.normal(0, 0.02)


def skewed_up(rng: np.random.Generator) -> Noise:
    return lambda candidate, n: 0.15 * rng.exponential()


def skewed_down(rng: np.random.Generator) -> Noise:
    return lambda candidate, n: -0.15 * rng.exponential()


def periodic(rng: np.random.Generator) -> Noise:
    period, phase = rng.choice([2, 3, 4, 6, 8]), rng.uniform(0, 2 * math.pi)
    return lambda candidate, n: 0.15 * math.sin(2 * math.pi * n / period + phase) + rng.normal(0, 0.02)


def opposite_skew(rng: np.random.Generator) -> Noise:
    return lambda candidate, n: (0.15 if candidate else -0.15) * rng.exponential()


def opposite_skew_turned(rng: np.random.Generator) -> Noise:
    return lambda candidate, n: (-0.15 if candidate else 0.15) * rng.exponential()


def opposite_spikes(rng: np.random.Generator) -> Noise:
    return lambda candidate, n: (0.4 if candidate else -0.4) * (rng.random() < 0.25) + rng.normal(0, 0.03)


KINDS = (
    gaussian, noisier_candidate, noisier_default, drift, random_walk, autoregressive, level_steps, outliers, bimodal,
    skewed_up, skewed_down, periodic,
)  # fmt: skip


ESTIMATES = ("pairs", "median", "mean", "p75", "p90")


class Bounded(BaseTarget):
    """Throughput and latency both grow with the load; up to a load of 50 the latency is 15 ms or less, with 8 % noise."""

    name, isolated = "bounded", False
    metrics = (SPEED, Metric(name="lat", direction="min", unit="ms"))

    def __init__(self, default: int, seed: int) -> None:
        self.workloads = {"only": "one"}
        self.space = Space([Int(name="load", low=1, high=100, default=default)])
        self.rng = np.random.default_rng([4, seed])

    @staticmethod
    def latency(config) -> float:
        return 10 + 0.1 * config["load"]

    def measure(self, config, *, workload, seed, budget):
        speed = (100 + config["load"]) * math.exp(self.rng.normal(0, 0.008))
        return Measurement(
            values={"speed": speed, "lat": self.latency(config) * math.exp(self.rng.normal(0, 0.08))}, seconds=1.0
        )


def verification(level: str, ratio: float, noise: Noise, seed: int, estimate: estimates.Estimate = estimates.PAIRS):
    """Verify a candidate that is better by a known ratio; returns the comparison."""
    count = itertools.count()

    def run(config, _):
        candidate = config is CANDIDATE
        value = 100 * (ratio if candidate else 1.0) * math.exp(noise(candidate, next(count)))
        return Measurement(values={"speed": value}, seconds=1.0)

    trust = replace(TRUST[level], looks=estimates.looks(estimate, level, TRUST[level].looks))
    compared, _ = verify(run, CANDIDATE, DEFAULT, [SPEED], trust, seed, estimate=estimate)
    return compared["speed"]


def coverage(sessions: int) -> str:
    rows = []
    for kind in KINDS:
        row: list[object] = [kind.__name__.replace("_", " ")]
        for level in TRUST:
            held = shown = pairs = 0
            for seed in range(sessions):
                found = verification(level, 1.1, kind(np.random.default_rng([1, seed])), seed)
                held += found.low <= 1.1 <= found.high
                pairs += found.pairs
                shown += verification(level, 1.0, kind(np.random.default_rng([2, seed])), sessions + seed).improved
            row += [f"{100 * held / sessions:.1f} %", f"{100 * shown / sessions:.1f} %", f"{pairs / sessions:.1f}"]
        rows.append(row)
    names = [f"{level}: {what}" for level in TRUST for what in ("holds the truth", "false gain", "pairs")]
    return table(["noise", *names], rows)


def truth(kind, estimate: estimates.Estimate) -> float:
    """What is estimated, of the noise alone: by very many runs of both sides, which drift has no part in."""
    noise = kind(np.random.default_rng([6]))
    candidate, default = (np.exp([noise(side, n % 100) for n in range(200_000)]) for side in (True, False))
    if estimate.name == "mean":
        return float(candidate.mean() / default.mean())
    if estimate.name == "pairs":
        return float(np.exp(np.median(np.log(candidate) - np.log(default))))
    place = estimate.quantile or 0.5
    return float(np.quantile(candidate, place) / np.quantile(default, place))


def of_estimates(sessions: int) -> str:
    """Coverage of each quantity that can be asked for, over noise that treats both sides alike and that does not."""
    skewed = (noisier_candidate, noisier_default, opposite_skew, opposite_skew_turned, opposite_spikes)
    alike = (gaussian, drift, autoregressive, level_steps, outliers, bimodal, skewed_up, periodic)
    rows = []
    for kind in (*alike, *skewed):
        row: list[object] = [kind.__name__.replace("_", " ")]
        for name in ESTIMATES:
            estimate = estimates.estimate_of(name)
            ratio = 1.0 if kind in alike else truth(kind, estimate)
            held = 0
            for seed in range(sessions):
                found = verification("normal", 1.1, kind(np.random.default_rng([5, seed])), seed, estimate)
                held += found.low <= 1.1 * ratio <= found.high
            row.append(f"{100 * held / sessions:.1f} %")
        rows.append(row)
    runs = [2 * estimates.looks(estimates.estimate_of(n), "normal", TRUST["normal"].looks)[-1][0] for n in ESTIMATES]
    return table(["noise", *(f"{n} (at most {r} runs)" for n, r in zip(ESTIMATES, runs, strict=True))], rows)


def of_bounds(sessions: int) -> str:
    """How often a session recommends a configuration whose latency breaks its bound."""
    rows = []
    for level, default in itertools.product(TRUST, (20, 80)):
        broken = improved = over = 0
        with tempfile.TemporaryDirectory() as folder:
            store = Store(f"sqlite:///{folder}/s.db")
            for seed in range(sessions):
                target = Bounded(default, seed)
                plan = Plan(target="bounded", tuner="tpe", seed=seed, trust=level, require=("lat<=15",))
                session = Session.create(plan, f"s{seed}", store, target=target)
                verdict = session.run(trials=20)
                broken += target.latency(verdict.config) > 15 and verdict.config != session.space.default
                improved += verdict.improved
                over += len(verdict.passed_over)
            store.close()
        row = [level, "breaks it" if default == 80 else "keeps it", f"{100 * broken / sessions:.1f} %"]
        rows.append([*row, f"{100 * improved / sessions:.0f} %", f"{over / sessions:.1f}"])
    return table(["trust", "the default", "recommended in spite of the bound", "improved", "passed over"], rows)


def power(sessions: int) -> str:
    rows = []
    for noise, gain in itertools.product((0.03, 0.1, 0.2), (0.02, 0.05, 0.1)):
        row: list[object] = [f"{100 * noise:.0f} %", f"+{100 * gain:.0f} %"]
        for level in TRUST:
            shown = pairs = 0
            for seed in range(sessions):
                rng = np.random.default_rng([3, seed])
                found = verification(
                    level, 1 + gain, lambda candidate, n, rng=rng, noise=noise: rng.normal(0, noise), seed
                )
                shown += found.improved
                pairs += found.pairs
            row += [f"{100 * shown / sessions:.0f} %", f"{2 * pairs / sessions:.0f}"]
        rows.append(row)
    return table(
        ["noise of a run", "true gain", *(f"{level}: {w}" for level in TRUST for w in ("shown", "runs"))], rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=1000, help="verifications behind each figure")
    parser.add_argument("--bounded", type=int, default=200, help="whole sessions with a bound behind each figure")
    given = parser.parse_args()
    sessions, bounded = given.sessions, given.bounded
    error = 100 * 1.96 * math.sqrt(0.05 * 0.95 / sessions)
    rates = ", ".join(f"{100 * miss_rate(level.looks):.1f} % at {name}" for name, level in TRUST.items())
    publish(
        "verdicts",
        "Verdicts: how often the interval holds, and how often a gain is shown",
        f"python benchmarks/verdicts.py --sessions {sessions} --bounded {bounded}",
        f"""Simulated verifications by the rule that sessions use, {sessions:,} behind each figure (95 % of it: {error:.1f} points of
simulation error at a rate of 5 %). Whatever the noise is, the interval misses the truth in at most {rates}:
that is exact, because each pair's order is drawn by lot.

## A true gain of 10 % (does the interval hold it?) and none (is one shown falsely?)

{coverage(sessions)}

## Power: how often a true gain is shown, and how many runs that takes

{power(sessions)}

## What else can be estimated: how often its interval at normal holds a true ratio of 1.1

The last five kinds of noise treat candidate and default differently, so that the quantities differ, too.

{of_estimates(sessions)}

## A bound on the latency, in {bounded} sessions of 20 trials, where the best configurations lie at the bound

{of_bounds(bounded)}""",
    )


if __name__ == "__main__":
    main()
