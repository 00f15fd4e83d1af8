"""Curves, bars, stacks and maps as static SVG, and a self-contained HTML page of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tunewright.report import pages
from tunewright.report.figures import WIDTH, line, scale, svg, text, ticks

_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 150, 16, 42
COLOURS = 8


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    step = max(1, (last - first) // 6)
    return [10.0**k for k in range(first, last + 1, step) if low <= 10.0**k * 1.001 and 10.0**k <= high * 1.001]


def short(value: float) -> str:
    """Show a number in few characters.

    >>> [short(v) for v in (0, 0.05, 12, 1500, 2.5e6, 3e9)]
    ['0', '0.05', '12', '1.5k', '2.5M', '3G']
    """
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def curves(
    series: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    height: int = 280,
) -> Markup:
    """Draw lines with their names beside them.

    Args:
        series: (name, x, y); with a log axis, points that are not positive are left out.
        x_label, y_label: with units.
        log_x, log_y: logarithmic axes.
        height: of the figure.
    """
    kept = []
    for name, xs, ys in series:
        points = [(x, y) for x, y in zip(xs, ys, strict=True) if (x > 0 or not log_x) and (y > 0 or not log_y)]
        if points:
            kept.append((name, points))
    if not kept:
        return Markup("<p>Nothing to draw.</p>")
    every = [p for _, points in kept for p in points]
    parts: list[Any] = []
    axes = []
    for k, (log, start, end) in enumerate(((log_x, _LEFT, WIDTH - _RIGHT), (log_y, height - _BOTTOM, _TOP))):
        low, high = min(p[k] for p in every), max(p[k] for p in every)
        if not log and low > 0 and low < 0.3 * high:
            low = 0.0
        if high <= low:
            low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
        ends = (math.log10(low), math.log10(high)) if log else (low, high)
        inner = scale(ends[0], ends[1], start, end)
        at = (lambda v, f=inner: f(math.log10(v))) if log else inner
        axes.append(at)
        for tick in _log_ticks(low, high) if log else ticks(low, high):
            if k == 0:
                parts += [line(at(tick), _TOP, at(tick), height - _BOTTOM, "grid")]
                parts += [text(at(tick), height - _BOTTOM + 15, short(tick))]
            else:
                parts += [line(_LEFT, at(tick), WIDTH - _RIGHT, at(tick), "grid")]
                parts += [text(_LEFT - 6, at(tick) + 4, short(tick), "end")]
    labels = sorted((axes[1](points[-1][1]), i) for i, (_, points) in enumerate(kept))
    taken = -math.inf
    places = {}
    for y, i in labels:  # names keep a line's distance
        taken = max(y, taken + 13)
        places[i] = taken
    over = max(0.0, taken - (height - _BOTTOM + 10))
    for i, (name, points) in enumerate(kept):
        path = " ".join(f"{axes[0](x):.1f},{axes[1](y):.1f}" for x, y in points)
        parts.append(Markup('<polyline points="{}" class="curve c{}"/>').format(path, i % COLOURS))
        parts.append(text(WIDTH - _RIGHT + 8, places[i] - over + 4, name, "start", f"t{i % COLOURS}"))
    parts.append(text((_LEFT + WIDTH - _RIGHT) / 2, height - 6, x_label))
    parts.append(text(_LEFT, _TOP - 5, y_label, "start", "axis"))
    return svg(parts, f"{y_label} over {x_label}", height)


def bars(rows: Sequence[tuple[str, float, str]], label: str, *, log: bool = False) -> Markup:
    """Draw horizontal bars: (name, value, text behind it)."""
    rows = [r for r in rows if math.isfinite(r[1]) and (r[1] > 0 or not log)]
    if not rows:
        return Markup("<p>Nothing to draw.</p>")
    left, step = 150, 22
    height = step * len(rows) + 28
    low = min(r[1] for r in rows) / 1.5 if log else 0.0
    top = max(r[1] for r in rows) or 1.0
    ends = (math.log10(low), math.log10(top)) if log else (low, top)
    at = scale(ends[0], ends[1], 0, WIDTH - left - 110)
    parts: list[Any] = []
    for i, (name, value, said) in enumerate(rows):
        y, width = 6 + step * i, max(at(math.log10(value) if log else value), 1)
        parts.append(text(left - 8, y + 12, name, "end"))
        parts.append(Markup('<rect x="{}" y="{}" width="{:.1f}" height="15" class="bar"/>').format(left, y, width))
        parts.append(text(left + width + 6, y + 12, said, "start"))
    parts.append(text((left + WIDTH) / 2, height - 5, label))
    return svg(parts, label, height)


def stacks(rows: Sequence[tuple[str, Sequence[float]]], names: Sequence[str], label: str) -> Markup:
    """Draw shares that add up to one as stacked bars, with a key."""
    left, step = 150, 22
    height = step * len(rows) + 50
    width = WIDTH - left - 20
    parts: list[Any] = []
    for i, (name, shares) in enumerate(rows):
        y, x = 6 + step * i, float(left)
        parts.append(text(left - 8, y + 12, name, "end"))
        for k, share in enumerate(shares):
            box = Markup('<rect x="{:.1f}" y="{}" width="{:.1f}" height="15" class="f{}"><title>{}</title></rect>')
            parts.append(box.format(x, y, share * width, k % COLOURS, f"{names[k]}: {100 * share:.1f} %"))
            x += share * width
    x = float(left)
    for k, name in enumerate(names):
        parts.append(Markup('<rect x="{:.1f}" y="{}" width="11" height="11" class="f{}"/>').format(x, height - 38, k))
        parts.append(text(x + 15, height - 28, name, "start"))
        x += 30 + 6.2 * len(name)
    parts.append(text((left + WIDTH) / 2, height - 5, label))
    return svg(parts, label, height)


def heat(rows: Sequence[Sequence[float]], x_label: str, y_label: str, x_range: tuple[str, str]) -> Markup:
    """Draw a map, first row at the bottom; the darker, the more (by the root of the value)."""
    if not rows or not rows[0]:
        return Markup("<p>Nothing to draw.</p>")
    height, left = 300, 40
    most = max(max(r) for r in rows) or 1.0
    across, up = (WIDTH - left - 10) / len(rows[0]), (height - 46) / len(rows)
    parts: list[Any] = []
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            if value > 0:
                parts.append(
                    Markup(
                        '<rect x="{:.1f}" y="{:.1f}" width="{:.2f}" height="{:.2f}" class="bar" opacity="{:.2f}"/>'
                    ).format(
                        left + j * across, height - 36 - (i + 1) * up, across, up, 0.12 + 0.88 * (value / most) ** 0.5
                    )
                )
    parts += [text(left, height - 20, x_range[0], "start"), text(WIDTH - 10, height - 20, x_range[1], "end")]
    parts += [text((left + WIDTH) / 2, height - 4, x_label), text(left, 8, y_label, "start", "axis")]
    return svg(parts, f"{y_label} over {x_label}", height)


def write_page(path: Path, title: str, subtitle: str, sections: Sequence[tuple[str, Any, str]]) -> None:
    """Write one self-contained HTML page.

    Args:
        path: file to write.
        title, subtitle: plain text.
        sections: (heading, figure, plain text under it).

    Raises:
        ConfigError: the file cannot be written.
    """
    content = {"title": title, "subtitle": subtitle, "sections": sections}
    pages.write(path, pages.render("page.html.j2", content))
