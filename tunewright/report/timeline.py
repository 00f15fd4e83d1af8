"""Who ran where and when: a picture, and the same as a Chrome trace for the usual viewers."""

from __future__ import annotations

import heapq
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tunewright.report import pages
from tunewright.report.svg import CHARACTER, COLOURS, WIDTH, cut, key, line, nothing, rect, scale, svg, text, ticks
from tunewright.store.outputs import check_output, write_text

MOST_BARS = 1200  # of a page
MOST_ROWS = 64  # of a figure
_LEFT, _TOP = 92, 12


@dataclass(frozen=True, kw_only=True)
class Bar:
    """Something that ran.

    Attributes:
        lane: where, such as a replica, a node or a stage.
        start_s, end_s: when.
        who: whose it is; gives the colour.
        what: for the one who looks closer.
        faint: it waited or was set up.
    """

    lane: str
    start_s: float
    end_s: float
    who: str
    what: str
    faint: bool = False


def rows_of(bars: Sequence[Bar]) -> list[tuple[str, list[Bar]]]:
    """Return rows in which no two bars overlap: as many for each lane as it needs, lanes in order of their names."""
    rows: list[tuple[str, list[Bar]]] = []
    lanes: dict[str, list[Bar]] = {}
    for bar in bars:
        lanes.setdefault(bar.lane, []).append(bar)
    for lane in _by_number(lanes):
        free: list[tuple[float, int]] = []  # when each row's last bar ends
        own: list[list[Bar]] = []
        for bar in sorted(lanes[lane], key=lambda b: (b.start_s, b.end_s)):
            if free and free[0][0] <= bar.start_s + 1e-12:
                _, row = heapq.heappop(free)
            else:
                row = len(own)
                own.append([])
            own[row].append(bar)
            heapq.heappush(free, (bar.end_s, row))
        rows += [(lane, row_bars) for row_bars in own]
    return rows


def _by_number(names: Any) -> list[str]:
    """Return names so that "node 10" comes after "node 9"."""
    return sorted(names, key=lambda name: (len(name), name))


def figure(bars: Sequence[Bar], label: str, axis: str = "time [s]") -> Markup:
    """Draw bars over time, one row for what runs at once, with a key where colours are enough for all users.

    Args:
        bars: what ran.
        label: what the figure shows, for those who do not see it.
        axis: words below the axis.
    """
    rows = rows_of(bars)[:MOST_ROWS]
    if not rows:
        return nothing("Nothing ran.")
    shown = [bar for _, row in rows for bar in row]
    height, bottom = 16, _TOP + 16 * len(rows)
    start, end = min(bar.start_s for bar in shown), max(bar.end_s for bar in shown)
    x = scale(start, end, _LEFT, WIDTH - 12)
    users = _by_number({bar.who for bar in shown})
    colours = {user: number % COLOURS for number, user in enumerate(users)}
    parts: list[Markup] = []
    for tick in ticks(start, end, 8):
        parts += [line(x(tick), _TOP, x(tick), bottom, "grid"), text(x(tick), bottom + 15, f"{tick:,.6g}")]
    before = ""
    for number, (lane, row) in enumerate(rows):
        y = _TOP + number * height
        if lane != before:
            parts += [line(_LEFT, y, WIDTH - 12, y, "grid"), text(_LEFT - 6, y + 11, cut(lane, 14), "end")]
            before = lane
        for bar in row:
            width = max(x(bar.end_s) - x(bar.start_s) - 0.6, 0.4)  # with a gap to the next one
            title = f"{bar.what}, {bar.who}: {bar.start_s:.4g} to {bar.end_s:.4g} s"
            colour, opacity = f"f{colours[bar.who]}", 0.3 if bar.faint else None
            parts.append(rect(x(bar.start_s), y + 1, width, height - 2, colour, title, opacity))
    parts.append(text((_LEFT + WIDTH) / 2, bottom + 32, axis))
    wide = sum(30 + CHARACTER * len(user) for user in users)
    if not 1 < len(users) <= COLOURS or wide > WIDTH - _LEFT:
        return svg(parts, label, bottom + 40)
    return svg([*parts, *key(users, _LEFT, bottom + 42)], label, bottom + 58)


def chrome_trace(bars: Sequence[Bar]) -> str:
    """Return bars in the Chrome trace event format: lanes are processes, and rows their threads."""
    rows = rows_of(bars)
    lanes = {lane: number for number, lane in enumerate(dict.fromkeys(lane for lane, _ in rows))}
    events: list[dict[str, Any]] = [
        {"name": "process_name", "ph": "M", "pid": number, "tid": 0, "args": {"name": lane}}
        for lane, number in lanes.items()
    ]
    for number, (lane, row) in enumerate(rows):
        for bar in row:
            events.append({
                "name": bar.what, "cat": "waiting" if bar.faint else "running", "ph": "X", "ts": bar.start_s * 1e6,
                "dur": (bar.end_s - bar.start_s) * 1e6, "pid": lanes[lane], "tid": number, "args": {"user": bar.who},
            })  # fmt: skip
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})


def check_outputs(path: Path) -> Path:
    """Refuse a page, or a Chrome trace beside it, that may not be written, and return the trace's path.

    Raises:
        ConfigError: one of them is read by this command, or is no ordinary file.
    """
    check_output(path)
    beside = path.with_suffix(".trace.json")
    check_output(beside)
    return beside


def write(path: Path, title: str, bars: Sequence[Bar], words: str) -> list[str]:
    """Write the page, and beside it the Chrome trace; returns their paths.

    Args:
        path: of the page; the trace has the same name with ``.trace.json``.
        title: of the page.
        bars: the first ``MOST_BARS`` are used.
        words: below the title.
    """
    shown = sorted(bars, key=lambda bar: bar.start_s)[:MOST_BARS]
    left_out = len(bars) - len(shown) + sum(len(row) for _, row in rows_of(shown)[MOST_ROWS:])
    note = "A row is a place where one thing runs at a time; colours are users. Point at a bar to see what it is."
    if left_out > 0:
        note += f" {left_out:,} bars that come later, or in further rows, are not drawn."
    beside = check_outputs(path)
    pages.write_figures(path, title, words, [("Who ran where and when", figure(shown, title), note)])
    write_text(beside, chrome_trace(shown))
    return [str(path), str(beside)]
