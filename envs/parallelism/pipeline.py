"""The schedule of a pipeline's stages (1F1B), simulated."""

from __future__ import annotations

from collections.abc import Sequence

from tunewright.report.timeline import Bar


def order(stage: int, stages: int, batches: int) -> list[tuple[int, bool]]:
    """Return the passes of a stage in the order of 1F1B: (micro-batch, forward), warm-up first.

    >>> order(1, 2, 3)
    [(0, True), (0, False), (1, True), (1, False), (2, True), (2, False)]
    """
    warm = min(stages - stage - 1, batches)
    passes = [(batch, True) for batch in range(warm)]
    for batch in range(batches - warm):
        passes += [(warm + batch, True), (batch, False)]
    return passes + [(batch, False) for batch in range(batches - warm, batches)]


def schedule(
    stages: int, batches: int, forward_s: Sequence[float], backward_s: Sequence[float], hop_s: float = 0.0
) -> list[Bar]:
    """Simulate 1F1B: a pass starts when its input is there and the stage is free.

    Args:
        stages: of the pipeline.
        batches: micro-batches.
        forward_s, backward_s: time of a pass in each stage.
        hop_s: between stages.

    Returns:
        Each pass of a micro-batch through a stage; the lane is the stage, and the user its direction.
    """
    waiting = [order(stage, stages, batches) for stage in range(stages)]
    free_s = [0.0] * stages
    end_s: dict[tuple[int, int, bool], float] = {}
    bars: list[Bar] = []
    while any(waiting):
        moved = False
        for stage in range(stages):
            while waiting[stage]:
                batch, forward = waiting[stage][0]
                if forward:
                    ready_s = 0.0 if stage == 0 else end_s.get((stage - 1, batch, True))
                elif stage == stages - 1:
                    ready_s = end_s.get((stage, batch, True))
                else:
                    ready_s = end_s.get((stage + 1, batch, False))
                if ready_s is None:
                    break
                start = max(free_s[stage], ready_s + (hop_s if ready_s else 0.0))
                end = start + (forward_s if forward else backward_s)[stage]
                end_s[(stage, batch, forward)] = free_s[stage] = end
                who = "forward" if forward else "backward"
                bars.append(Bar(lane=f"stage {stage}", start_s=start, end_s=end, who=who, what=f"micro-batch {batch}"))
                waiting[stage].pop(0)
                moved = True
        assert moved, "1F1B never waits in a circle"
    return bars
