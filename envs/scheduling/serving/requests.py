"""Requests to a language model, in arrays of one entry a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.envs.scheduling import limits
from tunewright.envs.scheduling.traces import numbered
from tunewright.errors import ConfigError

CHUNK_TOKENS = 512  # of a prefix block in Mooncake's traces


@dataclass(frozen=True, kw_only=True)
class Requests:
    """Requests in the order of their arrival; all arrays have one entry a request.

    Attributes:
        source: where they come from.
        arrival_s: seconds since the first.
        prompt, output: tokens.
        user: number of the user.
        chunk_count: full chunks of ``CHUNK_TOKENS`` at the start of the prompt that have an identity.
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
    chunk_count: NDArray[np.int64]
    chunks: NDArray[np.int64]
    question: NDArray[np.int64]
    category: NDArray[np.int64]
    version: NDArray[np.int64]
    parameters: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def first_chunk(self) -> NDArray[np.int64]:
        """Place of each request's first chunk in ``chunks``."""
        return np.concatenate([[0], np.cumsum(self.chunk_count)[:-1]]).astype(np.int64)

    @property
    def duration_s(self) -> float:
        """From the first arrival to the last."""
        return float(self.arrival_s[-1] - self.arrival_s[0])

    def faster(self, factor: float) -> Requests:
        """Return the same requests with arrivals so many times as dense."""
        return replace(self, arrival_s=self.arrival_s / factor)

    def within(self, tokens: int) -> Requests:
        """Return the same requests, cut where prompt and answer together have more tokens; a note says how many."""
        long = self.prompt + self.output > tokens
        if not long.any():
            return self
        output = np.minimum(self.output, max(tokens - 1, 1))
        prompt = np.minimum(self.prompt, np.maximum(tokens - output, 1))
        kept = np.minimum(self.chunk_count, prompt // CHUNK_TOKENS)
        parts = [self.chunks[at : at + count] for at, count in zip(self.first_chunk, kept, strict=True)]
        note = f"{int(long.sum())} of {len(self)} requests were longer than {tokens:,} tokens, and were cut"
        return replace(
            self, prompt=prompt, output=output, chunk_count=kept, notes=(*self.notes, note),
            chunks=np.concatenate(parts) if parts else self.chunks,
        )  # fmt: skip

    def first(self, count: int, start: int = 0) -> Requests:
        """Return ``n`` requests from a place on; the first arrives at 0."""
        part = slice(start, min(start + count, len(self)))
        at = self.first_chunk
        names = ("prompt", "output", "user", "chunk_count", "question", "category", "version")
        cut = {name: getattr(self, name)[part] for name in names}
        pieces = slice(at[part][0], at[part][-1] + self.chunk_count[part][-1])
        arrival = self.arrival_s[part] - self.arrival_s[part][0]
        return replace(self, arrival_s=arrival, chunks=self.chunks[pieces], **cut)


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
    bad = np.flatnonzero(~(np.abs(when) <= limits.MOST_TIME_S))
    if len(bad):
        raise ConfigError(
            f"{source}, row {bad[0] + 1}: the arrival {arrival[int(bad[0])]!r} is no time within"
            f" {limits.MOST_TIME_S:g} s of 0"
        )
    count = len(when)
    order = np.argsort(when, kind="stable")
    late = int((np.diff(when) < 0).sum())
    people = np.zeros(count, np.int64) if user is None else numbered(user)
    lists = (
        [list(chunks[int(place)])[: whole["prompt"][place] // CHUNK_TOKENS] for place in order]
        if chunks is not None
        else []
    )
    flat = np.array([chunk for part in lists for chunk in part], dtype=np.int64)
    names = np.unique(flat, return_inverse=True)[1].astype(np.int64) if len(flat) else flat
    rest = {
        "question": np.full(count, -1) if question is None else np.asarray(question),
        "category": np.zeros(count) if category is None else np.asarray(category),
        "version": np.zeros(count) if version is None else np.asarray(version),
    }
    return Requests(
        source=source, arrival_s=when[order] - when[order][0], prompt=whole["prompt"][order],
        output=whole["output"][order], user=people[order].astype(np.int64), chunks=names,
        chunk_count=np.array([len(part) for part in lists], dtype=np.int64) if lists else np.zeros(count, np.int64),
        **{name: column[order].astype(np.int64) for name, column in rest.items()}, parameters=dict(parameters or {}),
        notes=(f"{late} rows come before the one above them; sorted by arrival",) if late else (),
    )  # fmt: skip
