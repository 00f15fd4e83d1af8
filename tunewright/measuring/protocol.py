"""The measuring protocol: pairs with the default, racing, and the verdict with its interval."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from tunewright.errors import DefaultFailsError, VerificationError, unknown
from tunewright.measuring import estimates
from tunewright.measuring.estimates import PAIRS, Estimate
from tunewright.measuring.feasibility import standing
from tunewright.measuring.intervals import Look, median_interval, rank_at
from tunewright.measuring.runs import failures
from tunewright.space import Config
from tunewright.target import Measurement, Metric, Status

Run = Callable[[Config, int], Measurement]  # (configuration, seed) -> measurement
Pairs = Sequence[tuple[Measurement, Measurement | None]]  # candidate, and the default beside it


@dataclass(frozen=True, kw_only=True)
class Trust:
    """How much is spent on knowing that a gain is real.

    Attributes:
        name: ``fast``, ``normal`` or ``strict``.
        paired: measure the default beside every candidate.
        least: runs (pairs) of every candidate.
        most: runs (pairs) of a candidate that may be the best.
        looks: of the final verification: after how many pairs the interval is looked at, and which order statistics it
            lies between. All looks together miss the truth in at most 5 of 100 verifications (``intervals.miss_rate``).
        tries: how often a run that fails is tried in all, before its configuration is said to fail.
        width: the verification ends at the first look at which the interval is narrower than this share of the ratio.
    """

    name: str
    paired: bool
    least: int
    most: int
    looks: tuple[Look, ...]
    width: float
    tries: int = 2

    @property
    def verify_least(self) -> int:
        """Pairs of the shortest verification."""
        return self.looks[0][0]

    @property
    def verify_most(self) -> int:
        """Pairs at which a verification ends even if the interval is wide."""
        return self.looks[-1][0]

    def brief(self) -> Trust:
        """Return the level with one look only, at the least number of pairs."""
        return replace(self, looks=self.looks[:1])


TRUST = {
    t.name: t
    for t in (
        Trust(name="fast", paired=False, least=1, most=1, looks=((6, 1),), width=1.0),
        Trust(name="normal", paired=True, least=1, most=3, looks=((8, 1), (10, 2), (12, 3)), width=0.10),
        Trust(
            name="strict",
            paired=True,
            least=3,
            most=7,
            width=0.04,
            looks=((12, 1), (16, 3), (20, 5), (24, 6), (30, 10)),
        ),
    )
}
_DEFAULT_TRIES = 4  # of a run of the default in the first trial: without it there is no session
# of a side's runs in a verification that may fail; at a rate of 10 % it never ends so. More of the default's, since
# without them there is no verdict for anything that was tried
_FAILURES, _FAILED_SHARE = 3, {"candidate": 1 / 3, "default": 2 / 3}
ONE_RUN = ((1, 1),)  # looks at a target whose values repeat exactly


def trust(name: str) -> Trust:
    """Return a trust level by name.

    Raises:
        UnknownNameError: no such level.
    """
    if name not in TRUST:
        raise unknown("trust level", name, TRUST)
    return TRUST[name]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Candidate against default over paired runs.

    Attributes:
        kind: ``ratio`` (above 1: candidate better), or ``difference`` in the metric's unit (above 0:
            better) where values of zero or below make a ratio meaningless.
        value: median over the pairs.
        low: lower end of its 95 % interval.
        high: upper end.
        pairs: number of pairs.
        improved: the interval lies wholly on the better side.
    """

    kind: str
    value: float
    low: float
    high: float
    pairs: int
    improved: bool


def improvement(metric: Metric, candidate: float, default: float) -> float | None:
    """Log ratio of one pair, above 0 where the candidate is better; None if there is no ratio."""
    if candidate <= 0 or default <= 0:
        return None
    gain = math.log(candidate / default)
    return gain if metric.direction == "max" else -gain


def compare_pairs(metric: Metric, pairs: Sequence[tuple[float, float]], rank: int | None = None) -> Comparison:
    """Compare (candidate, default) pairs of one metric by the median of their log ratios.

    Args:
        metric: its direction says what is better.
        pairs: values of both.
        rank: of the order statistics at the interval's ends; None for 95 % of a number of pairs fixed beforehand.
    """
    logs = [improvement(metric, c, d) for c, d in pairs]
    if all(v is not None for v in logs):
        value, low, high = (
            math.exp(v) if v < 700 else math.inf for v in median_interval([v for v in logs if v is not None], rank=rank)
        )
        return Comparison(kind="ratio", value=value, low=low, high=high, pairs=len(pairs), improved=low > 1)
    sign = 1.0 if metric.direction == "max" else -1.0
    value, low, high = median_interval([sign * (c - d) for c, d in pairs], rank=rank)
    return Comparison(kind="difference", value=value, low=low, high=high, pairs=len(pairs), improved=low > 0)


