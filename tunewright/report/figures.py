"""Figures of the report as small static SVG: readable in print, without scripts, and with every text escaped.

A plotting library would double the size of the default installation; these four figures need none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

WIDTH, HEIGHT = 720, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 14, 40


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about ``count`` round numbers between low and high.

    >>> ticks(0.0, 1.0)
    [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]
    """
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = min((m * power for m in (1, 2, 5, 10) if m * power >= raw), default=10 * power)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def svg(parts: Sequence[Any], label: str, height: int = HEIGHT) -> Markup:
    body = Markup("").join(parts)
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(WIDTH, height, label, body)


def text(x: float, y: float, words: Any, anchor: str = "middle", kind: str = "") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" class="{}">{}</text>').format(x, y, anchor, kind, words)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>').format(x1, y1, x2, y2, kind)


def _dot(x: float, y: float, kind: str, title: str, radius: float = 4) -> Markup:
    return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{}" class="{}"><title>{}</title></circle>').format(
        x, y, radius, kind, title
    )


def scale(low: float, high: float, start: float, end: float) -> Any:
    span = (high - low) or 1.0
    return lambda v: start + (v - low) / span * (end - start)


def history(points: Sequence[dict[str, Any]], label: str, direction: str) -> Markup:
    """Draw every trial and the best so far.

    Args:
        points: ``{"number", "value" (None if it failed), "feasible", "title"}`` in order.
        label: axis label.
        direction: ``min`` or ``max``.
    """
    values = [p["value"] for p in points if p["value"] is not None]
    if not values:
        return Markup("<p>No trial gave a value.</p>")
    low, high = min(values), max(values)
    pad = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    low, high = low - pad, high + pad
    x = scale(0, max(len(points) - 1, 1), _LEFT + 8, WIDTH - _RIGHT - 8)
    y = scale(low, high, HEIGHT - _BOTTOM, _TOP)
    parts: list[Any] = []
    for tick in ticks(low, high):
        parts += [
            line(_LEFT, y(tick), WIDTH - _RIGHT, y(tick), "grid"),
            text(_LEFT - 6, y(tick) + 4, f"{tick:,.6g}", "end"),
        ]
    for tick in ticks(0, max(len(points) - 1, 1), 8):
        if tick == int(tick):
            parts.append(
                text(
                    x(tick),
                    HEIGHT - _BOTTOM + 16,
                    points[int(tick)]["number"] if int(tick) < len(points) else int(tick),
                )
            )
    best, path = None, []
    for i, point in enumerate(points):
        value = point["value"]
        if (
            value is not None
            and point["feasible"]
            and (best is None or (value > best if direction == "max" else value < best))
        ):
            best = value
        if best is not None:
            path.append(f"{x(i):.1f},{y(best):.1f}")
    parts.append(Markup('<polyline points="{}" class="best"/>').format(" ".join(path)))
    for i, point in enumerate(points):
        if point["value"] is None:
            parts.append(_dot(x(i), HEIGHT - _BOTTOM, "failed", point["title"]))
        else:
            parts.append(_dot(x(i), y(point["value"]), "trial" if point["feasible"] else "infeasible", point["title"]))
    parts += [text((_LEFT + WIDTH) / 2, HEIGHT - 6, "trial"), text(_LEFT, _TOP - 2, label, "start", "axis")]
    return svg(parts, f"history of {label}")


def bars(rows: Sequence[tuple[str, float]], label: str) -> Markup:
    """Draw horizontal bars of shares in [0, 1]."""
    if not rows:
        return Markup("<p>Too few trials to say.</p>")
    height, left = 24 * len(rows) + 10, 230
    top = max(v for _, v in rows) or 1.0
    parts: list[Any] = []
    for i, (name, value) in enumerate(rows):
        y = 8 + 24 * i
        width = (WIDTH - left - 70) * value / top
        parts.append(text(left - 8, y + 13, name if len(name) <= 32 else name[:31] + "…", "end"))
        parts.append(
            Markup('<rect x="{}" y="{}" width="{:.1f}" height="16" class="bar"/>').format(left, y, max(width, 1))
        )
        parts.append(text(left + width + 6, y + 13, f"{100 * value:.0f} %", "start"))
    return svg(parts, label, height)


