"""Step times of a running engine, measured from outside: only what its streams show, so that it works for any engine.

Tokens of all running sequences come at the end of an iteration, so the gaps of a stream are times of iterations. Steady
batches of several sizes and contexts give those of decoding, prompts alone those of prompts, and prompts that come
while others decode those of both at once. What a request costs beside iterations (HTTP, tokenising, queues between
processes) stands in all first tokens alike and is fitted apart.
"""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.envs.parallelism.steptime import Engine, iteration_s
from tunewright.envs.scheduling.serving.requests import Requests, requests_of
from tunewright.envs.scheduling.serving.simulate import Setup
from tunewright.envs.scheduling.vllm import client
from tunewright.errors import ConfigError, TargetError, missing_extra
from tunewright.store.files import read_json
from tunewright.store.outputs import write_text

BATCHES = (1, 2, 4, 8, 16, 32, 64)
CONTEXTS = (32, 256, 1024)
PROMPTS = (8, 32, 64, 128, 256, 512, 1024)
BESIDE = (1, 8, 24)  # sequences that decode while prompts come
_STEPS = 24  # tokens of each answer of a steady batch
_ASK_S = 10.0
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """What was measured of an engine.

    Attributes:
        engine: its step times; fields that only tell apart GPUs are those of one.
        request_s: of a request beside iterations, before its first token.
        blocks, block: of its cache, and tokens of each.
        most_seqs, most_tokens: of an iteration while it was measured.
        error: median of the relative errors of the fit.
        words: what was measured, in a line.
    """

    engine: Engine
    request_s: float
    blocks: int
    block: int
    error: float
    words: str

    def setup(self, *, blocks: int = 0, block: int = 0) -> Setup:
        """Return the system that the simulator sees: one replica.

        Args:
            blocks: of the cache; 0: as many tokens as were measured.
            block: tokens of each; 0: as measured.
        """
        size = block or self.block
        return Setup(
            engine=self.engine, replicas=1, blocks=blocks or self.blocks * self.block // size, words=self.words
        )


def read(path: Path) -> Calibrated:
    """Read what :func:`write` wrote.

    Raises:
        ConfigError: it is no such file.
    """
    try:
        data = read_json(path, "engine's step times")
        if data["version"] != _VERSION:
            raise ConfigError(f"{path} was written by another version; calibrate the engine again")
        names = set(Engine._fields)
        numbers = {name: float(value) for name, value in data["engine"].items()}
        if set(numbers) != names or not all(np.isfinite(v) and v >= 0 for v in numbers.values()):
            raise ValueError("its engine is not whole")
        rest = {name: kind(data[name]) for name, kind in _REST.items()}
        if rest["blocks"] < 1 or rest["block"] < 1 or rest["request_s"] < 0:
            raise ValueError("blocks and times must be above 0")
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ConfigError(
            f"{path} is no file of 'tunewright calibrate serving': {type(error).__name__}: {str(error)[:80]}"
        ) from None
    return Calibrated(engine=Engine(**numbers), **rest)


_REST: dict[str, Callable[[Any], Any]] = {
    "request_s": float, "blocks": int, "block": int, "error": float, "words": str,
}  # fmt: skip


