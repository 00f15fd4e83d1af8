"""From a verified winner to the smallest change that gives the gain, and what each part of that change gives."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from tunewright.measuring.protocol import compare_pairs, improvement, until_ok
from tunewright.measuring.pruning import Pruned, prune
from tunewright.measuring.runs import verified_pairs
from tunewright.sessions.measurer import Measurer
from tunewright.sessions.setup import VERIFICATION_SEEDS, Setup
from tunewright.sessions.trials import Trials
from tunewright.space import Config, Space
from tunewright.target import Measurement, Metric

Tell = Callable[[int, int, str], None]  # done, of how many at most, what
Measured = Sequence[tuple[Config, float]]  # configuration and ratio of each trial

_LEAST_MOST = 9  # pairs that one test may take at any level; six tell only effects of 1.6 times the noise
_BUDGET, _LEAST_BUDGET = 4, 40  # pairs of all tests together: times those of the longest verification; at least
_LEAST_NOISE = 0.005  # of a target whose values do not repeat exactly, though these few did
_UNSURE = 1.1
_MOST_STEPS = 8  # of the staircase; smaller changes share the last one
SEEDS = 100_000  # seeds of these runs lie this far beyond those of the verification


@dataclass(frozen=True, kw_only=True)
class Step:
    """What some changes give, on top of those before them.

    Attributes:
        names: the parameters.
        ratio: with them over without them, above 1 is better; a median over rounds.
        low: lower end of its 95 % interval.
        high: upper end.
        total: with them and all before them over the default.
        rounds: how often it was measured.
    """

    names: tuple[str, ...]
    ratio: float
    low: float
    high: float
    total: float
    rounds: int


def reduce(setup: Setup, trials: Trials, measurer: Measurer, config: Config, runs: Sequence[Any], tell: Tell) -> Pruned:
    """Find out which changes of a verified winner are needed.

    Args:
        setup, trials, measurer: of the session.
        config: the winner.
        runs: its verification's runs, which say how noisy a pair is.
        tell: is told how far it is.
    """
    space, metric = setup.space, setup.objectives[0]
    most, done = max(setup.level.verify_most, _LEAST_MOST), 0
    budget = max(_BUDGET * most, _LEAST_BUDGET)

    def pair(current: Sequence[str], left: Sequence[str]) -> float | None:
        nonlocal done
        one, other = _with(space, config, current), _with(space, config, left)
        if space.key(one) == space.key(other):  # a change that another one had already made void
            return 0.0
        if done >= budget or space.problems(other):
            return None
        gone = [n for n in current if n not in left]
        tell(done, budget, f"whether {_listed(gone)} {'is' if len(gone) == 1 else 'are'} needed")
        done += 1
        both = _in_turn(setup, measurer, [one, other], setup.seed + VERIFICATION_SEEDS + 2 * SEEDS + done)
        if both[0] is None or both[1] is None or _breaks(setup.metrics, both[1]):
            return None
        return improvement(metric, both[0].values[metric.name], both[1].values[metric.name])

    names = weakest_first(space, config, measured_of(trials))
    return prune(pair, names, noise=0.0 if setup.target.exact else _noise(runs, metric), most=most)


def measured_of(trials: Trials) -> Measured:
    """Return configuration and ratio of each trial that has them."""
    return [(t.config, t.ratio) for t in trials.decided if t.ok and t.ratio]


def staircase(setup: Setup, measurer: Measurer, config: Config, order: Sequence[str], tell: Tell) -> list[Step]:
    """Measure what each change gives: the default, then one change more at a time, up to the whole configuration.

    Every round measures each of these configurations once, in an order drawn by lot. One that is not legal or fails is
    left out; its change then shares the next step. A constraint that one misses on the way does not matter here.

    Args:
        setup, measurer: of the session.
        config: the configuration.
        order: its changes, in the order in which they are added.
        tell: is told how far it is.

    Returns:
        The steps; none where the metric is not positive, or where the ends cannot be measured.
    """
    space, metric = setup.space, setup.objectives[0]
    ladder = [(0, space.default)]
    for stop in (*range(1, min(len(order), _MOST_STEPS)), len(order)):
        rung = _with(space, config, order[:stop])
        known = space.key(rung) == space.key(ladder[-1][1])  # a change that has no effect before a later one
        if stop == len(order) or not (known or space.problems(rung)):
            ladder.append((stop, rung))
    rounds = 1 if setup.target.exact else setup.level.verify_least
    values: dict[int, list[float]] = {stop: [] for stop, _ in ladder}
    for number in range(rounds):
        tell(number, rounds, "what each change gives")
        seed = setup.seed + VERIFICATION_SEEDS + 3 * SEEDS + number
        for (stop, _), measured in zip(ladder, _in_turn(setup, measurer, [c for _, c in ladder], seed), strict=True):
            value = measured.values[metric.name] if measured else math.nan
            values[stop].append(value if value > 0 else math.nan)
        ladder = [(s, c) for s, c in ladder if not math.isnan(values[s][-1])]
        if [s for s, _ in ladder if s in (0, len(order))] != [0, len(order)]:
            return []
    steps = []
    for (before, _), (stop, _) in itertools.pairwise(ladder):
        one = compare_pairs(metric, list(zip(values[stop], values[before], strict=True)))
        total = compare_pairs(metric, list(zip(values[stop], values[0], strict=True)))
        low, high = (one.value, one.value) if setup.target.exact else (one.low, one.high)
        names = tuple(order[before:stop])
        steps.append(Step(names=names, ratio=one.value, low=low, high=high, total=total.value, rounds=rounds))
    return steps


def strongest_first(
    space: Space, config: Config, removals: Sequence[Mapping[str, Any]], measured: Measured
) -> list[str]:
    """Order changes by what they gave when they were taken back alone, the others by the guess."""
    alone = {r["names"][0]: r["ratio"] for r in removals if len(r["names"]) == 1 and r["pairs"]}
    return sorted(reversed(weakest_first(space, config, measured)), key=lambda n: -alone.get(n, 1.0))


def weakest_first(space: Space, config: Config, measured: Measured) -> list[str]:
    """Order the changes of a winner by how well nearness to its value goes with the gain in the trials; a guess.

    Args:
        space: the space.
        config: the winner's configuration.
        measured: configuration and ratio of each trial.
    """
    whole = space.key(config)
    changed = space.changes(config)
    # not what came with another change, such as a parameter that is active under it alone, at its own default
    names = [n for n in changed if space.key(_with(space, config, [m for m in changed if m != n])) != whole]
    if len(measured) < 3:
        return names
    places, place = np.array([space.encode(c) for c, _ in measured]), space.encode(config)
    gains = np.log([ratio for _, ratio in measured])
    strength = {}
    for column, name in enumerate(space.params):
        near = -np.abs(places[:, column] - place[column])
        flat = near.std() == 0 or gains.std() == 0
        strength[name] = 0.0 if flat else float(np.corrcoef(near, gains)[0, 1])
    return sorted(names, key=strength.__getitem__)


def recorded(pruned: Pruned, config: Config, comparisons: Mapping[str, Any], runs: Sequence[Any]) -> dict[str, Any]:
    """Return what a verdict keeps of the way to it, JSON-able.

    Args:
        pruned: what is left of the winner.
        config: the winner before.
        comparisons: its own, with the default.
        runs: the verification's that they come from.
    """
    removals = [
        {"names": list(r.names), "ratio": r.ratio, "pairs": len(r.logs), "needed": r.needed} for r in pruned.removals
    ]
    return {
        "config": dict(config), "comparisons": {n: asdict(c) for n, c in comparisons.items()}, "runs": list(runs),
        "removals": removals, "together": pruned.together,
    }  # fmt: skip


def _with(space: Space, config: Config, names: Sequence[str]) -> Config:
    """Return the default with these of the configuration's values."""
    return space.fill({n: v for n, v in config.items() if n in names})