def parallel(axes: Sequence[tuple[str, str, str]], lines: Sequence[dict[str, Any]]) -> Markup:
    """Draw parallel coordinates.

    Args:
        axes: (name, label of the lower end, label of the upper end), left to right.
        lines: ``{"points": [0..1 or None], "shade": 0..1 (1 is best), "title"}``; best drawn last.
    """
    if len(axes) < 2 or not lines:
        return Markup("<p>Parallel coordinates need two parameters and a trial.</p>")
    height, bottom, top = 350, 100, 24
    x = scale(0, len(axes) - 1, 84, WIDTH - 36)
    y = scale(0, 1, height - bottom, top)
    parts: list[Any] = []
    for one in sorted(lines, key=lambda item: item["shade"]):
        points = " ".join(f"{x(i):.1f},{y(v):.1f}" for i, v in enumerate(one["points"]) if v is not None)
        hue = round(215 - 75 * one["shade"])  # blue is poor, green is good
        opacity = 0.15 + 0.8 * one["shade"] ** 2
        parts.append(
            Markup(
                '<polyline points="{}" fill="none" stroke="hsl({} 65% 42%)" '
                'stroke-opacity="{:.2f}" stroke-width="{:.1f}"><title>{}</title></polyline>'
            ).format(points, hue, opacity, 1 + 1.6 * one["shade"] ** 2, one["title"])
        )
    for i, (name, low, high) in enumerate(axes):
        short = name if len(name) <= 22 else name[:21] + "…"
        parts.append(line(x(i), top, x(i), height - bottom, "axisline"))
        parts += [text(x(i), top - 8, high[:11]), text(x(i), height - bottom + 13, low[:11])]
        parts.append(
            Markup('<text transform="translate({:.1f},{}) rotate(-35)" text-anchor="end">{}</text>').format(
                x(i) + 4, height - bottom + 28, short
            )
        )
    return svg(parts, "parallel coordinates", height)


def strip(groups: Sequence[tuple[str, Sequence[float]]], label: str) -> Markup:
    """Draw the single values of a few groups, one row each, with the median as a line."""
    groups = [(n, list(v)) for n, v in groups if v]
    values = [v for _, vs in groups for v in vs]
    if not values:
        return Markup("<p>No repeated runs.</p>")
    low, high = min(values), max(values)
    pad = 0.05 * (high - low) or abs(high) * 0.05 or 1.0
    left, height = 170, 44 * len(groups) + 46
    x = scale(low - pad, high + pad, left, WIDTH - _RIGHT)
    parts: list[Any] = []
    for tick in ticks(low - pad, high + pad, 6):
        parts += [
            line(x(tick), 8, x(tick), height - 36, "grid"),
            text(x(tick), height - 20, f"{tick:,.6g}"),
        ]
    for i, (name, vs) in enumerate(groups):
        y = 28 + 44 * i
        parts.append(text(left - 10, y + 4, name, "end"))
        parts += [_dot(x(v), y, "trial" if i % 2 else "infeasible", f"{v:,.6g}", 4.5) for v in vs]
        middle = sorted(vs)[len(vs) // 2] if len(vs) % 2 else sum(sorted(vs)[len(vs) // 2 - 1 : len(vs) // 2 + 1]) / 2
        parts.append(line(x(middle), y - 13, x(middle), y + 13, "best"))
    parts.append(text((left + WIDTH) / 2, height - 4, label))
    return svg(parts, label, height)


__all__ = ["bars", "escape", "history", "parallel", "strip", "ticks"]