def compare(
    metric: Metric, pairs: Sequence[tuple[float, float]], rank: int | None = None, estimate: Estimate = PAIRS
) -> Comparison:
    """Compare (candidate, default) pairs of one metric by what the user wants to be estimated.

    Args:
        metric: its direction says what is better.
        pairs: values of both.
        rank: as for :func:`compare_pairs`; 0 for an unbounded interval.
        estimate: what is estimated.
    """
    if estimate.name == "pairs":
        return compare_pairs(metric, pairs, rank)
    ratio, (value, low, high) = estimates.against([c for c, _ in pairs], [d for _, d in pairs], estimate, rank)
    if metric.direction == "min" and ratio:
        value, low, high = 1 / value, 1 / high, 1 / low if low > 0 else math.inf
    elif metric.direction == "min":
        value, low, high = -value, -high, -low
    kind, none = ("ratio", 1.0) if ratio else ("difference", 0.0)
    return Comparison(kind=kind, value=value, low=low, high=high, pairs=len(pairs), improved=low > none)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All runs of one trial and what follows from them; fields as in Trial."""

    status: Status
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    ratio: float | None = None
    runs: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What is known of the default so far.

    Attributes:
        values: its reference values, from the first trial.
        noise: standard deviation of the log of the objective between its runs.
        best: log ratio of the best feasible trial so far.
        repeat: whether a candidate's run that fails is tried again: not where repeating never helped.
        unwatched: no run of the default stands beside the last few trials; then one does beside this, even if it fails.
    """

    values: Mapping[str, float]
    noise: float = 0.0
    best: float = 0.0
    repeat: bool = True
    unwatched: bool = False


def evaluate(
    run: Run,
    config: Config,
    default: Config,
    metrics: Sequence[Metric],
    objective: Metric,
    level: Trust,
    baseline: Baseline | None,
    seed: int,
    exact: bool,
) -> Evaluation:
    """Measure one trial by the protocol.

    Args:
        run: measures a configuration once.
        config: the candidate; equal to the default in the first trial.
        default: the default configuration.
        metrics: all metrics.
        objective: the metric that decides the race.
        level: how much to spend.
        baseline: None in the first trial, which measures the default itself.
        seed: seed of the first run; candidate and default of a pair share it.
        exact: one run tells all.
    """
    runs: list[dict[str, Any]] = []

    def once(of: str, tried: Config, number: int, tries: int) -> Measurement:
        attempts = until_ok(partial(run, tried, seed + number), tries)
        runs.extend(_noted(of, measured) for measured in attempts)
        return attempts[-1]

    pairs: list[tuple[Measurement, Measurement | None]] = []
    yardstick = baseline is None
    most = 1 if exact else max(level.most if level.paired else level.least, 2 if yardstick and level.paired else 1)
    tries = level.tries if baseline is None or baseline.repeat else 1
    tries = 1 if exact else max(tries, _DEFAULT_TRIES) if yardstick else tries
    for number in range(most):
        beside: Measurement | None = None
        paired = level.paired and not yardstick and not exact
        if paired and number % 2:  # alternate the order, so that neither always runs on the warmer machine
            beside = once("default", default, number, level.tries)
        measured = once("candidate", config, number, tries)
        if not measured.ok:
            if baseline and paired and beside is None and (baseline.unwatched or measured.status == "timed out"):
                beside = once("default", default, number, 1)  # is it the candidate, or has the machine changed?
            also = f"; so did the default beside it: {beside.reason}" if beside and not beside.ok else ""
            return Evaluation(status=measured.status, reason=measured.reason + also, runs=runs)
        if paired and beside is None:  # also beside one that looks hopeless: the machine may have changed
            beside = once("default", default, number, level.tries)
        pairs.append((measured, beside if beside is not None and beside.ok else None))
        if baseline is None or (paired and pairs[-1][1] is None):
            continue
        if _hopeless(pairs, baseline, objective) or (number + 1 >= level.least and _beaten(pairs, baseline, objective)):
            break
    return _summary(pairs, metrics, objective, baseline, runs)


def until_ok(run: Callable[[], Measurement], tries: int) -> list[Measurement]:
    """Run until it works, or is refused: what fails now and then is not held against a configuration.

    Returns:
        At most so many runs, at least one; the last one counts.
    """
    attempts = [run()]
    while len(attempts) < tries and not attempts[-1].ok and attempts[-1].status != "rejected":
        attempts.append(run())
    return attempts


def _noted(of: str, measured: Measurement) -> dict[str, Any]:
    """Return a run as it is stored."""
    noted: dict[str, Any] = {
        "of": of, "values": dict(measured.values), "seconds": round(measured.seconds, 6), "status": measured.status,
    }  # fmt: skip
    if not measured.ok:
        noted["reason"] = measured.reason
    if measured.traces:
        noted["traces"] = dict(measured.traces)
    return noted


def _log_ratios(pairs: Pairs, baseline: Baseline, metric: Metric) -> list[float]:
    """Log ratios of the pairs; a run without a default beside it is held against the reference."""
    found = []
    for candidate, beside in pairs:
        against = beside.values[metric.name] if beside else baseline.values[metric.name]
        gain = improvement(metric, candidate.values[metric.name], against)
        if gain is not None:
            found.append(gain)
    return found


