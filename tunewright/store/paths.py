"""Where sessions and work files lie, and what a session may be called."""

from __future__ import annotations

import os
from pathlib import Path

from tunewright.errors import ConfigError

_LONGEST_NAME = 200  # bytes; a file's name may have 255


def home() -> Path:
    """Return the directory for sessions and work files: ``TUNEWRIGHT_HOME`` or the user's data directory."""
    import platformdirs

    return Path(os.environ.get("TUNEWRIGHT_HOME") or platformdirs.user_data_dir("tunewright"))


def default_url() -> str:
    """Return the URL of the default store, an SQLite file.

    Raises:
        ConfigError: its directory cannot be made.
    """
    folder = home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = "it is no directory" if isinstance(error, FileExistsError | NotADirectoryError) else error.strerror
        raise ConfigError(
            f"sessions cannot be kept in {folder}: {why}; set TUNEWRIGHT_HOME to a directory that can be written"
        ) from None
    return f"sqlite:///{folder / 'sessions.db'}"


def check_name(name: str) -> None:
    """Check a session's name.

    Raises:
        ConfigError: it is empty, too long, has characters that cannot be printed, or reads as a path or an option.
    """
    first = name[:1]
    size = len(name.encode(errors="surrogatepass"))
    if not (first.isalnum() or first == "_") or size > _LONGEST_NAME or not name.isprintable() or "\\" in name:
        raise ConfigError(
            f"{name[:40]!r} cannot be a session's name; use up to {_LONGEST_NAME} letters, digits and the signs . - _, "
            "a letter or digit first"
        )
