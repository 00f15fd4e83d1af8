"""Contract suites that any target, tuner or environment must pass; for plugin authors too.

Each raises AssertionError with the broken rule.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.measuring.isolation import call_isolated, measure_once
from tunewright.space import Config, Real, Space
from tunewright.target import BaseTarget, Budget, Measurement, Metric, Target
from tunewright.tuner import History, Problem, Trial, Tuner


class Sphere(BaseTarget):
    """A known problem for tests: minimise the squared distance to a point, with optional noise and failures.

    Args:
        dimensions: number of real parameters in [0, 1].
        optimum: coordinate of the best point.
        noise: standard deviation of the log of the measured value.
        fail_above: configurations whose first coordinate exceeds it fail.
    """

    name = "sphere"
    isolated = False
    parallel_safe = True

    def __init__(self, dimensions: int = 3, optimum: float = 0.2, noise: float = 0.0, fail_above: float = 2.0) -> None:
        self.optimum, self.noise, self.fail_above = optimum, noise, fail_above
        self.space = Space([Real(name=f"x{i}", low=0.0, high=1.0, default=0.9) for i in range(dimensions)])
        self.metrics = (Metric(name="loss", direction="min"),)
        self.workloads = {"default": "one plus the squared distance"}
        self.exact = noise == 0

    def measure(self, config: Config, *, workload: str, seed: int, budget: Budget) -> Measurement:
        """Return one plus the squared distance, times log-normal noise."""
        if config["x0"] > self.fail_above:
            return Measurement(status="failed", reason=f"x0 = {config['x0']:.3f} is too large")
        loss = 1 + sum((v - self.optimum) ** 2 for v in config.values())
        if self.noise:
            point = [int(v * 2**30) for v in config.values()]
            loss *= math.exp(np.random.default_rng([seed, *point]).normal(0, self.noise))
        return Measurement(values={"loss": loss})


def check_space(space: Space, samples: int = 200, seed: int = 0) -> None:
    """Every point of the cube decodes to a legal configuration that survives encode and decode."""
    rng = np.random.default_rng(seed)
    corners = [np.zeros(len(space)), np.ones(len(space))]
    for point in [*corners, *rng.random((samples, len(space)))]:
        config = space.decode(point)
        assert space.problems(config) == [], f"decode gave an illegal configuration: {space.problems(config)}"
        point = space.encode(config)
        assert ((point >= 0) & (point <= 1)).all(), f"encode left the unit cube: {point}"
        again = space.decode(point)
        for name, value in config.items():
            same = again.get(name)
            close = (
                isinstance(value, float)
                and isinstance(same, float)
                and math.isclose(same, value, rel_tol=1e-6, abs_tol=1e-9)
            )
            assert same == value or close, f"{name}: {value!r} became {same!r} on the way through the cube"
    json.dumps(space.json_schema(), allow_nan=False)


def check_target(target: BaseTarget, *, workload: str | None = None, seed: int = 1, others: int = 1) -> None:
    """Measure the default and some other configurations, and check everything else a session relies on.

    Args:
        target: the target; it is measured for real.
        workload: None for the first.
        seed: of data and configurations.
        others: how many random configurations to measure; they may fail, but only with a reason.
    """
    assert isinstance(target, Target), "it lacks a part of the Target protocol"
    assert target.name and target.metrics and target.workloads, "name, metrics and workloads must not be empty"
    assert target.space.problems(target.space.default) == [], "the default is not legal"
    check_space(target.space, samples=50)
    assert target.guarantees(target.space.default) == target.guarantees(target.space.default)
    workload = workload or next(iter(target.workloads))
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        budget = Budget(workdir=Path(folder), seconds=300)
        snapshot = target.snapshot(Path(folder))
        json.dumps(snapshot, allow_nan=False)
        try:
            prepared = call_isolated(target, "prepare", workload=workload, seed=seed, budget=budget)
            json.dumps(prepared, allow_nan=False)
            budget = Budget(workdir=Path(folder), seconds=300, prepared=prepared)
            found = measure_once(target, target.space.default, workload=workload, seed=seed, budget=budget)
            assert found.ok, f"the default cannot be measured: {found.status}: {found.reason}"
            assert set(found.values) == {m.name for m in target.metrics}
            if target.exact:
                again = measure_once(target, target.space.default, workload=workload, seed=seed + 1, budget=budget)
                assert again.values == found.values, "exact targets must repeat their values"
            for _ in range(others):
                config = target.space.decode(rng.random(len(target.space)))
                found = measure_once(target, config, workload=workload, seed=seed, budget=budget)
                assert found.ok or found.reason, f"a failure without a reason: {config}"
                assert isinstance(target.render(config), str)
        finally:
            target.restore(snapshot)
            target.restore(snapshot)  # must be safe to repeat
            target.cleanup(Path(folder))
            target.cleanup(Path(folder))


def run_tuner(
    make: Callable[[Problem], Tuner], target: BaseTarget, *, trials: int, seed: int = 0, **problem: Any
) -> list[Trial]:
    """Drive a tuner on an in-process target without a store; for tests and benchmarks."""
    tuner = make(_problem(target, seed, **problem))
    return _drive(tuner, target, [], trials)


def _problem(target: BaseTarget, seed: int, **problem: Any) -> Problem:
    objectives = problem.pop("objectives", None) or [target.metrics[0].name]
    workloads = tuple(target.workloads)
    return Problem(
        space=target.space,
        metrics=target.metrics,
        objectives=objectives,
        seed=seed,
        workload=workloads[0],
        about=target.workloads[workloads[0]],
        workloads=workloads,
        **problem,
    )


def _drive(tuner: Tuner, target: BaseTarget, trials: list[Trial], more: int) -> list[Trial]:
    workload, budget = next(iter(target.workloads)), Budget(workdir=Path(tempfile.gettempdir()))
    for _ in range(more):
        step = len(trials)
        if step == 0:
            config, why = target.space.default, "default"
        else:
            suggestion = tuner.ask(History(trials=tuple(trials), step=step, remaining=more - step))
            config, why = suggestion.config, suggestion.why
            assert why, "a suggestion must say why"
            assert target.space.problems(config) == [], f"illegal suggestion: {target.space.problems(config)}"
        found = target.measure(config, workload=workload, seed=0, budget=budget)
        trial = Trial(
            number=step,
            config=config,
            status=found.status,
            reason=found.reason,
            why=why,
            step=step,
            metrics=found.values,
            scores=found.values,
            violations={
                m.name: m.violation(found.values[m.name]) for m in target.metrics if m.constrained and found.ok
            },
        )
        trials = [*trials, trial]
        tuner.tell(trial)
    return trials


def check_tuner(
    make: Callable[[Problem], Tuner],
    *,
    target: BaseTarget | None = None,
    trials: int = 12,
    seed: int = 3,
    **problem: Any,
) -> None:
    """Suggestions are legal, have a reason, survive failures, and depend on seed and history alone.

    Args:
        make: builds the tuner from a problem.
        target: an exact in-process target; None for a sphere where some configurations fail.
        trials: length of the run.
        seed: session seed.
        **problem: further fields of the Problem, such as ``options``.
    """
    target = target or Sphere(fail_above=0.95)
    unbroken = run_tuner(make, target, trials=trials, seed=seed, **problem)
    same = run_tuner(make, target, trials=trials, seed=seed, **problem)
    assert [t.config for t in unbroken] == [t.config for t in same], "same seed, other suggestions"
    half = trials // 2
    resumed = make(_problem(target, seed, **problem))
    for trial in unbroken[:half]:
        resumed.tell(trial)
    rest = _drive(resumed, target, unbroken[:half], trials - half)
    assert [t.config for t in rest] == [t.config for t in unbroken], "resuming does not continue the unbroken run"


def check_env(env: Any) -> None:
    """Pass Gymnasium's own checker with warnings as errors, and repeat a rollout under the same seed."""
    import warnings

    from gymnasium.utils.env_checker import check_env as gymnasium_check

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gymnasium_check(env.unwrapped, skip_render_check=True)

    def rollout() -> list[Any]:
        seen = [env.reset(seed=7)[0]]
        env.action_space.seed(7)
        for _ in range(10):
            observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            seen += [observation, reward]
            if terminated or truncated:
                break
        return seen

    for one, two in zip(rollout(), rollout(), strict=True):
        assert np.array_equal(one, two), "same seed, other rollout"
