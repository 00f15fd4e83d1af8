"""What a rollback would put back, read from what was written down before anything was changed; nothing is touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tunewright.errors import ConfigError
from tunewright.sessions.changes import Journal, applied_since
from tunewright.sessions.locks import words
from tunewright.store.store import Store

# parts of a target's snapshot that are values by name
_VALUES = ("settings", "by_hand", "before", "devices", "layout")


def left(store: Store, name: str) -> Iterator[tuple[Journal, dict[str, Any]]]:
    """Yield what a session left written down to be put back, with what it says, in the order of putting back.

    Raises:
        ConfigError: another configuration was applied on top of this session's.
    """
    for kind in ("measure", "apply"):
        journal = Journal(store.public_url, name, kind)
        said = journal.read()
        if said is None:
            continue
        if later := applied_since(said, journal.path) if said["stage"] == "applied" else "":
            raise ConfigError(
                f"the configuration of session {later!r} was applied on top of this one; "
                f"first run: tunewright rollback {later}"
            )
        yield journal, said


def nothing_left(name: str) -> ConfigError:
    """Build the error for a session that there is nothing to roll back of."""
    return ConfigError(f"nothing to roll back: session {name!r} is not applied and left nothing changed")


def outlook(store: Store, name: str) -> dict[str, Any]:
    """Say what ``rollback_session`` would do.

    Args:
        store: of the session.
        name: its name.

    Returns:
        ``name``, ``message`` and ``puts_back``, a list of sentences.

    Raises:
        ConfigError: there is nothing to roll back, or not yet.
    """
    store.session(name)
    sentences: list[str] = []
    for _, said in left(store, name):
        things = ", ".join(words(key) for key in said["keys"] if not {"inode", "entry"} & set(key.split()[:3]))
        why = "the configuration is applied" if said["stage"] == "applied" else f"{said['what']} may have left changes"
        sentences += [f"In {things or said['target']}, since {why}:", *told(said["state"])]
    if not sentences:
        raise nothing_left(name)
    message = "\n".join(["A rollback would put back what follows; nothing was changed.", *sentences])
    return {"name": name, "message": message, "puts_back": sentences}


def told(state: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each thing in a target's snapshot that is put back."""
    if {"path", "real", "copy"} <= state.keys():  # of sessions.originals
        there = state["copy"] is not None
        yield (
            f"{state['path']} is written back as it was." if there else f"{state['path']} is removed: it was not there."
        )
        return
    for part, value in state.items():
        if part == "databases":
            yield from (f"Database {name}, which is ours, is dropped where it is there." for name in value)
        elif part == "commands" and value:
            yield f"The rollback command of {state.get('toml', 'the description')} is run, or apply with the defaults."
        elif part in _VALUES and isinstance(value, Mapping):
            yield from (_back(name, before) for name, before in value.items())
        elif part == "values" and isinstance(value, Mapping):  # of the machine
            yield from (_back(entry["path"], entry["before"]) for entry in value.values())
        elif isinstance(value, Mapping):
            yield from told(value)
        elif isinstance(value, list):
            yield from (text for entry in value if isinstance(entry, Mapping) for text in told(entry))


def _back(name: str, value: Any) -> str:
    return f"{name} is reset: it was not set." if value is None else f"{name} is set to {value}."
