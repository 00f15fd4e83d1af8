"""The one place that opens and unpacks the files that people name.

Every reader of such a file goes through three gates:

- ``read_bytes``, ``read_text``, ``open_lines`` open it: an ordinary file only, plain or packed, with a limit on its
  unpacked size and on how many times it grows, both checked while reading.
- ``check_size`` looks at a count that a file or an option names before memory is asked for.
- ``parsing`` turns what a parser raises about a file's content into one line that names the file and the place.

``TUNEWRIGHT_MAX_INPUT_MB`` replaces all limits on sizes.
"""

from __future__ import annotations

import codecs
import gzip
import importlib
import io
import json
import math
import os
import re
import stat
import tomllib
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tunewright.errors import ConfigError, TunewrightError

VARIABLE = "TUNEWRIGHT_MAX_INPUT_MB"
MB = 10**6
WHOLE_MB = (
    64.0  # of a file that is held in memory as a whole; its text and what is parsed from it are several times that
)
STREAM_MB = 4096.0  # of a file that is read line by line
TOML_MB = 4.0  # a description that is written by hand; the parser is slow
MEMORY_MB = 400.0  # of what one count may ask for
# Logs shrink ten to fifty times, and deflate ends at 1,030: a large file beyond this ratio is made to fill memory.
MOST_RATIO = 200
RATIO_FROM = 16 * MB  # unpacked bytes below which the ratio does not matter
MOST_WORDS = 2000  # characters of a message
MOST_LINE = 8 * 2**20  # characters of a line
_MOST_DOTS = 100  # of a dotted key; the parser takes quadratic time on them
# bytes that Python needs for one item between two commas, and for one list or table, in a parsed JSON document
_ITEM_BYTES, _CONTAINER_BYTES = 40, 72

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_UNREAD = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip", b"\x04\x22\x4d\x18": "lz4"}
_OTHERS = {
    stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}  # fmt: skip


def limit_mb(default: float) -> float:
    """Return a limit on a size: ``default``, or what the environment says.

    Raises:
        ConfigError: the environment's is no number above 0.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e9:
        raise ConfigError(f"{VARIABLE} must be a number of megabytes above 0, not {text!r}")
    return number


def check_size(what: str, count: float, each: float, instead: str = "ask for less") -> None:
    """Refuse a count before the memory is allocated that it asks for.

    Args:
        what: is counted, for the message, such as ``the trace t.csv: 10 pages``.
        count: how many.
        each: bytes that one needs, temporary ones included.
        instead: what else to do than to raise the limit.

    Raises:
        ConfigError: it would take more than the limit.
    """
    most = limit_mb(MEMORY_MB)
    try:
        needed = float(count) * each / MB
    except OverflowError:
        needed = float("inf")
    if not needed <= most:
        size = f"about {needed:,.0f} MB" if needed < 1e12 else "more memory than any machine has"
        raise ConfigError(f"{what} would take {size}, more than {most:,.0f} MB; {instead}, or set {VARIABLE}")


# -- what a parser says --------------------------------------------------------------------------------


@dataclass
class Place:
    """Where in a file a parser is; line 0 where it does not say."""

    line: int = 0


@contextmanager
def parsing(path: Path | str, what: str) -> Iterator[Place]:
    """Turn what is raised about a file's content into one line with the file, the line and the reason.

    Only reading and parsing belong inside: whatever is raised here is called the file's fault. The original error stays
    its cause, and mistakes that no file can make (an unknown name, a failed import) pass.

    Args:
        path: the file.
        what: it should be, such as ``trace``.

    Yields:
        The place; whoever parses line by line keeps its ``line``.

    Raises:
        ConfigError: the content cannot be parsed.
    """
    place = Place()
    try:
        yield place
    except (TunewrightError, NameError, ImportError, NotImplementedError):
        raise
    except Exception as error:
        where = f"{path}, line {place.line}" if place.line else str(path)
        raise ConfigError(f"{where}: cannot be read as {what}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """Say in a line what is wrong, for people who did not write the parser."""
    said = printable(str(error))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnicodeDecodeError):
        return f"it is no UTF-8 text (byte {error.start + 1:,} is {error.object[error.start]:#04x})"
    if isinstance(error, tomllib.TOMLDecodeError):
        return said
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, KeyError):
        return f"{said} is missing" if len(said.split()) == 1 else said.strip("\"'")  # a library's own sentence
    if "integer string conversion" in said:
        return "a number has too many digits"
    return said if type(error) is ValueError and said else f"{type(error).__name__}{f': {said}' if said else ''}"


def one_line(text: str) -> str:
    """Return a text without line breaks, control characters and words that no screen shows in full."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    line = re.sub(r"\S{400,}", lambda m: f"{m[0][:60]}…{m[0][-20:]}", line)
    return line if len(line) <= MOST_WORDS else f"{line[: MOST_WORDS - 400]} … {line[-390:]}"


def printable(text: str, most: int = 300) -> str:
    """Return a text as one line without control characters, cut where it is long."""
    line = one_line(text[: 4 * most])
    return line if len(line) <= most else line[: most - 1] + "…"


