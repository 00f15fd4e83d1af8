"""A tournament's report: one self-contained HTML page with static figures, readable in print."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunewright.comparing import plot
from tunewright.comparing.results import Results
from tunewright.comparing.standings import ALL
from tunewright.comparing.statistics import seeds_needed
from tunewright.report import pages
from tunewright.report.words import duration, number
from tunewright.store.outputs import write_text

_PANELS = 9  # targets that are drawn in one figure; more would make the page too heavy


def write_page(bundle: Results, path: Path) -> Path:
    """Write the page.

    Raises:
        ConfigError: the file cannot be written.
    """
    filters = {"number": _number, "duration": duration, "percent": _percent}
    write_text(path, pages.render("leaderboard.html.j2", _content(bundle), **filters))
    return path


def _number(value: Any) -> str:
    return "–" if value is None or not math.isfinite(value) else number(float(value))


def _percent(value: Any, digits: int = 0) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f} %"


def _content(bundle: Results) -> dict[str, Any]:
    from markupsafe import Markup

    tables = bundle.tables
    results = tables["results"].to_dict("records")
    by_target: dict[str, list[Mapping[str, Any]]] = {}
    for row in results:
        by_target.setdefault(row["target"], []).append(row)
    order = {t: i for i, t in enumerate(tables["leaderboard"]["tuner"])}
    games = bundle.games

    def figure(make: Any, *given: Any) -> Markup:
        return Markup(plot.svg(make(bundle, *given)))

    stated: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for row in tables["regret"].to_dict("records"):
        stated.setdefault(row["target"], {}).setdefault(row["tuner"], []).append(row)
    stated = {t: dict(sorted(rows.items(), key=lambda r: order[r[0]])) for t, rows in stated.items()}
    drawn = len(by_target) <= _PANELS
    return {
        "bundle": bundle, "config": bundle.config, "verdict": list(tables["verdict"]["text"]),
        "board": tables["leaderboard"].to_dict("records"), "targets": tables["targets"].to_dict("records"),
        "results": {t: sorted(rows, key=lambda r: order[r["tuner"]]) for t, rows in by_target.items()},
        "tests": tables["ranks"].to_dict("records"), "needed": seeds_needed(), "regrets": stated,
        "shortfall": stated.get(ALL), "counts": sorted(set(tables["regret"]["trial"])),
        "best_is": dict(zip(tables["targets"]["target"], tables["targets"]["best_is"], strict=True)),
        "failures": games[games["status"] != "done"].to_dict("records"),
        "paid": bool(games["calls"].sum()), "budget": int(games["trials"].max()) if len(games) else 0,
        "seeds": games.groupby(["by", "seed"]).ngroups,
        "scores": figure(plot.scores), "ranks": figure(plot.critical_difference), "profile": figure(plot.profile),
        "near": figure(plot.near),
        "regret": figure(plot.regret) if drawn else "", "time": figure(plot.time) if drawn else "",
    }  # fmt: skip
