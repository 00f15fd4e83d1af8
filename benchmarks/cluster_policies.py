"""Policies on traces of real clusters, and keep-alive of functions: python benchmarks/cluster_policies.py."""

from __future__ import annotations

import argparse
import csv
import gzip

import numpy as np
from common import DATA, publish, table

from tunewright.envs.scheduling.cluster import jobs as J
from tunewright.envs.scheduling.cluster import serverless as F
from tunewright.envs.scheduling.cluster import simulate as M

TRACES = (
    ("philly.csv.gz", 8000, 0.9),
    ("NASA-iPSC-1993-3.1-cln.swf.gz", 18_239, 0.8),
    ("surf_week/tasks.parquet", 6295, 0.9),
    ("disaggregated_DLRM_trace.csv.gz", 5000, 0.9),
)


def policies(jobs, where):
    rows = []
    for name in M.POLICIES:
        o = M.simulate(jobs, where, M.policy(name))
        m = M.metrics(o)
        rows.append((
            name, f"{m['wait_s']['mean'] / 60:,.1f}", f"{m['wait_s']['p90'] / 60:,.1f}", f"{m['bounded_slowdown']['mean']:,.1f}", f"{m['response_s']['mean'] / 3600:,.2f}",
            f"{100 * m['utilisation']:.0f} %", m["preemptions"], m["migrations"], f"{o.seconds:.2f}",
        ))  # fmt: skip
    return table(
        (
            "policy",
            "mean wait [min]",
            "90th percentile",
            "bounded slowdown",
            "mean response [h]",
            "utilisation",
            "preemptions",
            "moved",
            "simulated in [s]",
        ),
        rows,
    )


ORDERS = 3
PODS = {"as recorded": "openb_pod_list_default.csv.gz", "more with several GPUs": "openb_pod_list_multigpu50.csv.gz"}


def pods(path):
    """What each pod needs; some lists say nothing of times."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    taken = {"gpus": "num_gpu", "milli": "gpu_milli", "cpu": "cpu_milli", "memory": "memory_mib"}
    columns = {n: np.array([int(r[c] or 0) for r in rows]) for n, c in taken.items()}
    columns["milli"][columns["gpus"] == 0] = 0
    columns["milli"][columns["gpus"] > 1] = M.state.WHOLE
    return columns


def filled(jobs, where, placement, seed):
    """Pods drawn in random order stay until nothing more fits; returns GPUs given out, and how many pods run."""
    rng = np.random.default_rng(seed)
    wanted = int(where.gpus.sum() * 1.3)
    pick = rng.choice(len(jobs["gpus"]), 30_000)
    pick = pick[: int(np.searchsorted(np.cumsum((jobs["gpus"] * jobs["milli"])[pick] / 1000), wanted))]
    rows = {"submit_s": np.arange(len(pick)), "run_s": np.full(len(pick), 1e7)}
    rows |= {n: column[pick] for n, column in jobs.items()}
    o = M.simulate(J.jobs_of("openb", rows), where, M.Policy(placement=placement, refuse=True))
    found = o.systems.jobs[0]
    runs = found["phase"] == M.state.DONE
    return float((found["gpus"] * found["milli"])[runs].sum()) / 1000, int(runs.sum())


def saturation(folder):
    """GPUs that are left over, by placement."""
    where, parts = J.nodes(str(folder / "openb_node_list_gpu_node.csv")), []
    total = int(where.gpus.sum())
    for what, file in PODS.items():
        jobs, rows = pods(folder / file), []
        made = {p: [filled(jobs, where, p, seed) for seed in range(ORDERS)] for p in M.PLACEMENTS}
        least = total - np.mean([used for used, _ in made["fragmentation"]])
        for placement, found in made.items():
            used = np.mean([u for u, _ in found])
            fewer = 1 - least / (total - used)
            rows.append((
                placement, f"{used:,.0f}", f"{total - used:,.0f}", f"{100 * used / total:.1f} %", f"{np.mean([n for _, n in found]):,.0f}",
                "" if placement == "fragmentation" else f"{100 * fewer:.0f} %",
            ))  # fmt: skip
        heads = (
            "placement",
            "GPUs given out",
            "left over",
            "share",
            "pods that found a place",
            "fewer left over with fragmentation",
        )
        parts.append(f"Pods {what}:\n\n" + table(heads, rows))
    return "\n\n".join(parts)


def functions():
    rows = []
    x = F.generate({"functions": 400, "hours": 12}, seed=1)
    for policy, keep in (
        ("none", 0),
        ("fixed", 300),
        ("fixed", 600),
        ("fixed", 1200),
        ("fixed", 3600),
        ("histogram", 300),
        ("histogram", 600),
        ("histogram", 1200),
    ):
        m = F.simulate(x, policy, keep)
        rows.append(
            (
                policy,
                f"{keep / 60:.0f}",
                f"{100 * m['cold_share']:.2f} %",
                f"{100 * m['per_function']['p50']:.1f} %",
                f"{100 * m['per_function']['p75']:.1f} %",
                f"{m['wait_s']['mean'] * 1e3:.0f}",
                f"{m['idle_gb_s'] / 3600:,.0f}",
            )
        )
    return table(
        (
            "policy",
            "keep-alive [min]",
            "cold starts",
            "median function",
            "75th percentile of functions",
            "mean wait [ms]",
            "idle memory [GB h]",
        ),
        rows,
    )


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    parts = []
    for name, count, load in TRACES:
        path = DATA / "sched" / name
        if path.exists():
            jobs = J.read(path).first(count)
            where = J.nodes("cpu:128" if "NASA" in name else "auto", jobs, load)
            if "NASA" in name:  # its own machine, arrivals denser
                jobs = jobs.faster(load * 128 / jobs.demand())
            parts.append(f"## {name}: {len(jobs):,} jobs on {where.words} (load {load})\n\n" + policies(jobs, where))
            print(parts[-1], flush=True)
    if (DATA / "sched/openb_pod_list_default.csv.gz").exists():
        parts.append(
            "## Placement until nothing more fits\n\nPods of Alibaba's GPU cluster, drawn in random order, stay on its 1,213 nodes with"
            f" GPUs; those that do not fit are refused. More is asked for than there is. Means of {ORDERS} orders. FGD's paper reports that"
            " fragmentation-aware placement leaves up to 49 % fewer GPUs over than other packing [B]; its best fit weighs all"
            " resources, as `best-all` does; `best` packs by GPUs alone.\n\n" + saturation(DATA / "sched")
        )
    parts.append(
        "## Functions that start cold\n\n400 generated functions over twelve hours. Shahrad et al. report that the histogram gives as few cold starts as a longer keep-alive, with less memory.\n\n"
        + functions()
    )
    publish(
        "cluster_policies",
        "Cluster policies on real traces",
        "python benchmarks/cluster_policies.py",
        "\n\n".join(parts),
    )


if __name__ == "__main__":
    main()