# -- opening -------------------------------------------------------------------------------------------


_inputs: ContextVar[set[tuple[int, int]] | None] = ContextVar("inputs", default=None)


@contextmanager
def noting_inputs() -> Iterator[None]:
    """Note which files are opened for reading, for as long as a command runs; see :func:`is_input`."""
    token = _inputs.set(set())
    try:
        yield
    finally:
        _inputs.reset(token)


def note_input(about: os.stat_result) -> None:
    """Note that the running command reads a file."""
    inputs = _inputs.get()
    if inputs is not None:
        inputs.add((about.st_dev, about.st_ino))


def is_input(path: Path) -> bool:
    """Whether the running command has read this file, under whatever name."""
    inputs = _inputs.get()
    if not inputs or not path.exists():
        return False
    about = path.stat()
    return (about.st_dev, about.st_ino) in inputs


class _Bounded(io.RawIOBase):
    """The unpacked bytes of a file, as long as they stay within limits."""

    def __init__(self, stream: IO[bytes], raw: IO[bytes], packed: bool, path: Path, what: str, most_mb: float) -> None:
        self.stream, self.raw, self.packed = stream, raw, packed
        self.path, self.what, self.most_mb, self.total = path, what, most_mb, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            chunk = self.stream.read(len(buffer))
        except (EOFError, OSError, ValueError, zlib.error, _zstd().ZstdError) as error:
            raise ConfigError(
                f"cannot read the {self.what} {self.path}: {'it is damaged: ' * self.packed}{reason(error)}"
            ) from None
        self.total += len(chunk)
        if self.total > self.most_mb * MB:
            raise ConfigError(
                f"the {self.what} {self.path} has more than {self.most_mb:,.0f} MB{' when unpacked' * self.packed};"
                f" give a smaller one, or set {VARIABLE}"
            )
        # the limits that the user sets himself are meant; the ratio is only a guess about intent
        if self.packed and self.total > max(RATIO_FROM, MOST_RATIO * self.raw.tell()) and VARIABLE not in os.environ:
            raise ConfigError(
                f"the {self.what} {self.path} grows more than {MOST_RATIO} times when it is unpacked, as no log does;"
                f" unpack it yourself, or set {VARIABLE}"
            )
        buffer[: len(chunk)] = chunk
        return len(chunk)


def _zstd() -> Any:
    try:
        return importlib.import_module("compression.zstd")  # Python 3.14 and later
    except ImportError:
        return importlib.import_module("backports.zstd")


def open_file(path: Path, what: str) -> IO[bytes]:
    """Open an ordinary file as it is, unbuffered limits or unpacking apart.

    Raises:
        ConfigError: it is not there, may not be read, or is a directory, a pipe or a device.
    """
    try:
        # a pipe without a writer would block
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ConfigError(f"cannot read the {what}: there is no {what} {path}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the {what} {printable(str(path))}: {reason(error)}") from None
    about = os.fstat(handle)
    kind = stat.S_IFMT(about.st_mode)
    if kind != stat.S_IFREG:
        os.close(handle)
        raise ConfigError(f"cannot read the {what} {path}: it is {_OTHERS.get(kind, 'no file')}; give an ordinary file")
    note_input(about)
    return os.fdopen(handle, "rb")


@contextmanager
def open_bytes(path: Path, what: str, most_mb: float = STREAM_MB) -> Iterator[IO[bytes]]:
    """Open a plain, gzip or zstd file, told apart by its first bytes, as a stream of bounded length.

    Args:
        path: the file.
        what: it is, for messages.
        most_mb: unpacked megabytes at most, unless the environment says otherwise.

    Raises:
        ConfigError: it cannot be opened; while reading: it is damaged, too long, or grows too much.
    """
    most_mb = limit_mb(most_mb)
    with open_file(path, what) as raw:
        magic = raw.peek(8)[:8]  # type: ignore[attr-defined]  # a buffered reader
        for start, name in _UNREAD.items():
            if magic.startswith(start):
                raise ConfigError(f"the {what} {path} is packed with {name}; unpack it first, or pack it with gzip")
        stream: Any = raw
        if magic.startswith(_GZIP):
            stream = gzip.GzipFile(fileobj=raw, mode="rb")
        elif magic.startswith(_ZSTD):
            stream = _zstd().ZstdFile(raw, "rb")
        with io.BufferedReader(_Bounded(stream, raw, stream is not raw, path, what, most_mb), 2**18) as bounded:
            if stream is not raw and bounded.peek(4)[:4].startswith((_GZIP, _ZSTD)):
                raise ConfigError(f"the {what} {path} is packed twice, one in the other; unpack it once")
            yield bounded


def read_bytes(path: Path, what: str, most_mb: float = WHOLE_MB) -> bytes:
    """Return the unpacked bytes of a file; see ``open_bytes``."""
    with open_bytes(path, what, most_mb) as stream:
        return stream.read()


