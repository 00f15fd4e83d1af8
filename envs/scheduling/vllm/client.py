"""A load on an OpenAI-compatible server: requests at their times, streamed, with honest times.

In an open loop a request counts from the moment when it was due, whether or not the client came to send it then, so
that a slow server cannot hide its queue behind a client that waits (coordinated omission). How late the client was and
how busy, is told beside the results.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tunewright.envs.scheduling.serving.requests import Requests
from tunewright.envs.scheduling.vllm import prompts
from tunewright.envs.scheduling.vllm.events import Answer, Events, StreamError, said
from tunewright.errors import TargetError, missing_extra

if TYPE_CHECKING:
    import aiohttp

_BODY_BYTES = 4096  # of an error that are read
_LEAD_S = 0.05  # between building all requests and the first of them
_ASK_S = 10.0  # for one question beside the load


@dataclass(frozen=True, kw_only=True)
class Server:
    """What is loaded.

    Attributes:
        url: of the server, such as ``http://127.0.0.1:8000``; with or without ``/v1``.
        model: name to ask for; "" for the first that it serves.
        api: completions take prompts as numbers of tokens, chat takes text.
        key: for servers that ask for one; never shown.
        vocabulary: tokens are drawn below it.
        exact: ask for exactly as many tokens as the load says (vLLM's and SGLang's ``ignore_eos``).
        timeout_s: of a request.
        longest: tokens of a prompt and its answer together at most; 0 where it is not known.
    """

    url: str
    model: str = ""
    longest: int = 0
    api: Literal["completions", "chat"] = "completions"
    key: str = field(default="", repr=False)
    vocabulary: int = 1000
    exact: bool = True
    timeout_s: float = 300.0

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    @property
    def base(self) -> str:
        """The URL without ``/v1``."""
        return self.url.rstrip("/").removesuffix("/v1")

    def body(self, prompt: Sequence[int], output: int) -> dict[str, Any]:
        """Return the body of a request."""
        asked = (
            {"prompt": list(prompt)}
            if self.api == "completions"
            else {"messages": [{"role": "user", "content": prompts.text(prompt)}]}
        )
        exact = {"ignore_eos": True, "min_tokens": output} if self.exact else {}
        return {
            "model": self.model, **asked, "max_tokens": output, "temperature": 0.0, "stream": True,
            "stream_options": {"include_usage": True}, **exact,
        }  # fmt: skip

    @property
    def path(self) -> str:
        """Where requests go."""
        return f"{self.base}/v1/{'chat/completions' if self.api == 'chat' else 'completions'}"


@dataclass(slots=True)
class Sent:
    """One request, sent; times in seconds since the load began.

    Attributes:
        due_s: when it should have been sent.
        sent_s: when it was.
        answer: what came.
        ended_s: when the stream ended.
        error: why it failed, "" where it did not.
        status: of HTTP; 0 where there was no answer.
    """

    due_s: float
    sent_s: float = 0.0
    answer: Answer = field(default_factory=Answer)
    ended_s: float = 0.0
    error: str = ""
    status: int = 0


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What came of a load.

    Attributes:
        sent: in the order of the requests.
        seconds: from the first that was due to the last end.
        cpu_share: of one core that the client used meanwhile.
    """

    sent: Sequence[Sent]
    seconds: float
    cpu_share: float


def run(
    server: Server, requests: Requests, *, clients: int = 0, warmup: int = 0, salt: int = 0
) -> Loaded:  # fmt: skip
    """Send requests and wait for their answers.

    Args:
        server: whom they go to.
        requests: when they are due, and their lengths.
        clients: who send their next request when they have the answer to the last (closed loop); 0: each request is
            sent when it is due (open loop).
        warmup: requests like the first ones that are sent before, and not counted.
        salt: of the prompts, see :func:`prompts.tokens`.

    Raises:
        MissingExtraError: the client's library is not installed.
        TargetError: no server answers.
    """
    _check_library()
    return asyncio.run(_run(server, requests, clients, warmup, salt))


def _check_library() -> None:
    try:
        import aiohttp  # noqa: F401
    except ImportError:
        raise missing_extra("aiohttp", "serving", "a load on a server") from None


async def _run(server: Server, requests: Requests, clients: int, warmup: int, salt: int) -> Loaded:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=server.timeout_s, sock_connect=_ASK_S)
    # more connections than the system lets a program open would fail the client, not the server
    _more_files(len(requests))
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60), timeout=timeout, headers=server.headers
    ) as session:
        if not server.model:
            server = await _known(session, server)
        bodies = _bodies(server, requests, salt)
        for body in _bodies(server, requests.first(warmup), salt + 1) if warmup else ():
            await _send(session, server, body, Sent(0.0), 0.0)
        due = requests.arrival_s.tolist() if not clients else [0.0] * len(bodies)
        sent = [Sent(due_s=d) for d in due]
        cpu = time.process_time()
        begin = time.perf_counter() + _LEAD_S
        if clients:
            await _closed(session, server, bodies, sent, begin, clients)
        else:
            await _open(session, server, bodies, sent, begin)
    seconds = max((s.ended_s for s in sent), default=0.0)
    return Loaded(
        sent=sent, seconds=seconds, cpu_share=(time.process_time() - cpu) / max(time.perf_counter() - begin, 1e-9)
    )


