"""What a tournament shows, in words: over targets, on each target, and what it is measured against."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tunewright.comparing.statistics import LEVEL, same, seeds_needed
from tunewright.comparing.values import SEEN

if TYPE_CHECKING:
    import pandas as pd


def verdict(board: pd.DataFrame, tests: pd.DataFrame, by_target: pd.DataFrame, finals: pd.DataFrame) -> pd.DataFrame:
    """Return what was shown, a sentence a row: column ``text``.

    Args:
        board: table of tuners, best first.
        tests: table of pairs of tuners over targets.
        by_target: table of targets.
        finals: a row a game.
    """
    import pandas as pd

    said = [f"{_count(len(finals), 'game')} of {_count(len(board), 'tuner')} on {_count(len(by_target), 'target')}."]
    said += _over_targets(board, tests)
    said += _score(board)
    said += _optimum(by_target)
    count = len(by_target)
    for row in board[board["targets"] < count].to_dict("records"):
        said.append(f"{row['tuner']} was on {row['targets']} of {count} targets, and is not ranked.")
    said += _on_targets(by_target, alone=len(board) < 2)
    said.append("This holds for these targets, seeds and budgets; of other systems nothing is claimed.")
    return pd.DataFrame({"text": said})


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _over_targets(board: pd.DataFrame, tests: pd.DataFrame) -> list[str]:
    """Say whether tuners differ over targets, each target counting once."""
    if len(board) < 2:
        return ["One tuner alone: there is nothing to compare it with."]
    if not len(tests):
        return ["No ranking can be shown: no game was played by all tuners."]
    first = tests.iloc[0]
    p, targets, needed = float(first["friedman_p"]), int(first["targets"]), int(first["needed"])
    if math.isnan(p):
        ranked = int(board["mean_rank"].notna().sum())
        return [
            f"No ranking over targets can be shown: with {_count(ranked, 'tuner')} the test needs at least {needed}"
            f" targets, and there {'is' if targets == 1 else 'are'} {targets}; seeds of one target do not count as"
            " further targets."
        ]
    if p >= LEVEL:
        return [f"No ranking can be shown: over targets the tuners' ranks do not differ beyond chance (p = {p:.2g})."]
    means = board.dropna(subset=["mean_rank"]).set_index("tuner")["mean_rank"]
    leaders = [str(t) for t in means.index[same(means, means.min())]]
    if len(leaders) > 1:
        return [f"{' and '.join(leaders)} share the best mean rank, {means.min():.2f} of {len(means)} (p = {p:.2g})."]
    lead = leaders[0]
    pairs = tests[(tests["tuner"] == lead) | (tests["against"] == lead)].to_dict("records")
    tied = sorted(str(r["against"] if r["tuner"] == lead else r["tuner"]) for r in pairs if r["p"] >= LEVEL)
    said = [f"{lead} has the best mean rank, {means[lead]:.2f} of {len(means)} (p = {p:.2g} over {targets} targets)."]
    if not tied:
        return [*said, "Every other tuner is told apart from it."]
    if len(tied) == len(means) - 1:
        return [*said, "None of the others is told apart from it; that all are equal is unlikely."]
    return [*said, f"Not told apart from it: {', '.join(tied)}."]


def _score(board: pd.DataFrame) -> list[str]:
    """Say how far the tuners with the highest score come."""
    best = board.iloc[0]
    alike = board[(board["targets"] == best["targets"]) & same(board["score"], best["score"])]
    names, row = " and ".join(str(t) for t in alike["tuner"]), best.to_dict()
    verb = "reaches" if len(alike) == 1 else "reach"
    return [f"{names} {verb} {100 * row['score']:.0f} % of what is to be gained ({interval(row)})."]


def interval(row: dict[str, Any], low: str = "low", high: str = "high") -> str:
    """Return an interval in per cent, or how many seeds one needs."""
    if math.isfinite(row[low]) and math.isfinite(row[high]):
        return f"{100 * row[low]:.0f} to {100 * row[high]:.0f} %"
    return f"an interval needs {seeds_needed()} seeds, there {'is' if row['seeds'] == 1 else 'are'} {row['seeds']}"


def _on_targets(by_target: pd.DataFrame, *, alone: bool) -> list[str]:
    """Say what each target shows, those of which the same can be said together."""
    alike: dict[str, list[str]] = {}
    for row in by_target.to_dict("records"):
        if alone and not row["says"].startswith("nothing"):
            continue
        best = f", best mean rank {row['leader']}" if row["differ"] else ""
        alike.setdefault(f"{row['says']}{best}.", []).append(str(row["target"]))
    return [f"{', '.join(names)}: {text}" for text, names in alike.items()]


def _optimum(by_target: pd.DataFrame) -> list[str]:
    """Say where scores are measured against the best that was seen, and how that biases them."""
    seen = by_target[by_target["best_is"] == SEEN]
    if not len(seen):
        return []
    where = "The optimum is not known" if len(seen) == len(by_target) else (
        f"On {len(seen)} of {len(by_target)} targets ({', '.join(seen['target'])}) the optimum is not known"
    )  # fmt: skip
    guess = seen["beyond"].dropna()
    most = float(guess.max()) if len(guess) else 0.0
    by = f", by an estimated {100 * most / (1 + most):.0f} % at most" if most >= 0.005 else ""
    return [
        f"{where}: scores and regrets are measured against the best value that any game found, so that scores are too"
        f" high and regrets too low{by}."
    ]
