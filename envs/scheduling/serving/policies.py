"""Knobs of a serving system, and the published policies as settings of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from tunewright.envs.scheduling import limits
from tunewright.errors import ConfigError, unknown

BATCHING = ("prefill-first", "mixed", "chunked", "static")
ORDER = ("fcfs", "sjf", "slo", "fair", "group")
ADMISSION = ("aggressive", "conservative", "past-future")
PREEMPTION = ("recompute", "swap")
ROUTING = ("round-robin", "least-loaded", "prefix", "two-hashes", "one-hash")


@dataclass(frozen=True, kw_only=True)
class Knobs:
    """How requests are scheduled.

    Attributes:
        batching: ``prefill-first``: whole prompts in iterations of their own, before decoding; ``mixed``: whole prompts
            beside decoding; ``chunked``: decoding first, then parts of prompts up to ``chunk`` tokens; ``static``: a
            batch runs to its end before the next begins.
        order: of the queue: ``fcfs``; ``sjf``, shortest expected service; ``slo``, shortest of those that can still
            meet the limit on the first token; ``fair``, the user with the fewest tokens so far; ``group``, requests
            that share a prefix together.
        admission: blocks that must be there: ``aggressive``, the prompt's; ``conservative``, the longest output's too;
            ``past-future``, those at the fullest moment, by the lengths of outputs so far.
        preemption: what happens to a sequence whose blocks are taken: computed again, or swapped to the host.
        swap_group: blocks that one copy moves; swap_async: other sequences go on meanwhile.
        quantum: tokens (``fair``) that a running request's user may be ahead of a waiting one's before it is preempted;
            above 0 also lets ``slo`` preempt. 0: running requests are preempted only for memory.
        max_seqs: sequences that run at most, on a replica.
        max_tokens: tokens of whole prompts of an iteration.
        chunk: tokens of an iteration when chunked, decoded ones included.
        max_output: longest output that conservative admission reserves for.
        reserve: share of the cache that past-future admission leaves free at the fullest moment ahead.
        caching: prompts' prefixes are kept and shared.
        routing: of a new request to a replica.
        guesses: tokens that a draft model guesses ahead; accept: share of them that is right.
        draft: time of guessing a token, over that of a decode step.
        kv_share: of a GPU's memory for weights and cache.
        block: tokens of a block.
        answers: answers that are kept for questions asked again; 0 none.
        answer_ttl_s: how long; answer_fresh_s: how long in the first category, whose answers change; equal to
            ``answer_ttl_s`` where negative.
    """

    batching: str = "prefill-first"
    order: str = "fcfs"
    admission: str = "aggressive"
    preemption: str = "recompute"
    swap_group: int = 1
    swap_async: bool = False
    quantum: int = 0
    max_seqs: int = 256
    max_tokens: int = 8192
    chunk: int = 512
    max_output: int = 2048
    reserve: float = 0.05
    caching: bool = False
    routing: str = "least-loaded"
    guesses: int = 0
    accept: float = 0.7
    draft: float = 0.1
    kv_share: float = 0.9
    block: int = 16
    answers: int = 0
    answer_ttl_s: float = 3600.0
    answer_fresh_s: float = -1.0


#: policies by name: what each says in a sentence, and its settings
POLICIES: dict[str, tuple[str, dict[str, Any]]] = {
    "vllm": (
        "vLLM's first default: whole prompts before decoding, first come first served, paged memory (SOSP 2023)",
        {},
    ),
    "fcfs": (
        "first come first served with chunked prompts, as engines do by default today",
        {"batching": "chunked", "chunk": 2048},
    ),
    "static": (
        "a batch runs to its end before the next begins (FasterTransformer)",
        {"batching": "static", "admission": "conservative"},
    ),
    "orca": (
        "whole prompts beside decoding, memory for the longest output reserved (OSDI 2022)",
        {"batching": "mixed", "admission": "conservative"},
    ),
    "sarathi": ("stall-free: decoding first, prompts in chunks (Sarathi-Serve, OSDI 2024)", {"batching": "chunked"}),
    "splitfuse": (
        "iterations of equal size from chunks and whole short prompts (DeepSpeed-FastGen, arXiv 2401.08671)",
        {"batching": "chunked", "chunk": 2048},
    ),
    "sjf": ("shortest expected service first", {"batching": "chunked", "order": "sjf"}),
    "slo": (
        "goodput first, with expected lengths, after JITServe (arXiv 2504.20068)",
        {"batching": "chunked", "order": "slo", "quantum": 1},
    ),
    "vtc": (
        "virtual-token fairness among users, without preemption (arXiv 2401.00588)",
        {"batching": "chunked", "order": "fair"},
    ),
    "fair": (
        "virtual-token fairness with preemption and cheap context switches, after FastSwitch (arXiv 2411.18424)",
        {
            "batching": "chunked", "order": "fair", "quantum": 2048, "preemption": "swap", "swap_group": 32,
            "swap_async": True,
        },
    ),
    "fair-vllm": (
        "the same with vLLM's swapping: block by block, while all wait",
        {"batching": "chunked", "order": "fair", "quantum": 2048, "preemption": "swap"},
    ),
    "conservative": (
        "chunked prompts, memory for the longest output reserved",
        {"batching": "chunked", "admission": "conservative"},
    ),
    "past-future": (
        "chunked prompts, admission by the fullest moment ahead (LightLLM, ASPLOS 2025)",
        {"batching": "chunked", "admission": "past-future"},
    ),
    "batchllm": (
        "requests that share a prefix are served together, prefixes kept (arXiv 2412.03594)",
        {"batching": "chunked", "chunk": 2048, "order": "group", "caching": True},
    ),
    "prefix": (
        "chunked prompts, prefixes kept, routing to them",
        {"batching": "chunked", "caching": True, "routing": "prefix"},
    ),
    "dualmap": (
        "prefixes kept; the better of two hashes of the prompt's beginning (DualMap, arXiv 2602.06502)",
        {"batching": "chunked", "caching": True, "routing": "two-hashes"},
    ),
}  # fmt: skip


def policy(name: str, **changes: Any) -> Knobs:
    """Return the knobs of a policy, some of them changed.

    >>> policy("sarathi", chunk=1024).chunk
    1024

    Raises:
        UnknownNameError: there is no such policy or knob.
        ConfigError: a value is out of range.
    """
    if name not in POLICIES:
        raise unknown("serving policy", name, POLICIES)
    known = {field.name for field in fields(Knobs)}
    for key in changes:
        if key not in known:
            raise unknown("serving knob", key, known)
    knobs = replace(Knobs(**POLICIES[name][1]), **changes)
    wrong = problems(knobs)
    if wrong:
        raise ConfigError("; ".join(wrong))
    return knobs


def problems(knobs: Knobs) -> list[str]:
    """Say what of the knobs is out of range; empty where all is well."""
    found = []
    choices = {
        "batching": BATCHING, "order": ORDER, "admission": ADMISSION, "preemption": PREEMPTION, "routing": ROUTING,
    }  # fmt: skip
    for name, legal in choices.items():
        if getattr(knobs, name) not in legal:
            found.append(f"{name} is one of {', '.join(legal)}, not {getattr(knobs, name)!r}")
    found += [
        words
        for field in fields(knobs)
        if field.name in limits.RANGES and (words := limits.problem(field.name, getattr(knobs, field.name)))
    ]
    if found:
        return found
    if knobs.max_seqs > 4096:
        found.append(f"max_seqs is at most 4096, not {knobs.max_seqs}")
    if 512 % knobs.block:
        found.append(f"block must divide 512, not {knobs.block}")
    if not 0.1 <= knobs.kv_share <= 1:
        found.append(f"kv_share must be 0.1 to 1, not {knobs.kv_share}")
    if not 0 <= knobs.reserve < 1:
        found.append(f"reserve must be at least 0 and below 1, not {knobs.reserve}")
    if knobs.guesses > 16:
        found.append(f"guesses must be 0 to 16, not {knobs.guesses}")
    if not 0 <= knobs.accept <= 1:
        found.append(f"accept must be 0 to 1, not {knobs.accept}")
    return found


def settings(text: Mapping[str, str]) -> dict[str, Any]:
    """Return knobs from texts, such as those of ``--set chunk=1024``.

    Raises:
        UnknownNameError: there is no such knob.
        ConfigError: a text is no value of it.
    """
    found: dict[str, Any] = {}
    defaults = Knobs()
    for name, value in text.items():
        known = getattr(defaults, name, None)
        if known is None:
            raise unknown("serving knob", name, [field.name for field in fields(Knobs)])
        try:
            if isinstance(known, bool):
                found[name] = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}[
                    str(value).lower()
                ]
            else:
                found[name] = type(known)(value)
        except (ValueError, KeyError):
            raise ConfigError(f"{name} cannot be {value!r}; its default is {known!r}") from None
    return found
