"""The statistics of a tournament, as pandas frames: who is better, by how much, and whether that was shown.

Definitions, the same in every table and figure:

- *value*: of a trial, its objective; where the target has noise, the default's value times the ratio to the default
  measured beside it, so that games are comparable. *Final value*: of a game, its winner measured afresh.
- *best known*: the target's optimum where it is known (tables), else the best final value of any game; never the best
  of noisy trials, which would be luck.
- *score*: (value - default) / (best known - default): 0 is the default, 1 the best known.
- *regret*: |best known - value| / |best known|.
- *within 5 %*: value at least as good as best known + 5 % of (median - best known) of the whole table where that is
  known, else with a regret of at most 5 %.

Aggregates over targets and seeds are interquartile means with 95 % intervals from a bootstrap stratified by target, and
performance profiles, both after Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice",
NeurIPS 2021. Mean ranks are tested after Friedman and compared after Nemenyi (Demsar, JMLR 7, 2006). A game that failed
scores 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tunewright.target import DECIDED

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
NEAR = 0.05  # share that counts as near-optimal
LEVEL = 0.05  # of tests, and 1 - confidence of intervals
REPEATS = 2000  # of the bootstrap
TAUS = np.linspace(0.0, 1.0, 51)
BASELINE = "random"
_BLOCK = ["target", "by", "seed"]


def tables(games: pd.DataFrame, trials: pd.DataFrame, targets: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return all tables of a tournament by name.

    Returns:
        ``leaderboard``, ``targets``, ``results``, ``ranks``, ``wins``, ``profile``, ``curves``, ``verdict``.
    """
    facts = _facts(games, trials, targets)
    curves = _curves(games, trials, facts)
    finals = _finals(games, curves, facts)
    ranks, tests = _ranks(finals)
    results = _results(finals, facts)
    wins = _wins(finals)
    board = _leaderboard(games, finals, ranks, wins)
    tested = _tests_by_target(finals, facts)
    return {
        "leaderboard": board, "results": results, "targets": tested, "ranks": tests, "wins": wins,
        "profile": _profiles(finals), "curves": _summary_curves(curves),
        "verdict": _verdict(board, tests, tested, finals),
    }  # fmt: skip


def matrix(finals: pd.DataFrame, column: str = "score") -> pd.DataFrame:
    """Return a column by block (target, by, seed) and tuner.

    Tuners that were not on every target are left out, such as an agent that fits one of them alone; then blocks that
    not every one of the others has played.
    """
    wide = finals.pivot_table(index=_BLOCK, columns="tuner", values=column, aggfunc="first")
    everywhere = wide.notna().groupby(level="target").any().all()
    return wide.loc[:, everywhere[everywhere].index].dropna()


# -- values -----------------------------------------------------------------------------------------


