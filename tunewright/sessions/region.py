"""The trust region of careful mode: how far from proven values a candidate may go, on a system that others use.

A configuration is *proven* if it was measured and was not clearly worse than the default. Every parameter has a proven
range, at first today's value alone, which grows with each proven trial. A candidate may take any values within these
ranges, and one of its parameters may leave them, by at most the region's width; so what goes wrong goes wrong by
little, and it is known through what. The width grows after a proven trial and shrinks after a bad one, and what was
bad is not tried again. A choice, or a special value such as "no limit", has no neighbours: it is proven or it is not.

Distances are measured in the unit cube of the space, so on a logarithmic scale where the parameter has one. The region
is worked out from the trials anew each time: a resumed session has the same one. Its width follows the trust regions of
TuRBO (Eriksson et al., 2019, https://arxiv.org/abs/1910.01739) and the subspaces of OnlineTune (Zhang et al., SIGMOD
2022, https://doi.org/10.1145/3514221.3526176), which keep a production database safe likewise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tunewright.measuring.guarding import TIMES
from tunewright.space import Choice, Config, Int, Space, Value
from tunewright.target import Metric
from tunewright.tuner import Trial

FIRST, LEAST, MOST = 0.08, 0.02, 0.15  # width, as a share of a parameter's range
_WIDER, _NARROWER, _MUCH_NARROWER = 1.5, 0.75, 0.5
PROVEN, BAD = 0.95, 0.80  # ratios to the default: from this on proven, and below this bad
_LEAST_PROVEN = 0.85  # on machines whose runs differ much
SLOWER = 2.0  # times today's latency, above which a trial is bad whatever the objective
_SAME = 1e-9


def durations(metrics: Sequence[Metric]) -> list[Metric]:
    """Return the metrics that are latencies: times, the shorter the better."""
    return [m for m in metrics if m.direction == "min" and m.unit in TIMES]


@dataclass
class _Side:
    """One direction of a parameter, in coordinates of the unit cube.

    Attributes:
        edge: how far it is proven.
        wall: where a candidate must stop.
    """

    edge: float
    wall: float


@dataclass
class Region:
    """Where candidates may lie.

    Attributes:
        space: the space.
        width: how far a parameter may leave what is proven, as a share of its range.
        sides: lower and upper direction of each numeric parameter; none as long as only special values are proven.
        words_proven: proven values that have no neighbours: choices, and special values of numbers.
        banned: such values that were bad.
    """

    space: Space
    width: float = FIRST
    sides: dict[str, tuple[_Side, _Side]] = field(default_factory=dict)
    words_proven: dict[str, list[Value]] = field(default_factory=dict)
    banned: dict[str, list[Value]] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """The region in short, for people."""
        return f"careful: region ±{100 * self.width:.0f} %"

    def _apart(self, name: str, value: Value) -> bool:
        """Whether a value has no neighbours: an unordered choice, or a special value."""
        param = self.space.params[name]
        return not param.ordered if isinstance(param, Choice) else value in param.special

    def _place(self, name: str, config: Config) -> float:
        return self.space.params[name].encode(config[name], self.space.scope(config))

    def _reach(self, name: str, side: _Side, config: Config) -> float:
        """Return how far a parameter may leave what is proven: the width, or one step where its steps are larger."""
        param, scope = self.space.params[name], self.space.scope(config)
        if isinstance(param, Choice):
            return max(self.width, 1 / len(param.choices))
        if not isinstance(param, Int):
            return self.width
        value = param.decode(side.edge, scope)
        steps = [abs(param.encode(value + step, scope) - side.edge) for step in (-param.step, param.step)]
        return max(self.width, *steps)

    def _side(self, name: str, config: Config) -> _Side | None:
        """Return the direction in which a value leaves what is proven; None where it does not, or has none."""
        if name not in self.sides or self._apart(name, config[name]):
            return None
        (low, high), at = self.sides[name], self._place(name, config)
        return low if at < low.edge - _SAME else high if at > high.edge + _SAME else None

    def news(self, config: Config) -> list[str]:
        """Return the parameters of a configuration that leave what is proven."""
        return [name for name in config if self._side(name, config) is not None or self._unproven_word(name, config)]

    def _unproven_word(self, name: str, config: Config) -> bool:
        if self._apart(name, config[name]):
            return not _among(config[name], self.words_proven[name])
        return name not in self.sides

    def contains(self, config: Config) -> bool:
        """Whether a configuration may be tried."""
        new = self.news(config)
        if any(_among(config[name], self.banned[name]) for name in config if self._apart(name, config[name])):
            return False
        sides = {name: side for name in new if (side := self._side(name, config)) is not None}
        return len(new) <= 1 and all(self._reaches(name, side, config) for name, side in sides.items())

    def _reaches(self, name: str, side: _Side, config: Config) -> bool:
        at = self._place(name, config)
        stop = at >= side.wall - _SAME if at < side.edge else at <= side.wall + _SAME
        return stop and abs(at - side.edge) <= self._reach(name, side, config) + _SAME

    def within(self, config: Config, rng: np.random.Generator) -> Config:
        """Return a configuration of the region near the given one; the same if it is in it, today's if none is found.

        Args:
            config: legal.
            rng: draws which of the parameters that leave what is proven does so.
        """
        if self.contains(config):
            return config
        new = self.news(config)
        for name in [*(new[i] for i in rng.permutation(len(new))), ""]:
            moved = self._clipped(config, name)
            if self.contains(moved) and (self.news(moved) or not name) and not self.space.problems(moved):
                return moved
        return dict(self.space.default)

    def _clipped(self, config: Config, free: str) -> Config:
        """Return a configuration with one parameter within the region, and the others within what is proven."""
        values = dict(config)
        for name in config:
            param, side = self.space.params[name], self._side(name, config)
            if self._unproven_word(name, config):
                if name != free or _among(config[name], self.banned[name]):
                    values[name] = param.default
            elif side is not None:
                reach = self._reach(name, side, config) if name == free else 0.0
                up = side is self.sides[name][1]
                stop = min(side.edge + reach, side.wall) if up else max(side.edge - reach, side.wall)
                at = self._place(name, config)
                if (at > stop) if up else (at < stop):
                    values[name] = param.decode(min(max(stop, 0.0), 1.0), self.space.scope(values))
        return self.space.legalise(values)

    def draw(self, rng: np.random.Generator, near: Config) -> Config:
        """Return some configuration of the region, by a change of one parameter or two."""
        point = self.space.encode(near)
        for i in rng.choice(len(point), size=min(len(point), 1 + int(rng.integers(2))), replace=False):
            point[i] = rng.random()
        return self.within(self.space.decode(point), rng)

    # -- learning ---------------------------------------------------------------------------------

    def learn(self, trial: Trial, *, proven: float = PROVEN, slow: bool = False) -> None:
        """Take in what came of a trial.

        Args:
            trial: decided.
            proven: ratio to the default from which on it is proven.
            slow: a latency was above twice today's.
        """
        config, ratio = trial.config, trial.ratio if trial.ok and trial.ratio is not None else 0.0
        if ratio >= proven and not slow:
            self.width = min(self.width * _WIDER, MOST)
            for name in self.news(config):
                self._prove(name, config)
            return
        bad = ratio < BAD or slow
        self.width = max(self.width * (_MUCH_NARROWER if bad else _NARROWER), LEAST)
        news = self.news(config)
        for name in news:
            side = self._side(name, config)
            if side is None:
                if self._apart(name, config[name]):
                    self.banned[name].append(config[name])
                continue
            at = self._place(name, config)
            # a worse one: no further; a bad one: half of the way; one at less than half of today's: not at all any more
            stop = at if not bad else (side.edge + at) / 2 if ratio >= 1 / SLOWER and not slow else side.edge
            side.wall = max(side.wall, stop) if at < side.edge else min(side.wall, stop)
        if bad and not news:  # values that are proven one by one do not go together: back towards today's
            for name, both in self.sides.items():
                home = self._home(name)
                for side in both if home is not None else ():
                    side.edge = (side.edge + float(home)) / 2  # type: ignore[arg-type]

    def _prove(self, name: str, config: Config) -> None:
        side = self._side(name, config)
        if self._apart(name, config[name]):
            self.words_proven[name].append(config[name])
        elif side is not None:
            side.edge = self._place(name, config)
        else:
            at = self._place(name, config)
            self.sides[name] = _Side(edge=at, wall=0.0), _Side(edge=at, wall=1.0)

    def _home(self, name: str) -> float | None:
        """Return where today's value lies; None where it has no neighbours."""
        param = self.space.params[name]
        if self._apart(name, param.default):
            return None
        return param.encode(param.default, self.space.scope(self.space.default))


