"""Figures as small static SVG: readable in print, without scripts, and with every text escaped.

A plotting library would double the size of the default installation; these few figures need none. Colours are classes
of the pages' style sheet, so that figures follow its dark scheme.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

WIDTH, HEIGHT = 720, 280
COLOURS = 8  # the classes c0 to c7 (lines), f0 to f7 (areas) and t0 to t7 (texts)
CHARACTER = 6.2  # mean width of a character
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 16, 16, 42
_NAMES = 150  # room for names at the side of a figure
_LONGEST_NAME = 32


# -- parts of a figure ------------------------------------------------------------------------------


def svg(parts: Sequence[Markup], label: str, height: int = HEIGHT) -> Markup:
    """Return a figure of its parts; the label is what a screen reader says."""
    body = Markup("").join(parts)
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(WIDTH, height, label, body)


def text(x: float, y: float, words: Any, anchor: str = "middle", kind: str = "") -> Markup:
    """Return a text; ``anchor`` says whether it starts, ends or has its middle at the point."""
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" class="{}">{}</text>').format(x, y, anchor, kind, words)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """Return a straight line."""
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>').format(x1, y1, x2, y2, kind)


def rect(
    x: float, y: float, width: float, height: float, kind: str, title: str = "", opacity: float | None = None
) -> Markup:
    """Return a filled rectangle; its title is shown where one points at it."""
    faint = Markup("") if opacity is None else Markup(' opacity="{:.2f}"').format(opacity)
    end = Markup("><title>{}</title></rect>").format(title) if title else Markup("/>")
    return Markup('<rect x="{:.2f}" y="{:.1f}" width="{:.2f}" height="{:.1f}" class="{}"{}{}').format(
        x, y, width, height, kind, faint, end
    )


def dot(x: float, y: float, kind: str, title: str, radius: float = 4) -> Markup:
    """Return a dot; its title is shown where one points at it."""
    return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{}" class="{}"><title>{}</title></circle>').format(
        x, y, radius, kind, title
    )


def key(names: Sequence[str], x: float, y: float) -> list[Markup]:
    """Return a square of each colour with its name, side by side."""
    parts = []
    for number, name in enumerate(names):
        parts += [rect(x, y, 11, 11, f"f{number % COLOURS}"), text(x + 15, y + 10, name, "start")]
        x += 30 + CHARACTER * len(name)
    return parts


def cut(name: str, most: int = _LONGEST_NAME) -> str:
    """Return a name, or its beginning where it is too long."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def nothing(words: str = "Nothing to draw.") -> Markup:
    """Return what stands where there is no figure."""
    return Markup("<p>{}</p>").format(words)


# -- scales -----------------------------------------------------------------------------------------


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Return the linear function that takes low to start and high to end."""
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def log_scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Return the same for a logarithmic axis; low is above 0."""
    linear = scale(math.log10(low), math.log10(high), start, end)
    return lambda value: linear(math.log10(value))


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