def _bodies(server: Server, requests: Requests, salt: int) -> list[bytes]:
    asked = zip(prompts.tokens(requests, server.vocabulary, salt), requests.output.tolist(), strict=True)
    return [json.dumps(server.body(prompt, output)).encode() for prompt, output in asked]


async def _open(
    session: aiohttp.ClientSession, server: Server, bodies: Sequence[bytes], sent: Sequence[Sent], begin: float
) -> None:
    tasks = []
    for body, each in zip(bodies, sent, strict=True):
        if (wait := begin + each.due_s - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(_send(session, server, body, each, begin)))
    await asyncio.gather(*tasks)


async def _closed(
    session: aiohttp.ClientSession, server: Server, bodies: Sequence[bytes], sent: Sequence[Sent], begin: float,
    clients: int,
) -> None:  # fmt: skip
    left = iter(zip(bodies, sent, strict=True))  # shared by the clients, who run in one thread

    async def client() -> None:
        for body, each in left:
            each.due_s = max(time.perf_counter() - begin, 0.0)
            await _send(session, server, body, each, begin)

    if (wait := begin - time.perf_counter()) > 0:
        await asyncio.sleep(wait)
    await asyncio.gather(*(client() for _ in range(min(clients, len(bodies)))))


async def _send(session: aiohttp.ClientSession, server: Server, body: bytes, each: Sent, begin: float) -> None:
    """Send a request and take its answer; what goes wrong is written down."""
    import aiohttp

    each.sent_s = time.perf_counter() - begin
    try:
        async with session.post(server.path, data=body, headers={"Content-Type": "application/json"}) as response:
            each.status = response.status
            if response.status != 200:
                each.error = f"HTTP {response.status}: {_sentence(await response.content.read(_BODY_BYTES))}"
            else:
                await _stream(response, each, begin)
    except StreamError as error:
        each.error = f"the stream broke: {error}"
    except TimeoutError:
        each.error = f"no answer within {server.timeout_s:g} s"
    except aiohttp.ClientError as error:
        each.error = f"the connection failed: {type(error).__name__}: {str(error)[:150]}".rstrip(": ")
    each.ended_s = time.perf_counter() - begin


async def _stream(response: aiohttp.ClientResponse, each: Sent, begin: float) -> None:
    events = Events()
    async for piece in response.content.iter_any():
        now = time.perf_counter() - begin
        for data in events.feed(piece):
            each.answer.take(data, now)
    if not each.answer.finished:
        raise StreamError(f"it ended after {len(each.answer.at_s)} parts without saying so")
    if not each.answer.at_s:
        raise StreamError("it ended without a token")


def _sentence(body: bytes) -> str:
    try:
        return said(json.loads(body))
    except (ValueError, RecursionError):
        return said(body.decode(errors="replace").strip() or "nothing")


def known(server: Server) -> Server:
    """Return a server with its model's name and longest request, as it tells them itself.

    Raises:
        MissingExtraError: the client's library is not installed.
        TargetError: no server answers.
    """
    _check_library()
    import aiohttp

    async def ask() -> Server:
        async with aiohttp.ClientSession(headers=server.headers) as session:
            return await _known(session, server)

    return asyncio.run(ask())


async def _known(session: aiohttp.ClientSession, server: Server) -> Server:
    import aiohttp

    try:
        async with session.get(f"{server.base}/v1/models", timeout=aiohttp.ClientTimeout(total=_ASK_S)) as response:
            status, body = response.status, await response.json(content_type=None)
        if status == 401:
            raise TargetError(f"{server.base} asks for a key: set OPENAI_API_KEY")
        models = {str(entry["id"]): entry for entry in body["data"]}
        name = server.model or next(iter(models))
        longest = models.get(name, {}).get("max_model_len")
    except (TimeoutError, aiohttp.ClientConnectionError, OSError):
        raise TargetError(f"no server answers at {server.base}") from None
    except (ValueError, LookupError, TypeError, AttributeError, StopIteration, aiohttp.ClientError):
        raise TargetError(
            f"{server.base}/v1/models names no model; is it an OpenAI-compatible server? Otherwise give --model"
        ) from None
    return replace(server, model=name, longest=longest if isinstance(longest, int) and longest > 0 else 0)


def _more_files(count: int) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 256
    if soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


def times(loaded: Loaded) -> dict[str, NDArray[Any]]:
    """Return the times of the requests that were answered whole, in arrays.

    Returns:
        ``due_s``, ``ttft_s`` (from when it was due), ``tpot_s`` (mean of each token after the first; nan for answers of
        one), ``response_s`` and ``tokens`` with one entry a request; ``itl_s``, gaps between parts, of all in a row.
    """
    whole = [s for s in loaded.sent if not s.error]
    due_s = np.array([s.due_s for s in whole], dtype=np.float64)
    first_s = np.array([s.answer.at_s[0] for s in whole], dtype=np.float64)
    last_s = np.array([s.answer.at_s[-1] for s in whole], dtype=np.float64)
    tokens = np.array([s.answer.tokens for s in whole], dtype=np.int64)
    return {
        "due_s": due_s, "ttft_s": first_s - due_s, "response_s": last_s - due_s, "tokens": tokens,
        "tpot_s": np.where(tokens > 1, (last_s - first_s) / np.maximum(tokens - 1, 1), np.nan),
        "itl_s": np.concatenate([np.diff(s.answer.at_s) for s in whole]) if whole else np.zeros(0),
    }  # fmt: skip
