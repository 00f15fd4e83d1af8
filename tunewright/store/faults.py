"""What went wrong with a store's database, in words, and what to do about it."""

from __future__ import annotations

from tunewright.store.files import reason
from tunewright.store.secrets import redact

#: what reading a damaged entry may raise
DAMAGED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, AssertionError)


def explain(error: Exception) -> str:
    """Return what is wrong with a store, as the rest of a sentence."""
    text = " ".join(str(part) for part in (error, error.__cause__, error.__context__) if part)
    if "locked" in text:
        return "is locked by another program; close it (or wait) and run the command again: nothing was lost"
    if "not a database" in text or "malformed" in text:
        return "is not a usable database (corrupt, or another kind of file); restore a backup or name another --store"
    if "disk is full" in text or "No space left" in text or getattr(error, "errno", None) == 28:
        return "cannot be written: the disk is full; make room and resume the session: finished trials are kept"
    if (
        "newer" in text
        or "version of optuna" in text
        or "runtime optuna version" in text
        or "Can't locate revision" in text
    ):
        return f"was written by another version of Optuna; upgrade optuna, or name another --store ({error})"
    if "unable to open" in text or "readonly" in text:
        return f"cannot be opened for writing; check its directory and permissions ({error})"
    if isinstance(error, DAMAGED):
        return f"holds an entry that cannot be read; was it edited? Restore a backup ({reason(error)})"
    first = str(error).strip().splitlines()
    return f"cannot be used: {redact(first[0]) if first else type(error).__name__}"
