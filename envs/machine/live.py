"""Reading and writing a machine's settings: one file of /proc or /sys each, or of a folder that stands for these."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.errors import ConfigError, StoreError, TargetError
from tunewright.sessions import originals
from tunewright.sessions.changes import read_journal
from tunewright.store.paths import home

PART = "machine"  # of a target's snapshot that is the machine's
_REASONS = {
    errno.EROFS: "it is mounted read-only here, as in most containers",
    errno.EACCES: "that needs root",
    errno.EPERM: "that needs root, and in a container one with the privilege for it",
    errno.ENOENT: "there is no such setting here",
    errno.EINVAL: "the kernel does not take it",
    errno.EOPNOTSUPP: "the kernel does not support it",
}
_CHOSEN = re.compile(r"\[(\S+)\]")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine's settings.

    Attributes:
        root: what stands for ``/``; another folder in tests alone.
    """

    root: Path = Path("/")

    def file(self, path: str) -> Path:
        """Return where a file of the machine lies."""
        return self.root / path.lstrip("/")

    def boot(self) -> str:
        """Return what names this start of the machine, "" where nothing does."""
        try:
            return self.file("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError:
            return ""

    def read(self, path: str) -> str:
        """Return what a setting's file holds.

        Raises:
            TargetError: it cannot be read; the message says why.
        """
        try:
            return self.file(path).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise TargetError(f"cannot read {path}: {_why(error)}") from None

    def write(self, path: str, text: str) -> None:
        """Set a setting.

        Raises:
            TargetError: it cannot be written, or the kernel made something else of it.
        """
        try:
            self._write(path, text)
        except OSError as error:
            raise TargetError(f"cannot set {path} to {text}: {_why(error)}") from None
        if not same(now := self.read(path), text):
            raise TargetError(f"the kernel made {chosen(now)} of {text} in {path}")

    def _write(self, path: str, text: str) -> None:
        fd = os.open(self.file(path), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)  # it is there, or it is no setting
        try:
            os.write(fd, f"{text}\n".encode())
        finally:
            os.close(fd)

    def trouble(self, path: str) -> str:
        """Say why a setting cannot be written here, without writing it; "" where it can."""
        try:
            os.close(os.open(self.file(path), os.O_WRONLY | os.O_CLOEXEC))
        except OSError as error:
            return _why(error)
        return ""

    def groups(self) -> str:
        """Return where control groups of version 2 are mounted, as a path of the machine; "" where they are not."""
        with suppress(OSError):
            for line in self.file("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines():
                words = line.split()
                if len(words) > 2 and words[2] == "cgroup2":
                    return words[1]
        return ""


def _why(error: Exception) -> str:
    code = getattr(error, "errno", None)
    return _REASONS.get(code or 0) or getattr(error, "strerror", None) or str(error)


def chosen(text: str) -> str:
    """Return the value in a setting's text: of a list the one in brackets, else what stands last after its name.

    >>> chosen("always [madvise] never"), chosen("20"), chosen("default 100")
    ('madvise', '20', '100')
    """
    found = _CHOSEN.search(text)
    if found:
        return found[1]
    words = text.split()
    return words[1] if len(words) == 2 and words[0] == "default" else " ".join(words)


def same(one: str, other: str) -> bool:
    """Whether two texts of a setting are the same value."""
    return chosen(one) == chosen(other)


# -- what is written down, and put back -------------------------------------------------------------


def snapshot(machine: Machine, paths: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """Return what :func:`put_back` needs.

    Args:
        machine: whose settings they are.
        paths: of each setting, by its name.
        folder: of the session's journal; what is written is noted in it.
    """
    values = {name: {"path": path, "before": chosen(machine.read(path))} for name, path in paths.items()}
    return {
        "root": str(machine.root), "boot": machine.boot(), "note": str(folder / "machine.written"), "values": values,
    }  # fmt: skip


class Writer:
    """Sets settings of a machine; each value is noted, durably, before it is written for the first time.

    Args:
        machine: whose settings they are.
        state: what :func:`snapshot` returned.
    """

    def __init__(self, machine: Machine, state: Mapping[str, Any]) -> None:
        self.machine, self._state = machine, state

    def set(self, texts: Mapping[str, str]) -> None:
        """Set them all or, where one is refused, none.

        Args:
            texts: value of each setting, by its name.

        Raises:
            TargetError: one was refused; those set before it have their earlier values again.
        """
        values = self._state["values"]
        self.note(texts)
        done: list[tuple[str, str]] = []
        try:
            for name, text in texts.items():
                path = values[name]["path"]
                earlier = chosen(self.machine.read(path))
                if not same(earlier, text):
                    done.append((path, earlier))
                    self.machine.write(path, text)
        except TargetError:
            for path, earlier in reversed(done):
                with suppress(TargetError):
                    self.machine.write(path, earlier)
            raise

    def back(self) -> None:
        """Set all to what they were before the session."""
        self.set({name: entry["before"] for name, entry in self._state["values"].items()})

    def note(self, values: Mapping[str, str]) -> None:
        """Note what is about to be set, by these hands or at the next start; arguments as for :meth:`set`.

        Raises:
            TargetError: it cannot be written down.
        """
        note = Path(self._state["note"])
        known = _noted(self._state)
        texts = {self._state["values"][name]["path"]: text for name, text in values.items()}
        if all(text in known.get(path, ()) for path, text in texts.items()):
            return
        for path, text in texts.items():
            known[path] = [*dict.fromkeys([*known.get(path, ()), text])]
        unfinished = note.with_name(f"{note.name}.part")
        try:
            with open(unfinished, "w", encoding="utf-8", opener=lambda p, f: os.open(p, f, 0o600)) as file:
                json.dump(known, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, note)
        except OSError as error:
            raise TargetError(
                f"what is to be set cannot be written down in {note.parent} ({error.strerror}), so nothing was set"
            ) from None


def _noted(state: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return every value that was written, by path."""
    try:
        noted: dict[str, list[str]] = json.loads(Path(state["note"]).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return noted


def put_back(state: Mapping[str, Any], *, after_reboot: bool = False) -> None:
    """Bring a machine's settings back to what they were; safe to repeat.

    What somebody else set meanwhile stays, and so does what a restart of the machine made of them: both are said, with
    the command that sets the former value.

    Args:
        state: what :func:`snapshot` returned; with ``files``, those that ``apply`` wrote for the next start.
        after_reboot: set what differs even if the machine was started anew since.

    Raises:
        TargetError: something could not be put back; all the rest is.
    """
    machine, noted = Machine(root=Path(state["root"])), _noted(state)
    lasting = state.get("files", ())
    rebooted = machine.boot() != state["boot"] and not lasting  # what is in files, the restart has set again
    problems = []
    for entry in lasting:
        try:
            originals.put_back(entry)
        except TargetError as error:
            problems.append(str(error))
    for name, entry in state["values"].items():
        path, before = entry["path"], entry["before"]
        try:
            now = machine.read(path)
            if same(now, before):
                continue
            ours = not now or chosen(now) in noted.get(path, ())
            if after_reboot or (ours and not rebooted):
                machine.write(path, before)
                continue
        except TargetError as error:
            if machine.file(path).exists():
                problems.append(str(error))
            else:
                originals.notice(f"{name} is gone, so it was not set back to {before}")
            continue
        since = "the machine was started anew since, and" if rebooted else "somebody else set it meanwhile, and"
        originals.notice(
            f"{name} is {chosen(now)} and was {before} before: {since} it is left as it is; "
            f"to set it: {command(path, before)}"
        )
    if problems:
        raise TargetError("; ".join(problems))


def command(path: str, text: str) -> str:
    """Return the shell command that sets a setting.

    >>> command("/proc/sys/vm/swappiness", "10")
    'sysctl -w vm.swappiness=10'
    """
    if path.startswith("/proc/sys/"):
        return f"sysctl -w {dotted(path)}={text}"
    return f"echo {text} > {path}"


def dotted(path: str) -> str:
    """Return the name of a file below /proc/sys as sysctl spells it; a dot within a part becomes a slash."""
    return path.removeprefix("/proc/sys/").translate(str.maketrans("/.", "./"))


def today(machine: Machine, path: str) -> str:
    """Return a setting's value; where a killed session of this start left its own there, the one before that.

    Raises:
        TargetError: it cannot be read.
    """
    now = machine.read(path)
    for state in _left():
        if state["root"] == str(machine.root) and state["boot"] == machine.boot():
            for entry in state["values"].values():
                if entry["path"] == path and (not now or chosen(now) in _noted(state).get(path, ())):
                    return str(entry["before"])
    return chosen(now)


def _left() -> Iterator[Mapping[str, Any]]:
    for path in sorted((home() / "changes").glob("*-measure/journal.json")):
        with suppress(StoreError, ConfigError, KeyError, TypeError):
            said = read_journal(path)
            if said is not None and PART in said["state"]:
                yield said["state"][PART]


def listed(machine: Machine, path: str) -> Sequence[str]:
    """Return the values that a file lists, the chosen one in brackets or not; none if it cannot be read."""
    with suppress(TargetError):
        return [word.strip("[]") for word in machine.read(path).split()]
    return ()
