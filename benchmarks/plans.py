"""Parallel plans: accuracy, speed, published numbers, tuners' regret: python benchmarks/plans.py [--part accuracy|speed|published|tuners].

The errors on held-out rows are printed by plans_fit.py and serving_fit.py, which this runs; everything goes to
docs/results/plans.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from common import DATA, publish, rehearse, table

from tunewright.envs.parallelism import (
    calibration,
    clusters,
    models,
    plans,
    search,
    serving,
    serving_load,
    serving_search,
)
from tunewright.envs.parallelism.check import check
from tunewright.envs.parallelism.estimate import RESULTS, estimate, estimate_numpy
from tunewright.envs.parallelism.target import PRESETS, open_train
from tunewright.envs.parallelism.training import Job
from tunewright.plugins import make_tuner
from tunewright.target import Budget
from tunewright.tuner import Problem

TIME, MEMORY = RESULTS.index("time_s"), RESULTS.index("memory_gb")
HERE = Path(__file__).parent


def job(model, cluster, seq, batch):
    nodes = clusters.load(cluster).nodes
    return Job(
        model=models.load(model),
        nodes=nodes,
        seq=seq,
        global_batch=batch,
        calibration=calibration.of_nodes(nodes.kind)[1],
    )


def accuracy():
    """Held-out errors, printed by the scripts that fit, and the errors of what is shipped on all rows."""
    parts = []
    for script in ("plans_fit.py", "serving_fit.py"):
        out = subprocess.run([sys.executable, HERE / script], capture_output=True, text=True, check=True).stdout
        parts.append("\n".join(line for line in out.splitlines() if line.startswith("|")))
    rows = []
    for name in (
        "megatron_a100_2021.csv",
        "korthikanti_a100_2022.csv",
        "bloom_sweep_fit.csv",
        "serving_silicon_fit.csv.gz",
    ):
        d = check(DATA / "parallelism" / name)
        kinds = [("time", d)] if d["kind"] == "training" else [("TPOT", d["tpot"]), ("TTFT", d["ttft"])]
        for what, e in kinds:
            more = ""
            if d.get("memory_error") is not None:
                more = f"regret {100 * d['top1_regret']:.1f} %, memory {100 * d['memory_error']:.1f} %, OOM recall {d['oom_recall']:.0%}, false alarms {d['oom_false_alarms']:.0%}"
            rows.append(
                [
                    name,
                    what,
                    d["count"],
                    f"{100 * e['mean_error']:.1f} %",
                    f"{100 * e['median_error']:.1f} %",
                    f"{100 * e['p90_error']:.1f} %",
                    f"{e['spearman']:.3f}",
                    more,
                ]
            )
    return (
        "## Held out\n\nSplits are those of `benchmarks/plan_split.py`, committed before anything was fitted. Constants that the"
        " tables cannot tell apart (attention's efficiency, element-wise traffic, the straggler factor …) were chosen once with"
        " all training tables in view; what is fitted for each row of this table is the rest.\n\n"
        + parts[0] + "\n\n" + parts[1]
        + "\n\n## What is shipped, on all rows\n\nIn sample: the shipped constants of training plans are fitted to all rows, those of serving"
        " plans to the rows that are not held out.\n\n"
        + table(["table", "what", "rows", "mean error", "median", "90th percentile", "Spearman", ""], rows)
    )  # fmt: skip


PUBLISHED = [
    # what, published TFLOP/s a GPU, job, plan, whether the published number counts recomputation
    ("Llama 3 405B, 8,192 H100, 8K", 430, ("llama3-405b", "h100:8192", 8192, 2048), {"tp": 8, "pp": 16, "dp": 64, "chunks": 8, "sequence_parallel": True}, False),
    ("Llama 3 405B, 16,384 H100, 8K", 400, ("llama3-405b", "h100:16384", 8192, 2048), {"tp": 8, "pp": 16, "dp": 128, "chunks": 8, "sequence_parallel": True}, False),
    ("Llama 3 405B, 16,384 H100, 131K", 380, ("llama3-405b", "h100:16384", 131072, 128), {"tp": 8, "cp": 16, "pp": 16, "dp": 8, "chunks": 8, "sequence_parallel": True}, False),
    ("Frontier 22B", 0.3838 * 191.5, ("frontier-22b", "mi250x:64", 2048, 512), {"tp": 2, "dp": 32, "recompute": "full"}, True),
    ("Frontier 175B", 0.3614 * 191.5, ("gpt3-175b", "mi250x:1024", 2048, 10240), {"tp": 4, "pp": 16, "dp": 16, "recompute": "full"}, True),
    ("Frontier 1T", 0.3196 * 191.5, ("megatron-1t", "mi250x:3072", 2048, 9600), {"tp": 8, "pp": 64, "dp": 6, "recompute": "full"}, True),
]  # fmt: skip


# the report on DeepSeek-V3: 180,000 H800 hours for 10^12 tokens, so tokens a second and GPU
DEEPSEEK = ("DeepSeek-V3, 2,048 H800", 1e12 / (180e3 * 3600), ("deepseek-v3", "h800:2048", 4096, 15360), {"pp": 16, "dp": 128, "ep": 64, "precision": "fp8"}, False)  # fmt: skip


def published():
    rows = []
    for what, measured, given, degrees, counted in [*PUBLISHED, DEEPSEEK]:
        j = job(*given)
        if what == DEEPSEEK[0]:
            measured *= j.model_flops / (j.seq * j.global_batch) / 1e12
        plan = plans.Plan(**{"micro_batch": 1, "zero": 1, **degrees})
        assert not plans.problems(plan, j), plans.problems(plan, j)
        out = estimate_numpy(j.numbers, plan.row[None])[0]
        got = j.model_flops / out[TIME] / j.nodes.gpus / 1e12 * (search.hardware_share(j, plan) if counted else 1.0)
        rows.append(
            [
                what,
                plan.short,
                f"{measured:.0f}",
                f"{got:.0f}",
                f"{100 * (got / measured - 1):+.1f} %",
                f"{out[MEMORY]:.0f} of {j.nodes.memory_gb:.0f} GB",
            ]
        )
    text = (
        "## Published numbers\n\nThe efficiency of matrix products was set by the first row of each family; the others are predicted,"
        " DeepSeek-V3's with the constants set by Llama's first row. Interleaving (Llama), the plans on Frontier, and what"
        " DeepSeek-V3 computes again to save memory are not published in full and are assumed, or left out.\n\n"
    )
    return text + table(["run", "plan", "published TFLOP/s a GPU", "predicted", "off by", "predicted memory"], rows)


def speed():
    rows = []
    j = job("megatron-1t", "a100:3072", 2048, 3072)
    many = np.concatenate(list(plans.enumerate_plans(job("mixtral-8x7b", "h100:512", 4096, 4096))))[:200_000]
    buffer = np.empty((len(many), len(RESULTS)))
    estimate(j.numbers, many[:1])
    for name, call in (
        ("Numba, one core", lambda: estimate(j.numbers, many, buffer)),
        ("NumPy, one core", lambda: estimate_numpy(j.numbers, many)),
    ):
        times = []
        for _ in range(7):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        rows.append(
            [
                f"training plans estimated, {name}",
                f"{len(many) / statistics.median(times) / 1e6:.1f} M/s",
                "10 M/s" if "Numba" in name else "1 M/s",
            ]
        )
    for label, given in (
        ("whole search, 1T on 3,072 A100", ("megatron-1t", "a100:3072", 2048, 3072)),
        ("whole search, DeepSeek-V3 on 2,048 H100", ("deepseek-v3", "h100:2048", 4096, 15360)),
    ):
        found = [search.search(job(*given)) for _ in range(7)]
        rows.append(
            [f"{label} ({found[0].counted:,} plans)", f"{statistics.median(f.seconds for f in found):.3f} s", "1 s"]
        )
    sv = serving.Service(model=models.load("llama3-70b"), nodes=clusters.load("h100:256").nodes)
    load = serving.Load(rate=200.0, isl=3000, osl=300, ttft_s=2.0, tpot_s=0.05)
    found = [serving_search.search(sv, load) for _ in range(7)]
    rows.append(
        [
            f"whole serving search, Llama 3 70B on 256 H100 ({found[0].counted:,} plans)",
            f"{statistics.median(f.seconds for f in found):.3f} s",
            "2 s",
        ]
    )
    return "## Speed\n\nMedians of seven.\n\n" + table(["what", "measured", "bar"], rows)


def heuristics():
    """Serving plans beside the heuristic that APEX compares with, at the load that it can just carry."""
    rows = []
    loads = {
        "chat, 1000 in, 300 out": (1000, 300),
        "summary, 6000 in, 250 out": (6000, 250),
        "reasoning, 800 in, 4000 out": (800, 4000),
    }
    for model, cluster in (
        ("llama3-8b", "h100:16"),
        ("llama3-70b", "h100:16"),
        ("mixtral-8x22b", "h100:16"),
        ("qwen3-235b-a22b", "h200:32"),
        ("deepseek-v3", "h200:64"),
    ):
        for words, (isl, osl) in loads.items():
            sv = serving.Service(model=models.load(model), nodes=clusters.load(cluster).nodes)
            kind = "bf16" if model in ("llama3-8b", "llama3-70b", "mixtral-8x22b") else "fp8"
            load = serving.Load(rate=1.0, isl=isl, osl=osl, ttft_s=3.0, tpot_s=0.06)
            plan = serving_search.baselines(sv, load, kind)["apex"]
            if plan is None:
                continue
            theirs = serving_load.capacity(sv, load, plan)
            if theirs <= 0:
                rows.append([model, cluster, words, plan.short, "-", "-", "the rule misses the limits"])
                continue
            # the most that any plan of the whole cluster carries: search at rising rates
            best, low, high = plan, theirs, theirs
            for _ in range(14):
                at = serving.Load(rate=high * 1.3, isl=isl, osl=osl, ttft_s=3.0, tpot_s=0.06)
                found = serving_search.search(sv, at, wanted=(kind,))
                k = int(serving_search.rank(found, at)[0])
                if not serving_load.meets(found.values[k], at):
                    break
                best, high = found.plan(k), at.rate
            low = max(serving_load.capacity(sv, load, best), theirs)
            rows.append([model, cluster, words, plan.short, best.short, f"{theirs:.1f}", f"{low / theirs:.2f}×"])
    text = (
        "## Serving plans beside a heuristic\n\nRequests a second that the whole cluster carries within 3 s and 60 ms: APEX's heuristic"
        " plan (tensor parallelism over a node, replicas for the rest) and the best plan in the same precision. APEX reports up to"
        " 3.37×, on other GPUs and engines.\n\n"
    )
    return text + table(["model", "cluster", "load", "heuristic", "best", "heuristic carries [1/s]", "gain"], rows)


def regret_of(target, name, seed, best, trials=30):
    """Time of the best plan that a tuner found over the best there is, after each number of trials."""
    problem = Problem(
        space=target.space, metrics=target.metrics, objectives=["time"], seed=seed, workload="plain", about=target.workloads["plain"],
        workloads=("plain",), facts=target.facts,
    )  # fmt: skip
    tuner = make_tuner(name, problem)[1]
    found, left = [], np.inf

    def computed(config, step):
        return target.measure(config, workload="plain", seed=0, budget=Budget(workdir=Path(".")))

    for trial in rehearse(tuner, target.space, trials, seed, computed, budgeted=True):
        if trial.ok:
            left = min(left, trial.scores["time"])
        found.append(left / best)
    return found


def tuners(seeds):
    rows = []
    for name in ("llama3-8b", "mixtral", "bloom", "llama3-405b"):
        target = open_train(name, {})
        overlap = plans.Choices(overlap=("none", "data", "all"))
        found = search.search(target.job, overlap)
        best = float(found.values[0, TIME])
        default = regret_of(target, "default", 0, best, 1)[0]
        row = [f"{name}: {PRESETS[name].about}", f"{found.counted:,}", f"{default:.3f}"]
        for tuner in ("random", "tpe", "gp", "hybrid"):
            runs = [regret_of(target, tuner, seed, best) for seed in range(seeds)]
            row.append(f"{statistics.median(r[-1] for r in runs):.3f}")
            print(name, tuner, row[-1], flush=True)
        rows.append(row)
    heads = ["job", "plans", "Megatron's rule", "random", "TPE", "GP", "hybrid"]
    return (
        f"## Tuners against enumeration\n\nTime of the best plan after 30 trials over that of the best of all, median of {seeds} seeds; trials begin with Megatron's rule.\n\n"
        + table(heads, rows)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("accuracy", "speed", "published", "heuristics", "tuners"))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    parts = {
        "accuracy": accuracy,
        "published": published,
        "speed": speed,
        "heuristics": heuristics,
        "tuners": lambda: tuners(options.seeds),
    }
    if options.part:
        print(parts[options.part]())
        return
    publish(
        "plans",
        "Parallel plans: accuracy, published numbers, speed, tuners",
        "python benchmarks/plans.py",
        "\n\n".join(p() for p in parts.values()),
    )


if __name__ == "__main__":
    main()
