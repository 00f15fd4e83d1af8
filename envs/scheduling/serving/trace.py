"""Requests to a language model: read from files, or generated with stated parameters."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.envs.scheduling import limits as L
from tunewright.errors import ConfigError
from tunewright.knowledge import timestamps
from tunewright.store.files import check_size, open_lines, parsing, read_head, reason

CHUNK_TOKENS = 512  # of a prefix block in Mooncake's traces
_REQUEST_BYTES, _CHUNK_BYTES = 400, 80  # of memory for a request and for an identity in it, while a trace is read
_ARRIVAL = ("arrival_s", "arrival", "arrival_time", "timestamp", "time", "TIMESTAMP")
_PROMPT = ("input_tokens", "prompt_tokens", "ContextTokens", "input_length", "num_prefill_tokens", "request_tokens")
_OUTPUT = ("output_tokens", "GeneratedTokens", "output_length", "num_decode_tokens", "response_tokens")
_USER = ("user", "user_id", "tenant", "session_id")


@dataclass(frozen=True, kw_only=True)
class Requests:
    """Requests in the order of their arrival; all arrays have one entry a request.

    Attributes:
        source: where they come from.
        arrival_s: seconds since the first.
        prompt, output: tokens.
        user: number of the user.
        chunk_n: full chunks of ``CHUNK_TOKENS`` at the start of the prompt that have an identity.
        chunks: identities of all chunks in a row, numbered from 0.
        question: number of the question, the same for requests with the same answer; -1 for none.
        category, version: of the question, and how often its right answer has changed so far.
        parameters: of the generator.
        notes: what was mended, for people.
    """

    source: str
    arrival_s: NDArray[np.float64]
    prompt: NDArray[np.int64]
    output: NDArray[np.int64]
    user: NDArray[np.int64]
    chunk_n: NDArray[np.int64]
    chunks: NDArray[np.int64]
    question: NDArray[np.int64]
    category: NDArray[np.int64]
    version: NDArray[np.int64]
    parameters: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def chunk_at(self) -> NDArray[np.int64]:
        """Place of each request's first chunk in ``chunks``."""
        return np.concatenate([[0], np.cumsum(self.chunk_n)[:-1]]).astype(np.int64)

    @property
    def duration_s(self) -> float:
        """From the first arrival to the last."""
        return float(self.arrival_s[-1] - self.arrival_s[0])

    def faster(self, factor: float) -> Requests:
        """Return the same requests with arrivals so many times as dense."""
        return replace(self, arrival_s=self.arrival_s / factor)

    def first(self, n: int, start: int = 0) -> Requests:
        """Return ``n`` requests from a place on; the first arrives at 0."""
        part = slice(start, min(start + n, len(self)))
        at = self.chunk_at
        names = ("prompt", "output", "user", "chunk_n", "question", "category", "version")
        cut = {name: getattr(self, name)[part] for name in names}
        pieces = slice(at[part][0], at[part][-1] + self.chunk_n[part][-1])
        arrival = self.arrival_s[part] - self.arrival_s[part][0]
        return replace(self, arrival_s=arrival, chunks=self.chunks[pieces], **cut)


def numbered(values: Sequence[Any] | NDArray[Any]) -> NDArray[np.int64]:
    """Return for each value its place among the different ones, sorted; texts may be of any length."""
    if isinstance(values, np.ndarray):
        return np.unique(values, return_inverse=True)[1].astype(np.int64)
    place = {value: number for number, value in enumerate(sorted(set(values)))}
    return np.fromiter((place[value] for value in values), np.int64, len(values))


