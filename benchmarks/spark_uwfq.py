"""UWFQ against Spark's schedulers, as curves over load and heterogeneity: python benchmarks/spark_uwfq.py.

Mean response of small jobs (the smaller half) under UWFQ with runtime partitioning, over that under FIFO and fair pools, on
the same jobs; medians over seeds. Run times are known exactly, as in the paper's 74 %, and also expected from noisy and
learned estimates.
"""

from __future__ import annotations

import argparse

import numpy as np
from common import DATA, RESULTS, publish, table

from tunewright.envs.scheduling.spark import jobs as J
from tunewright.envs.scheduling.spark import simulate as M

CORES = 32
LOADS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
FACTORS = (1, 3, 10, 30, 100)
SEEDS = 5


def small(mix, **how):
    return M.metrics(M.simulate(mix, CORES, M.Options(**how)))["small_response_s"]["mean"]


def point(seeds, pool=(), **options):
    """Medians of (UWFQ with partitioning, without, fair with partitioning, FIFO with partitioning) over FIFO and over fair."""
    rows = []
    for seed in range(seeds):
        mix = J.generate(CORES, {"jobs": 600, **options}, seed, pool)
        fifo, fair = small(mix, policy="fifo"), small(mix, policy="fair")
        best = small(mix, policy="uwfq", partition_s=1.0)
        rows.append((
            1 - best / fifo, 1 - best / fair, 1 - small(mix, policy="uwfq") / fair, 1 - small(mix, policy="fair", partition_s=1.0) / fair,
            1 - small(mix, policy="uwfq", partition_s=1.0, estimates="noisy") / fair, 1 - small(mix, policy="uwfq", partition_s=1.0, estimates="learned") / fair,
        ))  # fmt: skip
    return np.median(rows, axis=0)


def percent(x):
    return f"{100 * x:.0f} %"


def fairness(seeds, **options):
    """Share of jobs that end more than a tenth later than under the fluid share, by policy."""
    found = {}
    for name, how in (
        ("FIFO", {"policy": "fifo"}), ("fair pools", {"policy": "fair"}), ("fair pools, partitioned", {"policy": "fair", "partition_s": 1.0}),
        ("UWFQ", {"policy": "uwfq"}), ("UWFQ, partitioned", {"policy": "uwfq", "partition_s": 1.0}),
    ):  # fmt: skip
        rows = [
            M.metrics(M.simulate(J.generate(CORES, {"jobs": 600, **options}, s), CORES, M.Options(**how)))
            for s in range(seeds)
        ]
        found[name] = [np.median([r[k] for r in rows]) for k in ("unfair_share", "unfair_delay_s", "fairness")] + [
            np.median([r["small_response_s"]["mean"] for r in rows])
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    given = parser.parse_args()
    heads = (
        "",
        "over FIFO",
        "over fair pools",
        "without partitioning",
        "partitioning without UWFQ",
        "noisy estimates",
        "learned estimates",
    )
    loads = [point(given.seeds, load=x) for x in LOADS]
    factors = [point(given.seeds, load=0.8, heavy_factor=x) for x in FACTORS]
    tasks = [point(given.seeds, load=0.8, heavy_factor=30, task_power=x) for x in (0.0, 0.3, 0.6, 0.9)]
    body = (
        "Reduction of the mean response time of small jobs; columns after the second are over fair pools. The paper reports up"
        " to 74 % with partitioning in heterogeneous workloads, over Spark's FIFO and fair schedulers.\n\n## Over load\n\n"
        + table(heads, [(f"load {x}", *map(percent, row)) for x, row in zip(LOADS, loads, strict=True)])
        + "\n\n## Over heterogeneity\n\nLoad 0.8; work of a heavy user's job over a small one's.\n\n"
        + table(heads, [(f"{x} times", *map(percent, row)) for x, row in zip(FACTORS, factors, strict=True)])
        + "\n\n## Over the length of tasks\n\nLoad 0.8, thirty times; tasks are as long as work^power, so large jobs' tasks block the cores the longer the higher it is.\n\n"
        + table(heads, [(f"power {x}", *map(percent, row)) for x, row in zip((0.0, 0.3, 0.6, 0.9), tasks, strict=True)])
    )
    extremes = {
        "load 0.8, tasks of 6 s, power 0.9": {"load": 0.8, "heavy_factor": 30, "task_power": 0.9, "task_s": 6},
        "load 0.7, tasks of 8 s": {"load": 0.7, "heavy_factor": 30, "task_s": 8},
        "load 0.95, power 0.9": {"load": 0.95, "heavy_factor": 30, "task_power": 0.9},
        "load 0.95, power 0.9, a hundred times": {"load": 0.95, "heavy_factor": 100, "task_power": 0.9},
    }
    most = [point(given.seeds, **options) for options in extremes.values()]
    body += "\n\n## Where it is most\n\nLong tasks, which block cores; thirty times unless said otherwise.\n\n" + table(
        heads, [(name, *map(percent, row)) for name, row in zip(extremes, most, strict=True)]
    )
    file = DATA / "sched/tpch_dags.json.gz"
    if file.exists():
        pool = J.tpch(file)
        measured = [point(given.seeds, pool=pool, load=x) for x in (0.5, 0.7, 0.9)]
        body += "\n\n## Measured jobs (TPC-H's DAGs)\n\n" + table(
            heads, [(f"load {x}", *map(percent, row)) for x, row in zip((0.5, 0.7, 0.9), measured, strict=True)]
        )
    body += "\n\n## Fairness\n\nLoad 0.8, thirty times.\n\n" + table(
        (
            "policy",
            "jobs that end over 10 % later than under the fluid share",
            "mean delay beyond it [s]",
            "Jain's index of the users' parts",
            "small jobs' mean response [s]",
        ),
        [
            (n, percent(v[0]), f"{v[1]:.2f}", f"{v[2]:.3f}", f"{v[3]:.2f}")
            for n, v in fairness(given.seeds, load=0.8, heavy_factor=30).items()
        ],
    )
    every = (*loads, *factors, *tasks, *most)
    body += (
        f"\n\nMost over FIFO: {percent(max(r[0] for r in every))}; most over both at once: {percent(max(min(r[0], r[1]) for r in every))}."
        "\n\n![Reduction over load and heterogeneity](spark_uwfq.svg)"
    )
    draw(loads, factors)
    publish(
        "spark_uwfq",
        "UWFQ with runtime partitioning against Spark's schedulers",
        f"python benchmarks/spark_uwfq.py --seeds {given.seeds}",
        body,
    )


def draw(loads, factors):
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, sides = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    for side, xs, rows, label in (
        (sides[0], LOADS, loads, "load"),
        (sides[1], FACTORS, factors, "work of a heavy user's job over a small one's"),
    ):
        for k, name in ((0, "over FIFO"), (1, "over fair pools"), (2, "over fair pools, without partitioning")):
            side.plot(xs, [100 * r[k] for r in rows], "o-", label=name)
        side.set_xlabel(label)
        side.grid(alpha=0.3)
    sides[1].set_xscale("log")
    sides[0].axhline(74, ls=":", color="grey")
    sides[1].axhline(74, ls=":", color="grey", label="74 % (paper, most)")
    sides[0].set_ylabel("small jobs' mean response\nlower by [%]")
    figure.legend(*sides[1].get_legend_handles_labels(), loc="upper center", ncol=4, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.93))
    figure.savefig(RESULTS / "spark_uwfq.svg")


if __name__ == "__main__":
    main()
