"""Real step times: forward passes of a small Llama with random weights, for the batches that a policy composes.

The plain scheduler (``reference``) asks for the time of each iteration; here the iteration is really computed, with
PyTorch and transformers, on CPU or GPU, and its wall time is the answer. Nothing is downloaded. ``calibrate`` fits the
step-time model to other batches, so that simulated and real latencies can be compared.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.envs.parallelism.steptime import Engine
from tunewright.envs.scheduling.serving.reference_parts import Plan, Replica, Request
from tunewright.envs.scheduling.serving.simulate import Setup
from tunewright.errors import ConfigError, missing_extra

BATCHES = (1, 1, 2, 2, 3, 4, 5, 6, 8, 10, 12)
CONTEXTS = (16, 64, 128, 256, 384)
CHUNKS = (8, 16, 32, 64, 96, 128, 192, 256)


class LlamaExecutor:
    """A small Llama with a cache of slots, one for each running request.

    Args:
        hidden, layers, heads, vocab: of the model; the feed-forward part is four times as wide.
        slots: requests that run at most.
        tokens: of a slot.
        device: ``cpu`` or ``cuda``.
        seed: of the weights.

    Raises:
        MissingExtraError: torch or transformers is not installed.
    """

    def __init__(
        self, *, hidden: int = 192, layers: int = 4, heads: int = 6, vocab: int = 2000, slots: int = 16,
        tokens: int = 1024, device: str = "cpu", seed: int = 0,
    ) -> None:  # fmt: skip
        try:
            import torch
            from transformers import LlamaConfig, LlamaForCausalLM
        except ImportError:
            raise missing_extra("transformers", "serving", "forward passes of a real model") from None
        if hidden % heads:
            raise ConfigError(f"hidden must be a multiple of heads, not {hidden} of {heads}")
        torch.manual_seed(seed)
        settings: dict[str, Any] = {"attn_implementation": "sdpa"}
        shape = LlamaConfig(
            hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers, num_attention_heads=heads,
            num_key_value_heads=heads, vocab_size=vocab, max_position_embeddings=tokens, **settings,
        )  # fmt: skip
        model: Any = LlamaForCausalLM(shape)
        self.torch, self.model = torch, model.to(device).eval()
        # transformers 5 renames the argument
        known = inspect.signature(self.model.forward).parameters
        self._cache = "cache" if "cache" in known else "past_key_values"
        self.device, self.vocab, self.slots, self.tokens = device, vocab, slots, tokens
        size = (layers, slots, heads, tokens, hidden // heads)
        self.keys, self.values = torch.zeros(size, device=device), torch.zeros(size, device=device)
        self.free = list(range(slots))
        self.slot_of: dict[int, int] = {}  # by number of the request
        self.rows: Any = None
        self.starts: Any = None
        self.width = 0

    # what LlamaModel asks of a cache

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Longest sequence of the forward pass at hand, before it."""
        return int(self.starts.max())

    def get_mask_sizes(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """Keys that are looked at, and where they begin; the mask is given, so this is only asked, not used."""
        return self.width, 0

    is_compileable = False
    is_sliding = (False,)

    def update(self, keys: Any, values: Any, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Write keys and values of a layer into the slots; returns all up to the longest, (rows, heads, width, dim)."""
        if keys.shape[2] == 1:
            self.keys[layer_idx, self.rows, :, self.starts] = keys[:, :, 0]
            self.values[layer_idx, self.rows, :, self.starts] = values[:, :, 0]
        else:
            start = int(self.starts[0])
            self.keys[layer_idx, self.rows, :, start : start + keys.shape[2]] = keys
            self.values[layer_idx, self.rows, :, start : start + keys.shape[2]] = values
        return self.keys[layer_idx, self.rows, :, : self.width], self.values[layer_idx, self.rows, :, : self.width]

    def forward(self, slots: Sequence[int], starts: Sequence[int], count: int) -> None:
        """Compute ``count`` tokens of each slot, which has ``starts`` tokens; many slots only with one token."""
        torch = self.torch
        self.rows = torch.tensor(slots, device=self.device)
        self.starts = torch.tensor(starts, device=self.device)
        self.width = max(starts) + count
        if self.width > self.tokens:
            raise ConfigError(f"a request has {self.width} tokens, and a slot {self.tokens}")
        places = self.starts[:, None] + torch.arange(count, device=self.device)[None]
        seen = torch.arange(self.width, device=self.device)[None, None] <= places[:, :, None]
        mask = torch.zeros(seen.shape, device=self.device).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]
        tokens = (places * 7919 + 13) % self.vocab
        with torch.inference_mode():
            self.model(
                input_ids=tokens, attention_mask=mask, position_ids=places, use_cache=True, logits_to_keep=1,
                **{self._cache: self},
            )  # fmt: skip
        if self.device != "cpu":
            torch.cuda.synchronize()

    # what the scheduler asks

    def _slot(self, request: Request) -> int:
        if request.number not in self.slot_of:
            self.slot_of[request.number] = self.free.pop()
        return self.slot_of[request.number]

    def step_s(self, replica: Replica, plan: Plan) -> float:
        """Compute an iteration; returns its wall time, s. The time of ``StepTime`` for the plain scheduler."""
        running = {request.number for request in replica.running}
        for number in [n for n in self.slot_of if n not in running]:
            self.free.append(self.slot_of.pop(number))
        begin = time.perf_counter()
        if plan.decodes:
            slots, starts = zip(*((self._slot(request), request.context) for request in plan.decodes), strict=True)
            self.forward(slots, starts, 1)
        for request, tokens in plan.prompts:
            self.forward([self._slot(request)], [request.done], tokens)
        return time.perf_counter() - begin

    def setup(self, engine: Engine) -> Setup:
        """Return the system that the simulator sees: one replica with as many blocks as the slots hold."""
        return Setup(
            engine=engine, replicas=1, blocks=self.slots * self.tokens // 16, words="a small Llama on this machine"
        )


def measure(executor: LlamaExecutor, rounds: int = 3, seed: int = 0, count: int = 120) -> NDArray[np.float64]:
    """Time ``count`` iterations of random composition, one after the other as in service, ``rounds`` times over.

    Returns:
        Shape (n, 6): sequences decoded, their context, prompts, prompt tokens, tokens that these look back at, seconds
        (the mean over rounds: latencies add up means).
    """
    rng = np.random.default_rng(seed)
    batches: list[tuple[list[int], list[tuple[int, int]]]] = []
    for number in range(count):
        decodes = min(int(rng.choice(BATCHES)), executor.slots - 2) if number % 3 != 1 else 0
        contexts = [int(rng.choice(CONTEXTS)) for _ in range(decodes)]
        parts = int(rng.integers(1, 3)) if number % 3 else 0
        batches.append((contexts, [(int(rng.choice(CHUNKS)), int(rng.choice((0, 0, 64, 128)))) for _ in range(parts)]))
    times = np.zeros((rounds, count))
    for round_number in range(rounds):
        for number, (contexts, prompts) in enumerate(batches):
            begin = time.perf_counter()
            if contexts:
                executor.forward(list(range(len(contexts))), contexts, 1)
            for nth, (tokens, done) in enumerate(prompts):
                executor.forward([executor.slots - 1 - nth], [done], tokens)
            times[round_number, number] = time.perf_counter() - begin
    rows = [
        (
            len(contexts),
            sum(contexts),
            len(prompts),
            sum(tokens for tokens, _ in prompts),
            sum(tokens * (done + 0.5 * tokens) for tokens, done in prompts),
        )
        for contexts, prompts in batches
    ]
    return np.column_stack([np.array(rows, float), times.mean(axis=0)])


def calibrate(rows: NDArray[np.float64]) -> Engine:
    """Fit the step-time model to timed iterations: non-negative least squares of relative errors.

    Args:
        rows: as ``measure`` returns them.
    """
    from scipy.optimize import nnls

    batch, context, prompts, tokens, pairs, seconds = rows.T
    both = (batch > 0) & (prompts > 0)  # decoding and each prompt are forward passes of their own
    parts = np.column_stack([np.ones(len(rows)), batch, context, tokens, pairs, prompts, both])
    found = nnls(parts / seconds[:, None], np.ones(len(rows)))[0]
    # squares of relative errors lean to the low side where times scatter; the sum of all times shall be right
    fixed, each, looked, prompt, pair, part, mixed = found * float(seconds.sum() / (parts @ found).sum())
    return Engine(
        ranks=1.0, fixed_s=float(fixed), weights_s=0.0, experts_s=0.0, chance=1.0, token_s=0.0, rank_token_s=0.0,
        reduce_s=0.0, cache_s=float(looked), sequence_s=float(each), prefill_s=float(prompt),
        prefill_pair_s=float(pair), admit_s=0.0, part_s=float(part), both_s=float(mixed),
        most=1e9, bytes_per_gpu=0.0, cache_bytes=1.0,
    )  # fmt: skip
