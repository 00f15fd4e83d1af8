"""What the modules of loads share: usual command lines, usual metrics, and reading numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tunewright.errors import TargetError
from tunewright.store.files import printable
from tunewright.target import Metric

_MOST_FAILED = 0.01  # of the requests: a server that answers with errors is fast, and its figures mean nothing
_MS = {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "μs": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4, "h": 3.6e6}


@dataclass(frozen=True, kw_only=True)
class Command:
    """A usual command line.

    Attributes:
        program: with a sub-command, if it has one.
        options: each with its value, as one argument or two.
        last: a URL or file at the end; "" for none.
    """

    program: tuple[str, ...]
    options: tuple[tuple[str, ...], ...] = ()
    last: str = ""

    def line(self, arguments: Sequence[str]) -> list[str]:
        """Return the command line with the user's arguments in place of the usual ones of the same name."""
        given = {word.partition("=")[0] for word in arguments if word.startswith("-")}
        usual = [word for option in self.options if option[0].partition("=")[0] not in given for word in option]
        ends = bool(arguments) and bool(self.last) and ("://" in arguments[-1] or _is_file(arguments[-1], self.last))
        last = [] if ends or not self.last else [self.last]
        return [*self.program, *usual, *arguments, *last]


def _is_file(word: str, usual: str) -> bool:
    """Whether an argument takes the place of a usual file: it ends alike."""
    return "://" not in usual and "." in usual and word.endswith(f".{usual.rpartition('.')[2]}")


def usual_metrics(*percentiles: str, of: str = "requests") -> tuple[Metric, ...]:
    """Return throughput, mean latency and percentiles of the latency.

    Args:
        percentiles: such as ``p99``.
        of: what is counted.
    """
    each = of.removesuffix("s")
    words = {p: "median latency" if p == "p50" else f"latency that {p[1:]} % of the {of} keep" for p in percentiles}
    return (
        Metric(name="throughput", direction="max", unit=f"{of}/s", doc=f"{of} over their time"),
        Metric(name="latency", direction="min", unit="ms", doc=f"mean latency of a {each}"),
        *(Metric(name=p, direction="min", unit="ms", doc=words[p]) for p in percentiles),
    )


#: what databases' loads tell: a transaction counts, whatever requests it consists of
TRANSACTIONS = (
    Metric(name="tps", direction="max", unit="transactions/s", doc="transactions over their time"),
    Metric(name="latency", direction="min", unit="ms", doc="mean latency of a transaction"),
    Metric(name="p50", direction="min", unit="ms", doc="median latency of a transaction"),
    Metric(name="p95", direction="min", unit="ms", doc="latency that 95 % of the transactions keep"),
    Metric(name="p99", direction="min", unit="ms", doc="latency that 99 % of the transactions keep"),
)


def find(tool: str, pattern: str, text: str) -> str:
    """Return the first group of the last match.

    Raises:
        TargetError: nothing matches: it is not such an output.
    """
    found = [match[1] for match in re.finditer(pattern, text, re.MULTILINE)]
    if not found:
        last = printable((text.strip().splitlines() or ["nothing"])[-1], 120)
        raise TargetError(f"this is not what {tool} prints: nothing matches {pattern!r}; it ends with {last}")
    return str(found[-1])


def milliseconds(text: str) -> float:
    """Return a duration with its unit in milliseconds.

    >>> milliseconds("1.5ms"), milliseconds("250.00us"), milliseconds("1m2.5s")
    (1.5, 0.25, 62500.0)

    Raises:
        ValueError: it is no duration.
    """
    parts = re.findall(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)", text.strip())
    if not parts or "".join(n + u for n, u in parts) != text.strip():
        raise ValueError(f"{text!r} is no duration")
    return sum(float(number) * _MS[unit] for number, unit in parts)


def check_failed(tool: str, failed: float, total: float) -> None:
    """Raise TargetError where more than a hundredth of the requests failed."""
    if total <= 0 or failed > _MOST_FAILED * total:
        raise TargetError(f"{tool}: {failed:.0f} of {total:.0f} requests failed")
