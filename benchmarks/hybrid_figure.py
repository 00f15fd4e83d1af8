"""Latency by policy and trace as a picture: python benchmarks/hybrid_figure.py, after hybrid_quality.py."""

from __future__ import annotations

import json
import math
import statistics

from common import RESULTS
from markupsafe import Markup, escape

POLICIES = (
    "slow-only", "cde", "hps", "archivist", "rnn-hss", "sibyl", "harmonia", "lru+", "lru-write+", "second-touch+",
    "lru+ahead-64", "tunewright", "clairvoyant",
)  # fmt: skip
CELL, LEFT, TOP = (66, 22), 130, 92


def colour(times_best, red):
    """Green for the best, through yellow to red for ``red`` times as slow."""
    return f"hsl({120 - 120 * min(math.log(max(times_best, 1.0)) / math.log(red), 1):.0f} 60% 66%)"


def short(value):
    for limit, form in ((10, "{:.2f}"), (100, "{:.1f}"), (1e5, "{:,.0f}")):
        if value < limit:
            return form.format(value)
    return f"{value / 1e6:.1f} M"


def panel(results, config, red, top):
    title = f"{config}: mean latency over fast-only; green: best of the row, red: {red} times that or more"
    parts = [Markup('<text x="4" y="{}" class="axis" font-weight="600">{}</text>').format(top + 14, title)]
    for k, policy in enumerate(POLICIES):
        x = LEFT + (k + 0.5) * CELL[0]
        parts.append(
            Markup('<text transform="translate({:.0f},{}) rotate(-38)" text-anchor="start">{}</text>').format(
                x - 8, top + TOP - 8, policy
            )
        )
    for row, (name, cell) in enumerate(results.items()):
        y = top + TOP + row * CELL[1]
        parts.append(Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(LEFT - 8, y + 15, name))
        found = {p: statistics.fmean(cell["rows"][p]) for p in POLICIES}
        best = min(found.values())
        for k, policy in enumerate(POLICIES):
            value = found[policy]
            parts.append(
                Markup('<rect x="{}" y="{}" width="{}" height="{}" fill="{}"/><text x="{}" y="{}" text-anchor="middle" fill="#111"{}>{}</text>').format(
                    LEFT + k * CELL[0], y, CELL[0] - 2, CELL[1] - 2, colour(value / best, red),
                    LEFT + (k + 0.5) * CELL[0] - 1, y + 14, Markup(' style="font-weight:700"') if value == best else "", short(value)
                )
            )  # fmt: skip
    return parts, top + TOP + len(results) * CELL[1] + 16


def main():
    results = json.loads((RESULTS / "hybrid_quality.json").read_text())
    parts, top = [], 8
    for config, red in (("performance", 10), ("cost", 100)):
        more, top = panel(results[config], config, red, top)
        parts += more
    width = LEFT + len(POLICIES) * CELL[0] + 40
    style = escape("text { font: 11px system-ui, sans-serif; fill: #333 }")
    head = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" height="{1}"><style>{2}</style>'
    )
    svg = (
        head.format(width, top, style)
        + Markup('<rect width="100%" height="100%" fill="#fff"/>')
        + Markup("").join(parts)
    )
    (RESULTS / "hybrid_quality.svg").write_text(f"{svg}</svg>\n", encoding="utf-8")


if __name__ == "__main__":
    main()