def log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten between low and high, at most seven."""
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


# -- figures of any data ----------------------------------------------------------------------------


def curves(
    series: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    height: int = HEIGHT,
) -> Markup:
    """Draw lines with their names beside them.

    Args:
        series: (name, x, y); with a log axis, points that are not positive are left out.
        x_label, y_label: with units.
        log_x, log_y: logarithmic axes.
        height: of the figure.
    """
    drawn = []
    for name, xs, ys in series:
        points = [(x, y) for x, y in zip(xs, ys, strict=True) if (x > 0 or not log_x) and (y > 0 or not log_y)]
        if points:
            drawn.append((name, points))
    if not drawn:
        return nothing()
    right, bottom = WIDTH - _NAMES, height - _BOTTOM
    x_values, y_values = zip(*(point for _, points in drawn for point in points), strict=True)
    x_at, x_ticks = _axis(x_values, _LEFT, right, log_x)
    y_at, y_ticks = _axis(y_values, bottom, _TOP, log_y)
    parts: list[Markup] = []
    for tick in x_ticks:
        parts += [line(x_at(tick), _TOP, x_at(tick), bottom, "grid"), text(x_at(tick), bottom + 15, short(tick))]
    for tick in y_ticks:
        parts.append(line(_LEFT, y_at(tick), right, y_at(tick), "grid"))
        parts.append(text(_LEFT - 6, y_at(tick) + 4, short(tick), "end"))
    places, lowest = {}, -math.inf
    for y, number in sorted((y_at(points[-1][1]), number) for number, (_, points) in enumerate(drawn)):
        places[number] = lowest = max(y, lowest + 13)  # names keep a line's distance
    over = max(0.0, lowest - (bottom + 10))
    for number, (name, points) in enumerate(drawn):
        path = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in points)
        parts.append(Markup('<polyline points="{}" class="curve c{}"/>').format(path, number % COLOURS))
        parts.append(text(right + 8, places[number] - over + 4, name, "start", f"t{number % COLOURS}"))
    parts += [text((_LEFT + right) / 2, height - 6, x_label), text(_LEFT, _TOP - 5, y_label, "start", "axis")]
    return svg(parts, f"{y_label} over {x_label}", height)


def _axis(values: Sequence[float], start: float, end: float, log: bool) -> tuple[Callable[[float], float], list[float]]:
    """Return the scale of an axis that has room for all values, and its ticks."""
    low, high = min(values), max(values)
    if not log and 0 < low < 0.3 * high:
        low = 0.0
    if high <= low:
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    return (log_scale if log else scale)(low, high, start, end), (log_ticks if log else ticks)(low, high)


def bars(rows: Sequence[tuple[str, float, str]], label: str, *, log: bool = False) -> Markup:
    """Draw horizontal bars: (name, value, text behind it)."""
    rows = [row for row in rows if math.isfinite(row[1]) and (row[1] > 0 or not log)]
    if not rows:
        return nothing()
    names = [cut(name) for name, _, _ in rows]
    left, step = max(_NAMES, 24 + CHARACTER * max(map(len, names))), 22
    height = step * len(rows) + 28
    top = max(value for _, value, _ in rows) or 1.0
    ends = (0, WIDTH - left - 110)
    at = log_scale(min(value for _, value, _ in rows) / 1.5, top, *ends) if log else scale(0.0, top, *ends)
    parts: list[Markup] = []
    for number, (name, (_, value, words)) in enumerate(zip(names, rows, strict=True)):
        y, width = 6 + step * number, max(at(value), 1)
        parts += [text(left - 8, y + 12, name, "end"), rect(left, y, width, 15, "bar")]
        parts.append(text(left + width + 6, y + 12, words, "start"))
    parts.append(text((left + WIDTH) / 2, height - 5, label))
    return svg(parts, label, height)


def staircase(steps: Sequence[Mapping[str, Any]]) -> Markup:
    """Draw how a gain is made up, from the default on, on a logarithmic axis.

    Args:
        steps: each with ``names``, ``ratio`` over the step before with ``low`` and ``high`` (None where open), and
            ``total`` over the default.
    """
    names = [cut(", ".join(s["names"])) for s in steps]
    left, row = max(_NAMES, 24 + CHARACTER * max(map(len, [*names, "default"]))), 24
    height = row * (len(steps) + 1) + 30
    before = [1.0, *(float(s["total"]) for s in steps[:-1])]
    ends = [
        (b * (s["ratio"] if s["low"] is None else s["low"]), b * (s["ratio"] if s["high"] is None else s["high"]))
        for b, s in zip(before, steps, strict=True)
    ]
    reached = [1.0, *(float(s["total"]) for s in steps), *(v for pair in ends for v in pair if v > 0)]
    at = log_scale(min(reached) / 1.02, max(reached) * 1.02, left, WIDTH - 150)
    parts = [
        text(left - 8, 18, "default", "end"),
        line(at(1), 6, at(1), height - 22, "axisline"),
        text(at(1) + 6, 18, "1×", "start"),
    ]
    for number, (name, step, start, (low, high)) in enumerate(zip(names, steps, before, ends, strict=True), 1):
        y, total = 6 + row * number, float(step["total"])
        first, last = sorted((at(start), at(total)))
        title = f"{name}: {step['ratio']:.3g} times what it was before, {total:.3g} times the default"
        parts += [
            text(left - 8, y + 12, name, "end"),
            rect(first, y, max(last - first, 1.5), 15, "bar" if total >= start else "failed", title),
            line(at(max(low, min(reached))), y + 7.5, at(high), y + 7.5, "axisline"),
            text(
                max(last, at(high)) + 6,
                y + 12,
                f"{step['ratio']:.2f}× ({_end(step['low'])} to {_end(step['high'])})",
                "start",
            ),
        ]
    parts.append(text((left + WIDTH - 150) / 2, height - 5, "times the default"))
    return svg(parts, "what each change gives", height)


def _end(value: float | None) -> str:
    return "…" if value is None else f"{value:.2f}"


def stacks(rows: Sequence[tuple[str, Sequence[float]]], names: Sequence[str], label: str) -> Markup:
    """Draw shares that add up to one as stacked bars, with a key."""
    step, width = 22, WIDTH - _NAMES - 20
    height = step * len(rows) + 50
    parts: list[Markup] = []
    for number, (name, shares) in enumerate(rows):
        y, x = 6 + step * number, float(_NAMES)
        parts.append(text(_NAMES - 8, y + 12, name, "end"))
        for colour, (part, share) in enumerate(zip(names, shares, strict=True)):
            parts.append(rect(x, y, share * width, 15, f"f{colour % COLOURS}", f"{part}: {100 * share:.1f} %"))
            x += share * width
    parts += key(names, _NAMES, height - 38)
    parts.append(text((_NAMES + WIDTH) / 2, height - 5, label))
    return svg(parts, label, height)


def heat(rows: Sequence[Sequence[float]], x_label: str, y_label: str, x_range: tuple[str, str]) -> Markup:
    """Draw a map, first row at the bottom; the darker, the more (by the root of the value)."""
    if not rows or not rows[0]:
        return nothing()
    height, left = 300, 40
    most = max(max(row) for row in rows) or 1.0
    width, step = (WIDTH - left - 10) / len(rows[0]), (height - 46) / len(rows)
    parts = [
        rect(left + across * width, height - 36 - (up + 1) * step, width, step, "bar", "", opacity)
        for up, row in enumerate(rows)
        for across, opacity in enumerate(0.12 + 0.88 * (value / most) ** 0.5 if value > 0 else 0 for value in row)
        if opacity
    ]
    parts += [text(left, height - 20, x_range[0], "start"), text(WIDTH - 10, height - 20, x_range[1], "end")]
    parts += [text((left + WIDTH) / 2, height - 4, x_label), text(left, 8, y_label, "start", "axis")]
    return svg(parts, f"{y_label} over {x_label}", height)


# -- figures of a session ---------------------------------------------------------------------------


def history(points: Sequence[dict[str, Any]], label: str, direction: str) -> Markup:
    """Draw every trial and the best so far.

    Args:
        points: ``{"number", "value" (None if it failed), "feasible", "title"}`` in order.
        label: axis label.
        direction: ``min`` or ``max``.
    """
    values = [point["value"] for point in points if point["value"] is not None]
    if not values:
        return nothing("No trial gave a value.")
    low, high = min(values), max(values)
    pad = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    low, high = low - pad, high + pad
    bottom, last = HEIGHT - _BOTTOM, max(len(points) - 1, 1)
    x = scale(0, last, _LEFT + 8, WIDTH - _RIGHT - 8)
    y = scale(low, high, bottom, _TOP)
    parts: list[Markup] = []
    for tick in ticks(low, high):
        parts.append(line(_LEFT, y(tick), WIDTH - _RIGHT, y(tick), "grid"))
        parts.append(text(_LEFT - 6, y(tick) + 4, f"{tick:,.6g}", "end"))
    for tick in ticks(0, last, 8):
        if tick == int(tick):
            number = points[int(tick)]["number"] if tick < len(points) else int(tick)
            parts.append(text(x(tick), bottom + 16, number))
    best, path, better = None, [], max if direction == "max" else min
    for place, point in enumerate(points):
        if point["value"] is not None and point["feasible"]:
            best = point["value"] if best is None else better(best, point["value"])
        if best is not None:
            path.append(f"{x(place):.1f},{y(best):.1f}")
    parts.append(Markup('<polyline points="{}" class="best"/>').format(" ".join(path)))
    for place, point in enumerate(points):
        if point["value"] is None:
            parts.append(dot(x(place), bottom, "failed", point["title"]))
        else:
            kind = "trial" if point["feasible"] else "infeasible"
            parts.append(dot(x(place), y(point["value"]), kind, point["title"]))
    parts += [text((_LEFT + WIDTH) / 2, HEIGHT - 6, "trial"), text(_LEFT, _TOP - 4, label, "start", "axis")]
    return svg(parts, f"history of {label}")


def parallel(axes: Sequence[tuple[str, str, str]], lines: Sequence[dict[str, Any]]) -> Markup:
    """Draw parallel coordinates.

    Args:
        axes: (name, label of the lower end, label of the upper end), left to right.
        lines: ``{"points": [0..1 or None], "shade": 0..1 (1 is best), "title"}``; best drawn last.
    """
    if len(axes) < 2 or not lines:
        return nothing("Parallel coordinates need two parameters and a trial.")
    height, bottom, top = 350, 100, 24
    x = scale(0, len(axes) - 1, 84, WIDTH - 36)
    y = scale(0, 1, height - bottom, top)
    parts: list[Markup] = []
    for one in sorted(lines, key=lambda item: item["shade"]):
        points = " ".join(f"{x(i):.1f},{y(v):.1f}" for i, v in enumerate(one["points"]) if v is not None)
        hue = round(215 - 75 * one["shade"])  # blue is poor, green is good
        opacity, width = 0.15 + 0.8 * one["shade"] ** 2, 1 + 1.6 * one["shade"] ** 2
        parts.append(
            Markup(
                '<polyline points="{}" fill="none" stroke="hsl({} 65% 42%)" '
                'stroke-opacity="{:.2f}" stroke-width="{:.1f}"><title>{}</title></polyline>'
            ).format(points, hue, opacity, width, one["title"])
        )
    for place, (name, low, high) in enumerate(axes):
        parts.append(line(x(place), top, x(place), height - bottom, "axisline"))
        parts += [text(x(place), top - 8, high[:11]), text(x(place), height - bottom + 13, low[:11])]
        parts.append(
            Markup('<text transform="translate({:.1f},{}) rotate(-35)" text-anchor="end">{}</text>').format(
                x(place) + 4, height - bottom + 28, cut(name, 22)
            )
        )
    return svg(parts, "parallel coordinates", height)


def strip(groups: Sequence[tuple[str, Sequence[float]]], label: str) -> Markup:
    """Draw the single values of a few groups, one row each, with the median as a line."""
    groups = [(name, values) for name, values in groups if values]
    if not groups:
        return nothing("No repeated runs.")
    low, high = min(min(values) for _, values in groups), max(max(values) for _, values in groups)
    pad = 0.05 * (high - low) or abs(high) * 0.05 or 1.0
    left, height = 170, 44 * len(groups) + 46
    x = scale(low - pad, high + pad, left, WIDTH - _RIGHT)
    parts: list[Markup] = []
    for tick in ticks(low - pad, high + pad, 6):
        parts.append(line(x(tick), 8, x(tick), height - 36, "grid"))
        parts.append(text(x(tick), height - 20, f"{tick:,.6g}"))
    for row, (name, values) in enumerate(groups):
        y, kind = 28 + 44 * row, "trial" if row % 2 else "infeasible"
        parts.append(text(left - 10, y + 4, name, "end"))
        parts += [dot(x(value), y, kind, f"{value:,.6g}", 4.5) for value in values]
        middle = x(statistics.median(values))
        parts.append(line(middle, y - 13, middle, y + 13, "best"))
    parts.append(text((left + WIDTH) / 2, height - 4, label))
    return svg(parts, label, height)
