"""Training plans by a tuner, where there are more legal ones than are enumerated."""

from __future__ import annotations

import time
from dataclasses import replace

from tunewright.envs.parallelism import plans as P
from tunewright.envs.parallelism import search as R
from tunewright.envs.parallelism.estimate import estimate
from tunewright.envs.parallelism.target import plan_of, train_space
from tunewright.envs.parallelism.training import Job
from tunewright.errors import TunerError
from tunewright.plugins import make_tuner
from tunewright.space import Config
from tunewright.target import Metric
from tunewright.tuner import MAX_ASKS, History, Problem, Refusal, Trial

TUNER, TRIALS = "tpe", 400


def search(job: Job, choices: P.Choices, *, tuner: str = TUNER, trials: int | None = None, seed: int = 0) -> R.Found:
    """Let a tuner propose plans, beginning with those of the common rules.

    Args:
        job: what is trained where.
        choices: what is fixed, the overlap and the precisions; the first precision is used.
        tuner: its spec.
        trials: plans to estimate; None for ``TRIALS``.
        seed: of the tuner.

    Returns:
        As :func:`tunewright.envs.parallelism.search.search` does, with ``counted`` the plans that were estimated.
    """
    start = time.perf_counter()
    space = train_space(job)
    metric = Metric(name="time", direction="min", unit="s")
    problem = Problem(space=space, metrics=[metric], objectives=["time"], seed=seed, target="trainplan")
    _, asked = make_tuner(tuner, problem)
    extra = {"overlap": choices.overlap[0], "precision": choices.precision[0], **(choices.fixed or {})}
    found, told, refused = R.Found(), list[Trial](), list[Refusal]()

    def tell(config: Config, plan: P.Plan) -> None:
        out = estimate(job.numbers, plan.row[None]) if not P.problems(plan, job) else None
        fits = out is not None and out[0, R.MEMORY] <= job.nodes.memory_gb
        if out is not None:
            R.collect(found, plan.row[None], out, job)
        value = {"time": float(out[0, R.TIME])} if out is not None and fits else {}
        trial = Trial(
            number=len(told), config=config, status="ok" if fits else "failed", metrics=value, scores=value,
            step=len(told), attempt=len(refused),
        )  # fmt: skip
        told.append(trial)
        asked.tell(trial)

    rules = [got[0] for got in R.baselines(job).values() if got is not None]
    for row in rules:
        plan = P.from_row(row)
        config = space.fill({n: getattr(plan, n) for n in space.params if hasattr(plan, n)})
        if not space.problems(config):
            tell(config, replace(plan, **extra))
    while len(told) < (trials or TRIALS):
        config = asked.ask(History(trials=tuple(told), step=len(told), refused=tuple(refused))).config
        problems = space.problems(config)
        if problems and len(refused) < MAX_ASKS:
            refused.append(Refusal(config=config, reason="; ".join(problems)))
            continue
        if problems:
            raise TunerError(f"tuner {tuner!r} proposes no legal plan: {problems[0]}")
        tell(config, replace(plan_of(config, job.nodes.gpus), **extra))
        refused.clear()
    found.seconds = time.perf_counter() - start
    return found
