"""Measured training plans as jobs and plans of the model."""

from __future__ import annotations

from typing import Any

import numpy as np

from tunewright.envs.parallelism import calibration, clusters
from tunewright.envs.parallelism.estimate import COLUMNS
from tunewright.envs.parallelism.measured import Row
from tunewright.envs.parallelism.models import Model
from tunewright.envs.parallelism.training import RECOMPUTE, Floats, Job
from tunewright.errors import ConfigError

SEQ, VOCAB, BLOOM_VOCAB = 2048, 51_200, 250_880


def flops_of_paper(layers: float, hidden: float, seq: float, vocab: float, batch: float) -> float:
    """Operations of an iteration with full recomputation, by Narayanan et al. 2021, equation 3 [FLOP]."""
    return 96.0 * batch * seq * layers * hidden**2 * (1 + seq / (6 * hidden) + vocab / (16 * layers * hidden))


def training_case(row: Row) -> tuple[Job, Floats, float | None]:
    """Return a row's job, its plan and its measured time.

    The plan has shape (13,), the time of an iteration is in seconds, or None for a plan that ran out of memory.

    Columns beside the needed ones, all optional: ``seq``, ``vocab``, ``interleave``, ``recompute`` (none, selective,
    full), ``sequence_parallel``, ``zero``, ``gpus``, ``cluster`` (a kind of node), ``calibration``, ``oom``, and
    ``epoch``, which tells the three states of Jean Zay apart.

    Raises:
        ConfigError: a value is missing or impossible.
    """
    bloom = row.has("epoch")
    tp, pp, dp = row.count("tp"), row.count("pp"), row.count("dp")
    kind = row.cells.get("cluster") or ("jean-zay" if bloom else "a100")
    name = row.cells.get("calibration") or (
        f"jean-zay-{row.value('epoch'):.0f}" if bloom else calibration.of_nodes(kind)[0]
    )
    gpus = row.count("gpus", tp * pp * dp)
    layers, hidden, heads = (int(row.count(c)) for c in ("layers", "hidden", "heads"))
    seq, vocab = row.count("seq", SEQ), row.count("vocab", BLOOM_VOCAB if bloom else VOCAB)
    batch = row.count("global_batch")
    model = Model(
        name=row.cells.get("model") or f"{layers}x{hidden}", layers=layers, hidden=hidden, heads=heads, kv_heads=heads,
        qk_dim=hidden // heads, v_dim=hidden // heads, ffn=4 * hidden, gated=False, vocab=int(vocab), tied=True,
    )  # fmt: skip
    nodes = clusters.load(f"{kind}:{gpus:.0f}").nodes
    found = calibration.calibration(name) if name in calibration.names() else calibration.of_nodes(kind)[1]
    job = Job(model=model, nodes=nodes, seq=int(seq), global_batch=int(batch), calibration=found)
    recompute = row.cells.get("recompute") or "full"
    if recompute not in RECOMPUTE:
        raise ConfigError(f"line {row.number}: recompute must be one of {', '.join(RECOMPUTE)}, not {recompute!r}")
    plan = dict.fromkeys(COLUMNS, 0.0) | {
        "tp": tp, "pp": pp, "dp": dp, "cp": 1.0, "ep": 1.0, "micro_batch": row.count("micro_batch"),
        "chunks": row.count("interleave", 1), "zero": row.count("zero", 1.0 if bloom else 0.0, 0, 3),
        "recompute": float(RECOMPUTE.index(recompute)), "sequence_parallel": row.count("sequence_parallel", 0, 0, 1),
    }  # fmt: skip
    measured: float | None = None
    if row.value("oom", 0) == 0:
        if row.has("sec_per_iter"):
            measured = row.value("sec_per_iter")
        else:
            measured = flops_of_paper(layers, hidden, seq, vocab, batch) / (gpus * row.value("tflops_per_gpu") * 1e12)
        if measured <= 0:
            raise ConfigError(f"line {row.number}: the measured time must be above 0")
    return job, np.array([plan[c] for c in COLUMNS]), measured


def shape_of(row: Row) -> str:
    """Name of a row's shape: rows that differ in the plan alone have the same one."""
    return " ".join(str(row.cells.get(c, "")) for c in ("model", "layers", "hidden", "heads", "global_batch", "epoch"))


def fields(plan: Floats) -> dict[str, Any]:
    """Return a plan's columns by name, whole numbers."""
    return {c: int(v) for c, v in zip(COLUMNS, plan, strict=True)}
