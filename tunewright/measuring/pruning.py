"""The smallest change that gives the gain: what the data do not support is taken back from a verified winner.

Groups of changes are taken back together, and halved where that costs something, as in delta debugging (Zeller and
Hildebrandt 2002). Whether it costs something is decided pair by pair, by Wald's sequential probability ratio test of
"it costs nothing" against "it costs as much as this many pairs can tell". The test takes the noise to be normal and
known from the verification; so what is left is always verified afresh, which assumes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

KEPT_WRONGLY, TAKEN_WRONGLY = 0.005, 0.05  # errors of one test: of a change that does nothing, of one that matters
LEAST_EFFECT = math.log(1.02)  # no smaller one is looked for
_CLIP = 3.0  # standard deviations beyond which a pair is an outlier, and counts as if it lay there


@dataclass(frozen=True, kw_only=True)
class Removal:
    """Some changes taken back, to see what they give.

    Attributes:
        names: parameters that got the default's value.
        logs: log ratio of each pair, with them over without them: above 0 they help. Empty where the configuration
            without them could not be measured.
        needed: they stay.
    """

    names: tuple[str, ...]
    logs: tuple[float, ...]
    needed: bool

    @property
    def ratio(self) -> float:
        """With the changes over without them; NaN where that could not be measured."""
        return math.exp(math.fsum(self.logs) / len(self.logs)) if self.logs else math.nan


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What is left of a winner.

    Attributes:
        names: changes that stay, in the order given.
        removals: what was taken back to see what it gives, in order.
        together: the joint test of all that was taken back showed that it matters, though no part of it did: all
            changes stay.
    """

    names: tuple[str, ...]
    removals: tuple[Removal, ...]
    together: bool = False


def prune(
    pair: Callable[[Sequence[str], Sequence[str]], float | None], names: Sequence[str], *, noise: float, most: int
) -> Pruned:
    """Take back the changes of a winner that are not needed.

    Args:
        pair: given two lists of changes, the second a part of the first, measures one pair of configurations and
            returns the log ratio of the first over the second, above 0 where the first is better; None where the second
            is not legal, fails or breaks a constraint, and so is no choice.
        names: the winner's changes, those that seem to matter least first.
        noise: standard deviation of a pair's log ratio; 0 where values repeat exactly.
        most: pairs of one test.

    Returns:
        What is left: at least one change.
    """
    effect = max(LEAST_EFFECT, 4 * noise / math.sqrt(most))
    removals: list[Removal] = []

    def test(current: Sequence[str], group: Sequence[str]) -> bool:
        """Whether a group of changes is needed."""
        left, logs = [n for n in current if n not in group], []
        for _ in range(most):
            log = pair(current, left)
            if log is None:
                removals.append(Removal(names=tuple(group), logs=(), needed=True))
                return True
            logs.append(log)
            decided = needed(logs, noise, effect)
            if decided is not None:
                break
        else:
            decided = evidence(logs, noise, effect) > 1
        removals.append(Removal(names=tuple(group), logs=tuple(logs), needed=bool(decided)))
        return bool(decided)

    def shed(current: list[str], group: Sequence[str], *, known: bool = False) -> list[str]:
        """Return what is left of the current changes once those of a group that are not needed are gone.

        ``known`` says that the group is needed as a whole, because a larger one was and the rest of that is gone. A
        single change is tested nevertheless: or one false alarm about many would always end in one that stays.
        """
        if (not known or len(group) == 1) and not test(current, group):
            return [n for n in current if n not in group]
        if len(group) == 1:
            return current
        first, second = group[: len(group) // 2], group[len(group) // 2 :]
        after = shed(current, first)
        return shed(after, second, known=not set(first) & set(after))

    left = list(names)
    if len(left) > 1:
        left = shed(left, left[:-1])
    if len(left) > 1:  # what seemed to matter most may only have been there
        left = shed(left, left[-1:])
    gone = [n for n in names if n not in left]
    singly = [r for r in removals if not r.needed]
    if len(singly) > 1 and test(list(names), gone):
        return Pruned(names=tuple(names), removals=tuple(removals), together=True)
    return Pruned(names=tuple(left), removals=tuple(removals))


def evidence(logs: Sequence[float], noise: float, effect: float) -> float:
    """Return the log likelihood ratio of "the changes give this effect" over "they give nothing"."""
    clipped = (min(max(x, -_CLIP * noise), effect + _CLIP * noise) for x in logs)
    return math.fsum(effect * (x - effect / 2) for x in clipped) / noise**2


def needed(logs: Sequence[float], noise: float, effect: float) -> bool | None:
    """Decide whether changes matter, after each pair; None where more pairs are needed.

    Args:
        logs: log ratios of the pairs so far, with the changes over without them.
        noise: their standard deviation; 0 where one tells all.
        effect: log ratio that is looked for.

    >>> needed([0.7, 0.6], 0.1, 0.1), needed([0.0, -0.1, 0.1, 0.0, 0.0, -0.1], 0.1, 0.1), needed([0.0], 0.1, 0.1)
    (True, False, None)
    """
    if noise == 0:
        return logs[-1] > 1e-9
    ratio = evidence(logs, noise, effect)
    if ratio > math.log((1 - TAKEN_WRONGLY) / KEPT_WRONGLY):
        return True
    return False if ratio < math.log(TAKEN_WRONGLY / (1 - KEPT_WRONGLY)) else None
