"""The schedule of a pipeline's stages (1F1B), simulated and drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tunewright.report.figures import WIDTH, line, scale, svg, text, ticks


@dataclass(frozen=True, kw_only=True)
class Work:
    """One pass of a micro-batch through a stage.

    Attributes:
        stage: from 0.
        batch: micro-batch, from 0.
        forward: else backward.
        start_s, end_s: when.
    """

    stage: int
    batch: int
    forward: bool
    start_s: float
    end_s: float


def order(stage: int, stages: int, batches: int) -> list[tuple[int, bool]]:
    """Return the passes of a stage in the order of 1F1B: (micro-batch, forward), warm-up first.

    >>> order(1, 2, 3)
    [(0, True), (0, False), (1, True), (1, False), (2, True), (2, False)]
    """
    warm = min(stages - stage - 1, batches)
    made = [(k, True) for k in range(warm)]
    for k in range(batches - warm):
        made += [(warm + k, True), (k, False)]
    return made + [(k, False) for k in range(batches - warm, batches)]


def schedule(
    stages: int, batches: int, forward_s: list[float], backward_s: list[float], hop_s: float = 0.0
) -> list[Work]:
    """Simulate 1F1B: a pass starts when its input is there and the stage is free.

    Args:
        stages: of the pipeline.
        batches: micro-batches.
        forward_s, backward_s: time of a pass in each stage.
        hop_s: between stages.
    """
    left = [order(s, stages, batches) for s in range(stages)]
    free = [0.0] * stages
    done: dict[tuple[int, int, bool], float] = {}
    made: list[Work] = []
    while any(left):
        moved = False
        for s in range(stages):
            while left[s]:
                batch, forward = left[s][0]
                if forward:
                    ready = 0.0 if s == 0 else done.get((s - 1, batch, True))
                elif s == stages - 1:
                    ready = done.get((s, batch, True))
                else:
                    ready = done.get((s + 1, batch, False))
                if ready is None:
                    break
                start = max(free[s], ready + (hop_s if ready else 0.0))
                end = start + (forward_s if forward else backward_s)[s]
                done[(s, batch, forward)] = free[s] = end
                made.append(Work(stage=s, batch=batch, forward=forward, start_s=start, end_s=end))
                left[s].pop(0)
                moved = True
        assert moved, "1F1B never waits in a circle"
    return made


def draw(made: list[Work], stages: int, label: str) -> Markup:
    """Draw who works when: forward passes dark, backward passes light, the gaps are the bubble."""
    left, step, top = 64, max(8, min(22, 300 // stages)), 10
    height = top + step * stages + 44
    last = max(w.end_s for w in made)
    at = scale(0.0, last, left, WIDTH - 16)
    parts: list[Any] = []
    for tick in ticks(0.0, last):
        parts += [
            line(at(tick), top, at(tick), top + step * stages, "grid"),
            text(at(tick), top + step * stages + 15, f"{tick:.3g}"),
        ]
    for s in range(stages):
        if stages <= 24 or s % 8 == 0:
            parts.append(text(left - 6, top + step * s + step * 0.75, f"stage {s}", "end"))
    for w in made:
        parts.append(
            Markup(
                '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" class="f{}"><title>{}</title></rect>'
            ).format(
                at(w.start_s),
                top + step * w.stage + 1,
                max(at(w.end_s) - at(w.start_s) - 0.6, 0.4),
                step - 2,
                0 if w.forward else 1,
                f"micro-batch {w.batch}, {'forward' if w.forward else 'backward'}: {w.start_s:.3f} to {w.end_s:.3f} s",
            )
        )
    for k, words in enumerate(("forward", "backward")):
        parts.append(
            Markup('<rect x="{}" y="{}" width="11" height="11" class="f{}"/>').format(left + 110 * k, height - 14, k)
        )
        parts.append(text(left + 110 * k + 16, height - 4, words, "start"))
    parts.append(text((left + WIDTH) / 2 + 60, height - 4, label))
    return svg(parts, label, height)
