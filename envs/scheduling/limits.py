"""Ranges of the numbers that simulators take: one place where they are checked."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tunewright.errors import ConfigError
from tunewright.store.files import printable

#: of times in traces, s: beyond it, seconds are no longer told apart, and sums and products become infinite
MOST_TIME_S = 1e12
#: of what a job of a trace takes: GPUs, thousandths of CPUs, MiB
MOST_UNITS = 1e12


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers that make sense.

    Attributes:
        least, most: ends, both allowed.
        whole: only whole numbers.
        zero: 0 is allowed too: off, or what is usual.
    """

    least: float
    most: float
    whole: bool = False
    zero: bool = False

    @property
    def words(self) -> str:
        """Say the range."""
        form = ",.0f" if self.whole else ",.12g" if 1e-3 <= self.most < 1e7 else "g"
        kind = "a whole number" if self.whole else "a number"
        return f"{'0, or ' if self.zero else ''}{kind} from {format(self.least, 'g')} to {format(self.most, form)}"


_TIME, _POSITIVE_TIME, _FACTOR = Range(least=0, most=1e9), Range(least=1e-9, most=1e9), Range(least=1e-9, most=1e9)
_SPREAD, _PERIOD = Range(least=0, most=10), Range(least=1e-3, most=1e9, zero=True)
_COUNT, _SIZE = Range(least=0, most=1e9, whole=True), Range(least=1, most=1e9, whole=True)
#: options of ``tunewright simulate`` and settings of policies, by name
RANGES: dict[str, Range] = {
    "speed": _FACTOR, "requests": _COUNT, "ttft": _POSITIVE_TIME, "tpot": _POSITIVE_TIME, "error": _SPREAD,
    "tp": Range(least=0, most=1e6, whole=True), "prefill_gpus": Range(least=0, most=1e6, whole=True),
    "cores": Range(least=1, most=1e9, whole=True), "users": Range(least=1, most=1e9, whole=True, zero=True),
    "jobs": Range(least=1, most=1e9, whole=True, zero=True), "noise": _SPREAD, "weight": Range(least=1e-6, most=1e6),
    "overhead": Range(least=0, most=1e6), "partition_s": Range(least=1e-6, most=1e9, zero=True),
    "load": Range(least=1e-6, most=1e6), "keep": _TIME, "seed": Range(least=0, most=2**63 - 1, whole=True),
    # knobs of serving
    "max_seqs": _SIZE, "max_tokens": _SIZE, "chunk": _SIZE, "max_output": _SIZE, "swap_group": _SIZE, "block": _SIZE,
    "quantum": _COUNT, "answers": _COUNT, "guesses": _COUNT, "draft": Range(least=0, most=1e3), "answer_ttl_s": _TIME,
    "answer_fresh_s": Range(least=-1e9, most=1e9),
    # settings of clusters
    "depth": _SIZE, "level_s": Range(least=1e-3, most=1e12), "restart_s": _TIME, "migrate_s": _TIME,
    "balance": Range(least=0, most=1e3), "every_s": _PERIOD,
}  # fmt: skip


def problem(name: str, value: float, shown: str = "") -> str:
    """Say what is wrong with a number; empty where it is in its range.

    Args:
        name: in ``RANGES``.
        value: of it.
        shown: how the message calls it; as its name where not given.

    >>> problem("noise", float("nan"), "--noise")
    '--noise must be a number from 0 to 10, not nan'
    """
    allowed = RANGES[name]
    if (allowed.zero and value == 0) or (
        allowed.least <= value <= allowed.most
        and (not allowed.whole or isinstance(value, int) or float(value).is_integer())
    ):
        return ""
    below = ""
    if allowed.least >= 0 and not allowed.zero and -math.inf < value < allowed.least:
        below = "above 0, " if allowed.least > 0 and not allowed.whole else f"at least {allowed.least:g}, "
    return f"{shown or name} must be {below}{allowed.words}, not {printable(str(value), 40)}"


def check(prefix: str = "", /, **values: float | None) -> None:
    """Check numbers by name; None is not looked at.

    Args:
        prefix: ``--`` where the names are options of a command.
        values: numbers by the names of ``RANGES``.

    Raises:
        ConfigError: one is out of its range, which is said.
    """
    for name, value in values.items():
        if value is not None:
            wrong = problem(name, value, f"--{name.replace('_', '-')}" if prefix else name)
            if wrong:
                raise ConfigError(wrong)


def time(seconds: float, least: float = -MOST_TIME_S) -> float:
    """Return a time of a trace.

    Raises:
        ValueError: it is no number of seconds from ``least`` to ``MOST_TIME_S``.
    """
    if not least <= seconds <= MOST_TIME_S:
        raise ValueError(f"a time must be from {least:g} to {MOST_TIME_S:g} s, not {seconds:g}")
    return seconds


def units(count: float, least: float = 0.0) -> float:
    """Return what a job of a trace takes.

    Raises:
        ValueError: it is no number from ``least`` to ``MOST_UNITS``.
    """
    if not least <= count <= MOST_UNITS:
        raise ValueError(f"what a job takes must be from {least:g} to {MOST_UNITS:g}, not {count:g}")
    return count
