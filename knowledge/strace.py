"""What strace prints: the table of ``-c``, ``-C`` and ``-w`` with any columns (``-U``), or the calls with ``-T``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from tunewright.errors import ConfigError
from tunewright.knowledge.evidence import Observations

#: the columns that strace knows, as it names them
_COLUMNS = frozenset({"% time", "seconds", "usecs/call", "shortest", "longest", "calls", "errors", "syscall"})
_METADATA = "open openat stat fstat newfstatat lstat unlink rename close statx mkdir".split()
_NEEDED = ("syscall", "calls", "seconds")
# a thread's number and a time of day stand before the call where strace was asked for them (-f, -r, -t, -tt, -ttt)
_BEFORE = r"^\s*(?:\[pid\s+\d+\]\s+|\d+\s+)?(?:\d\d:\d\d:\d\d(?:\.\d+)?\s+|\d+\.\d+\s+)?"
_CALL = re.compile(
    _BEFORE + r"(?:<\.\.\.\s+(?P<resumed>\w+)\s+resumed>|(?P<name>[a-z_]\w*)\()(?=.*\s=\s|.*<unfinished)"
)
_NOT_BACK = re.compile(r"(?:<unfinished \.\.\.>|\s=\s\?)\s*$")  # interrupted, or the process ended in it
_TIME = re.compile(r"<(\d+\.\d+)>\s*$")
_FAILED = re.compile(r"\s=\s-1 E[A-Z0-9]+ \([^()]*\)(?:\s+<\d+\.\d+>)?\s*$")


class Row(NamedTuple):
    """Of one system call: its name, seconds in it, how often it was made and how often it failed."""

    call: str
    seconds: float
    calls: int
    errors: int


def is_strace(head: str) -> bool:
    """Whether a text looks like what strace prints."""
    lines = head.splitlines()
    return any(_columns(line) for line in lines) or sum(_CALL.match(line) is not None for line in lines[:20]) >= 3


def read(path: Path, text: str) -> Observations:
    """Read strace's table, or else its calls.

    Raises:
        ConfigError: there is neither, or a row does not fit the names of the columns.
    """
    lines = text.splitlines()
    rows = list(_table(path, lines)) if any(_columns(line) for line in lines) else _calls(path, lines)
    if not rows:
        raise ConfigError(f"{path} looks like what strace prints, but no system call stands in it")
    return _observed(path, rows)


@dataclass(frozen=True, kw_only=True)
class _Column:
    name: str
    start: int  # where it begins and ends in a line
    end: int


def _words(line: str, pattern: str = r"% time|\S+") -> list[_Column]:
    return [_Column(name=m[0], start=m.start(), end=m.end()) for m in re.finditer(pattern, line)]


def _columns(line: str) -> list[_Column]:
    """Return the columns if a line is the head of a table; empty if it is not."""
    columns = _words(line)
    names = [c.name for c in columns]
    return columns if "syscall" in names and len(names) > 1 and _COLUMNS.issuperset(names) else []


def _table(path: Path, lines: Iterable[str]) -> Iterator[Row]:
    columns: list[_Column] = []
    for number, line in enumerate(lines, 1):
        if head := _columns(line):
            names = [c.name for c in head]
            if len(set(names)) < len(names) or not set(_NEEDED) <= set(names):
                raise ConfigError(
                    f"{path}, line {number}: the table of strace has the columns {', '.join(names)}; it needs"
                    f" {', '.join(_NEEDED)}, each once (strace -c, or -U with these)"
                )
            columns = head
        elif not columns or not line.strip():
            continue
        elif set(line) <= set("- "):  # the ruler says how wide the columns are
            rules = _words(line)
            if len(rules) == len(columns):
                columns = [replace(c, start=r.start, end=r.end) for c, r in zip(columns, rules, strict=True)]
        elif "total" in line.split():  # the sum of the rows ends the table
            columns = []
        else:
            yield _row(f"{path}, line {number}", columns, _words(line, r"\S+"))


def _row(where: str, columns: list[_Column], cells: list[_Column]) -> Row:
    fits = len(cells) == len(columns)
    if not fits:  # no errors are left blank, and nothing else is
        columns = [c for c in columns if c.name != "errors"]
        fits = len(cells) == len(columns) and all(
            cell.start < column.end and column.start < cell.end for cell, column in zip(cells, columns, strict=True)
        )
    if not fits:
        raise ConfigError(f"{where}: {len(cells)} cells do not fit the columns of strace's table")
    values = {column.name: cell.name for column, cell in zip(columns, cells, strict=True)}
    try:
        return Row(values["syscall"], float(values["seconds"]), int(values["calls"]), int(values.get("errors", 0)))
    except ValueError as error:
        raise ConfigError(f"{where}: not a row of strace's table: {error}") from None


def _calls(path: Path, lines: Iterable[str]) -> list[Row]:
    """Sum up a trace of single calls; one that was interrupted counts where it is resumed."""
    sums: dict[str, Row] = {}
    for number, line in enumerate(lines, 1):
        call = _CALL.match(line)
        if call is None or _NOT_BACK.search(line):
            continue
        took = _TIME.search(line)
        if took is None:
            raise ConfigError(f"{path}, line {number}: a call without its time; run strace -c, or strace -T")
        name = call["name"] or call["resumed"]
        last = sums.get(name, Row(name, 0.0, 0, 0))
        failed = _FAILED.search(line) is not None
        sums[name] = Row(name, last.seconds + float(took[1]), last.calls + 1, last.errors + failed)
    return list(sums.values())


def _observed(path: Path, rows: list[Row]) -> Observations:
    import pandas as pd

    table = pd.DataFrame(rows, columns=list(Row._fields))
    total = max(float(table["seconds"].sum()), 1e-12)

    def part(*names: str) -> float:
        return float(table.loc[table["call"].isin(names), "seconds"].sum()) / total

    features = {
        **{name: float(table[name].sum()) for name in ("seconds", "calls", "errors")},
        "sync_time_share": part("fsync", "fdatasync", "sync_file_range", "msync", "syncfs"),
        "read_time_share": part("read", "pread64", "readv", "preadv", "preadv2"),
        "write_time_share": part("write", "pwrite64", "writev", "pwritev", "pwritev2"),
        "metadata_time_share": part(*_METADATA),
        "lock_time_share": part("futex", "flock"),
        "wait_time_share": part("poll", "select", "epoll_wait", "nanosleep", "clock_nanosleep"),
    }
    names = {
        "sync": "making data durable",
        "read": "reading",
        "write": "writing",
        "metadata": "opening and looking up files",
        "lock": "waiting for locks",
        "wait": "waiting for events",
    }
    said = [f"{features['calls']:,.0f} system calls took {features['seconds']:,.3g} s"]
    for name, words in names.items():
        if features[f"{name}_time_share"] > 0.2:
            said.append(f"{100 * features[f'{name}_time_share']:.0f} % of the time in system calls goes to {words}")
    if features["errors"] > 0.2 * features["calls"]:
        said.append("every fifth call or more fails")
    return Observations(
        source=path.name,
        kind="strace",
        tables={"calls": table},
        features=features,
        units={"seconds": "s"},
        facts=tuple(said),
    )
