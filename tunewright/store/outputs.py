"""The one place that writes the files that people name: whole or not at all, and never over what a command reads."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from tunewright.errors import ConfigError
from tunewright.store.files import is_input, printable, reason


def check_output(path: Path) -> Path:
    """Refuse a file that may not be written; long work calls this once its inputs are open, before it begins.

    Args:
        path: the file; a link is followed.

    Returns:
        The file itself, behind all links.

    Raises:
        ConfigError: it is an input of the running command, a directory, a pipe or a device, or has no directory.
    """
    shown = printable(str(path))
    try:
        target = Path(os.path.realpath(path))
        if path.is_dir():
            raise ConfigError(f"cannot write {shown}: it is a directory; name a file")
        # what /dev/stdout leads to may be a pipe, or have no name any more
        if path.exists() and not (path.is_file() and target.exists()):
            raise ConfigError(f"cannot write {shown}: it is no ordinary file")
        if is_input(target):
            raise ConfigError(f"cannot write {shown}: this command reads the file; name another one to write")
        if not target.parent.is_dir():
            raise ConfigError(f"cannot write {shown}: there is no directory {printable(str(target.parent))}; make it")
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot write {shown}: {reason(error)}") from None
    return target


def check_new(path: Path) -> None:
    """Refuse a file that is there already: what operations keep is not written over.

    Raises:
        ConfigError: it is there, or may not be written; see ``check_output``.
    """
    check_output(path)
    if os.path.lexists(path):
        raise ConfigError(f"{printable(str(path))} is there already and is not written over; name another file")


def write_whole(path: Path, fill: Callable[[IO[bytes]], None]) -> None:
    """Write a file whole or not at all: whatever happens meanwhile, the path holds the old file or the new one.

    Args:
        path: the file; a link is followed.
        fill: writes the contents.

    Raises:
        ConfigError: it cannot be written; see also ``check_output``.
    """
    target = check_output(path)
    # short, since the name of the file may be as long as names can be
    unfinished = target.with_name(f".tunewright.{secrets.token_hex(4)}")
    try:
        with unfinished.open("xb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            unfinished.chmod(target.stat().st_mode & 0o777)
        unfinished.replace(target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name, too, must outlive a power cut
        finally:
            os.close(folder)
    except OSError as error:
        raise ConfigError(f"cannot write {printable(str(path))}: {reason(error)}; name another file") from None
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8; see ``write_whole``."""
    data = text.encode("utf-8")

    def fill(file: IO[bytes]) -> None:
        file.write(data)

    write_whole(path, fill)
