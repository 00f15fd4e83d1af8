"""Changing a system of the user's: what it was is written down first, and put back whatever happens.

Before anything is changed, a journal is written and synced: a folder below the data directory, named by store and
session, with the target's snapshot and copies of the user's files. It is discarded when all is as it was. Whoever comes
next on the same thing, under any name, finds the journal of a killed session through the lock that it held.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from tunewright.errors import StoreError, TargetError, TunewrightError
from tunewright.measuring import hooks
from tunewright.measuring.interrupts import uninterrupted
from tunewright.measuring.isolation import Runs
from tunewright.plugins import TARGETS, installed, put_back_layers, reopen, split_spec
from tunewright.sessions import originals, workfolder
from tunewright.sessions.locks import Hold, file_keys, holding
from tunewright.store.paths import home
from tunewright.store.trees import remove_tree
from tunewright.target import BaseTarget

_FORMAT, _FILE = 1, "journal.json"
Say = Callable[[str], None]


def silent(text: str) -> None:
    """Take what is said, and tell nobody."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Who changes a system.

    Attributes:
        what: for people, such as ``session 'a'``.
        store: URL of its store, without a password; "" where there is none.
        name: of the session.
        target: target spec, without secrets.
        options: options of the target, without secrets.
    """

    what: str
    store: str = ""
    name: str
    target: str
    options: Mapping[str, Any]


class Journal:
    """What a system was before a session or ``apply`` changed it.

    Args:
        store: URL of the store, without a password.
        name: of the session.
        kind: ``measure`` or ``apply``.
    """

    def __init__(self, store: str, name: str, kind: str) -> None:
        if store.startswith("sqlite:///"):
            store = str(Path(store.removeprefix("sqlite:///")).resolve())
        digest = hashlib.sha256(f"{store}\n{name}".encode(errors="surrogatepass")).hexdigest()[:24]
        self.folder = home() / "changes" / f"{digest}-{kind}"

    @property
    def path(self) -> Path:
        """The file that makes it valid."""
        return self.folder / _FILE

    def read(self) -> dict[str, Any] | None:
        """Return what it says; None where nothing is changed."""
        return read_journal(self.path)

    def begin(self) -> Path:
        """Return its folder, empty, for copies."""
        if self.path.exists():
            raise StoreError(f"{self.path} still says what to put back; run 'tunewright rollback' first")
        remove_tree(self.folder)
        try:
            self.folder.mkdir(parents=True, mode=0o700)
        except OSError as error:
            raise StoreError(f"cannot make {self.folder}: {error.strerror}") from None
        return self.folder

    def write(self, document: Mapping[str, Any]) -> None:
        """Write it, whole and synced: from now on the system may be changed.

        Raises:
            StoreError: it cannot be written; then nothing may be changed.
        """
        unfinished = self.folder / f"{_FILE}.part"
        try:
            with open(unfinished, "w", encoding="utf-8", opener=lambda p, f: os.open(p, f, 0o600)) as file:
                json.dump({"format": _FORMAT, **document}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, self.path)
            _sync(self.folder)
            _sync(self.folder.parent)
        except OSError as error:
            raise StoreError(
                f"what is to be changed cannot be written down in {self.folder} ({error.strerror}), "
                "so nothing was changed; make room and try again"
            ) from None

    def discard(self) -> None:
        """Remove it: all is as it was."""
        discard(self.path)


def command_log(name: str) -> Path:
    """Return what the names of the logs of a session's commands begin with."""
    return home() / "logs" / workfolder.file_name(name)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_journal(path: Path) -> dict[str, Any] | None:
    """Return what a journal says; None if there is none.

    Raises:
        StoreError: it cannot be read, or is not this user's.
    """
    try:
        if path.stat().st_uid != os.geteuid():
            raise StoreError(
                f"{path} of another user says what a killed session left changed; "
                "have that user run 'tunewright rollback'"
            )
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            raise ValueError("another format")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}, which says what to put back: {error}") from None
    return document


def discard(path: Path) -> None:
    """Remove a journal and its copies, the file that makes it valid first."""
    path.unlink(missing_ok=True)
    with suppress(OSError):
        _sync(path.parent)
    remove_tree(path.parent)


def _kind(target: BaseTarget) -> str:
    return f"{type(target).__module__}:{type(target).__qualname__}"


def restorer(
    document: Mapping[str, Any],
    owner: Owner,
    target: BaseTarget | None = None,
    *,
    spec: str | None = None,
    options: Mapping[str, str] | None = None,
) -> BaseTarget:
    """Return the target that can put back what a journal says.

    Args:
        document: the journal's.
        owner: who wants to change the system now.
        target: an open one; taken if it is the noted one, or of its kind where that cannot be opened any more.
        spec: target spec to open instead of the noted one, such as a DSN with its password.
        options: target options in the place of noted ones, such as secrets.

    Raises:
        TunewrightError: it cannot be opened.
    """
    alike = target is not None and _kind(target) == document["kind"]
    # 'my.toml' is another file in another directory
    if target is not None and alike and (owner.target, os.getcwd()) == (document["target"], document["cwd"]):
        return target
    try:
        return _opened(document, spec, options)
    except TunewrightError:
        if target is None or not alike:
            raise
        return target


