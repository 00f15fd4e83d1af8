"""Requests to a language model, read from files; ``load`` also generates them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
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
_ARRIVAL = ("arrival_s", "arrival", "arrival_time", "timestamp", "time", "TIMESTAMP")
_PROMPT = ("input_tokens", "prompt_tokens", "ContextTokens", "input_length", "num_prefill_tokens", "request_tokens")
_OUTPUT = ("output_tokens", "GeneratedTokens", "output_length", "num_decode_tokens", "response_tokens")
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
    """Read a trace: Azure's CSV, Mooncake's or Bailian's JSON lines, or any CSV with named columns; plain or gzip.

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
    arrival, prompt, output = zip(*rows, strict=True)
    # an id stands for the whole prompt up to it, so it is a prefix by itself
    return requests_of(path.name, arrival, prompt, output, user=users, chunks=chunks)


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
    when, sizes, people = list[float](), list[tuple[float, float]](), list[str]()
    for row in table:
        check_growth(path, "requests", len(when), len(when) * _REQUEST_BYTES)
        try:
            when.append(limits.time(timestamps.seconds(row[arrival] or "")))
            sizes.append((float(row[prompt]), float(row[output])))
        except (ValueError, TypeError, OverflowError) as error:
            raise ConfigError(f"{path}, line {table.line_num}: {reason(error)}") from None
        people.append(row[user] if user else "")
    if not sizes:
        raise ConfigError(f"{path}: no requests below the names of the columns")
    first, second = zip(*sizes, strict=True)
    return requests_of(path.name, when, first, second, user=people)
