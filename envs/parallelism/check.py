"""``tunewright plan check``: predictions beside measured plans."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.envs.parallelism import clusters, models, steptime
from tunewright.envs.parallelism.calibration import calibration
from tunewright.envs.parallelism.cases import fields, shape_of, training_case
from tunewright.envs.parallelism.estimate import estimate_one
from tunewright.envs.parallelism.measured import Row, errors, finite, ignored, read, regret
from tunewright.envs.parallelism.serving_cases import Served, served
from tunewright.envs.parallelism.serving_load import first_token_s, unknown_batch
from tunewright.errors import ConfigError


def check(path: Path, name: str = "") -> dict[str, Any]:
    """Compare predictions with a table of measured plans.

    Args:
        path: CSV, plain or gzipped; docs/parallelism.md says which columns.
        name: calibration to use instead of each row's own (training).

    Returns:
        ``rows`` and the errors as fractions; see ``_training`` and ``_serving``.

    Raises:
        ConfigError: the table cannot be read, or a row is impossible.
    """
    kind, rows = read(path)
    return {"file": str(path), "kind": kind, **(_training(rows, name) if kind == "training" else _serving(rows))}


def _training(rows: list[Row], name: str) -> dict[str, Any]:
    plans: list[dict[str, Any]] = []
    for row in rows:
        job, plan, measured = training_case(row)
        if name:
            job = replace(job, calibration=calibration(name))
        out = estimate_one(job, plan)
        entry: dict[str, Any] = {
            "line": row.number,
            "group": shape_of(row),
            "plan": fields(plan),
            "measured": measured,
            "predicted": finite(row, out.time_s),
            "memory_gb": out.memory_gb,
            "measured_memory_gb": row.value("mem_gb") if row.has("mem_gb") else None,
            "oom": measured is None,
            "predicted_oom": out.memory_gb > job.nodes.memory_gb,
        }
        entry["error"] = entry["predicted"] / measured - 1 if measured else None
        plans.append(entry)
    timed = [one for one in plans if one["measured"]]
    lost, groups = regret(timed)
    memory = [abs(one["memory_gb"] / one["measured_memory_gb"] - 1) for one in timed if one["measured_memory_gb"]]
    ran_out = [one for one in plans if one["oom"]]
    return {
        "count": len(plans), **errors(timed), "top1_regret": lost, "regret_groups": groups,
        "memory_error": float(np.mean(memory)) if memory else None,
        "oom_recall": sum(one["predicted_oom"] for one in ran_out) / len(ran_out) if ran_out else None,
        "oom_false_alarms": sum(one["predicted_oom"] for one in timed) / len(timed) if timed else None,
        "ignored": ignored(rows), "model_names_only": any(row.has("model") for row in rows), "rows": plans,
    }  # fmt: skip


def predict_served(case: Served) -> tuple[float, float]:
    """Return predicted times to the first and of each further token of a measured serving plan [s]."""
    nodes = clusters.load(f"{case.kind}:{max(case.gpus, case.prefill_gpus):.0f}").nodes
    stack, shape = steptime.stack_of(case.backend, case.kind), steptime.shape_of(models.load(case.model))
    size, speed, four = steptime.precision_of(case.precision, case.kind)
    more = {"weight_bytes": size, "speed": speed, "four": four, "cache_bytes": steptime.cache_bytes_of(case.precision)}
    raw = steptime.engine(shape, nodes, stack, gpus=case.gpus, ranks=case.ranks, **more)
    key = (case.backend, case.model, case.kind, case.precision, case.mode, case.version)
    engine = steptime.corrected(raw, steptime.step_factors(*key))
    apart, data = case.mode == "disagg", steptime.constants()
    if case.workers_known:
        batch = min(case.batch, stack.most * case.ranks)
    else:
        batch = float(unknown_batch(case.batch, case.isl, case.osl, data["unknown"]))
    if apart:
        tpot = steptime.decode_s(engine, batch, case.isl + 0.5 * case.osl) * (
            1.0 if case.workers_known else data["unknown"]["faster"]
        )
        stack = replace(stack, first_prefill=data["disagg"]["prefill"], wave=data["disagg"]["wave"])
        prefill = steptime.prefill_s(steptime.engine(shape, nodes, stack, gpus=case.prefill_gpus, **more), case.isl)
    else:
        tpot, prefill = steptime.tpot_s(engine, batch, case.isl, case.osl), steptime.prefill_s(raw, case.isl)
    return float(first_token_s(prefill, tpot, case.batch, stack)) * steptime.first_factor(*key), float(tpot)


def _serving(rows: list[Row]) -> dict[str, Any]:
    plans, tpot, ttft = [], [], []
    for row in rows:
        case = served(row)
        first, token = (finite(row, predicted) for predicted in predict_served(case))
        group = " ".join(
            [case.model, case.kind, case.backend, case.precision, case.mode, f"{case.isl:.0f}x{case.osl:.0f}"]
        )
        plans.append({
            "line": row.number, "group": group, "ttft_s": case.ttft_s, "predicted_ttft_s": first, "tpot_s": case.tpot_s,
            "predicted_tpot_s": token,
        })  # fmt: skip
        tpot.append({"measured": case.tpot_s, "predicted": token, "error": token / case.tpot_s - 1, "group": group})
        ttft.append({"measured": case.ttft_s, "predicted": first, "error": first / case.ttft_s - 1, "group": group})
    if not plans:
        raise ConfigError("the table has no rows")
    return {"count": len(plans), "tpot": errors(tpot), "ttft": errors(ttft), **errors(tpot), "rows": plans}
