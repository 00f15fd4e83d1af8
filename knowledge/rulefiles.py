"""The TOML files that learned rules live in, one for each system, in a folder that can be kept in git.

A copy of the files before each change lies beside them, for ``rollback``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tunewright.errors import ConfigError, unknown
from tunewright.knowledge.rules import STATUSES, Evidence, Rule, merge
from tunewright.knowledge.workload import FEATURES
from tunewright.store.files import parsing, printable, read_json, read_toml

_MOST = 1e12  # effects and noises beyond it are no measurements
_HISTORY = ".history"  # a folder for each change, with the files that it replaced
_WHAT, _WRITTEN = "what.txt", "written.json"  # in such a folder: the change in words; digests of what it wrote, by name
_HEAD = "# Rules that sessions on "


class RuleBook:
    """The rules of a folder.

    Args:
        folder: made when the first rule is written.

    Raises:
        ConfigError: a file cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rules = [rule for path in sorted(folder.glob("*.toml")) for rule in _read(path)]

    def find(self, name: str) -> Rule:
        """Return a rule by its name.

        Raises:
            ConfigError: there is none.
        """
        for rule in self.rules:
            if rule.id == name:
                return rule
        raise unknown("rule", name, [r.id for r in self.rules])

    def merge(self, new: Sequence[Rule], what: str) -> list[str]:
        """Add rules and write the folder; returns what was done."""
        rules, done = merge(self.rules, new)
        if done:
            self._write(rules, f"merge {what}")
        return done

    def retire(self, name: str, reason: str = "") -> Rule:
        """Take a rule out of use; it stays in the file."""
        rule = replace(self.find(name), status="retired", reason=f"by hand{': ' if reason else ''}{reason}")
        self._write([rule if r.id == name else r for r in self.rules], f"retire {name}")
        return rule

    def rollback(self) -> str:
        """Undo the last change of the folder; returns which it was.

        Only files that the change wrote are touched.

        Raises:
            ConfigError: there is none, or a file was changed since.
        """
        copies = sorted(path.parent for path in (self.folder / _HISTORY).glob(f"*/{_WHAT}"))
        if not copies:
            raise ConfigError(f"nothing to undo in {self.folder}")
        last = copies[-1]
        with _writing(self.folder):
            what = (last / _WHAT).read_text(encoding="utf-8").strip()
            names = self._written(last, what)
            for name in names:
                path, copy = self.folder / name, last / name
                path.unlink(missing_ok=True)
                if os.path.lexists(copy):
                    shutil.copy2(copy, path, follow_symlinks=False)
            for name in (_WHAT, _WRITTEN, *names):
                (last / name).unlink(missing_ok=True)
            with suppress(OSError):  # something of the user's is in it
                last.rmdir()
        self.rules = RuleBook(self.folder).rules
        return what

    def _written(self, copy: Path, what: str) -> list[str]:
        """Return the names of the files that a change wrote, all of which may be put back.

        Raises:
            ConfigError: one was changed since.
        """
        noted = copy / _WRITTEN
        if not noted.is_file():  # an earlier version's change, which wrote every file of rules
            names = {path.name for path in (*self.folder.glob("*.toml"), *copy.glob("*.toml"))}
            return sorted(n for n in names if not os.path.lexists(self.folder / n) or _ours(self.folder / n))
        digests = read_json(noted, "note of what was written")
        if not isinstance(digests, dict) or any(Path(name).name != name for name in digests):
            raise ConfigError(f"{noted} does not say which files of {self.folder} were written, so nothing was undone")
        for name, digest in digests.items():
            path = self.folder / name
            if os.path.lexists(path) and (path.is_symlink() or _digest(path) not in (digest, _digest(copy / name))):
                raise ConfigError(
                    f"{path} was changed since {what!r}, so nothing was undone; move it away to undo that all the same"
                )
        return list(digests)

    def _write(self, rules: Sequence[Rule], what: str) -> None:
        """Write the files of all systems, after a note of what is written and copies of what it replaces.

        Raises:
            ConfigError: the folder cannot be written.
        """
        with _writing(self.folder):
            texts = {f"{_plain(system)}.toml": _text(system, rules) for system in sorted({r.system for r in rules})}
            history = self.folder / _HISTORY
            history.mkdir(parents=True, exist_ok=True)
            number = 1 + max((int(p.name) for p in history.glob("*") if p.name.isdigit()), default=0)
            copy = history / f"{number:06d}"
            copy.mkdir()
            for name in texts:
                if os.path.lexists(self.folder / name):
                    shutil.copy2(self.folder / name, copy / name, follow_symlinks=False)
            digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
            (copy / _WRITTEN).write_text(json.dumps(digests), encoding="utf-8")
            (copy / _WHAT).write_text(what + "\n", encoding="utf-8")
            for name, text in texts.items():
                partial = (self.folder / name).with_suffix(f".{os.getpid()}")
                try:
                    partial.write_bytes(text.encode())
                    partial.replace(self.folder / name)
                finally:
                    partial.unlink(missing_ok=True)
        self.rules = list(rules)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"cannot write the rules in {folder}: {error.strerror or error}") from None


