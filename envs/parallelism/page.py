"""The page of ``tunewright plan train --output``: time, memory, and the pipeline's timeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunewright.envs.parallelism import plans, search
from tunewright.envs.parallelism.estimate import RESULTS
from tunewright.envs.parallelism.training import Job

DRAWN_BATCHES = 24  # micro-batches that the timeline shows at most
DRAWN_STAGES = 64


def pipeline(job: Job, plan: plans.Plan, values: Any) -> Any:
    """Draw the plan's pipeline: one iteration, at most ``DRAWN_BATCHES`` micro-batches of it."""
    from tunewright.envs.parallelism.pipeline import schedule
    from tunewright.report.timeline import figure

    v = dict(zip(RESULTS, map(float, values), strict=True))
    rounds = job.global_batch // (plan.dp * plan.micro_batch)
    stages, batches = min(plan.pp, DRAWN_STAGES), min(rounds, max(DRAWN_BATCHES, 2 * plan.pp))
    per_pass = (v["compute_s"] + v["tensor_s"] + v["expert_s"] + v["context_s"] + v["overhead_s"]) / rounds
    forward, backward = [per_pass / 3.0] * stages, [per_pass * 2.0 / 3.0] * stages
    bars = schedule(stages, batches, forward, backward, v["pipeline_s"] / max(2 * rounds, 1))
    note = f"seconds; {batches} of {rounds} micro-batches" + (", drawn without interleaving" if plan.chunks > 1 else "")
    return figure(bars, "the pipeline's schedule", note)


def write_page(path: Path, job: Job, document: dict[str, Any], found: search.Found) -> None:
    """Write the figures of a training plan's document."""
    from tunewright.report.pages import write_figures
    from tunewright.report.svg import bars, curves, stacks

    best = document["best"]
    rows = [("best", best)] + [(n, b) for n, b in document["baselines"].items() if b]
    parts = [p for p in search.PARTS if any(r["parts_s"][p] > 0 for _, r in rows)]
    memory = [m for m in search.MEMORY_PARTS if any(r["memory_gib"][m] > 0.05 for _, r in rows)]
    front = document["pareto"][::-1]
    sections: list[tuple[str, Any, str]] = [
        (
            "Time of an iteration",
            bars([(n, r["time_s"], f"{r['time_s']:.3g} s, {100 * r['mfu']:.0f} % MFU") for n, r in rows], "seconds"),
            best["short"],
        ),
        (
            "What the time goes to",
            stacks(
                [(n, [r["parts_s"][p] / r["time_s"] for p in parts]) for n, r in rows], parts, "share of the iteration"
            ),
            "",
        ),
        (
            "What the memory goes to",
            stacks(
                [(n, [r["memory_gib"][m] / r["memory_gib"]["total"] for m in memory]) for n, r in rows],
                memory,
                "share of a GPU's use",
            ),
            "",
        ),
        (
            "Time against memory",
            curves(
                [("", [r["memory_gib"]["total"] for r in front], [r["time_s"] for r in front])], "GiB a GPU", "seconds"
            ),
            "Plans that no other one beats in both.",
        ),
    ]
    plan = plans.from_row(found.best[0])
    if plan.pp > 1:
        sections.append(
            ("The pipeline", pipeline(job, plan, found.values[0]), "1F1B of the best plan; gaps are the bubble.")
        )
    write_figures(
        path,
        f"Training {document['model']} on {document['cluster']}",
        f"{best['short']}; {document['calibration']['source']}",
        sections,
    )
