"""Coverage of the intervals that tournaments print: python benchmarks/compare_coverage.py [--draws 20000].

Final values of 2 to 20 seeds are drawn from shapes that tuners really give: skewed, heavy-tailed, piled up at the optimum,
with games that fail. Counted is how often each method's nominal 95 % interval holds what it estimates. The percentile
bootstrap of the mean of the middle half, stratified by target, is what tournaments printed before; Student's interval of
the mean is beside it. Then: how often tests at 5 % tell equal tuners apart, and how often unequal ones.
"""

from __future__ import annotations

import argparse

import numpy as np
from common import publish, table
from scipy import stats

from tunewright.comparing.statistics import (
    LEVEL,
    aligned_ranks,
    blocks_needed,
    median_interval,
    rank_test,
    ranked,
    share_interval,
)

SEEDS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20)
#: final values of one game: a generator's method and its arguments, or a mixture
SHAPES = {
    "normal": lambda rng, size: rng.normal(size=size),
    "exponential": lambda rng, size: rng.exponential(size=size),
    "exponential, to the left": lambda rng, size: -rng.exponential(size=size),
    "log-normal, sigma 1.5": lambda rng, size: rng.lognormal(0, 1.5, size),
    "Student's t, 2 degrees": lambda rng, size: rng.standard_t(2, size),
    "Pareto, index 1.1": lambda rng, size: rng.pareto(1.1, size),
    "U-shaped, beta(0.3, 0.5)": lambda rng, size: rng.beta(0.3, 0.5, size),
    "a fifth of games fail": lambda rng, size: np.where(rng.random(size) < 0.2, 0.0, rng.beta(8, 2, size)),
    "40 % at the optimum": lambda rng, size: np.where(rng.random(size) < 0.4, 1.0, rng.beta(2, 2, size)),
    "two hills": lambda rng, size: np.where(rng.random(size) < 0.55, rng.normal(0, 1, size), rng.normal(8, 1, size)),
}


