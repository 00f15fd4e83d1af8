"""Metrics of a command target: where their values come from, and reading them there."""

from __future__ import annotations

import json
import math
import os
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.envs.command_table import Table
from tunewright.errors import ConfigError, TargetError
from tunewright.store.files import printable, reason
from tunewright.target import Metric

OUTPUT_LIMIT = 16 * 2**20  # bytes of output that are searched for metrics
STREAMS = ("stdout", "stderr")
_URL_S = 10.0
_METRIC = {
    "name", "direction", "unit", "doc", "at_least", "at_most",
    "regex", "json", "wall_time", "source", "url", "prometheus", "log", "change", "per_second", "take",
}  # fmt: skip
_TAKES: dict[str, Callable[[Sequence[float]], float]] = {
    "last": lambda values: values[-1],
    "first": lambda values: values[0],
    "sum": math.fsum,
    "mean": lambda values: math.fsum(values) / len(values),
    "min": min,
    "max": max,
    "count": lambda values: float(len(values)),
}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Where a metric's value comes from.

    Attributes:
        source: ``stdout``, ``stderr`` or a file that the run writes.
        regex: with a group around the number.
        json: path of the number in JSON.
        wall_time: the run's duration in seconds is the value.
        url: read before and after the run; JSON with ``json``, else Prometheus' text format.
        prometheus: name of a sample there, with labels or without.
        log: a log file; what it gained during the run is searched.
        change: the value is by how much it grew during the run, as a counter does.
        per_second: that, divided by the run's duration.
        take: which of several matches, see ``_TAKES``.
        tool: the value is what the load's own parser gives under the metric's name.
    """

    source: str = "stdout"
    regex: re.Pattern[str] | None = None
    json: str | None = None
    wall_time: bool = False
    url: str | None = None
    prometheus: str | None = None
    log: str | None = None
    change: bool = False
    per_second: bool = False
    take: str = "last"
    tool: bool = False

    @property
    def file(self) -> str | None:
        """The file that the run itself writes the value to."""
        plain = not (self.wall_time or self.url or self.log or self.tool) and self.source not in STREAMS
        return self.source if plain else None


def read_metrics(
    path: Path, entries: Sequence[Any], tool: Sequence[Metric]
) -> tuple[tuple[Metric, ...], dict[str, Rule]]:
    """Read the [[metric]] tables; those that a tool gives follow them.

    Args:
        path: of the description.
        entries: the tables.
        tool: metrics that the load's own parser gives.

    Raises:
        ConfigError: something is missing or wrong; the message says where.
    """
    metrics: list[Metric] = []
    rules: dict[str, Rule] = {}
    given = {metric.name: metric for metric in tool}
    for number, data in enumerate(entries, 1):
        table = Table(f"{path}, metric number {number}", data, _METRIC)
        name = table.get("name", str, needed=True)
        table.where = f"{path}, metric {name}"
        if name in rules:
            raise ConfigError(f"{table.where}: two metrics have this name")
        known = given.get(name)
        rules[name] = _rule(table, known is not None)
        bound: Any = (int, float)
        direction = table.get("direction", str, known.direction if known else None, needed=known is None)
        if direction not in ("min", "max"):
            raise ConfigError(f"{table.where}: direction must be min or max, not {direction!r}")
        metrics.append(
            Metric(
                name=name,
                direction=direction,
                unit=table.get("unit", str, known.unit if known else ""),
                doc=table.get("doc", str, known.doc if known else ""),
                at_least=table.get("at_least", bound),
                at_most=table.get("at_most", bound),
            )
        )
    for metric in tool:
        if metric.name not in rules:
            metrics.append(metric)
            rules[metric.name] = Rule(tool=True)
    if not metrics:
        raise ConfigError(f"{path}: at least one [[metric]] is needed")
    return tuple(metrics), rules


def _rule(table: Table, of_tool: bool) -> Rule:
    data = table.data
    given = [k for k in ("regex", "json", "wall_time", "prometheus") if data.get(k)]
    if not given and of_tool and not (data.keys() & {"url", "log", "source"}):
        return Rule(tool=True)
    if len(given) != 1:
        raise ConfigError(
            f"{table.where}: give exactly one of regex, json and wall_time = true; with url also prometheus"
        )
    url, log, prometheus = table.get("url", str), table.get("log", str), table.get("prometheus", str)
    if sum(k in data for k in ("url", "log", "source")) > 1:
        raise ConfigError(f"{table.where}: give only one of source, url and log")
    if url is None and (prometheus or data.get("change") or data.get("per_second")):
        raise ConfigError(f"{table.where}: prometheus, change and per_second are for a value from a url")
    if url is not None and not re.match(r"https?://", url):
        raise ConfigError(f"{table.where}: the url must begin with http:// or https://, not {printable(url, 60)!r}")
    take = table.get("take", str, "last")
    regex = table.pattern("regex")
    if take not in _TAKES:
        raise ConfigError(f"{table.where}: take must be one of {', '.join(_TAKES)}, not {take!r}")
    if take != "last" and regex is None:
        raise ConfigError(f"{table.where}: take is for a regex, which may match several times")
    if log is not None and regex is None:
        raise ConfigError(f"{table.where}: a log needs a regex")
    per_second = table.get("per_second", bool, False)
    return Rule(
        source=table.get("source", str, "stdout"),
        regex=regex,
        json=table.get("json", str),
        wall_time=table.get("wall_time", bool, False),
        url=url,
        prometheus=prometheus,
        log=log,
        change=table.get("change", bool, False) or per_second,
        per_second=per_second,
        take=take,
    )


def value_in(name: str, rule: Rule, text: str, where: str) -> float:
    """Return a metric's value in a text.

    Args:
        name: the metric's.
        rule: says how it is found.
        text: to search.
        where: where the text is from, for messages.

    Raises:
        TargetError: it is not there.
    """
    if rule.json is not None:
        return read_json_path(name, rule.json, text)
    if rule.prometheus is not None:
        return read_prometheus(name, rule.prometheus, text)
    assert rule.regex is not None
    if rule.take == "last":  # programs print totals at the end; only this one need be a number
        found = [match[1] or "" for match in deque(rule.regex.finditer(text), maxlen=1)]
    else:
        found = [match[1] or "" for match in rule.regex.finditer(text)]
        if not found and rule.take in ("count", "sum"):
            return 0.0
    if not found:
        raise TargetError(f"metric {name!r}: nothing in {where} matches {rule.regex.pattern!r}{said(text)}")
    if rule.take == "count":
        return float(len(found))
    return float(_TAKES[rule.take]([read_number(name, text) for text in found]))


def said(text: str) -> str:
    """Say at the end of a message what a program printed last."""
    lines = text.strip().splitlines()
    return f"; it last said: {lines[-1][:300]}" if lines else "; it printed nothing"


def fetch(name: str, url: str) -> str:
    """Return what a URL answers.

    Raises:
        TargetError: it does not answer.
    """
    from urllib import request  # few runs need it, and its import takes a tenth of the time that starting a run takes

    try:
        opener = request.build_opener(request.ProxyHandler({}))  # a proxy cannot reach this machine
        with opener.open(url, timeout=_URL_S) as answer:
            return str(answer.read(OUTPUT_LIMIT).decode("utf-8", errors="replace"))
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or error
        raise TargetError(
            f"metric {name!r}: {printable(url, 120)} does not answer: {printable(str(why), 120)}"
        ) from None


def log_size(path: Path) -> tuple[int, int]:
    """Return a log's inode and size now; zeros where there is none."""
    try:
        about = path.stat()
    except OSError:
        return 0, 0
    return about.st_ino, about.st_size


