"""Folders that are tunewright's own: marked when they are made, and the only ones that are ever removed whole."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tunewright.errors import TargetError
from tunewright.sessions.locks import alive
from tunewright.store.paths import home
from tunewright.store.trees import remove_tree

MARKER = ".tunewright"


def file_name(text: str) -> str:
    """Return a text as a file name: safe characters only, at most 60 of them, and different for different texts.

    >>> file_name("sqlite-1")
    'sqlite-1'
    >>> file_name("../../x")
    'x-9cdf6a50'
    """
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-")[:50]
    if safe == text:
        return safe
    return f"{safe}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}".lstrip("-")


def parent_of(workdir: str) -> Path:
    """Return the directory of the work folders: the user's where one was given, else one below the data directory."""
    return Path(workdir).absolute() if workdir else home() / "work"


def name_of(store: str, session: str) -> str:
    """Return the name of a session's work folder, for :func:`path_of`.

    Args:
        store: URL of its store, without a password.
        session: its name.
    """
    digest = hashlib.sha256(f"{store}\n{session}".encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{file_name(session)}-{digest}"


def path_of(parent: Path, name: str) -> Path:
    """Return where the folder ``tunewright-NAME`` below a directory is or would be."""
    return parent / f"tunewright-{name}"


def private(parent: Path, name: str, **about: Any) -> Path:
    """Return the folder ``tunewright-NAME`` below a directory, made and marked as ours if it is not there yet.

    Args:
        parent: any directory, such as the user's; made with its own parents where it does not exist.
        name: what the folder is for; a file name.
        **about: JSON-able facts that are written into the marker, such as the session.

    Raises:
        TargetError: something that is not ours stands there, or it cannot be made.
    """
    folder = path_of(parent, name)
    marker = folder / MARKER
    try:
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise TargetError(f"{folder} is not a folder that tunewright made; move it, or name another directory")
        if marker.is_file():
            if folder.stat().st_uid != os.geteuid():
                raise TargetError(f"{folder} belongs to somebody else; name another directory")
            return folder
        missing = [str(p) for p in parent.parents if not p.exists()][::-1] + ([] if parent.exists() else [str(parent)])
        folder.mkdir(parents=True, exist_ok=True)
        if any(not entry.name.startswith(MARKER) for entry in folder.iterdir()):
            raise TargetError(
                f"{folder} is not empty and has no mark of tunewright; move it, or name another directory"
            )
        unfinished = folder / f"{MARKER}.{os.getpid()}"
        unfinished.write_text(json.dumps({**about, "made": missing}), encoding="utf-8")
        os.replace(unfinished, marker)
    except OSError as error:
        raise TargetError(f"cannot make the folder {folder}: {error.strerror or error}") from None
    return folder


def remove(parent: Path, name: str) -> None:
    """Remove the folder ``tunewright-NAME`` with all that is in it, if it carries our mark.

    What is mounted in it is left, and the mark with it.
    """
    folder = path_of(parent, name)
    marker = folder / MARKER
    if marker.is_file() and not folder.is_symlink():
        mark = marker.read_bytes()
        if remove_tree(folder):
            with suppress(OSError):
                marker.write_bytes(mark)


def remove_all(parent: Path) -> None:
    """Remove all folders of ours below a directory, and the directory itself if nothing else is in it."""
    for folder in parent.glob("tunewright-*"):
        remove(parent, folder.name.removeprefix("tunewright-"))
    with suppress(OSError):
        parent.rmdir()


def release(parent: Path, name: str) -> None:
    """Give back a folder of :func:`private`: it goes if nothing but the mark is left in it, and what it was made in.

    What a program left there stays, with the mark, so that the same session uses the folder again.
    """
    folder = path_of(parent, name)
    marker = folder / MARKER
    with suppress(OSError, ValueError):
        if {entry.name for entry in folder.iterdir()} != {MARKER}:
            return
        made = json.loads(marker.read_text(encoding="utf-8")).get("made", [])
        marker.unlink()
        folder.rmdir()
        for parent in reversed(made):  # directories that stood before stay, empty or not
            os.rmdir(parent)


def give_back(folder: Path) -> None:
    """Give back a folder by its path, as :func:`release` does."""
    if folder.name.startswith("tunewright-"):
        release(folder.parent, folder.name.removeprefix("tunewright-"))


def of_sessions(parent: Path) -> Iterator[tuple[Path, str]]:
    """Yield the folders of sessions below a directory with the sessions' names, as their marks say."""
    for folder, about in _marked(parent):
        if isinstance(about.get("session"), str):
            yield folder, about["session"]


def clear_checks(parent: Path) -> None:
    """Remove the folders, and the empty journals, of checks that were killed."""
    for folder, about in _marked(parent):
        process, journal = about.get("check"), about.get("journal")
        if not isinstance(process, Mapping) or alive(process):
            continue
        if isinstance(journal, str) and (Path(journal) / "journal.json").exists():
            continue  # what it changed is put back by whoever comes next on the same thing
        remove(parent, folder.name.removeprefix("tunewright-"))
        if isinstance(journal, str):
            remove_tree(Path(journal))


def _marked(parent: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for folder in sorted(parent.glob("tunewright-*")):
        with suppress(OSError, ValueError):
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            about = json.loads((folder / MARKER).read_text(encoding="utf-8"))
            if isinstance(about, dict):
                yield folder, about
