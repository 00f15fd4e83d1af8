"""Files of agents: a zip of JSON and NumPy arrays. Nothing in such a file is ever run, and none is believed blindly.

Pickle is never used. Whatever a file says of its sizes is compared with how large it is before memory is taken.
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tunewright.errors import ConfigError
from tunewright.store.outputs import write_whole

_MOST_JSON = 2**20  # bytes
_HEADER = 4096  # bytes that the header of an array may take beside its numbers
_KINDS = "biufU"  # booleans, integers, real numbers, text: what is stored as it is


class DamagedError(ValueError):
    """A file is not what it should be; the message says where."""


#: what zipfile, NumPy and json raise on files that are damaged or forged
DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, EOFError, ValueError, KeyError, TypeError,
    IndexError, OverflowError, SyntaxError, RecursionError, MemoryError, RuntimeError,
)  # fmt: skip


def damaged(path: Path, what: str, why: object) -> ConfigError:
    """Build the error for a file that cannot be read.

    Args:
        path: the file.
        what: it should be, such as ``an agent file``.
        why: the reason, or the exception that tells it.
    """
    words = f"{why} is missing" if isinstance(why, KeyError) else str(why) or type(why).__name__
    return ConfigError(
        f"{path} is damaged, not {what}: {words.splitlines()[0][:160]}; restore it from a copy, or train it again"
    )


@contextmanager
def opened(path: Path, *, stored: bool) -> Iterator[zipfile.ZipFile]:
    """Open an archive for reading.

    Args:
        path: the file.
        stored: its members must not be compressed, so that all of them together are no larger than the file.

    Raises:
        one of DAMAGE: the archive or a member is damaged.
        ConfigError: the file cannot be read.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len({m.filename for m in members}) < len(members):
                raise DamagedError("a name stands in it twice")
            if stored and any(m.compress_type != zipfile.ZIP_STORED for m in members):
                raise DamagedError("a part of it is compressed")
            if stored and sum(m.file_size for m in members) > os.fstat(file.fileno()).st_size:
                raise DamagedError("it claims to hold more than it does")
            yield archive
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None


def read_json(archive: zipfile.ZipFile, name: str) -> dict[str, Any]:
    """Return a member as a JSON object of finite numbers.

    Raises:
        one of DAMAGE: it is none, or longer than a megabyte.
    """

    def refuse(constant: str) -> None:
        raise DamagedError(f"{constant} in {name}")

    document = json.loads(_bytes(archive, name, _MOST_JSON).decode("utf-8"), parse_constant=refuse)
    if not isinstance(document, dict):
        raise DamagedError(f"{name} is no JSON object")
    return document


def read_array(archive: zipfile.ZipFile, name: str, *, most_bytes: int | None = None) -> NDArray[Any]:
    """Return a member as an array.

    Args:
        archive: an open archive.
        name: without ``.npy``.
        most_bytes: the array's size at most; None for any, in archives without compression.

    Raises:
        one of DAMAGE: it is no array of numbers or text, or too large.
    """
    raw = _bytes(archive, f"{name}.npy", None if most_bytes is None else most_bytes + _HEADER)
    file = io.BytesIO(raw)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise DamagedError(f"{name} is an array of an unknown version")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.kind not in _KINDS:
        raise DamagedError(f"{name} does not hold numbers")
    if any(isinstance(n, bool) or n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != len(raw) - file.tell():
        raise DamagedError(f"{name} has another size than it says")
    flat = np.frombuffer(raw, dtype, offset=file.tell()) if math.prod(shape) else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if fortran else "C").copy()


def _bytes(archive: zipfile.ZipFile, name: str, most: int | None) -> bytes:
    member = archive.getinfo(name)
    if most is not None and member.file_size > most:
        raise DamagedError(f"{name} is too large")
    raw = archive.read(member)
    if len(raw) != member.file_size:
        raise DamagedError(f"{name} ends early")
    return raw


def write(path: Path, documents: Mapping[str, Mapping[str, Any]], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an archive of JSON documents and arrays, without compression, whole or not at all.

    Raises:
        ConfigError: it cannot be written.
        ValueError: a document holds what JSON has no word for.
    """
    texts = {name: json.dumps(document, allow_nan=False) for name, document in documents.items()}

    def fill(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, text in texts.items():
                archive.writestr(name, text)
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)

    write_whole(path, fill)
