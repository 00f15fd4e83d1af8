"""Jobs to plan for: drawn models on clusters that some plan fits, and published ones to test on."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tunewright.envs.parallelism import calibration, clusters, models, search
from tunewright.envs.parallelism.models import Model
from tunewright.envs.parallelism.serving import Load, Service
from tunewright.envs.parallelism.serving_load import RESULTS, capacity, meets
from tunewright.envs.parallelism.serving_search import baselines, rank
from tunewright.envs.parallelism.serving_search import search as search_serving
from tunewright.envs.parallelism.training import Job

HELD_OUT = (
    "llama2-7b",
    "llama2-70b",
    "llama3-8b",
    "llama3-70b",
    "llama3-405b",
    "qwen3-8b",
    "qwen3-32b",
    "qwen3-30b-a3b",
    "mixtral-8x7b",
    "bloom-176b",
    "gpt3-13b",
    "gpt3-175b",
)


KINDS = ["a100", "h100", "h200", "b200"]


def draw_model(rng: np.random.Generator) -> Model:
    """Draw a model: dense or with experts, 0.3 to 500 billion weights, none of the presets."""
    heads = int(rng.choice([16, 32, 48, 64, 96, 128]))
    head = int(rng.choice([64, 128]))
    hidden = heads * head
    layers = int(rng.choice([16, 24, 32, 40, 48, 64, 80, 96]))
    grouped = rng.random() < 0.7
    experts = int(rng.choice([8, 16, 64, 128])) if rng.random() < 0.25 else 0
    ffn = hidden * (4 if not grouped else 3)
    return Model(
        name="drawn",
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=8 if grouped else heads,
        qk_dim=head,
        v_dim=head,
        ffn=ffn,
        gated=grouped,
        vocab=int(rng.choice([32000, 51200, 128256])),
        experts=experts,
        top_k=0 if not experts else 2 if experts <= 16 else 8,
        expert_ffn=(ffn if experts <= 16 else ffn // 4) if experts else 0,
    )


@dataclass(frozen=True)
class Case:
    """A job with the best that is known of it: the shortest time of an iteration [s], or the fewest GPUs."""

    job: Any
    best: float


@dataclass(frozen=True)
class ServingJob:
    """A model on a cluster, and the load that it is to serve."""

    service: Service
    load: Load


def _train_job(model: Model, kind: str, gpus: int, seq: int, per_gpu: int) -> Job:
    nodes = clusters.load(f"{kind}:{gpus}").nodes
    return Job(
        model=model, nodes=nodes, seq=seq, global_batch=gpus * per_gpu, calibration=calibration.of_nodes(kind)[1]
    )


def _train_cases(jobs: Iterator[Job], most: int) -> tuple[Case, ...]:
    cases: list[Case] = []
    for job in jobs:
        if len(cases) == most:
            break
        result = search.search(job)
        if result.feasible:
            cases.append(Case(job, float(result.values[0, search.TIME])))
    return tuple(cases)


@functools.lru_cache(maxsize=8)
def train_pool(count: int, seed: int) -> tuple[Case, ...]:
    """Return drawn jobs that some plan fits, with the best time of each."""
    rng = np.random.default_rng(seed)

    def jobs() -> Iterator[Job]:
        while True:
            kind, gpus = str(rng.choice(KINDS)), int(2 ** rng.integers(3, 11))
            model = draw_model(rng)
            seq, per_gpu = int(rng.choice([2048, 4096, 8192])), int(rng.choice([2, 4, 8, 16]))
            yield _train_job(model, kind, gpus, seq, per_gpu)

    return _train_cases(jobs(), count)


@functools.lru_cache(maxsize=1)
def held_out_train() -> tuple[Case, ...]:
    """Return jobs with published models, none of which is drawn for training."""
    jobs = [
        _train_job(models.load(name), kind, gpus, seq, 8)
        for name in HELD_OUT
        for kind, gpus, seq in (("a100", 64, 2048), ("h100", 128, 4096), ("h200", 512, 8192), ("b200", 32, 4096))
    ]
    return _train_cases(iter(jobs), len(jobs))


def _serve_case(model: Model, kind: str, gpus: int, rng: np.random.Generator) -> Case | None:
    """Return a load that some plan carries, drawn relative to what the plan of a common rule carries."""
    service = Service(model=model, nodes=clusters.load(f"{kind}:{gpus}").nodes)
    isl, osl = int(rng.choice([500, 1000, 3000, 8000])), int(rng.choice([100, 300, 1000]))
    ttft_s, tpot_s = float(rng.choice([0.5, 1.0, 3.0])), float(rng.choice([0.03, 0.05, 0.1]))
    load = Load(rate=1.0, isl=isl, osl=osl, ttft_s=ttft_s, tpot_s=tpot_s)
    plan = baselines(service, load, "bf16")["tensor"]
    most = capacity(service, load, plan) if plan is not None else 0.0
    if most <= 0:
        return None
    load = replace(load, rate=most * float(rng.uniform(0.2, 0.9)))
    served = search_serving(service, load, wanted=("bf16", "fp8"))
    first = rank(served, load)[0]
    if not meets(served.values[first], load):
        return None
    return Case(ServingJob(service, load), float(served.values[first, RESULTS.index("gpus")]))


@functools.lru_cache(maxsize=8)
def serve_pool(count: int, seed: int) -> tuple[Case, ...]:
    """Return drawn models, clusters and loads that some plan carries, with the fewest GPUs for each."""
    rng = np.random.default_rng(seed)
    cases: list[Case] = []
    while len(cases) < count:
        model, kind = draw_model(rng), str(rng.choice(KINDS))
        case = _serve_case(model, kind, int(rng.choice([8, 16, 32, 64])), rng)
        if case:
            cases.append(case)
    return tuple(cases)


@functools.lru_cache(maxsize=1)
def held_out_serve() -> tuple[Case, ...]:
    """Return loads on published models, none of which is drawn for training."""
    rng = np.random.default_rng(12345)
    cases = [
        _serve_case(models.load(name), kind, gpus, rng)
        for name in HELD_OUT
        for kind, gpus in (("a100", 16), ("h100", 32), ("h200", 16), ("b200", 8))
    ]
    return tuple(case for case in cases if case)
