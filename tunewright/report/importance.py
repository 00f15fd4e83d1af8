"""Which parameters a model of the trials takes its predictions from, where it predicts at all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LEAST_TRIALS = 12
_LEAST_R2 = 0.5  # explained in trials left out; below it the model's shares are not shown
_RIDGE = 1.0
_MOST = 12  # parameters shown


def importance(document: Mapping[str, Any]) -> tuple[list[tuple[str, float]], float]:
    """Fit a model of main effects to the measured trials, and see what it predicts of trials that it was not shown.

    The model is a ridge regression of the objective's rank on each parameter: rank and squared rank of a number, one
    indicator for each value of a choice. Ranks, because a search leaves most trials close together and a few far off.
    What it explains of trials left out comes from leave-one-out in closed form, with a ridge of one for standardised
    columns.

    Args:
        document: an exported session.

    Returns:
        (parameter, share) of the variance of the predictions, largest first, and the share of the variance of the ranks
        of left-out trials that is explained (R², at most 1). No shares with fewer than twelve measured trials, or if R²
        is below one half.
    """
    name = document["objectives"][0]
    measured = [t for t in document["trials"] if t["status"] == "ok" and t["scores"].get(name) is not None]
    if len(measured) < _LEAST_TRIALS:
        return [], math.nan
    scores = np.array([float(t["scores"][name]) for t in measured])
    values = _ranks(scores)
    columns: list[NDArray[np.float64]] = []
    owners: list[str] = []
    for parameter in dict.fromkeys(n for t in measured for n in t["config"]):
        for column in _columns([t["config"].get(parameter) for t in measured]):
            columns.append(column)
            owners.append(parameter)
    if not columns or values.std() == 0:
        return [], math.nan
    design = np.column_stack(columns)
    fitting = np.linalg.solve(design.T @ design + _RIDGE * np.eye(len(owners)), design.T)  # values to weights
    weights = fitting @ values
    leverage = np.einsum("ij,ji->i", design, fitting) + 1 / len(values)
    left_out = (values - design @ weights) / (1 - np.minimum(leverage, 0.999))
    explained = 1 - float(left_out @ left_out) / float(values @ values)
    if explained < _LEAST_R2:
        return [], explained
    spread = {}
    for parameter in dict.fromkeys(owners):
        its = [owner == parameter for owner in owners]
        spread[parameter] = float((design[:, its] @ weights[its]).var())
    whole = sum(spread.values())
    shares = sorted(((n, v / whole) for n, v in spread.items()), key=lambda row: -row[1])
    return shares[:_MOST], explained


def _columns(values: Sequence[Any]) -> list[NDArray[np.float64]]:
    """Return the standardised columns of one parameter; none where it did not vary."""
    present = [v for v in values if v is not None]
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in present)
    columns: list[NDArray[np.float64]] = []
    if numeric and len(set(present)) > 1:
        ranks = iter(_ranks(present))
        places = np.array([0.0 if v is None else next(ranks) for v in values])
        columns = [places, places**2]
        if len(present) < len(values):  # whether it had a meaning at all
            columns.append(np.array([float(v is not None) for v in values]))
    else:
        kinds = sorted({str(v) for v in values})
        columns = [np.array([float(str(v) == kind) for v in values]) for kind in kinds[:-1]]
    return [(c - c.mean()) / c.std() for c in columns if c.std() > 1e-12]


def _ranks(values: Any) -> NDArray[np.float64]:
    """Return the ranks of numbers, ties sharing theirs, with a mean of zero."""
    column = np.asarray(values, dtype=np.float64)[:, None]
    return np.asarray(((column > column.T).sum(axis=1) - (column < column.T).sum(axis=1)) / 2, dtype=np.float64)