def write(path: Path, calibrated: Calibrated) -> None:
    """Write step times as JSON.

    Raises:
        ConfigError: the file cannot be written.
    """
    data = {**asdict(calibrated), "engine": calibrated.engine._asdict(), "version": _VERSION}
    write_text(path, json.dumps(data, indent=2) + "\n")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One timed iteration.

    Attributes:
        decodes, context: sequences that decode, and the tokens that they look back at, all together.
        prompts, tokens, pairs: prompts, their tokens, and what those look back at.
        first: 1 where the time is one to a first token, with what a request costs.
        seconds: measured.
    """

    decodes: float = 0.0
    context: float = 0.0
    prompts: float = 0.0
    tokens: float = 0.0
    pairs: float = 0.0
    first: float = 0.0
    seconds: float


def measure(
    server: client.Server, *, rounds: int = 3, most_seqs: int = 64, most_tokens: int = 2048,
    progress: Callable[[str], None] = lambda words: None,
) -> list[Row]:  # fmt: skip
    """Time iterations of a running engine.

    Args:
        server: it; nothing else may load it meanwhile.
        rounds: how often each is timed; rows are their medians.
        most_seqs, most_tokens: of an iteration, as the engine was started.
        progress: is told what is measured.

    Raises:
        TargetError: requests failed.
    """
    longest = server.longest or 4096
    salt = 1000
    rows: list[Row] = []

    def served(prompts: Sequence[int], outputs: Sequence[int], at: Sequence[float] | None = None) -> client.Loaded:
        nonlocal salt
        salt += 2
        load = _requests(prompts, outputs, at)
        loaded = client.run(server, load, salt=salt)
        if wrong := next((s.error for s in loaded.sent if s.error), ""):
            raise TargetError(f"the engine failed while it was measured: {wrong}")
        return loaded

    served([64] * 2, [8] * 2)  # the first requests compile and fill
    for tokens in [p for p in PROMPTS if p <= min(most_tokens, longest - 2)]:
        progress(f"a prompt of {tokens} tokens")
        times = [served([tokens], [1]).sent[0].answer.at_s[0] for _ in range(rounds + 2)]
        rows.append(Row(prompts=1, tokens=tokens, pairs=tokens**2 / 2, first=1, seconds=float(np.median(times))))
    for batch in [b for b in BATCHES if b <= most_seqs]:
        for context in [c for c in CONTEXTS if c + 2 * _STEPS < longest and batch * c <= 16 * 1024]:
            progress(f"{batch} sequences of {context} tokens that decode")
            gaps = [g for _ in range(rounds) for g in _steady(served([context] * batch, [_STEPS + batch // 2] * batch))]
            if gaps:
                seen = context + (_STEPS + batch // 2) / 2
                rows.append(Row(decodes=batch, context=batch * seen, seconds=float(np.median(gaps))))
    for batch in [b for b in BESIDE if b < most_seqs]:
        for tokens in [p for p in PROMPTS[1:] if p <= min(most_tokens - batch, longest - 2)]:
            progress(f"a prompt of {tokens} tokens beside {batch} sequences that decode")
            rows += _beside(served, batch, tokens, rounds)
    return rows


def _requests(prompts: Sequence[int], outputs: Sequence[int], at: Sequence[float] | None) -> Requests:
    return requests_of("a calibration", at or [0.0] * len(prompts), list(prompts), list(outputs))


def _steady(loaded: client.Loaded) -> list[float]:
    """Return gaps while all sequences decode and no prompt is computed."""
    begin = max(s.answer.at_s[0] for s in loaded.sent)
    end = min(s.answer.at_s[-1] for s in loaded.sent)
    return [
        later - earlier
        for s in loaded.sent
        for earlier, later in zip(s.answer.at_s, s.answer.at_s[1:], strict=False)
        if earlier >= begin and later <= end
    ]


def _beside(served: Callable[..., client.Loaded], batch: int, tokens: int, rounds: int) -> Iterable[Row]:
    """Time iterations in which a prompt is computed beside sequences that decode."""
    context, count = 32, 3 * rounds
    alone = served([context] * batch, [40] * batch)
    step = float(np.median(_steady(alone) or [0.05]))
    apart = max(8 * step, 0.05)
    long = int(min((count + 2) * apart / step + 20, 2000))
    begin = max(s.answer.at_s[0] for s in alone.sent) + apart
    loaded = served(
        [context] * batch + [tokens] * count, [long] * batch + [1] * count,
        [0.0] * batch + [begin + n * apart for n in range(count)],
    )  # fmt: skip
    spikes = []
    others = [np.array(s.answer.at_s) for s in loaded.sent[:batch]]
    for prompt in loaded.sent[batch:]:
        first = prompt.answer.at_s[0]
        around = [_gap_that_ends(at, first) for at in others if at[0] < prompt.due_s and at[-1] > first]
        if len(around) == batch:
            spikes.append(float(np.median(around)))
    if spikes:
        seen = batch * (context + long / 2)
        yield Row(
            decodes=batch, context=seen, prompts=1, tokens=tokens, pairs=tokens**2 / 2, seconds=float(np.median(spikes))
        )


def _gap_that_ends(at: NDArray[np.float64], when: float) -> float:
    """Return the gap of a stream whose end is nearest to a moment."""
    place = int(np.argmin(np.abs(at[1:] - when)))
    return float(at[place + 1] - at[place])


def fit(rows: Sequence[Row]) -> tuple[Engine, float, float]:
    """Fit the step-time model to timed iterations: non-negative least squares of relative errors.

    Returns:
        The engine, what a request costs beside iterations (s), and the median of the relative errors.

    Raises:
        ConfigError: too few rows.
    """
    try:
        from scipy.optimize import nnls
    except ImportError:
        raise missing_extra("scipy", "serving", "fitting step times") from None
    if len(rows) < 8:
        raise ConfigError(f"{len(rows)} timed iterations are too few to fit step times; at least 8 are needed")
    table = np.array([[1.0, r.decodes, r.context, r.tokens, r.pairs, r.prompts, r.first] for r in rows])
    seconds = np.array([r.seconds for r in rows])
    found = nnls(table / seconds[:, None], np.ones(len(rows)))[0]
    fixed, each, looked, token, pair, part, request = (float(v) for v in found)
    engine = Engine(
        ranks=1.0, fixed_s=fixed, weights_s=0.0, experts_s=0.0, chance=1.0, token_s=0.0, rank_token_s=0.0,
        reduce_s=0.0, cache_s=looked, sequence_s=each, prefill_s=token, prefill_pair_s=pair, admit_s=0.0, part_s=part,
        both_s=0.0, most=1e9, bytes_per_gpu=0.0, cache_bytes=1.0,
    )  # fmt: skip
    return engine, request, float(np.median(np.abs(table @ found / seconds - 1)))


def predicted(engine: Engine, request_s: float, row: Row) -> float:
    """Return the time of an iteration as the fit has it, s."""
    its = iteration_s(engine, row.decodes, row.context, row.tokens, row.pairs)
    return float(its) + row.prompts * float(engine.part_s) + row.first * request_s


def cache_of(server: client.Server) -> tuple[int, int]:
    """Return blocks of the engine's cache and tokens of each, from its metrics.

    Raises:
        TargetError: they do not say.
    """
    try:
        with urllib.request.urlopen(f"{server.base}/metrics", timeout=_ASK_S) as answer:
            text = answer.read(1 << 24).decode(errors="replace")
    except (OSError, ValueError) as error:
        raise TargetError(f"{server.base}/metrics cannot be read: {error}") from None
    line = next((row for row in text.splitlines() if row.startswith("vllm:cache_config_info")), "")
    labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
    try:
        return int(labels["num_gpu_blocks"]), int(labels["block_size"])
    except (KeyError, ValueError):
        raise TargetError(
            f"{server.base}/metrics does not tell the size of the cache; give --blocks and --block"
        ) from None


def calibrate(
    server: client.Server, *, rounds: int, most_seqs: int, most_tokens: int, blocks: int = 0, block: int = 0,
    progress: Callable[[str], None] = lambda words: None,
) -> tuple[Calibrated, list[Row]]:  # fmt: skip
    """Measure and fit; see :func:`measure`."""
    server = client.known(server)
    if not (blocks and block):
        blocks, block = cache_of(server)
    rows = measure(server, rounds=rounds, most_seqs=most_seqs, most_tokens=most_tokens, progress=progress)
    engine, request_s, error = fit(rows)
    words = f"{Path(server.model).name} at {server.base}"
    found = Calibrated(
        engine=engine, request_s=request_s, blocks=blocks, block=block, error=error, words=words
    )  # fmt: skip
    return found, rows
