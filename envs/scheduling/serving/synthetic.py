"""Generated requests to a language model, every parameter stated.

Gaps between arrivals are Gamma distributed, as BurstGPT found them (arXiv 2401.17644): ``cv`` is their coefficient of
variation, 1 a Poisson process. Lengths are log-normal. Users and shared prefixes are Zipf distributed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tunewright.envs.scheduling.generated import lognormal, numbers, zipf
from tunewright.envs.scheduling.serving.requests import CHUNK_TOKENS, Requests, requests_of
from tunewright.errors import ConfigError, unknown
from tunewright.store.files import check_size

_CHUNK_BYTES = 80  # of memory for a block of a prefix

DEFAULTS: dict[str, float] = {
    "requests": 4000,
    "rate": 8.0,  # 1/s
    "cv": 1.0,  # of the gaps
    "prompt": 1000.0,  # mean tokens
    "prompt_cv": 1.0,
    "output": 250.0,
    "output_cv": 1.0,
    "long_share": 0.0,  # of requests with prompts ``long_factor`` times as long
    "long_factor": 8.0,
    "users": 1,
    "user_skew": 1.0,  # of the users' shares, Zipf
    "groups": 0,  # prefixes that requests share; 0 none
    "group_skew": 0.8,
    "prefix": 2048.0,  # tokens of a shared prefix
    "questions": 0,  # different questions that are asked again; 0 none
    "question_skew": 0.9,
    "categories": 1,
    "change_s": 0.0,  # mean time until the right answer of a question of the first category changes; 0 never
}
KINDS: dict[str, tuple[str, dict[str, float]]] = {
    "chat": ("short prompts, short answers, many users", {"users": 50}),
    "bursts": ("the same in bursts: the gaps vary by three times their mean", {"cv": 3.0, "users": 50}),
    "summary": ("long prompts, short answers", {"prompt": 6000.0, "output": 200.0, "rate": 2.0, "users": 20}),
    "reasoning": ("short prompts, long answers", {"prompt": 500.0, "output": 3000.0, "rate": 1.5, "users": 20}),
    "mixed": (
        "one prompt in ten is eight times as long, so that short requests wait behind it",
        {"prompt": 800.0, "long_share": 0.1, "output_cv": 1.5, "users": 50},
    ),
    "tenants": ("few heavy users and many light ones", {"users": 30, "user_skew": 1.6, "output_cv": 1.5, "cv": 2.0}),
    "prefixes": (
        "requests share long prefixes (system prompts, documents)",
        {"prompt": 400.0, "groups": 64, "prefix": 4096.0, "users": 50},
    ),
    "questions": (
        "questions that are asked again, in four categories; answers of the first grow old",
        {"questions": 800, "categories": 4, "change_s": 120.0, "users": 50},
    ),
}


def parameters_of(kind: str, options: Mapping[str, Any]) -> dict[str, float]:
    """Return all parameters of a kind, the given ones put in.

    Raises:
        UnknownNameError: there is no such kind or parameter.
        ConfigError: a value is no number in its range.
    """
    if kind not in KINDS:
        raise unknown("kind of synthetic requests", kind, KINDS)
    found = numbers(
        "synthetic requests", {**DEFAULTS, **KINDS[kind][1]}, options,
        positive=("requests", "rate", "cv", "prompt", "output", "users", "categories", "long_factor"),
        whole=("requests", "users", "categories", "groups", "questions"),
    )  # fmt: skip
    if found["long_share"] > 1:
        raise ConfigError(f"long_share is a share, 0 to 1, not {found['long_share']:g}")
    if not 1 <= found["requests"] <= 5_000_000:
        raise ConfigError(f"requests must be 1 to 5,000,000, not {found['requests']:g}")
    return found


def generate(kind: str, options: Mapping[str, Any], seed: int) -> Requests:
    """Generate requests; the same seed gives the same ones.

    Raises:
        ConfigError: see ``parameters_of``.
    """
    params = parameters_of(kind, options)
    rng = np.random.default_rng([seed, 2401])
    count, shape = int(params["requests"]), 1.0 / params["cv"] ** 2
    arrival = np.cumsum(rng.gamma(shape, 1.0 / (params["rate"] * shape), count))
    prompt = lognormal(rng, params["prompt"], params["prompt_cv"], count)
    if params["long_share"]:
        prompt = np.where(rng.random(count) < params["long_share"], prompt * params["long_factor"], prompt)
    output = lognormal(rng, params["output"], params["output_cv"], count)
    user = zipf(rng, int(params["users"]), params["user_skew"], count)
    chunks = None
    if params["groups"]:
        length = max(round(params["prefix"] / CHUNK_TOKENS), 1)
        check_size(f"{count:,} requests with prefixes of {length:,} blocks", count * length, _CHUNK_BYTES)
        group = zipf(rng, int(params["groups"]), params["group_skew"], count)
        chunks = [[int(group_number) * length + nth for nth in range(length)] for group_number in group]
        prompt = prompt + length * CHUNK_TOKENS
    question = category = version = None
    if params["questions"]:
        question = zipf(rng, int(params["questions"]), params["question_skew"], count)
        category = question % int(params["categories"])
        changes = params["change_s"]
        shift = rng.random(int(params["questions"]))
        version = np.floor(arrival / changes + shift[question]) if changes else np.zeros(count)
        version = np.where(category == 0, version, 0)
    return requests_of(
        f"synthetic:{kind}", arrival, np.maximum(prompt.round(), 1), np.maximum(output.round(), 1), user=user,
        chunks=chunks, question=question, category=category, version=version, parameters={**params, "seed": seed},
    )  # fmt: skip