def _among(value: Value, values: Sequence[Value]) -> bool:
    """Whether a value is one of some; True is not 1."""
    return any(v == value and isinstance(v, bool) == isinstance(value, bool) for v in values)


def region_of(space: Space, trials: Sequence[Trial], metrics: Sequence[Metric], noise: float = 0.0) -> Region:
    """Return the region after some trials.

    Args:
        space: the space, guards included; its default is today's configuration.
        trials: the decided ones in order, the default's first.
        metrics: the target's; those that are latencies must not double.
        noise: standard deviation of the log of the objective between runs of the default: what is worse by less than
            two pairs of runs may differ anyway is no failure.
    """
    region = Region(space=space)
    for name, param in space.params.items():
        home = region._home(name)
        region.words_proven[name], region.banned[name] = [param.default] if home is None else [], []
        if home is not None:
            region.sides[name] = _Side(edge=home, wall=0.0), _Side(edge=home, wall=1.0)
    proven = max(min(PROVEN, math.exp(-2 * math.sqrt(2) * noise)), _LEAST_PROVEN)
    default = next((t for t in trials if t.step == 0 and t.ok), None)
    for trial in trials:
        if trial.step:
            slow = default is not None and slower(trial, default, metrics)
            region.learn(trial, proven=proven, slow=slow)
    return region


def slower(trial: Trial, default: Trial, metrics: Sequence[Metric]) -> bool:
    """Whether a latency of a measured trial is above twice the default's."""
    return trial.ok and any(
        trial.scores.get(m.name, 0.0) > SLOWER * default.metrics.get(m.name, float("inf")) for m in durations(metrics)
    )