def _digest(path: Path) -> str | None:
    """Return the digest of a file; None where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _ours(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.read_bytes().startswith(_HEAD.encode())


def _text(system: str, rules: Sequence[Rule]) -> str:
    import tomli_w

    of_system = sorted((r for r in rules if r.system == system), key=lambda r: (r.parameter, sorted(r.context), r.id))
    entries = tomli_w.dumps({"rule": [entry_of(r) for r in of_system]})
    return f"{_HEAD}{system} have shown; see 'tunewright rules'.\n\n{entries}"


def _plain(system: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", system) or "system"


def entry_of(rule: Rule) -> dict[str, Any]:
    """Return a rule as its file and ``tunewright rules --json`` have it; the evidence last, as it is the longest."""
    effect, low, high = (round(v, 4) for v in rule.interval)
    plain = {k: v for k, v in asdict(rule).items() if k not in ("context", "evidence") and v != ""}
    return {
        "id": rule.id,
        "sentence": rule.sentence,
        **plain,
        "context": sorted(rule.context),
        "effect": effect,
        "low": low,
        "high": high,
        "evidence": [asdict(e) for e in rule.evidence],
    }


def _read(path: Path) -> list[Rule]:
    try:
        entries = read_toml(path, "file of rules").get("rule", [])
    except ConfigError as error:
        raise ConfigError(f"cannot read the rules in {path}: {error}") from None
    if not isinstance(entries, list):
        raise ConfigError(f"{path}: rules are written as [[rule]] tables, not as {printable(repr(entries), 80)}")
    with parsing(path, "rules"):
        return _rules(path, entries)


def _plain_values(rule: Rule) -> bool:
    return all(isinstance(v, str | int | float) for v in (rule.value, rule.instead_of))


def _finite(value: Any) -> bool:
    """Whether a TOML value holds neither nan nor inf, at any depth."""
    if isinstance(value, dict):
        return all(_finite(v) for v in value.values())
    if isinstance(value, list):
        return all(_finite(v) for v in value)
    return not isinstance(value, float) or math.isfinite(value)


def _rules(path: Path, entries: Sequence[Any]) -> list[Rule]:
    rules = []
    for number, entry in enumerate(entries, 1):
        where = f"{path}, rule {number}"
        if not _finite(entry):
            raise ConfigError(f"{where}: it holds a number that is infinite, or none")
        try:
            rule = Rule(
                **{k: entry[k] for k in ("system", "parameter", "value", "instead_of")},
                **{k: str(entry.get(k, "")) for k in ("reason", "words", "quote")},
                status=entry.get("status", "active"), context=frozenset(entry["context"]),
                evidence=tuple(Evidence(**e) for e in entry["evidence"]),
            )  # fmt: skip
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ConfigError(f"{where}: something is missing or wrong: {printable(str(error))}") from None
        if not isinstance(rule.system, str) or not isinstance(rule.parameter, str) or not _plain_values(rule):
            raise ConfigError(f"{where}: system and parameter must be texts, value and instead_of texts or numbers")
        wrong = [f for f in rule.context if f not in FEATURES]
        if wrong:
            raise unknown(f"feature in {where}", str(wrong[0]), list(FEATURES))
        if rule.status not in STATUSES:
            raise unknown(f"status in {where}", str(rule.status), STATUSES)
        if not rule.evidence or not all(1 <= e.effect < _MOST and 0 <= e.noise < _MOST for e in rule.evidence):
            raise ConfigError(
                f"{where}: each rule needs evidence, with an effect of at least 1 and a noise of at least 0"
            )
        rules.append(rule)
    return rules
