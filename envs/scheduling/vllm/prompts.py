"""Prompts of given lengths, as numbers of tokens or as words; parts that requests share are the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunewright.envs.scheduling.serving.requests import CHUNK_TOKENS, Requests

_FIRST = 10  # the first numbers of a vocabulary are often special: begin, end, padding
_WORDS = (
    "time year people way day man thing woman life child world school state family student group country problem hand"
    " part place case week company system program question work number night point home water room mother area money"
    " story fact month lot right study book eye job word business issue side kind head house service friend father"
).split()  # common English words, each one token of most vocabularies


def tokens(requests: Requests, vocabulary: int, salt: int) -> list[list[int]]:
    """Return a prompt for each request, its tokens as numbers.

    Args:
        requests: their lengths, and which chunks they share.
        vocabulary: size; numbers are drawn below it.
        salt: other salts give other tokens, so that nothing of an earlier load is in a cache; parts that are shared
            within these requests stay shared.
    """
    low = min(_FIRST, max(vocabulary - 1, 0))
    shared: dict[int, list[int]] = {}

    def chunk(identity: int) -> list[int]:
        if identity not in shared:
            rng = np.random.default_rng([salt, 1, identity])
            shared[identity] = rng.integers(low, vocabulary, CHUNK_TOKENS).tolist()
        return shared[identity]

    prompts = []
    for number, (length, first, count) in enumerate(
        zip(requests.prompt, requests.first_chunk, requests.chunk_count, strict=True)
    ):
        head = [token for identity in requests.chunks[first : first + count] for token in chunk(int(identity))]
        rng = np.random.default_rng([salt, 0, number])
        prompts.append(head + rng.integers(low, vocabulary, int(length) - len(head)).tolist())
    return prompts


def text(prompt: Sequence[int]) -> str:
    """Return a prompt of words, one for each token, for servers that take text only."""
    return " ".join(_WORDS[token % len(_WORDS)] for token in prompt)
