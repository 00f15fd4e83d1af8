"""The rules of a system, and what they advise for facts of a machine, a load and the values that are set now."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

from tunewright.errors import unknown
from tunewright.space.expressions import parse

SYSTEMS = ("postgres", "mariadb", "redis")
LOADS = ("oltp", "analytics", "mixed", "cache")
_SUFFIX = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SPELLED = {"postgres": ("kB", "MB", "GB"), "mariadb": ("K", "M", "G"), "redis": ("kb", "mb", "gb")}
_ALIKE = 0.1  # values within this share of each other are as good as equal
_ON, _OFF = {"on", "yes", "true", "1"}, {"off", "no", "false", "0"}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Advice for one setting.

    Attributes:
        name: of the setting.
        value: as its configuration file has it.
        now: what is set now; "" where that is not known.
        default: of the system; what is not known to be set is taken to have it.
        restart: a new value needs a restart of the server.
        because: the reason.
        source: where that is documented.
        same: what is set now is as good as this.
    """

    name: str
    value: str
    now: str
    default: str
    restart: bool
    because: str
    source: str
    same: bool


@dataclass(frozen=True, kw_only=True)
class Warned:
    """Something that is set now and dangerous, or that belongs to the kernel.

    Attributes:
        name: of the setting.
        value: it.
        because: what may happen.
        source: where that is documented.
    """

    name: str
    value: str
    because: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What is advised for a server.

    Attributes:
        system: its name for people.
        settings: by rule, in the order of their weight.
        dangers: what is set now and should not be.
        kernel: settings of the machine below.
        tune: the command that measures instead.
    """

    system: str
    settings: Sequence[Setting]
    dangers: Sequence[Warned]
    kernel: Sequence[Warned]
    tune: str

    @property
    def new(self) -> list[Setting]:
        """Those that differ from what is set now."""
        return [s for s in self.settings if not s.same]


@lru_cache
def rules(system: str) -> dict[str, Any]:
    """Return the rules of a system.

    Raises:
        UnknownNameError: there are none.
    """
    if system not in SYSTEMS:
        raise unknown("system to advise on", system, SYSTEMS)
    return tomllib.loads((files("tunewright.knowledge.advice") / f"{system}.toml").read_text(encoding="utf-8"))


def advise(system: str, facts: Mapping[str, float], load: str, now: Mapping[str, str]) -> Advice:
    """Return what the rules advise.

    Args:
        system: one of ``SYSTEMS``.
        facts: ``RAM_BYTES``, ``CPU_COUNT``, ``ROTATIONAL`` (1, 0, or -1 where it is not known), ``CLIENTS``,
            ``VERSION`` (11.4 as 11.04) and ``FRAGMENTATION``.
        load: one of ``LOADS``.
        now: what is set now, by name; empty where that is not known.

    Raises:
        UnknownNameError: there is no such system or load.
    """
    if load not in LOADS:
        raise unknown("load", load, LOADS)
    book = rules(system)
    scope: dict[str, Any] = {
        **facts, "OLTP": load == "oltp", "ANALYTICS": load == "analytics", "CACHE": load == "cache",
        "APPENDONLY": now.get("appendonly", "").lower() in _ON,
        "CONNECTIONS": max(facts["CLIENTS"], amount(now.get("max_connections", "")) or 0.0),
        # the default was 1 before PostgreSQL 15
        "HASH_MEM": amount(now.get("hash_mem_multiplier", "")) or (2.0 if facts["VERSION"] >= 15 else 1.0),
    }  # fmt: skip
    found = []
    for rule in book["setting"]:
        if "when" in rule and not parse(rule["when"])(scope):
            continue
        current = now.get(rule["name"], "")
        if current and current == rule.get("keeps"):
            continue  # it is the stronger guarantee
        value = rule["text"] if "text" in rule else _number(system, rule, load, scope)
        found.append(Setting(
            name=rule["name"], value=value, now=current, default=rule["default"],
            restart=rule.get("restart") == "restart", because=rule["because"],
            source=_source(book, rule), same=alike(current or rule["default"], value),
        ))  # fmt: skip
    dangers = [_warned(book, r, now.get(r["name"], "")) for r in book.get("never", ())
               if r["name"] in now and alike(now[r["name"]], r["value"])]  # fmt: skip
    kernel = [_warned(book, r, r["value"]) for r in book.get("kernel", ())]
    return Advice(system=book["system"], settings=found, dangers=dangers, kernel=kernel, tune=book["tune"])


def _warned(book: Mapping[str, Any], rule: Mapping[str, Any], value: str) -> Warned:
    return Warned(name=rule["name"], value=value, because=rule["because"], source=_source(book, rule))


def _source(book: Mapping[str, Any], rule: Mapping[str, Any]) -> str:
    text: str = rule["source"]
    return text if text.startswith("https://") else f"{book['documents']}{text}"


def _number(system: str, rule: Mapping[str, Any], load: str, scope: Mapping[str, Any]) -> str:
    text = rule.get("forking") if load != "cache" and "forking" in rule else rule.get(load)
    value = float(parse(text or rule["value"])(scope))
    if rule.get("unit") == "bytes":
        return spelled(system, value)
    if rule.get("unit") == "s" and system == "postgres":
        return f"{value / 60:g}min" if value % 60 == 0 else f"{value:g}s"
    return f"{value:.10g}"


def spelled(system: str, count: float) -> str:
    """Return bytes as a system's configuration file has them, rounded down to a plain figure.

    >>> spelled("postgres", 6.4 * 2**30), spelled("mariadb", 4 * 2**30), spelled("redis", 5e6)
    ('6528MB', '4G', '4mb')
    """
    kilo, mega, giga = _SPELLED[system]
    step = 64 if count >= 2**30 else 1
    whole = int(count / 2**20) // step * step
    if whole == 0:
        return f"{int(count / 2**10)}{kilo}"
    return f"{whole // 1024}{giga}" if whole % 1024 == 0 else f"{whole}{mega}"


def amount(text: str) -> float | None:
    """Return a number with its suffix in bytes, or a time in seconds; None for other texts.

    >>> amount("128MB"), amount("4G"), amount("0.9"), amount("15min"), amount("on")
    (134217728.0, 4294967296.0, 0.9, 900.0, None)
    """
    found = re.fullmatch(r"(-?\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if found is None:
        return None
    times = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
    suffix = found[2]
    if suffix in times:
        return float(found[1]) * times[suffix]
    size = _SUFFIX.get(suffix.removesuffix("b") if suffix != "b" else "")
    return None if size is None else float(found[1]) * size


def alike(left: str, right: str) -> bool:
    """Whether two values of a setting are as good as equal, however they are written.

    >>> alike("4096MB", "4GB"), alike("yes", "on"), alike("16000MB", "15GB"), alike("on", "off")
    (True, True, True, False)
    """
    a, b = left.strip().strip("'\"").lower(), right.strip().strip("'\"").lower()
    if a == b or {a, b} <= _ON or {a, b} <= _OFF:
        return True
    x, y = amount(a), amount(b)
    if x is None or y is None:
        return False
    return x == y or (abs(x - y) <= _ALIKE * max(abs(x), abs(y)) and min(abs(x), abs(y)) > 1000)
