"""Who ran where and when: a picture, and the same as a Chrome trace for the usual viewers."""

from __future__ import annotations

import heapq
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tunewright.report.figures import WIDTH, line, scale, svg, text, ticks

MOST_BARS = 1200
MOST_ROWS = 64
_COLOURS = ("#3b6fb6", "#c8553d", "#4f9d69", "#8e6bb0", "#c9962b", "#4aa3a2", "#b05a7a", "#6b7280")


@dataclass(frozen=True, kw_only=True)
class Bar:
    """Something that ran.

    Attributes:
        lane: where, such as a replica or node.
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
    """Return rows in which no two bars overlap: as many for each lane as are needed, lanes in the order of their names."""
    found: list[tuple[str, list[Bar]]] = []
    lanes: dict[str, list[Bar]] = {}
    for b in bars:
        lanes.setdefault(b.lane, []).append(b)
    for lane in sorted(lanes, key=lambda n: (len(n), n)):
        free: list[tuple[float, int]] = []
        rows: list[list[Bar]] = []
        for b in sorted(lanes[lane], key=lambda x: (x.start_s, x.end_s)):
            if free and free[0][0] <= b.start_s + 1e-12:
                _, k = heapq.heappop(free)
            else:
                k = len(rows)
                rows.append([])
            rows[k].append(b)
            heapq.heappush(free, (b.end_s, k))
        found += [(lane, row) for row in rows]
    return found


def figure(bars: Sequence[Bar], label: str) -> Markup:
    """Draw bars over time, one row for what runs at once."""
    rows = rows_of(bars)[:MOST_ROWS]
    if not rows:
        return Markup("<p>Nothing ran.</p>")
    left, top, height = 92, 12, max(min(16, 900 // len(rows)), 5)
    start = min(b.start_s for _, row in rows for b in row)
    end = max(b.end_s for _, row in rows for b in row)
    x = scale(start, end, left, WIDTH - 12)
    bottom = top + height * len(rows)
    people = {w: k for k, w in enumerate(sorted({b.who for _, row in rows for b in row}, key=lambda n: (len(n), n)))}
    parts: list[Any] = []
    for t in ticks(start, end, 8):
        parts += [line(x(t), top, x(t), bottom, "grid"), text(x(t), bottom + 15, f"{t:,.6g}")]
    before = ""
    for k, (lane, row) in enumerate(rows):
        y = top + k * height
        if lane != before:
            parts += [
                line(left, y, WIDTH - 12, y, "grid"),
                text(left - 6, y + 11, lane if len(lane) < 14 else lane[:13] + "…", "end"),
            ]
            before = lane
        for b in row:
            parts.append(
                Markup('<rect x="{:.2f}" y="{}" width="{:.2f}" height="{}" fill="{}" opacity="{}"><title>{}</title></rect>').format(
                    x(b.start_s), y + 1, max(x(b.end_s) - x(b.start_s), 0.4), height - 2, _COLOURS[people[b.who] % len(_COLOURS)],
                    0.3 if b.faint else 0.9, f"{b.what}, {b.who}: {b.start_s:.4g} to {b.end_s:.4g} s",
                )
            )  # fmt: skip
    parts.append(text((left + WIDTH) / 2, bottom + 32, "time [s]"))
    return svg(parts, label, bottom + 40)


def write(path: Path, title: str, bars: Sequence[Bar], words: str) -> list[str]:
    """Write the page, and beside it the Chrome trace; returns their paths.

    Args:
        path: of the page; the trace has the same name with ``.trace.json``.
        title: of the page.
        bars: the first ``MOST_BARS`` are used.
        words: below the title.
    """
    from tunewright.report.charts import write_page

    shown = sorted(bars, key=lambda b: b.start_s)[:MOST_BARS]
    rows = rows_of(shown)
    left_out = len(bars) - len(shown) + sum(len(r) for _, r in rows[MOST_ROWS:])
    note = "A row is a place where one thing runs at a time; colours are users. Point at a bar to see what it is."
    if left_out > 0:
        note += f" {left_out:,} bars that come later, or in further rows, are not drawn."
    write_page(path, title, words, [("Who ran where and when", figure(shown, title), note)])
    lanes = {lane: k for k, lane in enumerate(dict.fromkeys(lane for lane, _ in rows))}
    events: list[dict[str, Any]] = [
        {"name": "process_name", "ph": "M", "pid": k, "tid": 0, "args": {"name": lane}} for lane, k in lanes.items()
    ]
    for number, (lane, row) in enumerate(rows):
        for b in row:
            events.append(
                {
                    "name": b.what, "cat": "waiting" if b.faint else "running", "ph": "X", "ts": b.start_s * 1e6,
                    "dur": (b.end_s - b.start_s) * 1e6, "pid": lanes[lane], "tid": number, "args": {"user": b.who},
                }
            )  # fmt: skip
    beside = path.with_suffix(".trace.json")
    beside.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}), encoding="utf-8")
    return [str(path), str(beside)]