def _opened(document: Mapping[str, Any], spec: str | None, options: Mapping[str, str] | None) -> BaseTarget:
    record = {"plan": {"target": document["target"], "options": document["options"]}, "cwd": document["cwd"]}
    about = spec or document["target"]
    # a server that is down cannot be opened; what a target's module calls revive brings it up
    revive = getattr(_module(about), "revive", None)
    if revive is not None:
        revive(split_spec(about)[1], {**document["options"], **(options or {})}, document["state"])
    return reopen(document["name"], record, spec, options)


def _module(spec: str) -> ModuleType | None:
    """Return the module of a target by its spec; None where it is not installed."""
    point = installed(TARGETS).get(split_spec(spec)[0])
    return import_module(point.module) if point else None


def put_back(
    path: Path,
    owner: Owner,
    hold: Hold,
    say: Say,
    target: BaseTarget | None = None,
    *,
    named_by: Collection[str] | None = None,
    after_reboot: bool = False,
    **how: Any,
) -> str:
    """Put back what a journal says, and discard it.

    Everything that the journal changed is held meanwhile: one whose session lives is left alone.

    Args:
        path: of the journal.
        owner: who wants to change the system now.
        hold: what is held already.
        say: is told of files that somebody else had changed.
        target: an open one, see :func:`restorer`.
        named_by: keys of locks that name the journal, where it was found through these; it must be about one of them.
        after_reboot: set the machine's settings back even though it was started anew since.
        **how: ``spec`` and ``options``, see :func:`restorer`.

    Returns:
        What was done, in words; "" where there is nothing to do.

    Raises:
        HeldError: its session is alive.
        TunewrightError: it could not be put back; the journal stays.
    """
    document = read_journal(path)
    if document is None:
        return ""
    if named_by is not None and (document["stage"] == "applied" or not set(named_by) & _still(document["keys"])):
        return ""  # a later journal of that session, about something else; or another file has the inode by now
    with holding([k for k in document["keys"] if k not in hold.keys], owner.what) as more:
        hooks.wait_for(path.parent)
        with _explained(document), originals.noticing() as noticed:
            with uninterrupted():
                rest, problems = put_back_layers(document["state"], after_reboot=after_reboot)
            able = _able({**document, "state": rest}, owner, target, **how)
            with uninterrupted(), hooks.noting(path.parent, command_log(document["name"])):
                if rest == document["state"] or rest.keys() - {"workdir"}:
                    able.restore(rest) if document["stage"] == "measuring" else able.rollback(rest)
                if problems:
                    raise TargetError("; ".join(problems))
                discard(path)
        more.note(None)
    for text in noticed:
        say(text)
    if document.get("workdir"):
        able.cleanup(Path(document["workdir"]))
        workfolder.give_back(Path(document["workdir"]))
    if document["stage"] == "applied":
        return "the applied configuration was taken back"
    return f"{document['what']} did not come to its end and had left changes, which were put back"


def _still(keys: Collection[str]) -> set[str]:
    """Return those of a journal's keys that stand for the same things today: an inode may be another file's."""
    today = {key for k in keys if k.startswith("file ") for key in file_keys(Path(k.removeprefix("file ")))}
    return {k for k in keys if not k.startswith("inode ") or k in today}


def _able(document: Mapping[str, Any], owner: Owner, target: BaseTarget | None, **how: Any) -> BaseTarget:
    try:
        return restorer(document, owner, target, **how)
    except TunewrightError as error:
        if not (state := document["state"]).keys() - {"workdir"}:  # only layers around it had changed something
            return BaseTarget()
        # what a target's module calls recorded knows how from what was written down alone
        recorded = getattr(_module(document["target"]), "recorded", lambda state: None)
        made: BaseTarget | None = recorded(state)
        if made is None:
            raise
        originals.notice(f"{error}. What the session had written down of it was enough to put all back")
        return made


@contextmanager
def _explained(document: Mapping[str, Any]) -> Iterator[None]:
    """Say in an error how to go on."""
    try:
        yield
    except TunewrightError as error:
        again = f"run 'tunewright rollback {document['name']}'" if document["store"] else "measure it again"
        raise TargetError(
            f"what {document['what']} changed could not be put back: {error}. It is kept; once that is mended, {again}"
        ) from error


