"""Fits the constants of the training model: python benchmarks/plans_fit.py [--write].

Prints the error on the rows held out by plan_split.py, and with --write puts the constants fitted to all rows into
envs/parallelism/presets/calibrations.toml.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import tomli_w
from common import DATA, table
from plan_split import bloom_half
from scipy.optimize import least_squares

from tunewright.envs.parallelism.cases import shape_of, training_case
from tunewright.envs.parallelism.estimate import estimate_numpy
from tunewright.envs.parallelism.measured import errors, read, regret
from tunewright.envs.parallelism.training import Calibration

# chosen with all tables in view, and then kept: the tables cannot tell them from those that are fitted
SHARED = {
    "attention": 0.8, "straggler": 0.015, "fused": False, "softmax": 6.0, "elementwise": 12.0, "optimizer_bytes": 30.0,
    "weight_bytes": 2.0, "gradient_bytes": 2.0, "work_bytes": 35.0, "logit_bytes": 15.0, "latency_s": 1e-5,
    "rails": False,
}  # fmt: skip
BOUNDS = {
    "gemm": (0.4, 0.98), "overhead_s": (0.0, 0.03), "link": (0.2, 0.95), "fabric": (0.2, 3.2), "odd_head": (1.0, 40.0),
    "reserved_gb": (2.0, 20.0),
}  # fmt: skip


def rows_of(name):
    _, rows = read(DATA / "parallelism" / name)
    return [(row, *training_case(row)) for row in rows]


def predicted(cases, calibrations):
    """Times [s] and memory [GB] under a calibration for each case."""
    out = [
        estimate_numpy(replace(job, calibration=calibrations(row)).numbers, plan[None])[0]
        for row, job, plan, _ in cases
    ]
    return np.array([o[0] for o in out]), np.array([o[10] for o in out])


def fit(cases, names, make, start, weight=0.1):
    """Least squares of the logarithm of times, with a weak pull to the start."""
    measured = np.array([c[3] for c in cases])
    low, high = (np.array([BOUNDS[n.split(":")[0]][k] for n in names]) for k in (0, 1))
    x0 = (np.array([start[n] for n in names]) - low) / (high - low)

    def off(x):
        values = dict(zip(names, low + x * (high - low), strict=True))
        times, _ = predicted(cases, lambda row: make(values, row))
        return np.concatenate([np.log(times / measured), weight * (x - x0)])

    found = least_squares(off, x0, bounds=(0, 1), loss="soft_l1", f_scale=0.05, diff_step=1e-3)
    return dict(zip(names, (float(v) for v in low + found.x * (high - low)), strict=True))


def a100(values, row):
    return Calibration(**SHARED, **values)


A100 = {"gemm": 0.85, "overhead_s": 0.003}


def jean_zay(values, row):
    epoch = int(row.value("epoch"))
    values = dict(values)
    overhead = {k: values.pop(f"overhead_s:{k}") for k in (1, 2, 3)}
    more = {"embedding_slots": True, "gradient_bytes": 6.0} if epoch == 3 else {}
    return Calibration(**{**SHARED, "reserved_gb": 9.7, **values, "overhead_s": overhead[epoch], **more})


JEAN_ZAY = {
    "gemm": 0.8, "link": 0.6, "fabric": 1.0, "odd_head": 15.0, "overhead_s:1": 0.012, "overhead_s:2": 0.009,
    "overhead_s:3": 0.011,
}  # fmt: skip


def memory_error(cases, calibrations):
    """Mean relative error of the memory, of rows that say it; its constants were chosen with all rows in view."""
    _, memory = predicted(cases, calibrations)
    off = [abs(m / c[0].value("mem_gb") - 1) for m, c in zip(memory, cases, strict=True) if c[0].has("mem_gb")]
    return f"{100 * np.mean(off):.1f} %" if off else "-"


def score(cases, calibrations):
    times, _ = predicted(cases, calibrations)
    rows = [
        {"measured": c[3], "predicted": t, "error": t / c[3] - 1, "group": shape_of(c[0])}
        for c, t in zip(cases, times, strict=True)
    ]
    return errors(rows), regret(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    lines, entries = [], {}

    def told(name, cases, calibrations):
        e, (lost, groups) = score(cases, calibrations)
        lines.append([
            name, len(cases), f"{100 * e['mean_error']:.1f} %", f"{100 * e['p90_error']:.1f} %", f"{e['spearman']:.2f}",
            f"{100 * lost:.1f} % ({groups})" if groups else "-", memory_error(cases, calibrations),
        ])  # fmt: skip
        print(lines[-1])

    papers = {
        "Megatron 2021": rows_of("megatron_a100_2021.csv"),
        "Korthikanti 2022": rows_of("korthikanti_a100_2022.csv"),
    }
    for name, cases in papers.items():
        others = [c for n, cs in papers.items() if n != name for c in cs]
        values = fit(others, list(A100), a100, A100)
        told(f"{name}, constants from the other paper", cases, lambda row, v=values: a100(v, row))
    values = fit([c for cs in papers.values() for c in cs], list(A100), a100, A100)
    entries["a100"] = {
        "kinds": ["a100"], **SHARED, **values, "reserved_gb": 5.0,
        "source": "gemm and overhead_s fitted to Narayanan et al. 2021, Table 1 and Korthikanti et al. 2022, Table 5; reserved_gb assumed",
    }  # fmt: skip
    for name, cases in papers.items():
        told(f"{name}, constants from both", cases, lambda row, v=values: a100(v, row))

    sweep = [c for c in rows_of("bloom_sweep_fit.csv") if c[3] is not None]
    from_other = {}
    for half in (0, 1):
        mine = [c for c in sweep if bloom_half(int(c[0].value("source_line"))) == half]
        other = [c for c in sweep if bloom_half(int(c[0].value("source_line"))) != half]
        values = fit(mine, list(JEAN_ZAY), jean_zay, JEAN_ZAY)
        print({k: round(v, 4) for k, v in values.items()})
        told(
            f"BLOOM sweep, half {1 - half}, constants from the other half",
            other,
            lambda row, v=values: jean_zay(v, row),
        )
        from_other[1 - half] = values
    told(
        "BLOOM sweep, both halves, each with the other's constants",
        sweep,
        lambda row: jean_zay(from_other[bloom_half(int(row.value("source_line")))], row),
    )
    values = fit(sweep, list(JEAN_ZAY), jean_zay, JEAN_ZAY)
    told("BLOOM sweep, constants from all of it", sweep, lambda row, v=values: jean_zay(v, row))
    for epoch in (1, 2, 3):
        row = next(c[0] for c in sweep if int(c[0].value("epoch")) == epoch)
        found = jean_zay(values, row)
        entries[f"jean-zay-{epoch}"] = {
            **({"kinds": ["jean-zay"]} if epoch == 3 else {}),
            **{k: getattr(found, k) for k in (*SHARED, "gemm", "link", "fabric", "odd_head", "overhead_s", "reserved_gb", "embedding_slots")},
            "source": f"fitted to the BLOOM sweep on Jean Zay, epoch {epoch}; memory too",
        }  # fmt: skip
    print({k: round(v, 4) for k, v in values.items()})
    heads = [
        "rows",
        "number",
        "mean error",
        "90th percentile",
        "Spearman",
        "regret of the first (shapes)",
        "memory error",
    ]
    print(table(heads, lines))
    if options.write:
        path = Path(__file__).parents[1] / "envs" / "parallelism" / "presets" / "calibrations.toml"
        kept = path.read_text(encoding="utf-8").partition("# by hand")[2]
        text = (
            "# Written by benchmarks/plans_fit.py --write; what stands below the mark is by hand.\n\n"
            + tomli_w.dumps(entries)
        )
        path.write_text(text + "\n# by hand" + kept, encoding="utf-8")


if __name__ == "__main__":
    main()