def gained(name: str, path: Path, before: tuple[int, int]) -> str:
    """Return what a log gained since ``log_size`` was asked; all of it where another file was put in its place.

    Raises:
        TargetError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            same = about.st_ino == before[0] and about.st_size >= before[1]
            file.seek(max(before[1] if same else 0, about.st_size - OUTPUT_LIMIT))
            return file.read(OUTPUT_LIMIT).decode("utf-8", errors="replace")
    except OSError as error:
        raise TargetError(f"metric {name!r}: cannot read the log {path}: {error.strerror}") from None


_SAMPLE = re.compile(r"([A-Za-z_:][\w:]*)\s*(\{.*\})?\s+(\S+)(?:\s+-?\d+)?\s*", re.ASCII)
_LABEL = re.compile(r'\s*([A-Za-z_]\w*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)')


def read_prometheus(name: str, wanted: str, text: str) -> float:
    """Return the sum of the samples of a name, with the labels that are given, in Prometheus' text format.

    Format: https://prometheus.io/docs/instrumenting/exposition_formats/ (text-based format).

    >>> read_prometheus("m", 'hits{code="200"}', 'hits{code="200",to="a"} 3.5')
    3.5

    Raises:
        TargetError: there is none, or a value is no finite number.
    """
    match = re.fullmatch(r"\s*([A-Za-z_:][\w:]*)\s*(\{.*\})?\s*", wanted)
    if match is None:
        raise TargetError(
            f'metric {name!r}: {printable(wanted, 80)!r} is no name of a sample, such as hits{{code="200"}}'
        )
    labels = _labels(match[2])
    values = []
    for line in text.splitlines():
        sample = _SAMPLE.fullmatch(line.strip())
        if sample and sample[1] == match[1] and labels.items() <= _labels(sample[2]).items():
            try:
                values.append(float(sample[3]))
            except ValueError:
                raise TargetError(f"metric {name!r}: {printable(sample[3], 40)!r} is not a number") from None
    if not values:
        raise TargetError(f"metric {name!r}: no sample is named {printable(wanted, 80)}")
    return math.fsum(values)


def _labels(text: str | None) -> dict[str, str]:
    return {m[1]: m[2] for m in _LABEL.finditer((text or "{}").strip()[1:-1])}


def read_json_path(name: str, path: str, text: str) -> float:
    """Return the number at a path such as ``results.0.ops`` (``$.results[0].ops`` works, too).

    The JSON document is the whole text, or its last line that is one.

    Raises:
        TargetError: there is no JSON, no such path, or no number there.
    """
    for candidate in [text, *reversed(text.strip().splitlines()[-50:])]:
        try:
            value = json.loads(candidate)
            break
        except RecursionError as error:
            raise TargetError(f"metric {name!r}: the JSON cannot be read: {reason(error)}") from None
        except ValueError as error:
            if "integer string conversion" in str(error):
                raise TargetError(f"metric {name!r}: the JSON cannot be read: {reason(error)}") from None
            continue
    else:
        raise TargetError(f"metric {name!r}: the output is not JSON, and none of its last lines is")
    for step in re.findall(r"[^.\[\]]+", path.removeprefix("$")):
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, ValueError, TypeError):
            raise TargetError(f"metric {name!r}: the JSON has nothing at {path!r} (stopped at {step!r})") from None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TargetError(f"metric {name!r}: {path!r} is {printable(repr(value), 80)}, not a number")
    try:
        return float(value)
    except OverflowError:
        digits = len(str(abs(value)))
        raise TargetError(
            f"metric {name!r}: {path!r} is a number of {digits} digits, too large to be a metric"
        ) from None


# a comma stands between thousands only before groups of three digits, and none of them follows a lone 0
_THOUSANDS = re.compile(r"\s*[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?(?:[eE][+-]?\d+)?\s*", re.ASCII)


def read_number(name: str, text: str) -> float:
    """Return the number that a metric's regex has found; ``1,234.5`` is 1234.5.

    Raises:
        TargetError: it is no number, or its comma may stand for a decimal point.
    """
    if "," in text and not _THOUSANDS.fullmatch(text):
        raise TargetError(
            f"metric {name!r}: {printable(text, 80)!r} is not a number: commas are read only between thousands, as in "
            "1,234.5; let the command write a decimal point, for example by running it with LC_ALL=C"
        )
    try:
        return float(text.replace(",", ""))
    except ValueError:
        raise TargetError(f"metric {name!r}: {printable(text, 80)!r} is not a number") from None
