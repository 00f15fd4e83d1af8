"""Figures of a tournament with matplotlib: functions of a bundle that return a figure, for notebooks and reports.

Example:
    >>> import tunewright as tw
    >>> bundle = tw.load("results")  # doctest: +SKIP
    >>> tw.plot.regret(bundle).savefig("regret.svg")  # doctest: +SKIP
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tunewright.comparing import values
from tunewright.comparing.results import Results
from tunewright.comparing.standings import order
from tunewright.comparing.statistics import seeds_needed
from tunewright.errors import missing_extra, unknown
from tunewright.sessions.watcher import View

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by most colour-blind readers; then dashes tell further tuners apart
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5B5B5B", "#8C6D31")
DASHES = ("-", "--", ":")
_STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "tunewright", "font.size": 9.0, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": "#e3e6ea", "grid.linewidth": 0.7,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left", "legend.frameon": False, "axes.axisbelow": True, "figure.facecolor": "white",
}  # fmt: skip
_ACROSS = 3  # panels beside each other


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise missing_extra("matplotlib", "compare", "drawing figures") from None
    return matplotlib


def _new(width: float, height: float) -> Figure:
    """Return a figure that notebooks show as SVG, whatever backend they have."""
    from matplotlib.figure import Figure

    class Drawn(Figure):
        def _repr_svg_(self) -> str:
            return svg(self)

    return Drawn(figsize=(width, height), layout="constrained")


def _names(bundle: Results) -> list[str]:
    return list(order(bundle.leaderboard))


def _look(bundle: Results) -> dict[str, dict[str, Any]]:
    """Colour and dashes of every tuner, the same in all figures of a bundle."""
    return {
        name: {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i // len(COLOURS) % len(DASHES)]}
        for i, name in enumerate(sorted(bundle.leaderboard["tuner"]))
    }


def _panels(bundle: Results, targets: Sequence[str], height: float = 2.5) -> tuple[Figure, list[Axes]]:
    across = min(len(targets), _ACROSS)
    down = math.ceil(len(targets) / across)
    figure = _new(3.1 * across + 0.2, height * down + 0.6)
    axes = np.atleast_1d(figure.subplots(down, across, squeeze=False)).ravel().tolist()
    for spare in axes[len(targets) :]:
        spare.set_axis_off()
    return figure, axes[: len(targets)]


def _legend(figure: Figure, axis: Axes, count: int) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(count, 6), fontsize=8.5)


def _targets(bundle: Results, target: str | None) -> list[str]:
    known = [str(t) for t in bundle.tables["targets"]["target"]]
    if target is not None and target not in known:
        raise unknown("target of this tournament", target, known)
    return known if target is None else [target]


def regret(bundle: Results, target: str | None = None) -> Figure:
    """Draw how far the best so far is from the best known, over trials: median and quartiles of each tuner's games.

    Args:
        bundle: a tournament.
        target: one target; None for a panel each.
    """
    with _matplotlib().rc_context(_STYLE):
        names = _targets(bundle, target)
        figure, axes = _panels(bundle, names)
        facts, curves, look = bundle.tables["targets"].set_index("target"), bundle.tables["curves"], _look(bundle)
        for axis, name in zip(axes, names, strict=True):
            best, direction, floor = float(facts.loc[name, "best"]), str(facts.loc[name, "direction"]), 1e-3
            for tuner in _names(bundle):
                own = curves[(curves["target"] == name) & (curves["tuner"] == tuner)]
                if not len(own):
                    continue
                gaps = [np.maximum(values.regret(own[c], best, direction), floor) for c in ("value", "low", "high")]
                axis.plot(own["trial"], 100 * gaps[0], label=tuner, linewidth=1.5, **look[tuner])
                lower, upper = np.minimum(gaps[1], gaps[2]), np.maximum(gaps[1], gaps[2])
                axis.fill_between(
                    own["trial"], 100 * lower, 100 * upper, color=look[tuner]["color"], alpha=0.12, linewidth=0
                )
            axis.set_yscale("log")
            axis.set_title(name)
            axis.set_xlabel("trials")
            axis.set_ylabel("regret [%]")
            axis.yaxis.set_major_formatter(_percent)
            if axis.get_ylim()[1] / axis.get_ylim()[0] < 30:  # less than a decade or two: some ticks need more numbers
                axis.yaxis.set_minor_formatter(_percent)
        _legend(figure, axes[0], len(_names(bundle)))
    return figure


def _percent(value: float, position: float) -> str:
    return f"≤{value:g}" if value <= 0.101 else f"{value:g}"


def time(bundle: Results, target: str | None = None) -> Figure:
    """Draw the mean score over seconds, the tuner's own time and its model's included."""
    with _matplotlib().rc_context(_STYLE):
        names = _targets(bundle, target)
        figure, axes = _panels(bundle, names)
        look, over = _look(bundle), values.over_time(bundle.games, bundle.trials, bundle.targets)
        for axis, name in zip(axes, names, strict=True):
            for tuner in _names(bundle):
                own = over[(over["target"] == name) & (over["tuner"] == tuner)]
                axis.plot(own["seconds"], 100 * own["score"], label=tuner, linewidth=1.5, **look[tuner])
            axis.set_xscale("log")
            axis.set_ylim(-2, 104)
            axis.set_title(name)
            axis.set_xlabel("seconds, measuring and tuner")
            axis.set_ylabel("score [%]")
        _legend(figure, axes[0], len(_names(bundle)))
    return figure


def near(bundle: Results) -> Figure:
    """Draw the share of games that were within 5 % of the best known, over trials; those never there are censored."""
    from scipy.stats import CensoredData, ecdf

    with _matplotlib().rc_context(_STYLE):
        figure = _new(6.4, 3.2)
        axis, look = figure.subplots(), _look(bundle)
        budget = int(bundle.games["trials"].max())
        every = values.reached(bundle.games, bundle.trials, bundle.targets)
        for tuner in _names(bundle):
            reached = every.loc[every["tuner"] == tuner, "reached"].to_numpy(dtype=float)
            if not len(reached):
                continue
            data = CensoredData.right_censored(np.where(np.isnan(reached), budget, reached), np.isnan(reached))
            share = ecdf(data).cdf
            axis.step(
                [1, *share.quantiles, budget], [0, *share.probabilities, share.probabilities[-1]], where="post",
                label=tuner, linewidth=1.5, **look[tuner],
            )  # fmt: skip
        axis.set_ylim(-0.02, 1.02)
        axis.set_xlim(1, budget)
        axis.set_xlabel("trials")
        axis.set_ylabel("share of games within 5 %")
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def profile(bundle: Results) -> Figure:
    """Draw the performance profile: the share of games with at least a score, with its 95 % band."""
    with _matplotlib().rc_context(_STYLE):
        figure = _new(6.4, 3.2)
        axis, look, table = figure.subplots(), _look(bundle), bundle.tables["profile"]
        for tuner in _names(bundle):
            own = table[table["tuner"] == tuner]
            axis.plot(own["tau"], own["share"], label=tuner, linewidth=1.5, **look[tuner])
            axis.fill_between(own["tau"], own["low"], own["high"], color=look[tuner]["color"], alpha=0.12, linewidth=0)
        axis.set_xlabel("score: 0 the default, 1 the best known or seen")
        axis.set_ylabel("share of games with at least it")
        axis.set_xlim(0, 1)
        axis.set_ylim(-0.02, 1.02)
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def scores(bundle: Results) -> Figure:
    """Draw each tuner's score, averaged over targets, with the 95 % interval of its median over seeds."""
    with _matplotlib().rc_context(_STYLE):
        board, look = bundle.leaderboard.iloc[::-1], _look(bundle)
        figure = _new(6.4, 0.34 * len(board) + 0.9)
        axis = figure.subplots()
        for i, row in enumerate(board.to_dict("records")):
            colour = look[row["tuner"]]["color"]
            if math.isfinite(row["low"]):  # too few seeds carry no interval
                axis.plot(
                    [row["low"], row["high"]], [i, i], color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt"
                )
            axis.plot([row["score"]], [i], "o", color=colour, markersize=6)
        axis.set_yticks(range(len(board)), list(board["tuner"]))
        axis.set_ylim(-0.6, len(board) - 0.4)
        least = float(board[["low", "score"]].min(axis=None))
        axis.set_xlim(min(-0.02, least - 0.02), 1.02)
        few = "" if board["low"].notna().any() else f" (an interval needs {seeds_needed()} seeds)"
        axis.set_xlabel(f"score, median over seeds: 0 the default, 1 the best known or seen{few}")
        axis.grid(visible=False, axis="y")
    return figure