def _hopeless(pairs: Pairs, baseline: Baseline, objective: Metric) -> bool:
    """So far behind the best, in its last pair, that further runs are not worth their time."""
    gains = _log_ratios(pairs[-1:], baseline, objective)
    return bool(gains) and gains[0] < baseline.best - max(6 * math.sqrt(2) * baseline.noise, 0.3)


def _beaten(pairs: Pairs, baseline: Baseline, objective: Metric) -> bool:
    gains = _log_ratios(pairs, baseline, objective)
    if not gains:
        return True
    margin = max(2 * math.sqrt(2 / len(gains)) * baseline.noise, 0.02)
    return float(np.median(gains)) < baseline.best - margin


def _summary(
    pairs: Pairs,
    metrics: Sequence[Metric],
    objective: Metric,
    baseline: Baseline | None,
    runs: Sequence[Mapping[str, Any]],
) -> Evaluation:
    medians = {m.name: float(np.median([p.values[m.name] for p, _ in pairs])) for m in metrics}
    scores, ratio = dict(medians), 1.0 if baseline is None else None
    if baseline is not None:
        for metric in metrics:
            gains = _log_ratios(pairs, baseline, metric)
            reference = baseline.values[metric.name]
            if len(gains) < len(pairs) or reference <= 0:
                continue
            gain = float(np.median(gains))
            if metric.name == objective.name:
                ratio = math.exp(gain)
            # a constraint is judged by what was measured; only scores are corrected for drift
            if any(beside for _, beside in pairs):
                scores[metric.name] = reference * math.exp(gain if metric.direction == "max" else -gain)
    return Evaluation(status="ok", metrics=medians, scores=scores, ratio=ratio, runs=runs)


def verify(
    run: Run,
    config: Config,
    default: Config,
    objectives: Sequence[Metric],
    level: Trust,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, of: None,
    bounded: Sequence[Metric] = (),
    estimate: Estimate = PAIRS,
    more: Sequence[Look] = (),
) -> tuple[dict[str, Comparison], list[dict[str, Any]]]:
    """Measure the winner afresh in pairs with the default, each pair in an order drawn by lot.

    Args:
        run: measures a configuration once.
        config: the winner.
        default: the default configuration.
        objectives: the first one's interval says when it is enough.
        level: after how many pairs the interval is looked at.
        seed: seed of the first pair.
        progress: is told the number of pairs, done and planned.
        bounded: metrics with bounds. A narrow interval is not enough while it is open whether the winner keeps them;
            and where it cannot be shown any more that it does, the verification ends at once.
        estimate: what is estimated.
        more: looks to go on with where those of the level show no gain.

    Returns:
        A comparison for each objective, and all runs.

    Raises:
        VerificationError: a run failed; the message says which and why.
    """
    runs: list[dict[str, Any]] = []
    pairs: list[tuple[Mapping[str, float], Mapping[str, float]]] = []
    looks = (*level.looks, *more)
    for number in range(looks[-1][0]):
        progress(number, next(n for n in (level.verify_least, level.verify_most, looks[-1][0]) if number < n))
        values: dict[str, Mapping[str, float]] = {}
        order = [("candidate", config), ("default", default)]
        # by lot, not in turn: whatever the machine does with a period of two or four runs would favour one of them
        if random.Random(f"order {seed} {number}").random() < 0.5:
            order.reverse()
        for of, tried in order:
            values[of] = _until_it_works(of, partial(run, tried, seed + number), runs).values
        pairs.append((values["candidate"], values["default"]))
        lost = estimates.lost(estimate, bounded, [candidate for candidate, _ in pairs], looks)
        if not lost and len(pairs) not in dict(looks):
            continue
        rank = rank_at(looks, len(pairs))
        compared = {m.name: compare(m, [(c[m.name], d[m.name]) for c, d in pairs], rank, estimate) for m in objectives}
        first = compared[objectives[0].name]
        enough = first.kind == "difference" or first.high - first.low <= level.width * abs(first.value)
        if more:
            enough = first.improved and (enough or len(pairs) >= level.verify_most)
        interval = estimates.side(estimate, rank)
        if lost or (
            enough and all(standing(m, [c[m.name] for c, _ in pairs], interval).standing == "met" for m in bounded)
        ):
            break
    progress(len(pairs), len(pairs))
    return compared, runs


def _until_it_works(of: str, run: Callable[[], Measurement], runs: list[dict[str, Any]]) -> Measurement:
    """Repeat a run that fails, unless its side fails too often; failures are noted among the runs.

    Raises:
        VerificationError: it fails too often; the message says what failed and why. Of the default it is a
            DefaultFailsError.
    """
    while True:
        measured = run()
        runs.append(_noted(of, measured))
        if measured.ok:
            return measured
        failed, of_all = failures(runs)[of]
        if failed > _FAILURES + _FAILED_SHARE[of] * of_all:
            raise (VerificationError if of == "candidate" else DefaultFailsError)(
                f"the {of} failed in {failed} of {of_all} runs while it was measured again: {measured.reason}"
            )