@contextmanager
def changing(
    target: BaseTarget, owner: Owner, say: Say, *, to: str | None = None, kind: str = "measure"
) -> Iterator[tuple[Hold, Journal]]:
    """Hold what a target changes, with everything put back that killed sessions left changed there.

    Args:
        target: its ``changes`` are held.
        owner: who changes it.
        say: is told what was put back.
        to: as for ``apply``.
        kind: of the journal, ``measure`` or ``apply``.

    Raises:
        HeldError: somebody else changes it now; the message says who.
        TargetError: what a killed session left could not be put back.
    """
    journal = Journal(owner.store, owner.name, kind)
    with holding(target.changes(to), owner.what) as hold, target.hold(owner.what, to):
        settle(owner, hold, say, target)
        mine = journal.read()
        if mine is not None and mine["stage"] != "applied":
            say(put_back(journal.path, owner, hold, say, target))
        yield hold, journal


def settle(owner: Owner, hold: Hold, say: Say, target: BaseTarget | None = None, but: Path | None = None) -> None:
    """Put back what killed sessions left changed of what is held; arguments as for :func:`put_back`.

    Args:
        owner: who wants to change the system now.
        hold: what is held.
        say: is told what was put back.
        target: an open one.
        but: a journal that is left as it is.
    """
    for path, keys in list(hold.left.items()):
        if but is not None and Path(path) == but:
            continue
        if done := put_back(Path(path), owner, hold, say, target, named_by=keys):
            say(done)
    hold.left.clear()
    hold.note(None)


def document(
    target: BaseTarget,
    owner: Owner,
    state: Mapping[str, Any],
    stage: str,
    *,
    to: str | None = None,
    workdir: Path | None = None,
) -> dict[str, Any]:
    """Return what a journal says.

    Args:
        target: what is changed.
        owner: by whom.
        state: the target's own snapshot or undo.
        stage: ``measuring``, ``applying`` or ``applied``.
        to: as for ``apply``; not noted, since it may hold a password.
        workdir: of the session.
    """
    return {
        "what": owner.what, "store": owner.store, "name": owner.name, "target": owner.target,
        "options": dict(owner.options), "kind": _kind(target), "cwd": os.getcwd(), "stage": stage, "state": dict(state),
        "keys": list(target.changes(to)), "at": time.time(), "workdir": str(workdir or ""),
    }  # fmt: skip


@contextmanager
def restoring(
    target: BaseTarget, owner: Owner, hold: Hold, journal: Journal, workdir: Path, say: Say = silent,
    *, keep: bool = False,
) -> Iterator[None]:  # fmt: skip
    """Let a block measure the target: what it changes is written down first, and put back at the end.

    With ``keep``, what the target prepared stays for the next run.

    Raises:
        TunewrightError: it cannot be written down, or not be put back; then the journal stays, and the message says how
            to go on.
    """
    folder = journal.begin()
    state = target.snapshot(folder)
    if state:
        state = {**state, "workdir": str(workdir)}
        said = document(target, owner, state, "measuring", workdir=workdir)
        journal.write(said)
        hold.note(str(journal.path))
    try:
        yield
    finally:
        with uninterrupted():
            if state:
                with hooks.noting(folder, command_log(owner.name)), _explained(said), originals.noticing() as noticed:
                    target.restore(state)
                for text in noticed:
                    say(text)
            journal.discard()
            hold.note(None)
            if not keep:
                target.cleanup(workdir)


@contextmanager
def protected(target: BaseTarget, owner: Owner, workdir: Path, say: Say = silent) -> Iterator[Runs]:
    """Let a block measure the target, as :func:`changing` and :func:`restoring` do together.

    Yields:
        What each measurement is to be given.
    """
    with changing(target, owner, say) as (hold, journal), restoring(target, owner, hold, journal, workdir, say):
        with Runs(hold.fds, journal.folder, command_log(owner.name)) as runs:
            yield runs


def applied_since(document: Mapping[str, Any], path: Path) -> str:
    """Return the name of a session whose configuration was applied to the same thing later, and still is; or ""."""
    for other in sorted(path.parents[1].glob(f"*-apply/{_FILE}")):
        said = read_journal(other)
        if said and other != path and said["at"] > document["at"] and set(said["keys"]) & set(document["keys"]):
            return str(said["name"])
    return ""


def left_behind(spec: str) -> str:
    """Return a hint for a system that cannot be opened, such as a server that a killed session left down; "" for none.

    Args:
        spec: target spec.
    """
    for path in sorted((home() / "changes").glob(f"*/{_FILE}")):
        with suppress(StoreError):
            said = read_journal(path)
            if said and said["stage"] != "applied" and split_spec(said["target"])[0] == split_spec(spec)[0]:
                return (
                    f". {said['what'].capitalize()} was killed while it changed such a system; if it is this one, "
                    f"'tunewright rollback {said['name']}' brings it back"
                )
    return ""
