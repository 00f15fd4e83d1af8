"""Measured plans: reads their tables and says how well predictions agree with them."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.errors import ConfigError
from tunewright.store.files import check_size, parsing, read_text

_FIELD_BYTES = 120  # of memory for a field while a table is read

# columns by which a table is recognised
TRAINING = ("layers", "hidden", "heads", "tp", "pp", "dp", "micro_batch", "global_batch")
# what may stand beside these; every other column is named as ignored
_BESIDE = (
    "model", "seq", "vocab", "interleave", "recompute", "sequence_parallel", "zero", "gpus", "cluster", "calibration",
    "oom", "epoch", "sec_per_iter", "tflops_per_gpu", "mem_gb",
)  # fmt: skip
SERVING = ("model_path", "system", "isl", "osl", "mode", "silicon_tpot_ms")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured plan.

    Attributes:
        number: line in the file, the header being line 1.
        cells: column to text.
    """

    number: int
    cells: Mapping[str, str]

    def value(self, column: str, default: float | None = None) -> float:
        """Return a number of the row.

        Raises:
            ConfigError: it is missing or no number.
        """
        text = (self.cells.get(column) or "").strip()
        if not text and default is not None:
            return default
        try:
            found = float(text)
        except ValueError:
            raise ConfigError(f"line {self.number}: {column} must be a number, not {text!r}") from None
        if not math.isfinite(found):
            raise ConfigError(f"line {self.number}: {column} must be finite, not {text!r}")
        return found

    def count(self, column: str, default: float | None = None, least: int = 1, most: int = 10**12) -> float:
        """Return a whole number of the row.

        Raises:
            ConfigError: it is missing, no whole number, or out of its range.
        """
        found = float(self.value(column, default))
        if not (found.is_integer() and least <= found <= most):
            raise ConfigError(
                f"line {self.number}: {column} must be a whole number from {least} to {most:,}, not {found:g}"
            )
        return found

    def has(self, column: str) -> bool:
        """Whether the row has something in a column."""
        return bool((self.cells.get(column) or "").strip())


def read(path: Path) -> tuple[str, list[Row]]:
    """Return the kind of a table (``training`` or ``serving``) and its rows.

    Raises:
        ConfigError: it cannot be read, or its columns are of neither kind.
    """
    text = read_text(path, "table of measured plans")
    check_size(
        f"the table of measured plans {path}", text.count(",") + text.count("\n"), _FIELD_BYTES, "give fewer rows"
    )
    with parsing(path, "table of measured plans"):
        reader = csv.DictReader(io.StringIO(text))
        columns = list(reader.fieldnames or [])
        rows = [Row(number=k, cells=r) for k, r in enumerate(reader, 2)]
    if not rows:
        raise ConfigError(f"{path} has no rows")
    missing = {
        kind: [c for c in needed if c not in columns] for kind, needed in (("training", TRAINING), ("serving", SERVING))
    }
    kind = min(missing, key=lambda k: len(missing[k]) / (len(TRAINING) if k == "training" else len(SERVING)))
    if missing[kind]:
        raise ConfigError(f"{path} looks like measured {kind} plans, but lacks the columns {', '.join(missing[kind])}")
    if kind == "training" and not {"sec_per_iter", "tflops_per_gpu"} & set(columns):
        raise ConfigError(f"{path} lacks the measured time: sec_per_iter, or tflops_per_gpu")
    return kind, rows


def ignored(rows: Sequence[Row]) -> list[str]:
    """Return the columns of training plans that have values and are not used."""
    columns = dict.fromkeys(column for row in rows for column in row.cells if column)
    return [c for c in columns if c not in (*TRAINING, *_BESIDE) and any(row.has(c) for row in rows)]


def finite(row: Row, predicted: float) -> float:
    """Return a prediction.

    Raises:
        ConfigError: the row's numbers lead to none.
    """
    if not 0 < predicted < math.inf:
        raise ConfigError(f"line {row.number}: its numbers are too large or too small for a prediction")
    return predicted


def errors(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return mean, median and 90th percentile of the absolute relative error, and Spearman's rank correlation."""
    off = np.array([abs(r["error"]) for r in rows])
    if not len(off):
        return {}
    found = {
        "mean_error": float(off.mean()),
        "median_error": float(np.median(off)),
        "p90_error": float(np.quantile(off, 0.9)),
    }
    if len(off) > 2:
        found["spearman"] = spearman([r["measured"] for r in rows], [r["predicted"] for r in rows])
    return found


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation; 0 where one side does not vary."""
    ranks = []
    for values in (a, b):
        _, where, counts = np.unique(np.asarray(values, float), return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        ranks.append((ends - (counts - 1) / 2)[where])
    if min(np.ptp(ranks[0]), np.ptp(ranks[1])) == 0:
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def regret(rows: Sequence[Mapping[str, Any]], best: Any = min) -> tuple[float, int]:
    """Return how much worse the plan ranked first is than the best one, mean over groups of at least two plans."""
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["group"]].append(row)
    lost = []
    for members in groups.values():
        if len(members) > 1:
            first = best(members, key=lambda r: r["predicted"])["measured"]
            top = best(members, key=lambda r: r["measured"])["measured"]
            lost.append(abs(first / top - 1))
    return (float(np.mean(lost)) if lost else 0.0), len(lost)
