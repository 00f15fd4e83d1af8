"""The one place that knows models: opening one, counting what it costs, writing down and replaying what it says.

A model is anything that LangChain calls a chat model; by name, one behind an OpenAI-compatible endpoint. Every call is
a line of a log: what was asked, what came back, how long it took, tokens and money. A log can be replayed without a
network.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunewright.errors import ConfigError, TunerError, missing_extra
from tunewright.store.dsn import read_dsn
from tunewright.store.files import check_size, read_text
from tunewright.store.secrets import redact

_CALL_BYTES = 2000  # of memory for a call that is read


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a session may spend on a model.

    Attributes:
        calls, tokens: most of each; tokens in and out together.
        money: most money, in the unit of the prices.
        price_in, price_out: of a million tokens; 0 if unknown.
    """

    calls: int = 200
    tokens: int = 2_000_000
    money: float = float("inf")
    price_in: float = 0.0
    price_out: float = 0.0


@dataclass
class Ledger:
    """The calls of a session: limits, the log, and the log that is replayed, if one is.

    Attributes:
        limits: what may be spent.
        log: file to which each call is added; None keeps no log.
        spent: calls, tokens_in, tokens_out, money, seconds so far, those of earlier runs in the same log included.
    """

    limits: Limits = field(default_factory=Limits)
    log: Path | None = None
    replayed: list[dict[str, Any]] | None = None
    spent: dict[str, float] = field(
        default_factory=lambda: {"calls": 0, "tokens_in": 0, "tokens_out": 0, "money": 0.0, "seconds": 0.0}
    )

    def __post_init__(self) -> None:
        """Count what an interrupted session has spent already."""
        if self.log is not None and self.log.exists():
            for entry in read_log(self.log):
                self._count(entry)

    def check(self) -> None:
        """Raise a TunerError if nothing more may be spent."""
        tokens = self.spent["tokens_in"] + self.spent["tokens_out"]
        for what, used, most in (
            ("calls", self.spent["calls"], self.limits.calls), ("tokens", tokens, self.limits.tokens),
            ("money", self.spent["money"], self.limits.money),
        ):  # fmt: skip
            if used >= most:
                raise TunerError(f"the model's budget is spent: {used:,.4g} of {most:,.4g} {what}")

    def add(self, role: str, asked: list[dict[str, Any]], reply: Any, seconds: float) -> None:
        """Count a call that was answered, and write it down.

        Args:
            role: of the agent that asked.
            asked: messages that are new since its last call.
            reply: LangChain's message.
            seconds: that the call took.
        """
        usage = getattr(reply, "usage_metadata", None) or {}
        into, out = int(usage.get("input_tokens", 0)), int(usage.get("output_tokens", 0))
        money = (into * self.limits.price_in + out * self.limits.price_out) / 1e6
        self._write({
            "role": role, "asked": asked,
            "content": reply.content if isinstance(reply.content, str) else str(reply.content),
            "tool_calls": [{"name": c["name"], "args": c["args"], "id": c["id"]} for c in reply.tool_calls],
            "invalid_tool_calls": [
                {"name": c["name"], "args": c["args"], "id": c["id"], "error": c["error"]}
                for c in reply.invalid_tool_calls
            ],
            "tokens_in": into, "tokens_out": out, "money": money, "seconds": round(seconds, 3),
        })  # fmt: skip

    def failed(self, role: str, asked: list[dict[str, Any]], why: str, seconds: float) -> None:
        """Count a call that was not answered, and write it down."""
        nothing = {"content": "", "tool_calls": [], "tokens_in": 0, "tokens_out": 0, "money": 0.0}
        self._write({"role": role, "asked": asked, "error": why, **nothing, "seconds": round(seconds, 3)})

    def _write(self, entry: dict[str, Any]) -> None:
        self._count(entry)
        if self.log is not None:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("a", encoding="utf-8") as file:
                # replies are replayed as they came; what was sent may quote a server or a program
                replies = ("content", "tool_calls", "invalid_tool_calls")
                logged = {k: v if k in replies else redact(v) for k, v in entry.items()}
                file.write(json.dumps(logged, ensure_ascii=False, default=str) + "\n")

    def _count(self, entry: Mapping[str, Any]) -> None:
        self.spent["calls"] += 1
        for name in ("tokens_in", "tokens_out", "money", "seconds"):
            self.spent[name] += float(entry.get(name) or 0.0)

    def next_reply(self, role: str) -> Any:
        """Return the next reply of the log that is replayed.

        Raises:
            TunerError: there is none, or it was given to another agent.
        """
        while self.replayed and self.replayed[0].get("error"):
            self.replayed.pop(0)
        if not self.replayed:
            raise TunerError("the log that is replayed has no further reply")
        entry = self.replayed.pop(0)
        if entry.get("role", role) != role:
            raise TunerError(
                f"the log that is replayed goes on with the {entry['role']}, not the {role}; "
                "give the same manuals, traces and options as its session"
            )
        return _reply(entry)


