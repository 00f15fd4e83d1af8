"""Requests to a language model, read from files; ``load`` also generates them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunewright.envs.scheduling import limits
from tunewright.envs.scheduling.serving.requests import CHUNK_TOKENS, Requests, requests_of
from tunewright.envs.scheduling.serving.synthetic import generate
from tunewright.envs.scheduling.traces import check_growth
from tunewright.errors import ConfigError
from tunewright.knowledge import timestamps
from tunewright.store.files import decoded, open_lines, parsing, read_head, reason

_REQUEST_BYTES, _CHUNK_BYTES = 400, 80  # of memory for a request and for an identity in it, while a trace is read
_BAILIAN_BLOCK = 16  # tokens of a block that Bailian's traces hash
_ARRIVAL = ("arrival_s", "arrival", "arrival_time", "timestamp", "time", "TIMESTAMP", "Timestamp")
_PROMPT = (
    "input_tokens", "prompt_tokens", "ContextTokens", "input_length", "num_prefill_tokens", "request_tokens",
    "Request tokens",
)  # fmt: skip
_OUTPUT = (
    "output_tokens", "GeneratedTokens", "output_length", "num_decode_tokens", "response_tokens", "Response tokens",
)  # fmt: skip
_USER = ("user", "user_id", "tenant", "session_id")


def load(source: str, options: Mapping[str, Any] | None = None, seed: int = 0) -> Requests:
    """Return the requests of a file, or of ``synthetic:KIND`` with the generator's options.

    Raises:
        ConfigError: the file cannot be read as requests, or an option is wrong.
        UnknownNameError: there is no such kind or option.
    """
    if source.startswith("synthetic:"):
        return generate(source.partition(":")[2], options or {}, seed)
    if options:
        raise ConfigError(f"{', '.join(options)}: only synthetic:KIND takes parameters")
    return read(Path(source))


def read(path: Path) -> Requests:
    """Read a trace: Azure's or BurstGPT's CSV, Mooncake's or Bailian's JSON lines, any CSV with named columns; or gzip.

    Requests without output tokens failed when it was taken: they are left out, and a note says how many.

    Raises:
        ConfigError: it cannot be read; line and reason are named.
    """
    with parsing(path, "trace"):
        first = decoded(read_head(path, "trace")).lstrip()
        with open_lines(path, "trace") as lines:
            return _lines(path, lines) if first.startswith("{") else _table(path, lines)


def _lines(path: Path, lines: Iterable[str]) -> Requests:
    rows, chunks, users, number, ids = list[tuple[float, Any, Any]](), list[list[int]](), list[str](), 0, 0
    try:
        for number, line in enumerate(lines, 1):  # noqa: B007  (named in the error)
            if line.strip():
                check_growth(path, "requests", len(rows), len(rows) * _REQUEST_BYTES + ids * _CHUNK_BYTES)
                entry = json.loads(line)
                when = limits.time(timestamps.of_request(entry))
                rows.append((when, entry["input_length"], entry["output_length"]))
                blocks = [int(block) for block in entry.get("hash_ids") or []]
                whole = CHUNK_TOKENS // _BAILIAN_BLOCK if timestamps.is_bailian(entry) else 1
                chunks.append(blocks[whole - 1 :: whole])
                ids += len(chunks[-1])
                users.append(str(entry.get("user", "")))
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ConfigError(f"{path}, line {number}: not a request: {reason(error)}") from None
    if not rows:
        raise ConfigError(f"{path}: no requests in it")
    # an id stands for the whole prompt up to it, so it is a prefix by itself
    return _answered(path, rows, users, chunks)


def _answered(path: Path, rows: list[tuple[float, Any, Any]], users: list[str], chunks: list[list[int]]) -> Requests:
    """Return the requests that have an answer; those without one failed when the trace was taken."""
    kept = [number for number, (_, _, output) in enumerate(rows) if output != 0]
    if not kept:
        raise ConfigError(f"{path}: none of its {len(rows):,} requests has an answer")
    arrival, prompt, output = zip(*(rows[number] for number in kept), strict=True)
    people, shared = [users[number] for number in kept], [chunks[number] for number in kept] if chunks else None
    requests = requests_of(path.name, arrival, prompt, output, user=people, chunks=shared)
    if failed := len(rows) - len(kept):
        note = f"left out: {failed:,} without output tokens, which failed when the trace was taken"
        requests = replace(requests, notes=(*requests.notes, note))
    return requests


def _table(path: Path, lines: Iterable[str]) -> Requests:
    table = csv.DictReader(lines)
    heads = list(table.fieldnames or [])
    if heads and any("\x00" in head or len(head) > 200 for head in heads):
        raise ConfigError(f"{path} is no text with named columns")

    def column(names: tuple[str, ...], what: str) -> str:
        head = next((head for head in heads if head.strip() in names), None)
        if head is None:
            raise ConfigError(
                f"{path} has no column of {what}: one of {', '.join(names)} is needed, and it has"
                f" {', '.join(heads[:12]) or 'none'}"
            )
        return head

    arrival = column(_ARRIVAL, "arrivals")
    prompt, output = column(_PROMPT, "prompt tokens"), column(_OUTPUT, "output tokens")
    user = next((head for head in heads if head.strip() in _USER), None)
    rows, people = list[tuple[float, Any, Any]](), list[str]()
    for row in table:
        check_growth(path, "requests", len(rows), len(rows) * _REQUEST_BYTES)
        try:
            when = limits.time(timestamps.seconds(row[arrival] or ""))
            rows.append((when, float(row[prompt]), float(row[output])))
        except (ValueError, TypeError, OverflowError) as error:
            raise ConfigError(f"{path}, line {table.line_num}: {reason(error)}") from None
        people.append(row[user] if user else "")
    if not rows:
        raise ConfigError(f"{path}: no requests below the names of the columns")
    return _answered(path, rows, people, [])
