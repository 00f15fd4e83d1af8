"""The statistics of a tournament, as pandas frames: who is better, by how much, and whether that was shown.

Definitions, the same in every table and figure:

- *value*: of a trial, its objective; where the target has noise, the default's value times the ratio to the default
  measured beside it, so that games are comparable. Of a trial with several objectives, the hypervolume that its game's
  trials dominate so far; see :mod:`tunewright.comparing.fronts`. *Final value*: of a game, its winner measured afresh.
- *best*: the target's optimum where it is known (tables), else the best final value of any game, which is named "best
  seen"; never the best of noisy trials, which would be luck.
- *score*: (value - default) / (best - default): 0 is the default, 1 the best. *Gap*: 1 - score.
- *regret*: |best - value| / |best|.
- *within 5 %*: value at least as good as best + 5 % of (median - best) of the whole table where that is known, else
  with a regret of at most 5 %.

An optimum that was only seen biases what is measured against it: the true one lies beyond, so regrets are too small and
scores too large, for whoever found it above all, whose regret is 0. ``beyond`` in the table of targets estimates by how
much. Where the target has noise, the best seen was also lucky, which works the other way.

A seed is the unit of every interval, and a target the unit of every test over targets: seeds of one target are not
independent targets. Scores, shares and differences are averaged over targets within each seed; shown is the median over
seeds, with its interval from order statistics. Ranks are averaged over the seeds of each target, and tuners' names are
exchanged within targets to test them. Within one target the blocks are its seeds; p-values of several targets are
corrected after Holm. See :mod:`tunewright.comparing.statistics`. A game that failed scores 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tunewright.comparing.fronts import with_hypervolume
from tunewright.comparing.statistics import (
    LEVEL,
    Floats,
    RankTest,
    aligned_ranks,
    blocks_needed,
    holm,
    median_interval,
    rank_test,
    ranked,
    same,
    share_interval,
)
from tunewright.comparing.values import best_so_far, final_rows, references, regrets
from tunewright.comparing.verdict import verdict

if TYPE_CHECKING:
    import pandas as pd

TAUS = np.linspace(0.0, 1.0, 51)
BASELINE = "random"
ALL = "all targets"
STATISTICS = 2  # raised where tables are computed otherwise; bundles say with which theirs were
_BLOCK = ["target", "by", "seed"]


def tables(games: pd.DataFrame, trials: pd.DataFrame, targets: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return all tables of a tournament by name.

    Returns:
        ``leaderboard``, ``targets``, ``results``, ``regret``, ``ranks``, ``wins``, ``profile``, ``curves``,
        ``hypervolume``, ``verdict``.
    """
    games, trials, targets = with_hypervolume(games, trials, targets)
    facts = references(games, trials, targets)
    curves = best_so_far(games, trials, facts)
    finals = final_rows(games, curves, facts)
    means, ranks = _ranks(finals)
    results = _results(finals, facts)
    wins = _wins(finals)
    board = _leaderboard(games, finals, means, wins)
    tested = _tests_by_target(finals, facts)
    several = [t for t, f in facts.items() if f["objectives"]]
    columns = ["target", "tuner", "value", "low", "high", "games"]
    return {
        "leaderboard": board, "results": results, "targets": tested, "ranks": ranks, "wins": wins,
        "regret": _regret(regrets(games, curves, facts)), "profile": _profiles(finals),
        "curves": _summary_curves(curves),
        "hypervolume": results.loc[results["target"].isin(several), columns].reset_index(drop=True),
        "verdict": verdict(board, ranks, tested, finals),
    }  # fmt: skip


def matrix(finals: pd.DataFrame, column: str = "score") -> pd.DataFrame:
    """Return a column by block (target, by, seed) and tuner.

    Tuners that were not on every target are left out, such as an agent that fits one of them alone; then blocks that
    not every one of the others has played.
    """
    wide = finals.pivot_table(index=_BLOCK, columns="tuner", values=column, aggfunc="first")
    everywhere = wide.notna().groupby(level="target").any().all()
    return wide.loc[:, everywhere[everywhere].index].dropna()


def by_seed(values: pd.Series) -> Floats:
    """Average a column over targets within each seed, shape (seeds,).

    Where targets have unlike numbers of seeds, each gives as many as the least of them.

    Args:
        values: indexed by target, by and seed.
    """
    return np.asarray(_seeds_of(values).mean(axis=0))


def _seeds_of(values: pd.Series) -> Floats:
    """Return a column by target and seed, shape (targets, seeds); see :func:`by_seed`."""
    each = [own.to_numpy(dtype=float) for _, own in values.sort_index().groupby(level="target")]
    seeds = min(map(len, each), default=0)
    return np.array([own[:seeds] for own in each]).reshape(-1, seeds)


def _of_tuner(finals: pd.DataFrame, tuner: str, column: str) -> pd.Series:
    return finals[finals["tuner"] == tuner].set_index(_BLOCK)[column]