def _reply(entry: Mapping[str, Any]) -> Any:
    """Return a logged call's reply as a message; raises ValueError, KeyError or TypeError where it is none."""
    from langchain_core.messages import AIMessage

    calls, damaged = list(entry["tool_calls"]), list(entry.get("invalid_tool_calls", []))
    if not all(isinstance(call, dict) for call in [*calls, *damaged]):
        raise TypeError("a call of a tool is a mapping")
    return AIMessage(
        content=str(entry["content"]),
        tool_calls=calls,
        invalid_tool_calls=damaged,
        usage_metadata={
            "input_tokens": entry["tokens_in"], "output_tokens": entry["tokens_out"],
            "total_tokens": entry["tokens_in"] + entry["tokens_out"],
        },
    )  # fmt: skip


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read a log of calls; a line cut off by a crash is left out.

    Raises:
        ConfigError: it cannot be read, or is no such log.
    """
    text = read_text(path, "log")
    lines = text.splitlines()
    check_size(f"the log {path}: {len(lines):,} calls", len(lines) * _CALL_BYTES + len(text), 1, "give a shorter one")
    entries: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            if not all(isinstance(entry[n], int) and 0 <= entry[n] < 10**12 for n in ("tokens_in", "tokens_out")):
                raise ValueError("tokens are whole numbers")
            if not all(0 <= float(entry.get(n) or 0.0) < 1e12 for n in ("money", "seconds")):
                raise ValueError("money and seconds are numbers")
            _reply(entry)  # a damaged call is found here, by its line, and not in the middle of a session
            entries.append(entry)
        except (ValueError, KeyError, TypeError, RecursionError):
            if number == len(lines) and entries:
                break
            raise ConfigError(f"{path}, line {number}: not a call as this program logs them") from None
    return entries


def open_model(
    name: str, base_url: str = "", *, timeout_s: float = 120.0, retries: int = 3, stream: bool = True
) -> Any:
    """Open a chat model behind an OpenAI-compatible endpoint.

    Args:
        name: the model's name, as the endpoint knows it.
        base_url: of the endpoint; default: ``OPENAI_BASE_URL``, else OpenAI's. The key comes from ``OPENAI_API_KEY``.
        timeout_s: for one reply, or of silence in a streamed one.
        retries: after rate limits, timeouts and broken connections.
        stream: have replies streamed, so that a long one is not taken for a dead endpoint.

    Raises:
        ConfigError: no key for OpenAI's own endpoint.
        MissingExtraError: the packages are not installed.
    """
    url, key = _endpoint(base_url)
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    return ChatOpenAI(
        model=name,
        base_url=url or None,
        api_key=SecretStr(key or "none"),
        timeout=timeout_s,
        max_retries=retries,
        temperature=0,
        streaming=stream,
        stream_usage=stream,
    )


def open_embeddings(name: str, base_url: str = "") -> Any:
    """Open an embedding model behind an OpenAI-compatible endpoint; arguments and errors as for ``open_model``."""
    url, key = _endpoint(base_url)
    from langchain_openai import OpenAIEmbeddings
    from pydantic import SecretStr

    # the check would fetch a tokenizer for models that it does not know
    return OpenAIEmbeddings(
        model=name, base_url=url or None, api_key=SecretStr(key or "none"), check_embedding_ctx_length=False
    )


def _endpoint(base_url: str) -> tuple[str, str]:
    """Return the endpoint's URL, "" for OpenAI's, and the key."""
    try:
        import langchain_openai  # noqa: F401
    except ImportError:
        raise missing_extra("langchain-openai", "llm", "asking a language model") from None
    known = os.environ.get("OPENAI_BASE_URL", "")
    # a stored session has the URL without its password
    url = known if not base_url or read_dsn(known).public == base_url else base_url
    key = os.environ.get("OPENAI_API_KEY", "")
    if not url and not key:
        raise ConfigError("no model can be asked: set OPENAI_API_KEY, or give an endpoint with --base-url")
    return url, key


def recorder(ledger: Ledger, role: str, finished: Callable[[], bool]) -> Any:
    """Return the middleware that counts, logs, replays, and ends an agent's loop once it has answered.

    Args:
        ledger: of the session.
        role: of the agent, for the log.
        finished: whether the answer is there.
    """
    from langchain.agents.middleware import AgentMiddleware, hook_config

    said = 0  # messages that are in the log already

    class Recorder(AgentMiddleware):  # type: ignore[misc, type-arg, unused-ignore]
        @hook_config(can_jump_to=["end"])
        def before_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
            """End the loop when the answer is there."""
            return {"jump_to": "end"} if finished() else None

        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            """Count and log a call, or replay it."""
            nonlocal said
            if len(request.messages) < said:  # asked anew
                said = 0
            asked = [{"role": m.type, "content": str(m.content)} for m in request.messages[said:]]
            if said == 0:
                asked.insert(0, {"role": "system", "content": str(getattr(request, "system_prompt", "") or "")})
            said = len(request.messages) + 1  # the reply will be the next one
            for attempt in range(CUTS + 1):
                ledger.check()
                if ledger.replayed is not None:
                    reply = ledger.next_reply(role)
                    ledger.add(role, asked, reply, 0.0)
                    return reply
                begun = time.perf_counter()
                try:
                    response = handler(request)
                    cut = _is_cut(request.model, response.result[0])
                    why = "the reply was cut off" if cut else ""
                except Exception as error:
                    cut, why = _is_broken(error), _said(error)
                seconds = time.perf_counter() - begun
                if not why:
                    ledger.add(role, asked, response.result[0], seconds)
                    return response
                ledger.failed(role, asked, why, seconds)
                asked = []
                if not cut or attempt == CUTS:
                    raise TunerError(f"{why}, {CUTS + 1} times" if cut else why)
            raise AssertionError("not reached")

    return Recorder()


CUTS = 2  # streamed replies that may break off, in a row
_BROKEN = ("APIConnectionError", "RemoteProtocolError", "ReadError", "ReadTimeout")  # in the middle of a stream


def _is_cut(model: Any, reply: Any) -> bool:
    """Whether a streamed reply ended without saying why it ends."""
    inner = getattr(model, "bound", model)
    return bool(getattr(inner, "streaming", False)) and not (reply.response_metadata or {}).get("finish_reason")


def _is_broken(error: Exception) -> bool:
    """Whether a connection broke, perhaps in the middle of a reply; timeouts were retried already."""
    kinds = {c.__name__ for c in type(error).__mro__}
    return bool(kinds & set(_BROKEN)) and "APITimeoutError" not in kinds


_STATUS = {
    400: "the endpoint does not accept the request", 401: "the endpoint does not accept the key",
    403: "the endpoint does not accept the key", 404: "the endpoint has no such model or path",
    429: "the endpoint refuses: too many requests, or no credit",
}  # fmt: skip
_KINDS = {
    "APITimeoutError": "the endpoint did not answer in time",
    "ReadTimeout": "the endpoint did not go on in time",
    "RemoteProtocolError": "the endpoint broke the connection",
    "ReadError": "the endpoint broke the connection",
    "APIConnectionError": "the endpoint cannot be reached, or broke the connection",
}


def _said(error: Exception) -> str:
    """Put a vendor's error into words, without what was sent."""
    kinds = [c.__name__ for c in type(error).__mro__]
    status = getattr(error, "status_code", None)
    words = next((_KINDS[k] for k in kinds if k in _KINDS), None) or _STATUS.get(status or 0)
    words = words or f"the model's reply cannot be used ({kinds[0]})"
    return f"{words}{f' (HTTP {status})' if status else ''}"
