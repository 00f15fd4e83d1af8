"""What each game of a tournament came to: final value, score, regret, trials to near-optimal; see ``standings``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tunewright.comparing.fronts import with_hypervolume
from tunewright.comparing.statistics import Floats, same
from tunewright.target import DECIDED

if TYPE_CHECKING:
    import pandas as pd

NEAR = 0.05  # share that counts as near-optimal
CHECKPOINTS = (5, 10, 20, 30, 50, 100, 200, 500, 1000)  # trial counts at which tables state the regret
KNOWN, SEEN = "known", "best seen"


def references(games: pd.DataFrame, trials: pd.DataFrame, targets: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """What all tables need of each target: reference value of the default, best known, goal, noise."""
    facts = {}
    for row in targets.to_dict("records"):
        own = games[(games["target"] == row["target"]) & (games["status"] == "done")]
        sign = 1.0 if row["direction"] == "max" else -1.0
        default = float(own["default"].median()) if len(own) else math.nan
        mine = trials[(trials["target"] == row["target"]) & trials["feasible"] & (trials["status"] == "ok")]
        ends = _final_values(own, default, row)
        candidates = [*ends[np.isfinite(ends)], *([default] if math.isfinite(default) else [])]
        if row["exact"]:
            candidates += [float(v) for v in mine["value"].dropna()]
        seen = max(candidates, key=lambda v: sign * v, default=math.nan)
        if math.isfinite(row["front_best"]):  # several objectives: of all games' trials together
            seen = float(row["front_best"])
        known = row["known_best"]
        is_known = known is not None and math.isfinite(known)
        best = float(known) if is_known else seen
        median = row["known_median"]
        if is_known and median is not None and math.isfinite(median):
            goal = best + NEAR * (float(median) - best)
        else:
            goal = best - sign * NEAR * abs(best)
        logs = np.log(own["ratio_high"] / own["ratio_low"]) if len(own) else np.array([])
        widths = logs[np.isfinite(logs)]
        found = int(same(ends, best).sum())
        facts[row["target"]] = {
            **row, "sign": sign, "default": default, "best": best, "goal": goal,
            "source": KNOWN if is_known else SEEN, "found": found, "games": len(own),
            "beyond": 0.0 if is_known else math.nan if row["objectives"] else _beyond(ends, default, sign),
            "room": abs(best - default) / abs(default) if default else math.nan,
            "uncertainty": float(np.median(widths)) / 2 if len(widths) and not row["exact"] else 0.0,
        }  # fmt: skip
    return facts


def _beyond(ends: Floats, default: float, sign: float) -> float:
    """Guess how far the optimum lies beyond the best that was seen, as a share of the way from the default to it.

    The jackknife's estimate of an end point (Robson and Whitlock, Biometrika 51, 1964): the best of n values falls
    short of it by about (n - 1) / n times the gap to the second best. It is 0 where several games end at one value.
    """
    merits = np.sort(sign * ends[np.isfinite(ends)])
    if len(merits) < 2 or not math.isfinite(default) or merits[-1] <= sign * default or same(merits[-1], merits[-2]):
        return 0.0 if len(merits) >= 2 else math.nan
    gap = (len(merits) - 1) / len(merits) * (merits[-1] - max(merits[-2], sign * default))
    return float(gap / (merits[-1] - sign * default))


def _final_values(own: pd.DataFrame, default: float, facts: Mapping[str, Any]) -> Floats:
    """Return the final value of each game, shape (games,)."""
    if facts["exact"]:
        return np.asarray(own["best"], dtype=float)
    return _by_ratio(own["ratio"], own["best"], default, facts)


def _by_ratio(ratio: Any, otherwise: Any, default: float, facts: Mapping[str, Any]) -> Floats:
    """Values of a noisy target: the default's times the ratio to the default beside them; otherwise as measured."""
    ratio = np.asarray(ratio, dtype=float)
    scaled = default * ratio if facts["direction"] == "max" else default / ratio
    return np.asarray(np.where(np.isfinite(ratio), scaled, otherwise), dtype=float)


def _score(value: Any, facts: Mapping[str, Any]) -> Any:
    """Score of values; 0 throughout where nothing is to be gained."""
    room = _room(facts)
    if not room:
        return np.zeros_like(np.asarray(value, dtype=float))
    return np.clip((np.asarray(value, dtype=float) - facts["default"]) / room, -1.0, 1.0)


def _room(facts: Mapping[str, Any]) -> float:
    """Distance from the default to the best known, with its sign; 0 where nothing is to be gained."""
    room = float(facts["best"] - facts["default"])
    return room if math.isfinite(room) and not same(facts["best"], facts["default"]) else 0.0


def regret(value: Any, best: float, direction: str) -> Any:
    """Distance of values from the best known, as a share of it; 0 for better ones."""
    sign = 1.0 if direction == "max" else -1.0
    return np.maximum(sign * (best - np.asarray(value, dtype=float)) / (abs(best) or 1.0), 0.0)


