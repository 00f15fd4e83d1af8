"""Several objectives: a game's worth is the hypervolume that its trials dominate (Zitzler and Thiele, 1998).

Each objective is scaled so that the best value of any game is 0 and the worst among the non-dominated trials of all
games and the defaults is 1; so no unit enters. The reference point is 1.1 in each objective, so that a front's ends
count (Ishibuchi et al., Evolutionary Computation 26, 2018). A hypervolume is a share of that of all games together.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tunewright.comparing.statistics import Floats
from tunewright.target import DECIDED

if TYPE_CHECKING:
    import pandas as pd

REFERENCE = 1.1
_GAME = ["by", "tuner", "seed"]


def hypervolume(points: Floats, reference: Floats) -> float:
    """Return the volume between points and a reference point, all objectives minimised, by slicing.

    Args:
        points: shape (points, objectives).
        reference: shape (objectives,).

    >>> hypervolume(np.array([[0.0, 0.5], [0.5, 0.0]]), np.ones(2))
    0.75
    """
    inside = points[(points < reference).all(axis=1)]
    if not len(inside):
        return 0.0
    if inside.shape[1] == 1:
        return float(reference[0] - inside.min())
    inside = inside[np.argsort(inside[:, -1], kind="stable")]
    depths = np.diff(np.append(inside[:, -1], reference[-1]))
    return float(
        sum(
            depth * hypervolume(nondominated(inside[: k + 1, :-1]), reference[:-1])
            for k, depth in enumerate(depths)
            if depth > 0
        )
    )


def nondominated(points: Floats) -> Floats:
    """Return the points that no other one equals or beats in every objective, each once; shape (points, objectives)."""
    points = np.unique(points, axis=0)
    beaten = [bool(((points <= p).all(axis=1) & (points < p).any(axis=1)).any()) for p in points]
    return np.asarray(points[~np.array(beaten, dtype=bool)])


def with_hypervolume(
    games: pd.DataFrame, trials: pd.DataFrame, targets: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Give trials of targets with several objectives the hypervolume so far as their value, and games their last one.

    Args:
        games: rows of games.
        trials: rows of trials, in ``scores`` a JSON object of the objectives.
        targets: rows of targets, in ``objectives`` JSON: names and directions; bundles of one objective lack it.

    Returns:
        The frames, those targets' metric being the hypervolume, which is to be maximised and has a best of 1.
    """
    if "objectives" not in targets:
        return games, trials, targets.assign(objectives="", front_best=math.nan)
    games, trials, targets = games.copy(), trials.copy(), targets.copy()
    targets["objectives"] = [t if isinstance(t, str) else "" for t in targets["objectives"]]
    targets["front_best"] = math.nan
    for at, text in targets["objectives"].items():
        if not text:
            continue
        objectives: list[tuple[str, str]] = [(str(n), str(d)) for n, d in json.loads(text)]
        name = targets.at[at, "target"]
        values = _volumes(trials[trials["target"] == name], objectives)
        trials.loc[values.index, "value"] = values
        own = trials[trials["target"] == name]
        ends = own.groupby(_GAME)["value"].max()
        firsts = own[own["step"] == 0].groupby(_GAME)["value"].max()
        for row in games.index[games["target"] == name]:
            key = tuple(games.at[row, k] for k in _GAME)
            games.loc[row, ["best", "default"]] = [ends.get(key, math.nan), firsts.get(key, math.nan)]
        facts = {
            "metric": f"hypervolume of {', '.join(n for n, _ in objectives)}", "direction": "max", "unit": "",
            "exact": True, "known_best": math.nan, "known_median": math.nan, "front_best": 1.0,
        }  # fmt: skip
        for column, value in facts.items():
            targets.at[at, column] = value
    return games, trials, targets


def _volumes(trials: pd.DataFrame, objectives: Sequence[tuple[str, str]]) -> pd.Series:
    """Return the hypervolume so far at each trial, NaN where it was not measured or is not allowed; by index."""
    import pandas as pd

    good = trials[trials["feasible"].astype(bool) & (trials["status"] == "ok") & trials["status"].isin(DECIDED)]
    points = np.array([_vector(text, objectives) for text in good["scores"]]).reshape(len(good), len(objectives))
    volumes = pd.Series(math.nan, index=trials.index)
    if not len(points):
        return volumes
    front = np.concatenate([nondominated(points), points[(good["step"] == 0).to_numpy()]])
    ideal, worst = points.min(axis=0), front.max(axis=0)
    span = np.where(worst > ideal, worst - ideal, 1.0)
    reference = np.full(len(objectives), REFERENCE)
    scaled = pd.DataFrame((points - ideal) / span, index=good.index)
    whole = hypervolume(nondominated(scaled.to_numpy()), reference)
    for _, own in good.groupby(_GAME):
        seen = np.empty((0, len(objectives)))
        for at in own.sort_values("number").index:
            seen = nondominated(np.concatenate([seen, scaled.loc[[at]].to_numpy()]))
            volumes[at] = hypervolume(seen, reference) / whole
    return volumes


def _vector(text: Any, objectives: Sequence[tuple[str, str]]) -> list[float]:
    scores: Mapping[str, Any] = json.loads(text)
    return [float(scores[n]) * (1.0 if d == "min" else -1.0) for n, d in objectives]