def bootstrapped(rng, draws, repeats=400):
    """Percentile bootstrap of the mean of the middle half; shape of draws (rows, seeds)."""
    low, high = [], []
    for part in np.array_split(draws, max(len(draws) // 500, 1)):
        picked = part[
            np.arange(len(part))[:, None, None], rng.integers(draws.shape[1], size=(len(part), repeats, draws.shape[1]))
        ]
        values = stats.trim_mean(picked, 0.25, axis=2)
        ends = np.quantile(values, [LEVEL / 2, 1 - LEVEL / 2], axis=1)
        low.append(ends[0])
        high.append(ends[1])
    return np.concatenate(low), np.concatenate(high)


def students(draws):
    count = draws.shape[1]
    half = stats.t.ppf(1 - LEVEL / 2, count - 1) * draws.std(axis=1, ddof=1) / np.sqrt(count)
    return draws.mean(axis=1) - half, draws.mean(axis=1) + half


def covered(ends, truth):
    low, high = ends
    return float(np.mean((low - 1e-12 <= truth) & (truth <= high + 1e-12))) if np.isfinite(low).all() else float("nan")


def medians(seed, draws):
    """Coverage of the median's interval, the bootstrap's and Student's for each shape and number of seeds."""
    rng, rows = np.random.default_rng(seed), []
    for name, shape in SHAPES.items():
        many = shape(rng, 2_000_000)
        middle, mean, trimmed = np.median(many), many.mean(), None
        few = max(draws // 10, 200)
        for count in SEEDS:
            drawn = shape(rng, (draws, count))
            # what the bootstrap estimates depends on the number of seeds: the trimmed mean's own expectation
            trimmed = stats.trim_mean(shape(rng, (100_000, count)), 0.25, axis=1).mean()
            rows.append(
                (name, count, covered(median_interval(drawn), middle),
                 covered(bootstrapped(rng, drawn[:few]), trimmed), covered(students(drawn), mean))
            )  # fmt: skip
    return rows


def shares(seed, draws):
    """Coverage of the interval of a share over targets that agree within a seed in part, or altogether."""
    rng, rows = np.random.default_rng(seed), []
    for targets, chances, alike in (
        (1, [0.1], 0.0), (1, [0.5], 0.0), (1, [0.9], 0.0), (5, [0.1, 0.3, 0.5, 0.7, 0.9], 0.0), (5, [0.8] * 5, 1.0),
        (5, [0.5] * 5, 0.5), (9, [0.95] * 9, 0.7),
    ):  # fmt: skip
        for count in SEEDS:
            own, common = rng.random((draws, count, targets)), rng.random((draws, count, 1))
            drawn = np.where(rng.random((draws, count, 1)) < alike, common, own) < np.array(chances)
            got = covered(share_interval(drawn.mean(axis=2)), np.mean(chances))
            rows.append((targets, f"{min(chances):g} to {max(chances):g}", f"{alike:.0%}", count, got))
    return rows


def tests(seed, draws):
    """Share of tournaments in which the tests tell equal tuners apart, and one that is better by a standard deviation."""
    rng, rows = np.random.default_rng(seed), []
    for tuners in (2, 3, 7):
        for blocks in (3, 6, 10, 20):
            if blocks < blocks_needed(tuners):
                continue
            wrong = right = overall = seen = 0
            for _ in range(draws):
                noise = rng.standard_t(2, (blocks, tuners)) + 5 * rng.normal(size=(blocks, 1))
                better = noise + np.eye(tuners)[0]
                wrong += rank_test(aligned_ranks(noise)).p < LEVEL
                right += rank_test(aligned_ranks(better)).p < LEVEL
                # blocks as targets, three seeds each, units of all magnitudes
                units = 10.0 ** rng.uniform(-3, 3, (blocks, 1))
                for up in (0.0, 1.0):
                    three = [(rng.standard_t(2, (blocks, tuners)) + up * np.eye(tuners)[0]) * units for _ in range(3)]
                    means = np.mean([[ranked(row) for row in one] for one in three], axis=0)
                    found = rank_test(means).p < LEVEL
                    overall, seen = overall + (found and not up), seen + (found and bool(up))
            rows.append((tuners, blocks, wrong / draws, right / draws, overall / draws, seen / draws))
    return rows


def percent(value):
    return "–" if value != value else f"{100 * value:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=3000)
    given = parser.parse_args()
    found = medians(1, given.draws)
    heads = ["shape", *(f"{n}" for n in SEEDS)]
    blocks = []
    for title, place in (
        ("Interval of the median from order statistics: what tournaments print from six seeds on", 2),
        ("Percentile bootstrap of the mean of the middle half: what they printed before", 3),
        ("Student's interval of the mean, for comparison", 4),
    ):
        rows = [(name, *(percent(r[place]) for r in found if r[0] == name)) for name in SHAPES]
        blocks.append(f"{title}; coverage in % by number of seeds.\n\n{table(heads, rows)}")
    kinds = shares(2, given.draws)
    parts = dict.fromkeys(r[:3] for r in kinds)
    rows = [(*part, *(percent(r[4]) for r in kinds if r[:3] == part)) for part in parts]
    blocks.append(
        "Interval of a share (games within 5 % of the best, games won, performance profile), a seed being the unit;"
        " coverage in % by number of seeds. \"Alike\" is how often the targets of one seed share one draw.\n\n"
        + table(["targets", "chances", "alike", *(f"{n}" for n in SEEDS)], rows)
    )  # fmt: skip
    rows = [(t, b, *(percent(v) for v in rest)) for t, b, *rest in tests(3, max(given.draws // 40, 50))]
    blocks.append(
        "Tests at 5 %: how often they tell tuners apart, in %. Values have Student's t with 2 degrees, blocks differ by five"
        " times their spread; one tuner is better by 1. Over targets each has three seeds and a unit of its own, from 0.001"
        " to 1,000.\n\n"
        + table(
            ["tuners", "seeds or targets", "one target: equal", "one better", "over targets: equal", "one better"], rows
        )
    )
    body = "\n\n".join(blocks)
    publish("compare_coverage", "Coverage of a tournament's intervals", "python benchmarks/compare_coverage.py", body)


if __name__ == "__main__":
    main()
