"""Finding the passages of a manual that answer a question: BM25, and embeddings beside it where there are any."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from tunewright.errors import missing_extra
from tunewright.knowledge.sections import Chunk

FUSE = 60  # of reciprocal rank fusion: a rank counts 1 / (FUSE + rank)


class Embeddings(Protocol):
    """What is used of LangChain's Embeddings."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each text."""
        ...

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a question."""
        ...


def words(text: str) -> list[str]:
    """Return the words of a text in lower case; identifiers also in their parts, plurals also without their s.

    >>> words("Raise max_dirty_mb on clients")
    ['raise', 'max_dirty_mb', 'max', 'dirty', 'mb', 'on', 'clients', 'client']
    """
    terms = []
    for word in re.findall(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*", text.lower()):
        terms.append(word)
        parts = re.split(r"[._-]", word)
        if len(parts) > 1:
            terms += parts
        elif len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
            terms.append(word[:-1])
    return terms


class Index:
    """Chunks by their words, and by their meaning if embeddings are given.

    Args:
        chunks: what is searched; the heading path counts as text.
        embeddings: any object with LangChain's two methods.
    """

    def __init__(self, chunks: Sequence[Chunk], embeddings: Embeddings | None = None) -> None:
        try:
            import bm25s
        except ImportError:
            raise missing_extra("bm25s", "llm", "searching a manual") from None
        self.chunks = list(chunks)
        texts = [f"{' '.join(c.path)}\n{c.text}" for c in self.chunks]
        vocabulary: dict[str, int] = {}
        ids = [[vocabulary.setdefault(w, len(vocabulary)) for w in words(t)] for t in texts]
        self._vocabulary = vocabulary
        self._bm25 = bm25s.BM25()
        if vocabulary:
            self._bm25.index((ids, vocabulary), show_progress=False)
        self._embeddings = embeddings
        self._vectors: Any = None
        if embeddings is not None and texts:
            vectors = np.asarray(embeddings.embed_documents(texts), np.float32)
            self._vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def search(self, question: str, count: int = 5) -> list[Chunk]:
        """Return the passages that fit best, best first; fewer where fewer share a word with the question."""
        rankings = [self._by_words(question)]
        if self._vectors is not None and self._embeddings is not None:
            asked = np.asarray(self._embeddings.embed_query(question), np.float32)
            rankings.append([int(k) for k in np.argsort(-(self._vectors @ asked), kind="stable")[: 4 * count + 20]])
        points: dict[int, float] = {}
        for ranking in rankings:
            for rank, k in enumerate(ranking):
                points[k] = points.get(k, 0.0) + 1.0 / (FUSE + rank)
        best = sorted(points, key=lambda k: (-points[k], k))[:count]
        return [self.chunks[k] for k in best]

    def _by_words(self, question: str) -> list[int]:
        known = [w for w in words(question) if w in self._vocabulary]
        if not known:
            return []
        scores = self._bm25.get_scores(known)
        order = np.argsort(-scores, kind="stable")
        return [int(k) for k in order[: min(len(order), 200)] if scores[k] > 0]
