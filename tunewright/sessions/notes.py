"""What a tuner notes beside its suggestions, such as what a model cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunewright.store.store import Store


def keep_notes(store: Store, name: str, notes: Mapping[str, Any]) -> None:
    """Store a tuner's notes with its session; lists go on over resumes."""
    if not notes:
        return
    stored = store.session(name).get("notes") or {}
    joined = {k: [*stored.get(k, []), *v] if isinstance(v, list) else v for k, v in notes.items()}
    store.update(name, notes={**stored, **joined})
    if spent := cost(notes.get("spent") or {}):
        store.annotate(name, "cost", spent)


def cost(spent: Mapping[str, float]) -> str:
    """Return what a model cost in words; "" if it was not asked.

    >>> cost({"calls": 4, "tokens_in": 5000, "tokens_out": 521, "money": 0.012})
    '4 calls, 5,521 tokens, 0.0120 $'
    """
    if not spent.get("calls"):
        return ""
    tokens = int(spent.get("tokens_in", 0) + spent.get("tokens_out", 0))
    return f"{spent['calls']:.0f} calls, {tokens:,} tokens, {spent.get('money', 0):.4f} $"
