"""Measured serving plans as engines and loads of the step-time model."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tunewright.envs.parallelism import models
from tunewright.envs.parallelism.measured import Row
from tunewright.errors import ConfigError

# the published tables name repositories, the presets shapes
SHAPES = {
    "minimax-m2": "minimax-m2",
    "qwen3-235b": "qwen3-235b-a22b",
    "qwen3-32b": "qwen3-32b",
    "qwen3.5-397b": "qwen3.5-397b-a17b",
    "qwen3-30b": "qwen3-30b-a3b",
    "qwen3-8b": "qwen3-8b",
    "deepseek-r1": "deepseek-v3",
    "deepseek-v3": "deepseek-v3",
    "llama-3.1-70b": "llama3-70b",
    "llama-3.3-70b": "llama3-70b",
    "llama-3.1-8b": "llama3-8b",
    "llama-3.1-405b": "llama3-405b",
    "kimi-k2": "kimi-k2",
    "gpt-oss-120b": "gpt-oss-120b",
    "glm-5": "glm-5",
    "mixtral-8x7b": "mixtral-8x7b",
}


@dataclass(frozen=True, kw_only=True)
class Served:
    """One measured serving plan.

    Attributes:
        model: preset of the shape.
        kind: of the nodes.
        backend, precision, mode: as the row says.
        gpus, ranks: of the engine that decodes, and its attention ranks.
        prefill_gpus: of the engine that prefills; the same one when aggregated.
        isl, osl: tokens of prompt and output.
        batch: sequences that the decoding engine holds.
        workers_known: whether the row says how many workers share the load.
        version: of the backend; empty where the row does not say.
        ttft_s, tpot_s: measured.
    """

    model: str
    kind: str
    backend: str
    precision: str
    mode: str
    gpus: float
    ranks: float
    prefill_gpus: float
    isl: float
    osl: float
    batch: float
    workers_known: bool
    version: str
    ttft_s: float
    tpot_s: float


def served(row: Row) -> Served:
    """Return a row of the table of measured serving plans.

    Raises:
        ConfigError: a value is missing, or the model is none of the presets.
    """
    path, text = row.cells["model_path"], row.cells
    name = next((shape for part, shape in SHAPES.items() if part in path.lower()), None)
    if name is None:
        raise ConfigError(
            f"line {row.number}: no preset has the shape of {path}; known: {', '.join(sorted(set(SHAPES.values())))}"
        )
    dense = models.load(name).experts == 0
    mode = text["mode"]
    if mode not in ("agg", "disagg"):
        raise ConfigError(f"line {row.number}: mode must be agg or disagg, not {mode!r}")
    told = re.search(r"_c(\d+)", text.get("id", ""))
    total = float(told[1]) if told else 0.0
    if mode == "agg":
        gpus, ranks = _world(row, "", dense)
        prefill, known = gpus, True
        batch = row.value("batch_size", total) * max(row.value("attention_dp_size", 1), 1)
    else:
        gpus, ranks = _world(row, "decode_", dense)
        prefill, _ = _world(row, "prefill_", dense)
        known = row.has("decode_num_workers")
        batch = (total or 64.0) / max(row.value("decode_num_workers", 1), 1)
        gpus = 4.0 if gpus == 1 else gpus  # such rows leave the degrees out
    if batch <= 0:
        raise ConfigError(f"line {row.number}: neither batch_size nor a concurrency (_cN in the id) is given")
    isl, osl, ttft, tpot = (row.value(c) for c in ("isl", "osl", "silicon_ttft_ms", "silicon_tpot_ms"))
    if min(isl, osl, ttft, tpot) <= 0:
        raise ConfigError(f"line {row.number}: isl, osl, silicon_ttft_ms and silicon_tpot_ms must be above 0")
    return Served(
        model=name,
        kind=text["system"].partition("_")[0],
        backend=text["backend"],
        precision=text.get("precision") or ("fp8" if "FP8" in path else "fp4" if "FP4" in path else "bf16"),
        mode=mode,
        gpus=gpus,
        ranks=ranks,
        prefill_gpus=prefill,
        isl=isl,
        osl=osl,
        batch=batch,
        workers_known=known,
        version=text.get("backend_version") or "",
        ttft_s=ttft / 1e3,
        tpot_s=tpot / 1e3,
    )


def _world(row: Row, part: str, dense: bool) -> tuple[float, float]:
    """Return GPUs and attention ranks of an engine.

    Some rows of the published table state products of degrees instead of degrees: 64 for tensor parallelism 8 with
    8-way
    experts on 8 GPUs. They are recognised by experts' degrees that repeat the same number.
    """
    tp, dp, moe_tp, moe_ep = (
        max(row.value(f"{part}{n}", 1), 1) for n in ("tp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
    )
    if dense:
        return tp * dp, dp
    if moe_tp == moe_ep > 1 and tp * dp == moe_tp * moe_ep:
        return moe_tp, (moe_tp if dp > 1 else 1.0)
    if tp == dp > 1 and moe_ep == tp * dp:
        return tp, dp
    return tp * dp, dp
