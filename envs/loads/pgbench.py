"""pgbench as a load: scripts with weights, and its summary and log of transactions as metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tunewright.envs.loads._command import TRANSACTIONS
from tunewright.errors import ConfigError, TargetError

LEAVES = "pgbench keeps tables pgbench_accounts, pgbench_history, ... in the database, and its writes stay in them"
METRICS = TRANSACTIONS
LOG_PREFIX = "pgbench_log"  # of the files that pgbench --log writes, its own default
_PERCENTILES = {"p50": 50, "p95": 95, "p99": 99}
# what a semicolon or a backslash within does not end a statement, as in psql's scanner
_PIECES = re.compile(
    r"""--[^\n]*|/\*.*?\*/|\b[eE]'(?:\\.|''|[^'\\])*'|'(?:''|[^'])*'|"[^"]*"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$
    |\\;|(?P<ends>;|\\(?:gset|aset)[^\n]*)|(?P<meta>\\(?:\\\n|[^\n])*)""",
    re.DOTALL | re.VERBOSE,
)
_CONTROLS = re.compile(
    r"(?:BEGIN|START\s+TRANSACTION|COMMIT|END|ROLLBACK|ABORT|SAVEPOINT|RELEASE|PREPARE\s+TRANSACTION)\b", re.IGNORECASE
)
_ENDS = re.compile(r"\\;|\b(?:COMMIT|ROLLBACK|ABORT|PREPARE\s+TRANSACTION)\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Script:
    """A file of SQL in pgbench's syntax.

    Attributes:
        path: absolute.
        weight: how often it is drawn, relative to the others.
    """

    path: Path
    weight: int = 1

    @property
    def argument(self) -> str:
        """Return what ``pgbench -f`` is given; with the weight always, since a path may have an @ in it."""
        return f"{self.path}@{self.weight}"


def split_weight(text: str) -> tuple[str, int]:
    """Split ``read.sql@3`` into path and weight.

    >>> split_weight("read.sql@3"), split_weight("me@home.sql")
    (('read.sql', 3), ('me@home.sql', 1))
    """
    path, at, weight = text.rpartition("@")
    return (path, int(weight)) if at and re.fullmatch("[0-9]{1,9}", weight) else (text, 1)


def read_scripts(text: str) -> tuple[Script, ...]:
    """Read ``FILE.sql`` or ``read.sql@3,write.sql@1``; the files need not be there, see :func:`problem`.

    Raises:
        ConfigError: no file is named, or no weight is above 0.
    """
    found = []
    for part in (p.strip() for p in text.split(",")):
        name, weight = (part, 1) if Path(part).is_file() else split_weight(part)
        if not name:
            raise ConfigError(f"cannot read the load {text!r}; write FILE.sql, or read.sql@3,write.sql@1")
        found.append(Script(path=Path(name).expanduser().absolute(), weight=weight))
    if not any(script.weight for script in found):
        raise ConfigError(f"every script of the load {text!r} has weight 0; write read.sql@3,write.sql@1")
    return tuple(found)


def problem(script: Script) -> str:
    """Return why a script cannot be run, in one line; "" where it can."""
    try:
        text = script.path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return (
            f"cannot read the script {script.path} of the load: {error.strerror}; name it with -O load=FILE.sql, or "
            "several with weights: read.sql@3,write.sql@1"
        )
    return "" if without_comments(text).strip() else f"the script {script.path} of the load has no statements"


@dataclass(frozen=True, kw_only=True)
class Command:
    r"""A command of a script, in the order in which pgbench counts them.

    Attributes:
        text: an SQL statement, or a line such as ``\set``.
        begin, end: where it stands in the script.
        line: of the script on which it begins, from 1.
    """

    text: str
    begin: int
    end: int
    line: int


def commands(text: str) -> list[Command]:
    r"""Split a script as pgbench does.

    >>> [(c.line, c.text) for c in commands("\\set a 1\nSELECT ';' -- ;\n;\n\nEND; SELECT $$;$$ \\gset")]
    [(1, '\\set a 1'), (2, "SELECT ';' -- ;\n;"), (5, 'END;'), (5, 'SELECT $$;$$ \\gset')]
    """
    spans, begin = [], 0
    for piece in _PIECES.finditer(text):
        if piece["meta"]:
            spans += [(begin, piece.start()), piece.span()]
            begin = piece.end()
        elif piece["ends"]:
            spans.append((begin, piece.end()))
            begin = piece.end()
    found = []
    for start, end in [*spans, (begin, len(text))]:
        if without_comments(text[start:end]).strip(" \t\r\n;"):
            start += re.match(r"(?:\s|--[^\n]*|/\*.*?\*/)*", text[start:end], re.DOTALL).end()  # type: ignore[union-attr]
            line = text.count("\n", 0, start) + 1
            found.append(Command(text=text[start:end].strip(), begin=start, end=end, line=line))
    return found


def rolled_back(text: str) -> str:
    """Return a script as one transaction that is rolled back, on the same lines; "" where that is not sure to work.

    What the script says of transactions itself is left out.
    """
    for command in reversed(commands(text)):
        if _CONTROLS.match(command.text) and "\\;" not in command.text:
            gone = re.sub(r"[^\n]", " ", text[command.begin : command.end])
            text = text[: command.begin] + gone + text[command.end :]
    code = _PIECES.sub(lambda piece: piece[0] if piece[0] in (";", "\\;") else " ", text)
    if _ENDS.search(code):  # a command that is several statements, or what the pattern above does not know
        return ""
    return f"BEGIN READ WRITE; {text}\n;ROLLBACK;\n"  # an empty command does no harm


def without_comments(text: str) -> str:
    """Return SQL without its comments."""
    return re.sub(r"--[^\n]*|/\*.*?\*/", " ", text, flags=re.DOTALL)


def parse(text: str, folder: Path) -> dict[str, float]:
    """Return what a run of pgbench came to.

    Args:
        text: its standard output.
        folder: where the files of ``--log`` lie, if it was given, named as pgbench names them.

    Returns:
        ``tps`` and ``latency`` (mean, ms); with a log the percentiles ``p50``, ``p95`` and ``p99`` (ms), too.

    Raises:
        TargetError: transactions failed, or the text is no summary of pgbench.
    """
    failed = re.search(r"^number of failed transactions: (\d+)", text, re.M)
    if failed and int(failed[1]):
        raise TargetError(f"pgbench: {failed[1]} transactions failed")
    tps = re.search(r"^tps = ([0-9.]+)", text, re.M)
    latency = re.search(r"^latency average = ([0-9.]+) ms", text, re.M)
    if tps is None or latency is None:
        raise TargetError("this is not what pgbench prints at its end: it has no line 'tps = ...' or 'latency average'")
    values = {"tps": float(tps[1]), "latency": float(latency[1])}
    times_ms = np.fromiter(_logged_us(folder), dtype=float) / 1000
    if times_ms.size:
        values |= {name: float(np.percentile(times_ms, share)) for name, share in _PERCENTILES.items()}
    return values


def progress(line: str) -> dict[str, float]:
    """Return the figures of a line of ``--progress``; without any transaction in its time, of the rate alone.

    >>> progress("progress: 1.0 s, 40.5 tps, lat 2.500 ms stddev 0.100, 0 failed")
    {'tps': 40.5, 'latency': 2.5}
    """
    told = re.match(r"progress: [\d.]+ s, ([\d.]+) tps, lat (\S+) ms", line)
    if told is None:
        return {}
    rate = float(told[1])
    return {"tps": rate, "latency": float(told[2])} if rate > 0 else {"tps": rate}


def _logged_us(folder: Path) -> Iterator[int]:
    """Yield the times of the transactions that a log has; failed and skipped ones have a word instead of a time."""
    for path in sorted(folder.glob(f"{LOG_PREFIX}.*")):
        with path.open(encoding="ascii", errors="replace") as lines:
            for line in lines:
                words = line.split()
                if len(words) >= 6 and words[2].isdigit():
                    yield int(words[2])