def critical_difference(bundle: Results) -> Figure:
    """Draw mean ranks over targets, the best on the left; bars join tuners that are not told apart."""
    with _matplotlib().rc_context(_STYLE):
        tests, board = bundle.tables["ranks"], bundle.leaderboard.dropna(subset=["mean_rank"])
        ranks = board.set_index("tuner")["mean_rank"].sort_values()
        names = list(ranks.index)
        half = math.ceil(len(names) / 2)
        figure = _new(6.8, 0.9 + 0.24 * half + 0.13 * len(names))
        axis = figure.subplots()
        axis.set_axis_off()
        count = max(len(names), 2)
        axis.set_xlim(0.2, count + 0.8)
        if not len(tests):
            axis.text(0.5, 0.5, "Too few tuners or games for ranks.", transform=axis.transAxes, ha="center")
            return figure
        gap = float(tests["critical_difference"].fillna(math.inf).iloc[0])  # too few targets: nothing is told apart
        cliques = _cliques(ranks.to_numpy(), gap)
        top, step = 0.0, 1.0
        axis.plot([1, count], [top, top], color="#333", linewidth=1)
        for tick in range(1, count + 1):
            axis.plot([tick, tick], [top, top + 0.25], color="#333", linewidth=1)
            axis.text(tick, top + 0.4, str(tick), ha="center", va="bottom", fontsize=8)
        if math.isfinite(gap) and gap < count - 1:
            axis.plot([1, 1 + gap], [top + 1.9, top + 1.9], color="#333", linewidth=1.5)
            axis.text(1 + gap / 2, top + 2.05, f"critical difference {gap:.2f}", ha="center", va="bottom", fontsize=8)
        first = top - 0.6 - 0.45 * len(cliques)
        for k, (a, b) in enumerate(cliques):
            y = top - 0.5 - 0.45 * k
            axis.plot(
                [ranks.iloc[a] - 0.04, ranks.iloc[b] + 0.04],
                [y, y],
                color="#111",
                linewidth=3.5,
                solid_capstyle="round",
            )
        for i, name in enumerate(names):
            left = i < half
            row = i if left else len(names) - 1 - i
            y, edge = first - step * row, 0.6 if left else count + 0.4
            axis.plot([ranks.iloc[i], ranks.iloc[i], edge], [top, y, y], color="#777", linewidth=0.8)
            axis.text(
                edge + (-0.05 if left else 0.05), y, f"{name}  {ranks.iloc[i]:.2f}", va="center", fontsize=9,
                ha="right" if left else "left",
            )  # fmt: skip
        axis.set_ylim(first - step * half, top + 3.0)
    return figure


