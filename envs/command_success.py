"""What a good run of a command target looks like: exit code, output, numbers, a reference, or what a judge says."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.envs.command_metrics import Rule, value_in
from tunewright.envs.command_table import Table
from tunewright.errors import ConfigError, TargetError
from tunewright.store.files import printable, read_text

_KEYS = {
    "exit_codes", "contains", "forbids", "number", "same_as", "tolerance", "matching", "source", "judge", "judge_limit",
}  # fmt: skip
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|(?<![\w.])[+-]?(?:nan|inf)(?![\w.])", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far a number may be from the one that is expected."""

    absolute: float = 0.0
    relative: float = 0.0

    def holds(self, value: float, expected: float) -> bool:
        """Whether a value is near enough; NaN is near NaN only."""
        if math.isnan(value) or math.isnan(expected):
            return math.isnan(value) and math.isnan(expected)
        return math.isclose(value, expected, rel_tol=0.0, abs_tol=max(self.absolute, self.relative * abs(expected)))


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number in the output that must be near another."""

    rule: Rule
    near: float
    tolerance: Tolerance


@dataclass(frozen=True, kw_only=True)
class Success:
    """The conditions of [success].

    Attributes:
        exit_codes: those of good runs.
        contains: text that the output must contain.
        forbids: text that it must not contain.
        numbers: that must be near others.
        reference: text of a reference file; None where there is none.
        as_default: the output of the default's run is the reference.
        tolerance: of numbers beside a reference.
        matching: only what matches is compared with the reference; None compares all.
        source: ``stdout`` or a file of the run: what is compared and judged.
        judge: command that gets the output on standard input and decides by its exit code.
        judge_s: its time limit.
    """

    exit_codes: tuple[int, ...] = (0,)
    contains: str | None = None
    forbids: str | None = None
    numbers: tuple[Number, ...] = ()
    reference: str | None = None
    as_default: bool = False
    tolerance: Tolerance = Tolerance()
    matching: re.Pattern[str] | None = None
    source: str = "stdout"
    judge: tuple[str, ...] = ()
    judge_s: float = 60.0

    @property
    def reads_output(self) -> bool:
        """Whether the content of ``source`` is needed."""
        return bool(self.numbers or self.reference is not None or self.as_default or self.judge)


def read_success(path: Path, data: Any, shell: bool) -> Success:
    """Read [success].

    Raises:
        ConfigError: something is wrong; the message says where.
    """
    table = Table(f"{path}, [success]", data, _KEYS)
    numbers = table.get("number", (dict, list), [])
    same_as = table.get("same_as", str)
    if same_as is None and ("tolerance" in table.data or "matching" in table.data):
        raise ConfigError(f"{table.where}: tolerance and matching belong to same_as; a number has its own tolerance")
    reference = None
    if same_as not in (None, "default"):
        reference = read_text(path.parent / str(same_as), "reference of [success]", errors="replace")
    return Success(
        exit_codes=tuple(table.get("exit_codes", list, [0])),
        contains=table.get("contains", str),
        forbids=table.get("forbids", str),
        numbers=tuple(_number(path, each) for each in (numbers if isinstance(numbers, list) else [numbers])),
        reference=reference,
        as_default=same_as == "default",
        tolerance=_tolerance(table),
        matching=table.pattern("matching", group=False),
        source=table.get("source", str, "stdout"),
        judge=table.command("judge", shell) if "judge" in table.data else (),
        judge_s=table.seconds("judge_limit", 60.0) or 60.0,
    )


def _number(path: Path, data: Any) -> Number:
    table = Table(f"{path}, [success], number", data, {"regex", "json", "near", "tolerance"})
    regex, at = table.pattern("regex"), table.get("json", str)
    if (regex is None) == (at is None):
        raise ConfigError(f"{table.where}: give exactly one of regex and json")
    near = table.get("near", (int, float), needed=True)
    return Number(rule=Rule(regex=regex, json=at), near=float(near), tolerance=_tolerance(table))


def _tolerance(table: Table) -> Tolerance:
    """Read ``tolerance``: a number is absolute, a text such as "0.1 %" relative."""
    value = table.get("tolerance", (int, float, str), 0.0)
    if isinstance(value, str):
        share = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)(e-?\d+)?\s*%\s*", value, re.ASCII)
        if share is None:
            raise _no_tolerance(table, value)
        return Tolerance(relative=float(value.strip().removesuffix("%")) / 100)
    if value < 0:
        raise _no_tolerance(table, value)
    return Tolerance(absolute=float(value))


def _no_tolerance(table: Table, value: Any) -> ConfigError:
    shown = printable(repr(value), 60)
    return ConfigError(f"{table.where}: tolerance must be a number, or a share such as '0.1 %', not {shown}")


def compare(text: str, reference: str, tolerance: Tolerance, matching: re.Pattern[str] | None = None) -> str:
    """Say in words where a text differs from its reference; "" where it does not.

    Numbers may differ by the tolerance, white space at the ends of lines does not count, everything else must be equal.

    >>> compare("sum 1.001", "sum 1.0", Tolerance(absolute=0.01))
    ''
    >>> compare("sum 2", "sum 1.0", Tolerance(absolute=0.01))
    "line 1 is 'sum 2', expected 'sum 1.0'"
    """
    got, wanted = _lines(text, matching), _lines(reference, matching)
    if matching is not None and not wanted:
        return f"nothing in the reference matches {matching.pattern!r}"
    for number, (line, expected) in enumerate(zip(got, wanted, strict=False), 1):
        if not _alike(line, expected, tolerance):
            return f"line {number} is {printable(line, 100)!r}, expected {printable(expected, 100)!r}"
    if len(got) != len(wanted):
        return f"there are {len(got)} lines, expected {len(wanted)}"
    return ""


def _lines(text: str, matching: re.Pattern[str] | None) -> list[str]:
    if matching is not None:
        return [match[0] for match in matching.finditer(text)]
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _alike(line: str, expected: str, tolerance: Tolerance) -> bool:
    if line == expected:
        return True
    if tolerance == Tolerance() or _NUMBER.sub("#", line) != _NUMBER.sub("#", expected):
        return False
    pairs = zip(_NUMBER.findall(line), _NUMBER.findall(expected), strict=True)
    return all(tolerance.holds(float(a), float(b)) for a, b in pairs)


def problem(success: Success, text: str, reference: str | None) -> str:
    """Say in words what is wrong with an output, the judge's part aside; "" where nothing is.

    Args:
        success: the conditions.
        text: the content of its source.
        reference: what ``same_as`` names; None where there is none.
    """
    for number in success.numbers:
        try:
            value = value_in("success", number.rule, text, success.source)
        except TargetError as error:
            return str(error).replace("metric 'success'", "[success] number")
        if not number.tolerance.holds(value, number.near):
            return f"the result {value:.12g} is not near {number.near:.12g}"
    if reference is not None and (wrong := compare(text, reference, success.tolerance, success.matching)):
        return f"the output is not that of the {'default' if success.as_default else 'reference'}: {wrong}"
    return ""


def placeless(words: Sequence[str], name: str) -> bool:
    """Whether no word of a command has a placeholder of this name."""
    return not any(f"{{{name}}}" in word for word in words)