def _middle(values: Floats) -> tuple[float, float, float]:
    """Return the median with its interval."""
    return (float(np.median(values)) if len(values) else math.nan, *median_interval(values))


def _leaderboard(
    games: pd.DataFrame, finals: pd.DataFrame, ranks: Mapping[str, float], wins: pd.DataFrame
) -> pd.DataFrame:
    import pandas as pd

    wide = matrix(finals)
    record = wins.groupby("tuner")[["wins", "ties", "losses"]].sum()
    near = finals.assign(near=finals["reached"].notna().astype(float))
    rows = []
    for tuner, own in finals.groupby("tuner"):
        mine = games[games["tuner"] == tuner]
        scores, reached = by_seed(_of_tuner(finals, tuner, "score")), by_seed(_of_tuner(near, tuner, "near"))
        value, low, high = _middle(scores)
        over = (math.nan, math.nan, math.nan)
        if BASELINE in wide and tuner in wide and tuner != BASELINE:
            over = _middle(by_seed(wide[tuner] - wide[BASELINE]))
        near_low, near_high = share_interval(reached)
        improved = int(own["improved"].sum())
        tokens, dollars, count = int(mine["tokens"].sum()), float(mine["dollars"].sum()), int(mine["trials"].sum())
        won = record.loc[tuner] if tuner in record.index else {"wins": 0, "ties": 0, "losses": 0}
        rows.append({
            "tuner": tuner, "targets": own["target"].nunique(), "seeds": len(scores),
            "score": value, "low": low, "high": high, "mean_rank": ranks.get(str(tuner), math.nan),
            "over_random": over[0], "over_random_low": over[1], "over_random_high": over[2],
            **{k: int(won[k]) for k in ("wins", "ties", "losses")},
            "near_share": float(reached.mean()), "near_low": near_low, "near_high": near_high,
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
    """Every pair of tuners: games won, tied and lost, and the share of them won, ties by half, with its interval."""
    import pandas as pd

    merit = matrix(finals, "merit")
    rows = []
    for a in merit:
        for b in merit:
            if a == b:
                continue
            first, second = merit[a].to_numpy(dtype=float), merit[b].to_numpy(dtype=float)
            equal = same(first, second)
            outcome = pd.Series(np.where(equal, 0.5, (first > second).astype(float)), index=merit.index)
            better = by_seed(outcome)
            low, high = share_interval(better)
            rows.append({
                "tuner": a, "against": b, "wins": int(((first > second) & ~equal).sum()), "ties": int(equal.sum()),
                "losses": int(((first < second) & ~equal).sum()),
                "better": float(better.mean()) if len(better) else math.nan, "low": low, "high": high,
            })  # fmt: skip
    return pd.DataFrame(rows, columns=["tuner", "against", "wins", "ties", "losses", "better", "low", "high"])


def _ranks(finals: pd.DataFrame) -> tuple[dict[str, float], pd.DataFrame]:
    """Mean ranks over targets, seeds aggregated first, and the table of pairs with p-values for all pairs at once."""
    import pandas as pd

    wide = matrix(finals, "merit")
    pair = ["tuner", "against", "rank", "rank_against", "p"]
    columns = [*pair, "friedman_p", "critical_difference", "targets", "needed"]
    if not wide.size:
        return {}, pd.DataFrame(columns=columns)
    means = _ranks_by_target(wide)
    test, names = rank_test(means.to_numpy()), [str(c) for c in means.columns]
    able = len(means) >= blocks_needed(len(names))
    shared = (test.p if able else math.nan, test.critical_difference if able else math.nan, len(means))
    rows = [
        (a, b, test.means[i], test.means[j], float(test.pairs[i, j]) if able else math.nan, *shared,
         blocks_needed(len(names)))
        for i, a in enumerate(names)
        for j, b in enumerate(names)
        if i < j
    ]  # fmt: skip
    return dict(zip(names, map(float, test.means), strict=True)), pd.DataFrame(rows, columns=columns)


def _ranks_by_target(wide: pd.DataFrame) -> pd.DataFrame:
    """Mean rank of each tuner on each target over its seeds, 1 the best; shape (targets, tuners)."""
    ranks = wide.apply(lambda row: ranked(row.to_numpy()), axis=1, result_type="broadcast")
    return ranks.groupby(level="target").mean()


def _results(finals: pd.DataFrame, facts: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Each tuner on each target: final values, scores, trials to near-optimal (censored at the budget)."""
    import pandas as pd

    rows = []
    for (target, tuner), own in finals.groupby(["target", "tuner"]):
        first, middle, third = np.quantile(own["value"], [0.25, 0.5, 0.75])
        low, high = median_interval(own["value"])
        rows.append({
            "target": target, "tuner": tuner, "unit": facts[target]["unit"], "value": middle, "low": low, "high": high,
            "quartile_1": first, "quartile_3": third, "score": float(own["score"].median()),
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
    """Each target: what is known of it, and whether its tuners can be told apart over its seeds."""
    import pandas as pd

    rows = []
    for name, own in finals.groupby("target"):
        f = facts[name]
        wide = matrix(own, "merit")
        test, needed = _test_over_seeds(wide)
        spread = own.groupby("tuner")["value"].median()
        between = abs(math.log(spread.max() / spread.min())) if (spread > 0).all() else math.nan
        rows.append({
            "target": name, "workload": f["workload"], "metric": f["metric"], "direction": f["direction"],
            "unit": f["unit"], "parameters": f["parameters"], "simulated": f["simulated"], "default": f["default"],
            "best": f["best"], "best_is": f["source"], "found": f["found"], "beyond": f["beyond"], "room": f["room"],
            "goal": f["goal"], "uncertainty": f["uncertainty"], "between_tuners": between, "seeds": len(wide),
            "seeds_needed": needed, "p_alone": math.nan if test is None else test.p, "leader": _leader(wide),
        })  # fmt: skip
    table = pd.DataFrame(rows)
    table["p"] = holm(list(table["p_alone"]))
    table["differ"] = table["p"] < LEVEL
    tested = int(table["p_alone"].notna().sum())
    table["says"] = [_says(row, facts[row["target"]], tested) for row in table.to_dict("records")]
    table.loc[table["says"].str.startswith(("nothing", "no ranking")), "differ"] = False
    return table


def _test_over_seeds(wide: pd.DataFrame) -> tuple[RankTest | None, int]:
    """Return the test of one target's tuners, None where there are too few seeds, and how many it needs."""
    needed = blocks_needed(wide.shape[1])
    able = wide.shape[1] >= 2 and len(wide) >= needed
    return (rank_test(aligned_ranks(wide.to_numpy(dtype=float))) if able else None), needed


def _leader(wide: pd.DataFrame) -> str:
    """Return the tuners with the best mean rank on a target; several where they are equal."""
    if not wide.size:
        return ""
    means = _ranks_by_target(wide).iloc[0]
    return ", ".join(str(t) for t in means.index[same(means, means.min())])


def _says(row: Mapping[str, Any], f: Mapping[str, Any], tested: int) -> str:
    if not f["room"] or f["room"] < 1e-6:
        return "nothing to gain: no game found anything better than the default"
    if not f["exact"] and f["uncertainty"] > row["between_tuners"]:
        return (
            f"no ranking can be shown: a verified ratio is known to {100 * f['uncertainty']:.1f} %, the tuners' medians"
            f" differ by {100 * row['between_tuners']:.1f} %"
        )
    if math.isnan(row["p"]):
        return f"too few seeds or tuners to test: {row['seeds']} seeds, at least {row['seeds_needed']} are needed"
    corrected = f", corrected for {tested} targets" if tested > 1 else ""
    if row["differ"]:
        return f"the tuners differ (p = {row['p']:.2g}{corrected})"
    return f"no ranking can be shown (p = {row['p']:.2g}{corrected})"


def _regret(rows: pd.DataFrame) -> pd.DataFrame:
    """Regret and gap of each tuner at stated trial counts: medians over seeds, for each target and over all.

    Over all targets only the gap has a meaning; it is averaged over targets within each seed.
    """
    import pandas as pd

    made = []
    columns = ["target", "tuner", "trial", "regret", "low", "high", "gap", "gap_low", "gap_high", "seeds"]
    for (target, tuner, trial), own in rows.groupby(["target", "tuner", "trial"]):
        both = (*_middle(own["regret"].to_numpy()), *_middle(own["gap"].to_numpy()))
        made.append((target, tuner, int(trial), *both, len(own)))
    count = rows["target"].nunique()
    for (tuner, trial), own in rows.groupby(["tuner", "trial"]):
        if count > 1 and own["target"].nunique() == count:
            gaps = by_seed(own.set_index(_BLOCK)["gap"])
            made.append((ALL, tuner, int(trial), math.nan, math.nan, math.nan, *_middle(gaps), len(gaps)))
    return pd.DataFrame(made, columns=columns)


def _profiles(finals: pd.DataFrame) -> pd.DataFrame:
    """Share of games whose score is at least tau, with its interval (Agarwal et al., NeurIPS 2021)."""
    import pandas as pd

    rows = []
    for tuner in sorted(finals["tuner"].unique()):
        scores = _seeds_of(_of_tuner(finals, tuner, "score"))
        for tau in TAUS:
            reached = (scores >= tau - 1e-9).mean(axis=0)
            low, high = share_interval(reached)
            rows.append({"tuner": tuner, "tau": tau, "share": float(reached.mean()), "low": low, "high": high})
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


def order(board: pd.DataFrame) -> Sequence[str]:
    """The tuners' names, best first."""
    return [str(t) for t in board["tuner"]]