def requests_of(
    source: str, arrival: Any, prompt: Any, output: Any, *, user: Any = None, chunks: Any = None, question: Any = None,
    category: Any = None, version: Any = None, parameters: Mapping[str, Any] | None = None,
) -> Requests:  # fmt: skip
    """Check columns, sort them by arrival and return them as requests.

    Args:
        source: for messages.
        arrival: seconds from any origin, shape (n,).
        prompt, output: tokens, at least 1.
        user: any values; one user if not given.
        chunks: for each request a list of identities of its prompt's chunks.
        question, category, version: see ``Requests``.
        parameters: of a generator.

    Raises:
        ConfigError: a value is missing, negative, or not a number; the row is named, from 1.
    """
    when = np.asarray(arrival, dtype=float)
    if not len(when):
        raise ConfigError(f"{source}: no requests in it")
    whole = {}
    for name, values in (("prompt", prompt), ("output", output)):
        column = np.asarray(values, dtype=float)
        bad = np.flatnonzero(~(np.isfinite(column) & (column >= 1) & (column < 2**31)))
        if len(bad):
            raise ConfigError(
                f"{source}, row {bad[0] + 1}: {name} tokens must be at least 1, not {values[int(bad[0])]!r}"
                f" ({len(bad)} such row{'s' * (len(bad) > 1)})"
            )
        whole[name] = column.astype(np.int64)
    bad = np.flatnonzero(~(np.abs(when) <= L.MOST_TIME_S))
    if len(bad):
        raise ConfigError(
            f"{source}, row {bad[0] + 1}: the arrival {arrival[int(bad[0])]!r} is no time within {L.MOST_TIME_S:g} s of 0"
        )
    n = len(when)
    order = np.argsort(when, kind="stable")
    late = int((np.diff(when) < 0).sum())
    people = np.zeros(n, np.int64) if user is None else numbered(user)
    lists = [list(chunks[int(i)])[: whole["prompt"][i] // CHUNK_TOKENS] for i in order] if chunks is not None else []
    flat = np.array([c for part in lists for c in part], dtype=np.int64)
    names = np.unique(flat, return_inverse=True)[1].astype(np.int64) if len(flat) else flat
    rest = {
        "question": np.full(n, -1) if question is None else np.asarray(question),
        "category": np.zeros(n) if category is None else np.asarray(category),
        "version": np.zeros(n) if version is None else np.asarray(version),
    }
    return Requests(
        source=source, arrival_s=when[order] - when[order][0], prompt=whole["prompt"][order], output=whole["output"][order],
        user=people[order].astype(np.int64), chunks=names,
        chunk_n=np.array([len(p) for p in lists], dtype=np.int64) if lists else np.zeros(n, np.int64),
        **{k: v[order].astype(np.int64) for k, v in rest.items()}, parameters=dict(parameters or {}),
        notes=(f"{late} rows come before the one above them; sorted by arrival",) if late else (),
    )  # fmt: skip


def load(source: str, options: Mapping[str, Any] | None = None, seed: int = 0) -> Requests:
    """Return the requests of a file, or of ``synthetic:KIND`` with the generator's options.

    Raises:
        ConfigError: the file cannot be read as requests, or an option is wrong.
        UnknownNameError: there is no such kind or option.
    """
    if source.startswith("synthetic:"):
        from tunewright.envs.scheduling.serving.synthetic import generate

        return generate(source.partition(":")[2], options or {}, seed)
    if options:
        raise ConfigError(f"{', '.join(options)}: only synthetic:KIND takes parameters")
    return read(Path(source))


def data_folder() -> Path | None:
    """Return the folder of real traces, if there is one: TUNEWRIGHT_DATA, or ../shared/data beside the project."""
    for place in (os.environ.get("TUNEWRIGHT_DATA"), "../shared/data"):
        if place and Path(place, "llm").is_dir():
            return Path(place)
    return None


def read(path: Path) -> Requests:
    """Read a trace: Azure's CSV, Mooncake's JSON lines, or any CSV with named columns; plain or gzip.

    Raises:
        ConfigError: it cannot be read; line and reason are named.
    """
    with parsing(path, "trace"):
        first = read_head(path, "trace").decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")
        with open_lines(path, "trace") as lines:
            return _lines(path, lines) if first.startswith("{") else _table(path, lines)


def _bounded(path: Path, requests: int, chunks: int = 0) -> None:
    """Look now and then at how much memory a trace takes that is being read."""
    if not requests & 0x3FF:
        needed = requests * _REQUEST_BYTES + chunks * _CHUNK_BYTES
        check_size(f"the trace {path}: {requests:,} requests and more", needed, 1, "give a shorter one")


def _lines(path: Path, lines: Iterable[str]) -> Requests:
    rows, chunks, users, number, most = list[tuple[float, Any, Any]](), list[list[int]](), list[str](), 0, 0
    try:
        for number, line in enumerate(lines, 1):  # noqa: B007  (named in the error)
            if line.strip():
                _bounded(path, len(rows), most)
                entry = json.loads(line)
                rows.append((L.time(float(entry["timestamp"]) / 1e3), entry["input_length"], entry["output_length"]))
                chunks.append([int(c) for c in entry.get("hash_ids") or []])
                most += len(chunks[-1])
                users.append(str(entry.get("user", "")))
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ConfigError(f"{path}, line {number}: not a request: {reason(error)}") from None
    if not rows:
        raise ConfigError(f"{path}: no requests in it")
    when, prompt, output = zip(*rows, strict=True)
    # an id stands for the whole prompt up to it, so it is a prefix by itself
    return requests_of(path.name, when, prompt, output, user=users, chunks=chunks)


def _table(path: Path, lines: Iterable[str]) -> Requests:
    import csv

    table = csv.DictReader(lines)
    heads = list(table.fieldnames or [])
    if heads and any("\x00" in h or len(h) > 200 for h in heads):
        raise ConfigError(f"{path} is no text with named columns")

    def column(names: tuple[str, ...], what: str) -> str:
        found = next((h for h in heads if h.strip() in names), None)
        if found is None:
            raise ConfigError(
                f"{path} has no column of {what}: one of {', '.join(names)} is needed, and it has {', '.join(heads[:12]) or 'none'}"
            )
        return found

    arrival, prompt, output = (
        column(_ARRIVAL, "arrivals"),
        column(_PROMPT, "prompt tokens"),
        column(_OUTPUT, "output tokens"),
    )
    user = next((h for h in heads if h.strip() in _USER), None)
    when, sizes, people = list[float](), list[tuple[float, float]](), list[str]()
    for row in table:
        _bounded(path, len(when))
        try:
            when.append(L.time(timestamps.seconds(row[arrival] or "")))
            sizes.append((float(row[prompt]), float(row[output])))
        except (ValueError, TypeError, OverflowError) as error:
            raise ConfigError(f"{path}, line {table.line_num}: {reason(error)}") from None
        people.append(row[user] if user else "")
    if not sizes:
        raise ConfigError(f"{path}: no requests below the names of the columns")
    first, second = zip(*sizes, strict=True)
    return requests_of(path.name, when, first, second, user=people)
