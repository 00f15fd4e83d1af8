"""How often a verdict's interval holds the truth, and how often a gain is shown: python benchmarks/verdicts.py.

The verification's own rule runs on simulated runs: a candidate that is better by a known ratio, under many kinds of
noise. ``--sessions N`` sets how many verifications each figure comes from.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable

import numpy as np
from common import publish, table

from tunewright.measuring.intervals import miss_rate
from tunewright.measuring.protocol import TRUST, verify
from tunewright.target import Measurement, Metric

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


KINDS = (
    gaussian, noisier_candidate, noisier_default, drift, random_walk, autoregressive, level_steps, outliers, bimodal,
    skewed_up, skewed_down, periodic,
)  # fmt: skip


def verification(level: str, ratio: float, noise: Noise, seed: int):
    """Verify a candidate that is better by a known ratio; returns the comparison."""
    count = itertools.count()

    def run(config, _):
        candidate = config is CANDIDATE
        value = 100 * (ratio if candidate else 1.0) * math.exp(noise(candidate, next(count)))
        return Measurement(values={"speed": value}, seconds=1.0)

    compared, _ = verify(run, CANDIDATE, DEFAULT, [SPEED], TRUST[level], seed)
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
    sessions = parser.parse_args().sessions
    error = 100 * 1.96 * math.sqrt(0.05 * 0.95 / sessions)
    rates = ", ".join(f"{100 * miss_rate(level.looks):.1f} % at {name}" for name, level in TRUST.items())
    publish(
        "verdicts",
        "Verdicts: how often the interval holds, and how often a gain is shown",
        f"python benchmarks/verdicts.py --sessions {sessions}",
        f"""Simulated verifications by the rule that sessions use, {sessions:,} behind each figure (95 % of it: {error:.1f} points of
simulation error at a rate of 5 %). Whatever the noise is, the interval misses the truth in at most {rates}:
that is exact, because each pair's order is drawn by lot.

## A true gain of 10 % (does the interval hold it?) and none (is one shown falsely?)

{coverage(sessions)}

## Power: how often a true gain is shown, and how many runs that takes

{power(sessions)}""",
    )


if __name__ == "__main__":
    main()