def best_so_far(
    games: pd.DataFrame, trials: pd.DataFrame, facts: Mapping[str, Mapping[str, Any]]
) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Best-so-far of every game over its trials and over its seconds, the tuner's own included."""
    most = int(games["trials"].max()) if len(games) else 0
    curves = {}
    for key, own in trials.groupby(["target", "tuner", "by", "seed"]):
        f = facts[key[0]]
        own = own[own["status"].isin(DECIDED)].sort_values("number")
        value = own["value"].to_numpy(dtype=float)
        if not f["exact"]:
            value = _by_ratio(own["ratio"], value, f["default"], f)
        value = np.where(own["feasible"].to_numpy(dtype=bool), value, -f["sign"] * math.inf)
        value = np.where(np.isfinite(value), value, -f["sign"] * math.inf)
        best = f["sign"] * np.maximum.accumulate(f["sign"] * value) if len(value) else value
        seconds = np.cumsum(own["seconds"].to_numpy(dtype=float) + own["asked_s"].to_numpy(dtype=float))
        padded = np.concatenate([best, np.full(most - len(best), best[-1] if len(best) else math.nan)])
        good = f["sign"] * best >= f["sign"] * f["goal"] - 1e-12 * abs(f["goal"])
        first = int(np.argmax(good)) + 1 if good.any() else None
        curves[tuple(key)] = {"best": padded, "seconds": seconds, "reached": first, "trials": len(best)}
    return curves


def final_rows(
    games: pd.DataFrame, curves: Mapping[tuple[Any, ...], Mapping[str, Any]], facts: Mapping[str, Mapping[str, Any]]
) -> pd.DataFrame:
    """One row a game: final value, score, regret, trials to the goal."""
    import pandas as pd

    rows = []
    for name, own in games.groupby("target"):
        f = facts[name]
        ends = _final_values(own, f["default"], f)
        for row, end in zip(own.to_dict("records"), ends, strict=True):
            curve = curves.get((name, row["tuner"], row["by"], row["seed"]))
            value = float(end) if row["status"] == "done" and math.isfinite(end) else f["default"]
            reached = curve["reached"] if curve else None
            if reached and not f["exact"] and f["sign"] * value < f["sign"] * f["goal"] - NEAR * abs(f["goal"]):
                reached = None  # a noisy trial looked near-optimal, and the winner measured afresh is not
            rows.append({
                "target": name, "tuner": row["tuner"], "by": row["by"], "seed": row["seed"], "status": row["status"],
                "value": value, "score": float(_score(value, f)),
                "regret": float(regret(value, f["best"], f["direction"])),
                "reached": float(reached) if reached else math.nan, "trials": row["trials"],
                "seconds": row["measured_s"] + row["tuner_s"], "improved": bool(row["improved"]),
                "merit": f["sign"] * value,
            })  # fmt: skip
    return pd.DataFrame(rows)


def checkpoints(budget: int) -> list[int]:
    """Return the trial counts at which regret is stated: the usual ones below the budget, and the budget."""
    return [*(c for c in CHECKPOINTS if c < budget), budget]


def regrets(
    games: pd.DataFrame, curves: Mapping[tuple[Any, ...], Mapping[str, Any]], facts: Mapping[str, Mapping[str, Any]]
) -> pd.DataFrame:
    """One row a game and stated trial count: regret, and gap, the share of the way to the best that is still to go.

    Where a game has measured nothing that counts yet, it stands at the default.
    """
    import pandas as pd

    rows = []
    counts = checkpoints(int(games["trials"].max())) if len(games) and games["trials"].max() >= 1 else []
    for game in games.to_dict("records"):
        f, curve = facts[game["target"]], curves.get(tuple(game[k] for k in ("target", "tuner", "by", "seed")))
        for count in counts:
            value = float(curve["best"][count - 1]) if curve and len(curve["best"]) >= count else math.nan
            value = value if math.isfinite(value) else f["default"]
            rows.append({
                "target": game["target"], "tuner": game["tuner"], "by": game["by"], "seed": game["seed"],
                "trial": count, "regret": float(regret(value, f["best"], f["direction"])),
                "gap": 1.0 - float(_score(value, f)) if _room(f) else 0.0,
            })  # fmt: skip
    return pd.DataFrame(rows, columns=["target", "tuner", "by", "seed", "trial", "regret", "gap"])


def over_time(games: pd.DataFrame, trials: pd.DataFrame, targets: pd.DataFrame) -> pd.DataFrame:
    """Best-so-far over seconds, the tuner's and its model's included: target, tuner, seconds, score (mean of games)."""
    import pandas as pd

    games, trials, targets = with_hypervolume(games, trials, targets)
    facts = references(games, trials, targets)
    grouped: dict[Any, dict[Any, list[Mapping[str, Any]]]] = {}
    for (target, tuner, _, _), curve in best_so_far(games, trials, facts).items():
        if curve["trials"]:
            grouped.setdefault(target, {}).setdefault(tuner, []).append(curve)
    rows = []
    for target, tuners in grouped.items():
        ends = [(c["seconds"][0], c["seconds"][-1]) for own in tuners.values() for c in own]
        grid = np.geomspace(max(min(e[0] for e in ends), 1e-6), max(e[1] for e in ends), 100)
        for tuner, own in sorted(tuners.items()):
            scores = []
            for game in own:
                at = np.searchsorted(game["seconds"], grid, side="right") - 1
                score = _score(game["best"][: game["trials"]], facts[target])
                scores.append(np.where(at >= 0, score[np.maximum(at, 0)], 0.0))
            mean = np.mean(scores, axis=0)
            rows += [
                {"target": target, "tuner": tuner, "seconds": s, "score": v} for s, v in zip(grid, mean, strict=True)
            ]
    return pd.DataFrame(rows, columns=["target", "tuner", "seconds", "score"])


def reached(games: pd.DataFrame, trials: pd.DataFrame, targets: pd.DataFrame) -> pd.DataFrame:
    """Trials to near-optimal of every game: tuner, reached; NaN where it did not get there."""
    games, trials, targets = with_hypervolume(games, trials, targets)
    facts = references(games, trials, targets)
    return final_rows(games, best_so_far(games, trials, facts), facts)[["tuner", "reached"]]