def read_head(path: Path, what: str, size: int = 4096) -> bytes:
    """Return the first unpacked bytes of a file."""
    with open_bytes(path, what) as stream:
        return stream.read(size)


def read_text(path: Path, what: str, *, most_mb: float = WHOLE_MB, errors: str = "strict") -> str:
    """Return the text of a file, plain or packed, UTF-8 or marked UTF-16; every kind of line end becomes a line feed.

    Args:
        path: the file.
        what: it is, for messages, such as ``table``.
        most_mb: unpacked megabytes at most.
        errors: ``replace`` where bytes that are no UTF-8 do no harm.

    Raises:
        ConfigError: there is none, or it is no such text.
    """
    raw = read_bytes(path, what, most_mb)
    try:
        text = raw.decode(_encoding(raw), errors)
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read the {what} {path}: {reason(error)}") from None
    if "\0" in text and errors == "strict":
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ConfigError(
            f"cannot read the {what} {path}: line {line} has a NUL character, which no text has; if it is UTF-16: "
            "iconv -f UTF-16 -t UTF-8"
        )
    return _line_feeds(text)


def decoded(head: bytes) -> str:
    """Return the first bytes of a text as ``read_text`` does; a character that is cut at the end is replaced."""
    return _line_feeds(head.decode(_encoding(head), "replace"))


def _line_feeds(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _encoding(head: bytes) -> str:
    """Return the encoding that the first bytes of a text mark."""
    return "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


@contextmanager
def open_lines(path: Path, what: str, most_mb: float = STREAM_MB) -> Iterator[Iterator[str]]:
    """Open a file, plain or packed, as its lines, each of which is of bounded length.

    Raises:
        ConfigError: as ``open_bytes``; while reading, a line that is too long.
    """
    with (
        open_bytes(path, what, most_mb) as stream,
        io.TextIOWrapper(stream, encoding=_encoding(stream.peek(2)), errors="replace") as text,  # type: ignore[attr-defined]
    ):
        yield _lines(text, path, what)


def _lines(text: IO[str], path: Path, what: str) -> Iterator[str]:
    number = 0
    while line := text.readline(MOST_LINE):
        number += 1
        if len(line) == MOST_LINE:
            raise ConfigError(f"the {what} {path}, line {number}: it has more than {MOST_LINE:,} characters")
        yield line


# -- documents -----------------------------------------------------------------------------------------


def read_json(path: Path, what: str, most_mb: float = WHOLE_MB) -> Any:
    """Return the JSON document of a file, plain or packed.

    Raises:
        ConfigError: it cannot be read, is no JSON, or would take too much memory.
    """
    text = read_text(path, what, most_mb=most_mb)
    containers = text.count("[") + text.count("{")
    check_size(
        f"the {what} {path}", containers * _CONTAINER_BYTES + text.count(",") * _ITEM_BYTES, 1, "give a smaller one"
    )
    with parsing(path, f"{what} (JSON)"):
        return json.loads(text, object_pairs_hook=_unambiguous)


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; raises ValueError where a key has two values, of which readers take one or the other."""
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made and made[key] != value:
            raise ValueError(f"the key {printable(key, 60)!r} has two values in one object")
        made[key] = value
    return made


def finite(value: Any) -> Any:
    """Return the value with NaN and infinities, which JSON does not know, replaced by None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Return the TOML document of a file.

    Raises:
        ConfigError: it cannot be read, or is no TOML; line and column are named.
    """
    text = read_text(path, what, most_mb=TOML_MB)
    _check_dots(path, text)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {printable(str(error))}") from None
    except Exception as error:  # nesting, digits: the parser has no error of its own for these
        raise ConfigError(f"{path} is not valid TOML: {reason(error)}") from None


# texts and comments of a TOML document; one that nobody closed goes to the end of its line, or of the document
_TOML_TEXTS = re.compile(
    r""" "{3}(?:[^"\\]++|\\.|"(?!""))*+(?:"{3,5}|\Z) | '{3}(?:[^']++|'(?!''))*+(?:'{3,5}|\Z)
    | "(?:[^"\\\n]++|\\[^\n])*+"? | '[^'\n]*+'? | \#[^\n]*+""",
    re.VERBOSE | re.DOTALL,
)


def _check_dots(path: Path, text: str) -> None:
    """Refuse keys of very many parts, such as ``a.a.a.a = 1``; a number, or a time, has one dot.

    Raises:
        ConfigError: there is one.
    """
    if text.count(".") <= _MOST_DOTS:
        return
    # the lines that texts span are kept, so that the line can be named
    bare = _TOML_TEXTS.sub(lambda match: "\n" * match[0].count("\n"), text)
    for part in re.finditer(r"[^\n,=\[\]{}]++", bare):
        if part[0].count(".") > _MOST_DOTS:
            line = bare.count("\n", 0, part.start()) + 1
            raise ConfigError(
                f"{path} is not valid as it is: a key in line {line} has more than {_MOST_DOTS} parts; no key that is"
                " read here has more than a few"
            )