def _cliques(ranks: Any, gap: float) -> list[tuple[int, int]]:
    """Longest runs of neighbours, best first, that lie within the critical difference; shape of ranks (tuners,)."""
    cliques: list[tuple[int, int]] = []
    for i in range(len(ranks)):
        j = int(np.searchsorted(ranks, ranks[i] + gap + 1e-9, side="right")) - 1
        if j > i and not any(a <= i and j <= b for a, b in cliques):
            cliques.append((i, j))
    return cliques


def svg(figure: Figure) -> str:
    """Return a figure as SVG to be put into a page: text stays text, and the same data give the same bytes."""
    from matplotlib.text import Text

    buffer = io.StringIO()
    for words in figure.findobj(Text):
        if (
            "$" in words.get_text() and r"\mathdefault" not in words.get_text()
        ):  # a name is no formula; a power of ten is
            words.set_parse_math(False)
    with _matplotlib().rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def history(session: View) -> Figure:
    """Draw a session's trials and the best so far.

    Args:
        session: a :class:`~tunewright.sessions.session.Session` that was run.
    """
    with _matplotlib().rc_context(_STYLE):
        figure = _new(6.4, 3.0)
        axis, metric = figure.subplots(), session.objectives[0]
        decided = session.decided
        good = [(i, t.scores[metric.name]) for i, t in enumerate(decided) if t.feasible]
        lost = [i for i, t in enumerate(decided) if not t.feasible]
        axis.plot(*zip(*good, strict=True), "o", color=COLOURS[0], markersize=5, label="trial")
        sign = 1.0 if metric.direction == "max" else -1.0
        best = sign * np.maximum.accumulate(sign * np.array([v for _, v in good]))
        axis.step([i for i, _ in good], best, where="post", color=COLOURS[2], label="best so far")
        for i in lost:
            axis.axvline(i, color=COLOURS[1], linewidth=0.8, alpha=0.6, label="failed" if i == lost[0] else None)
        axis.set_xlabel("trial, 0 is the default")
        axis.set_ylabel(f"{metric.name} [{metric.unit}]" if metric.unit else metric.name)
        axis.legend()
    return figure
