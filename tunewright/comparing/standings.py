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

from tunewright.comparing.statistics import (
    LEVEL,
    REPEATS,
    Floats,
    bootstrap,
    critical_difference,
    friedman,
    iqm,
    matrix,
    resampled,
)
from tunewright.comparing.values import best_so_far, final_rows, references

if TYPE_CHECKING:
    import pandas as pd

TAUS = np.linspace(0.0, 1.0, 51)
BASELINE = "random"


def tables(games: pd.DataFrame, trials: pd.DataFrame, targets: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return all tables of a tournament by name.

    Returns:
        ``leaderboard``, ``targets``, ``results``, ``ranks``, ``wins``, ``profile``, ``curves``, ``verdict``.
    """
    facts = references(games, trials, targets)
    curves = best_so_far(games, trials, facts)
    finals = final_rows(games, curves, facts)
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
    table = pd.DataFrame(rows, columns=columns)
    return means, table.assign(friedman_p=p, critical_difference=gap, blocks=len(wide))


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
        every, drawn = resampled(_by_target(finals, tuner), REPEATS // 4)
        for tau in TAUS:
            shares = (drawn >= tau - 1e-9).mean(axis=1)
            low, high = np.quantile(shares, [LEVEL / 2, 1 - LEVEL / 2])
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
    for (target, tuner), games in sorted(grouped.items()):
        # a game whose first trials failed has no value yet
        many = np.where(np.isfinite(many := np.array(games)), many, np.nan)
        for k in range(many.shape[1]):
            if np.isnan(many[:, k]).all():
                continue
            low, middle, high = np.nanquantile(many[:, k], [0.25, 0.5, 0.75])
            rows.append({"target": target, "tuner": tuner, "trial": k + 1, "value": middle, "low": low, "high": high})
    return pd.DataFrame(rows, columns=["target", "tuner", "trial", "value", "low", "high"])


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
