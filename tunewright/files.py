"""Reading the files that people name."""

from __future__ import annotations

import gzip
from pathlib import Path

from tunewright.errors import ConfigError


def read_text(path: Path, what: str) -> str:
    """Return the text of a file, plain or gzipped.

    Args:
        path: the file.
        what: it is, for messages, such as ``table``.

    Raises:
        ConfigError: there is none, or it cannot be read as UTF-8.
    """
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"there is no {what} {path}") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the {what} {path}: {error}") from None