def _facts(games: pd.DataFrame, trials: pd.DataFrame, targets: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """What all tables need of each target: reference value of the default, best known, goal, noise."""
    found = {}
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
        known = row["known_best"]
        best = float(known) if known is not None and math.isfinite(known) else seen
        median = row["known_median"]
        if median is not None and math.isfinite(median):
            goal = best + NEAR * (float(median) - best)
        else:
            goal = best - sign * NEAR * abs(best)
        logs = np.log(own["ratio_high"] / own["ratio_low"]) if len(own) else np.array([])
        widths = logs[np.isfinite(logs)]
        found[row["target"]] = {
            **row, "sign": sign, "default": default, "best": best, "goal": goal,
            "source": "known" if best == known else "best seen",
            "room": abs(best - default) / abs(default) if default else math.nan,
            "uncertainty": float(np.median(widths)) / 2 if len(widths) and not row["exact"] else 0.0,
        }  # fmt: skip
    return found


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
    room = facts["best"] - facts["default"]
    if not math.isfinite(room) or abs(room) < 1e-9 * max(abs(facts["default"]), 1e-300):
        return np.zeros_like(np.asarray(value, dtype=float))
    return np.clip((np.asarray(value, dtype=float) - facts["default"]) / room, -1.0, 1.0)


def regret(value: Any, best: float, direction: str) -> Any:
    """Distance of values from the best known, as a share of it; 0 for better ones."""
    sign = 1.0 if direction == "max" else -1.0
    return np.maximum(sign * (best - np.asarray(value, dtype=float)) / (abs(best) or 1.0), 0.0)


def _curves(
    games: pd.DataFrame, trials: pd.DataFrame, facts: Mapping[str, Mapping[str, Any]]
) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Best-so-far of every game over its trials and over its seconds, the tuner's own included."""
    most = int(games["trials"].max()) if len(games) else 0
    found = {}
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
        found[tuple(key)] = {"best": padded, "seconds": seconds, "reached": first, "trials": len(best)}
    return found


def _finals(
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


# -- tables -----------------------------------------------------------------------------------------


def iqm(values: Any, axis: int | None = None) -> Any:
    """Interquartile mean: the mean of the middle half."""
    from scipy.stats import trim_mean

    return trim_mean(values, 0.25, axis=axis)


def bootstrap(scores: Mapping[Any, Floats], statistic: Any, seed: int = 0) -> tuple[float, float, float]:
    """Return (value, low, high) of a statistic of all scores, resampled within each target.

    Args:
        scores: target to its scores, shape (seeds,).
        statistic: of an array of shape (repeats, all scores), along axis 1.
        seed: of the resampling.
    """
    every, drawn = _resampled(scores, REPEATS, seed)
    if not len(every):
        return math.nan, math.nan, math.nan
    made = np.asarray(statistic(drawn), dtype=float)
    value = float(np.asarray(statistic(every[None]))[0])
    low, high = np.quantile(made, [LEVEL / 2, 1 - LEVEL / 2])
    return value, float(low), float(high)


def _resampled(scores: Mapping[Any, Floats], repeats: int, seed: int = 0) -> tuple[Floats, Floats]:
    """Return all scores, and them drawn again within each target, shapes (all,) and (repeats, all)."""
    rng = np.random.default_rng(seed)
    parts = [np.asarray(v, dtype=float) for v in scores.values() if len(v)]
    if not parts:
        return np.empty(0), np.empty((repeats, 0))
    drawn = [p[rng.integers(len(p), size=(repeats, len(p)))] for p in parts]
    return np.concatenate(parts), np.concatenate(drawn, axis=1)


def _by_target(finals: pd.DataFrame, tuner: str, column: str = "score") -> dict[Any, Floats]:
    own = finals[finals["tuner"] == tuner]
    return {t: g[column].to_numpy(dtype=float) for t, g in own.groupby("target")}


def _leaderboard(
    games: pd.DataFrame, finals: pd.DataFrame, ranks: Mapping[str, float], wins: pd.DataFrame
) -> pd.DataFrame:
    import pandas as pd

    wide = matrix(finals)
    record = wins.groupby("tuner")[["wins", "ties", "losses"]].sum()
    rows = []
    for tuner, own in finals.groupby("tuner"):
        mine = games[games["tuner"] == tuner]
        value, low, high = bootstrap(_by_target(finals, tuner), lambda x: iqm(x, axis=1))
        over = (math.nan, math.nan, math.nan)
        if BASELINE in wide and tuner in wide and tuner != BASELINE:
            gap = wide[tuner] - wide[BASELINE]
            over = bootstrap({t: g.to_numpy() for t, g in gap.groupby(level="target")}, lambda x: x.mean(axis=1))
        improved = int(own["improved"].sum())
        tokens, dollars, count = int(mine["tokens"].sum()), float(mine["dollars"].sum()), int(mine["trials"].sum())
        won = record.loc[tuner] if tuner in record.index else {"wins": 0, "ties": 0, "losses": 0}
        rows.append({
            "tuner": tuner, "targets": own["target"].nunique(),
            "score": value, "low": low, "high": high, "mean_rank": ranks.get(tuner, math.nan),
            "over_random": over[0], "over_random_low": over[1], "over_random_high": over[2],
            **{k: int(won[k]) for k in ("wins", "ties", "losses")}, "near_share": float(own["reached"].notna().mean()),
            "improved_share": improved / len(own), "games": len(own),
            "failed_games": int((own["status"] != "done").sum()),
            "failed_trials": int(mine["failed"].sum()), "illegal": int(mine["rejected"].sum()),
            "refused": int(mine["refused"].sum()),
            "tuner_s_per_trial": float(mine["tuner_s"].sum()) / count if count else math.nan,
            "calls": int(mine["calls"].sum()), "tokens": tokens, "dollars": dollars,
            "tokens_per_improvement": tokens / improved if tokens and improved else math.nan,
            "dollars_per_improvement": dollars / improved if dollars and improved else math.nan,
        })  # fmt: skip
    # what was on some targets only comes last: its score is of other targets than the others'
    columns = ["targets", "score", "mean_rank"]
    return pd.DataFrame(rows).sort_values(columns, ascending=[False, False, True], ignore_index=True)


def _wins(finals: pd.DataFrame) -> pd.DataFrame:
    """Every pair of tuners: blocks won, tied and lost, and the probability of doing better, with its interval."""
    import pandas as pd

    merit = matrix(finals, "merit")
    rows = []
    for a in merit:
        for b in merit:
            if a == b:
                continue
            x, y = merit[a].to_numpy(dtype=float), merit[b].to_numpy(dtype=float)
            same = np.isclose(x, y, rtol=1e-9, atol=0.0)
            outcome = pd.Series(np.where(same, 0.5, (x > y).astype(float)), index=merit.index)
            parts = {t: g.to_numpy() for t, g in outcome.groupby(level="target")}
            value, low, high = bootstrap(parts, lambda v: v.mean(axis=1))
            rows.append({
                "tuner": a, "against": b, "wins": int(((x > y) & ~same).sum()), "ties": int(same.sum()),
                "losses": int(((x < y) & ~same).sum()), "better": value, "low": low, "high": high,
            })  # fmt: skip
    return pd.DataFrame(rows, columns=["tuner", "against", "wins", "ties", "losses", "better", "low", "high"])


def friedman(wide: pd.DataFrame) -> tuple[dict[str, float], float]:
    """Return mean ranks, 1 the best, of a matrix (blocks, tuners) of merits, and Friedman's p.

    p is NaN where there are fewer than three tuners or two blocks; with two tuners it is Wilcoxon's.
    """
    from scipy.stats import friedmanchisquare, wilcoxon

    values = wide.to_numpy(dtype=float)
    if not values.size:
        return {}, math.nan
    ranks = wide.rank(axis=1, ascending=False)
    means = {str(k): float(v) for k, v in ranks.mean().items()}
    same = np.isclose(values, values[:, :1], rtol=1e-9, atol=0.0).all()
    if len(values) < 2 or values.shape[1] < 2:
        return means, math.nan
    if same:
        return means, 1.0
    if values.shape[1] == 2:
        return means, float(wilcoxon(values[:, 0], values[:, 1], zero_method="zsplit").pvalue)
    return means, float(friedmanchisquare(*values.T).pvalue)


def critical_difference(tuners: int, blocks: int) -> float:
    """Nemenyi's: mean ranks closer than this are not told apart (Demsar 2006, section 3.2.2).

    >>> round(critical_difference(4, 14), 2)
    1.25
    """
    from scipy.stats import studentized_range

    if tuners < 2 or blocks < 1:
        return math.nan
    q = studentized_range.ppf(1 - LEVEL, tuners, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(tuners * (tuners + 1) / (6 * blocks)))


def _ranks(finals: pd.DataFrame) -> tuple[dict[str, float], pd.DataFrame]:
    """Mean ranks, and the table of pairs with Nemenyi's p."""
    import pandas as pd

    wide = matrix(finals, "merit")
    means, p = friedman(wide)
    gap = critical_difference(wide.shape[1], len(wide))
    rows = []
    if wide.shape[1] >= 3 and len(wide) >= 2:
        import scikit_posthocs

        pairs = scikit_posthocs.posthoc_nemenyi_friedman(wide.to_numpy(dtype=float))
        names = list(wide.columns)
        for i, a in enumerate(names):
            for j, b in enumerate(names):
                if i < j:
                    rows.append((a, b, means[a], means[b], float(pairs.iloc[i, j])))
    elif wide.shape[1] == 2:
        a, b = wide.columns
        rows.append((a, b, means[a], means[b], p))
    columns = ["tuner", "against", "rank", "rank_against", "p"]
    found = pd.DataFrame(rows, columns=columns)
    return means, found.assign(friedman_p=p, critical_difference=gap, blocks=len(wide))


def _results(finals: pd.DataFrame, facts: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Each tuner on each target: final values, scores, trials to near-optimal (censored at the budget)."""
    import pandas as pd

    rows = []
    for (target, tuner), own in finals.groupby(["target", "tuner"]):
        low, middle, high = np.quantile(own["value"], [0.25, 0.5, 0.75])
        rows.append({
            "target": target, "tuner": tuner, "unit": facts[target]["unit"], "value": middle,
            "quartile_1": low, "quartile_3": high, "score": float(own["score"].median()),
            "regret": float(own["regret"].median()), **_censored(own["reached"].to_numpy(dtype=float)),
            "near_share": float(own["reached"].notna().mean()), "budget": int(own["trials"].max()),
            "seconds": float(own["seconds"].median()), "games": len(own),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _censored(reached: Floats) -> dict[str, float]:
    """Quartiles of trials to the goal; NaN where that many games did not get there within the budget."""
    ordered = np.sort(np.where(np.isfinite(reached), reached, math.inf))
    picked = [ordered[int(q * (len(ordered) - 1) + 0.5)] for q in (0.25, 0.5, 0.75)]
    return {
        f"to_near_{name}": float(v) if math.isfinite(v) else math.nan
        for name, v in zip(("q1", "median", "q3"), picked, strict=True)
    }


def _tests_by_target(finals: pd.DataFrame, facts: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Each target: what is known of it, and whether its tuners can be told apart."""
    import pandas as pd

    rows = []
    for name, own in finals.groupby("target"):
        f = facts[name]
        wide = matrix(own, "merit")
        means, p = friedman(wide)
        spread = own.groupby("tuner")["value"].median()
        between = abs(math.log(spread.max() / spread.min())) if (spread > 0).all() else math.nan
        rows.append({
            "target": name, "workload": f["workload"], "metric": f["metric"], "direction": f["direction"],
            "unit": f["unit"], "parameters": f["parameters"], "simulated": f["simulated"], "default": f["default"],
            "best": f["best"], "best_is": f["source"], "room": f["room"], "goal": f["goal"],
            "uncertainty": f["uncertainty"], "between_tuners": between, "p": p,
            "leader": min(means, key=lambda k: means[k]) if means else "", "says": _says(f, p, between),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _says(f: Mapping[str, Any], p: float, between: float) -> str:
    if not f["room"] or f["room"] < 1e-6:
        return "nothing to gain: no game found anything better than the default"
    if not f["exact"] and f["uncertainty"] > between:
        return (
            f"no ranking can be shown: a verified ratio is known to {100 * f['uncertainty']:.1f} %, the tuners' medians"
            f" differ by {100 * between:.1f} %"
        )
    if math.isnan(p):
        return "too few games or tuners to test"
    return "the tuners differ" if p < LEVEL else f"no ranking can be shown (p = {p:.2g})"


def _profiles(finals: pd.DataFrame) -> pd.DataFrame:
    """Share of games whose score is at least tau, with its interval."""
    import pandas as pd

    rows = []
    for tuner in sorted(finals["tuner"].unique()):
        every, drawn = _resampled(_by_target(finals, tuner), REPEATS // 4)
        for tau in TAUS:
            made = (drawn >= tau - 1e-9).mean(axis=1)
            low, high = np.quantile(made, [LEVEL / 2, 1 - LEVEL / 2])
            share = float((every >= tau - 1e-9).mean())
            rows.append({"tuner": tuner, "tau": tau, "share": share, "low": float(low), "high": float(high)})
    return pd.DataFrame(rows)


def _summary_curves(curves: Mapping[tuple[Any, ...], Mapping[str, Any]]) -> pd.DataFrame:
    """Best-so-far over trials: median and quartiles over the games of a tuner on a target."""
    import pandas as pd

    grouped: dict[tuple[Any, Any], list[Floats]] = {}
    for (target, tuner, _, _), curve in curves.items():
        grouped.setdefault((target, tuner), []).append(curve["best"])
    rows = []
    for (target, tuner), held in sorted(grouped.items()):
        # a game whose first trials failed has no value yet
        many = np.where(np.isfinite(many := np.array(held)), many, np.nan)
        for k in range(many.shape[1]):
            if np.isnan(many[:, k]).all():
                continue
            low, middle, high = np.nanquantile(many[:, k], [0.25, 0.5, 0.75])
            rows.append({"target": target, "tuner": tuner, "trial": k + 1, "value": middle, "low": low, "high": high})
    return pd.DataFrame(rows, columns=["target", "tuner", "trial", "value", "low", "high"])


def over_time(games: pd.DataFrame, trials: pd.DataFrame, targets: pd.DataFrame) -> pd.DataFrame:
    """Best-so-far over seconds, the tuner's and its model's included: target, tuner, seconds, score (mean of games)."""
    import pandas as pd

    facts = _facts(games, trials, targets)
    grouped: dict[Any, dict[Any, list[Mapping[str, Any]]]] = {}
    for (target, tuner, _, _), curve in _curves(games, trials, facts).items():
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
    facts = _facts(games, trials, targets)
    return _finals(games, _curves(games, trials, facts), facts)[["tuner", "reached"]]


# -- words ------------------------------------------------------------------------------------------


def _verdict(board: pd.DataFrame, tests: pd.DataFrame, by_target: pd.DataFrame, finals: pd.DataFrame) -> pd.DataFrame:
    """What was shown, a sentence a row."""
    import pandas as pd

    said = [f"{len(finals):,} games of {len(board)} tuners on {len(by_target)} targets."]
    first = board.iloc[0]
    p = float(tests["friedman_p"].iloc[0]) if len(tests) else math.nan
    if len(board) < 2:
        said.append("One tuner alone: there is nothing to compare it with.")
    elif not len(tests):
        said.append("No ranking can be shown: no game was played by all tuners.")
    elif not p < LEVEL:
        what = "the test needs more games" if math.isnan(p) else f"p = {p:.2g}"
        said.append(f"No ranking can be shown: the tuners' ranks do not differ beyond chance ({what}).")
    else:
        means = board.set_index("tuner")["mean_rank"]
        lead = str(means.idxmin())
        pairs = tests[(tests["tuner"] == lead) | (tests["against"] == lead)]
        tied = [
            str(r["against"] if r["tuner"] == lead else r["tuner"]) for r in pairs.to_dict("records") if r["p"] >= LEVEL
        ]
        said.append(f"{lead} has the best mean rank, {means[lead]:.2f} of {int(means.notna().sum())}.")
        said.append(
            f"Not told apart from it: {', '.join(sorted(tied))}."
            if tied
            else "Every other tuner is told apart from it."
        )
        if first["tuner"] != lead:
            said.append(f"The highest score is {first['tuner']}'s.")
    said.append(
        f"{first['tuner']} reaches {100 * first['score']:.0f} % of what is to be gained"
        f" ({100 * first['low']:.0f} to {100 * first['high']:.0f} %)."
    )
    count = len(by_target)
    for row in board[board["targets"] < count].to_dict("records"):
        said.append(f"{row['tuner']} was on {row['targets']} of {count} targets, and is not ranked.")
    silent = by_target[by_target["says"] != "the tuners differ"]
    for row in silent.to_dict("records"):
        said.append(f"{row['target']}: {row['says']}.")
    said.append("This holds for these targets, seeds and budgets; of other systems nothing is claimed.")
    return pd.DataFrame({"text": said})


def order(board: pd.DataFrame) -> Sequence[str]:
    """The tuners' names, best first."""
    return [str(t) for t in board["tuner"]]