def _in_turn(setup: Setup, measurer: Measurer, configs: Sequence[Config], seed: int) -> list[Measurement | None]:
    """Measure each configuration once, in an order drawn by lot; None for what fails again and again."""
    order = list(range(len(configs)))
    random.Random(f"turn {seed}").shuffle(order)
    tries = 1 if setup.target.exact else setup.level.tries
    measured = {at: until_ok(partial(measurer.once, configs[at], seed), tries)[-1] for at in order}
    return [measured[at] if measured[at].ok else None for at in range(len(configs))]


def _breaks(metrics: Sequence[Metric], measured: Measurement) -> bool:
    return any(m.constrained and m.violation(measured.values[m.name]) > 0 for m in metrics)


def _noise(runs: Sequence[Any], metric: Metric) -> float:
    """Standard deviation of a pair's log ratio in a verification; outliers count as if they were three away."""
    pairs = verified_pairs(runs, metric.name)
    logs = np.array([gain for c, d in pairs if (gain := improvement(metric, c, d)) is not None])
    middle = np.median(logs)
    spread = 1.4826 * float(np.median(np.abs(logs - middle)))
    if spread > 0:
        logs = np.clip(logs, middle - 3 * spread, middle + 3 * spread)
    # taken for too small, noise is taken for effects; so few pairs may well show less of it than there is
    return max(float(np.std(logs, ddof=1)) * (1 + _UNSURE / math.sqrt(len(logs))), _LEAST_NOISE)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 4 else f"{', '.join(names[:2])} and {len(names) - 2} more"
