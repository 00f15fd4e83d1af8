"""What an OpenAI-compatible server streams: server-sent events, and what they say of a completion."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tunewright.store.files import printable

MOST_EVENT_BYTES = 1 << 20  # an event is some hundred bytes; a server that never ends one is not one of these
_END = b"[DONE]"


class StreamError(Exception):
    """What came is no stream of a completion; the text says why."""


class Events:
    """Cuts bytes into server-sent events, as they come.

    Lines end with CR, LF or both, fields other than ``data`` and comments are left out (WHATWG, HTML, 9.2.6).
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield the data of the events that are complete now.

        Raises:
            StreamError: an event has no end.
        """
        *lines, self._rest = (self._rest + piece).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        if len(self._rest) > MOST_EVENT_BYTES:
            raise StreamError(f"an event of more than {MOST_EVENT_BYTES:,} bytes")
        for line in lines:
            if not line and self._data:
                yield b"\n".join(self._data)
                self._data = []
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))


@dataclass(slots=True)
class Answer:
    """What a stream has said so far.

    Attributes:
        at_s: when each event with a part of the completion came, seconds on the caller's clock.
        tokens: of the completion, as the server counts them; else one an event.
        prompt_tokens: as the server counts them; 0 where it does not.
        finished: the server said why it ended, or that it ended.
        text: the beginning of the completion, for messages.
    """

    at_s: list[float] = field(default_factory=list)
    tokens: int = 0
    prompt_tokens: int = 0
    finished: bool = False
    text: str = ""

    def take(self, data: bytes, now_s: float) -> None:
        """Take one event.

        Raises:
            StreamError: it is none of a completion, or the server says that something failed.
        """
        if data == _END:
            self.finished = True
            return
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            raise StreamError(
                f"an event that is no JSON: {printable(repr(data[:80].decode(errors='replace')), 100)}"
            ) from None
        if not isinstance(event, dict):
            raise StreamError(f"an event that is no completion: {printable(str(event), 100)}")
        if event.get("error"):
            raise StreamError(said(event))
        choices, usage = event.get("choices"), event.get("usage")
        if not isinstance(choices, list) and not isinstance(usage, dict):
            raise StreamError(f"an event that is no completion: {printable(json.dumps(event), 100)}")
        if choices:
            self._part(choices[0], now_s)
        if isinstance(usage, dict):
            self.tokens = _count(usage.get("completion_tokens")) or self.tokens
            self.prompt_tokens = _count(usage.get("prompt_tokens")) or self.prompt_tokens

    def _part(self, choice: Any, now_s: float) -> None:
        if not isinstance(choice, dict):
            raise StreamError(f"an event that is no completion: {printable(str(choice), 100)}")
        delta = choice.get("delta")
        piece = delta.get("content") if isinstance(delta, dict) else choice.get("text")
        self.finished = self.finished or choice.get("finish_reason") is not None
        # a chat's first event carries the role alone, and a completion's last may carry the reason alone
        if isinstance(piece, str) and (piece or (choice.get("finish_reason") is None and delta is None)):
            self.at_s.append(now_s)
            self.tokens += 1
            self.text = (self.text + piece)[:200]


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31 else 0


def said(body: Any) -> str:
    """Return the sentence of an error as servers write it, in one line.

    >>> said({"error": {"message": "too long", "code": 400}})
    'too long'
    """
    error = body.get("error", body) if isinstance(body, dict) else body
    message = (error.get("message") or error.get("detail")) if isinstance(error, dict) else error
    return printable(str(message or error), 200)
