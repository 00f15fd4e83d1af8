"""The commands ``tunewright simulate serving|spark|cluster|serverless``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunewright.cli.commands import Json, command, emit, out

simulate_app = typer.Typer(
    help="Simulate schedulers: requests on LLM servers, jobs on Spark, jobs on clusters, functions that start cold.",
    no_args_is_help=True,
)
_Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change a knob of the policy; repeatable.")
]
_Parameter = Annotated[
    list[str] | None,
    typer.Option("--option", "-O", metavar="NAME=VALUE", help="Parameter of generated work; repeatable."),
]
_Timeline = Annotated[
    Path | None,
    typer.Option(
        "--timeline", metavar="FILE", help="Write a page of who ran where and when, and a Chrome trace beside it."
    ),
]
_Check = Annotated[
    bool,
    typer.Option("--check", help="Also run a plain reference on the first part, with its rules checked, and compare."),
]
_Speed = Annotated[float, typer.Option("--speed", help="Arrivals are so many times as dense: the load.")]
_SeedOf = Annotated[int, typer.Option("--seed", min=0, help="Of generated work and of estimates' errors.")]


@simulate_app.command("serving")
def simulate_serving(
    trace: Annotated[str, typer.Option("--trace", "-t", metavar="TRACE", help="Azure's CSV, Mooncake's JSON lines, any CSV with columns arrival_s, input_tokens, output_tokens (and user); plain or gzip. Or synthetic:KIND (chat, bursts, summary, reasoning, mixed, tenants, prefixes, questions).")] = "synthetic:chat",
    model: Annotated[str, typer.Option("--model", "-m", metavar="NAME", help="A preset, or the path of a Hugging Face config.json.")] = "llama3-8b",
    cluster: Annotated[str, typer.Option("--cluster", "-c", metavar="KIND:GPUS", help="Such as h100:8.")] = "h100:1",
    policy: Annotated[str, typer.Option("--policy", "-p", help="vllm, fcfs, orca, static, sarathi, splitfuse, sjf, slo, vtc, fair, fair-vllm, conservative, past-future, batchllm, prefix, dualmap.")] = "vllm",
    chunk: Annotated[int, typer.Option("--chunk", help="Tokens of an iteration with chunked prompts; default: the policy's.")] = 0,
    setting: _Set = None,
    option: _Parameter = None,
    tp: Annotated[int, typer.Option("--tp", help="GPUs of an engine; the rest are replicas. Default: as few as fit.")] = 0,
    prefill_gpus: Annotated[int, typer.Option("--prefill-gpus", min=0, help="GPUs of workers that only prefill; 0: none.")] = 0,
    precision: Annotated[str, typer.Option("--precision", help="bf16, fp8, fp4 or int4.")] = "bf16",
    backend: Annotated[str, typer.Option("--backend", help="Whose step times: trtllm, sglang or vllm.")] = "vllm",
    speed: _Speed = 1.0,
    requests: Annotated[int, typer.Option("--requests", min=0, help="Only the first N requests.")] = 0,
    ttft: Annotated[float, typer.Option("--ttft", metavar="SECONDS", help="Limit on the time to the first token.")] = 2.0,
    tpot: Annotated[float, typer.Option("--tpot", metavar="SECONDS", help="Limit on the time of each further token.")] = 0.1,
    error: Annotated[float, typer.Option("--error", min=0.0, help="Standard deviation of the log of predicted over true output lengths.")] = 0.0,
    seed: _SeedOf = 0,
    check: _Check = False,
    timeline: _Timeline = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Serve requests to a language model under a scheduling policy: latencies, goodput, fairness, use of the cache."""
    module = command("simulate")
    settings = [*(setting or []), *([f"chunk={chunk}"] if chunk else [])]
    document = module.serving(
        trace, model=model, cluster=cluster, policy=policy, settings=settings, options=option or [], tp=tp,
        prefill_gpus=prefill_gpus, precision=precision, backend=backend, speed=speed, limit=requests, ttft_s=ttft, tpot_s=tpot,
        error=error, seed=seed, check=check, timeline=timeline,
    )  # fmt: skip
    emit(document) if as_json else module.show(out(), document)


@simulate_app.command("spark")
def simulate_spark(
    policy: Annotated[str, typer.Option("--policy", "-p", help="fifo, fair, fair-jobs, weighted, sjf, critical-path or uwfq.")] = "fifo",
    cores: Annotated[int, typer.Option("--cores", help="Cores that tasks run on.")] = 32,
    users: Annotated[int, typer.Option("--users", min=0, help="How many; default 20.")] = 0,
    jobs: Annotated[int, typer.Option("--jobs", min=0, help="How many; default 400.")] = 0,
    dags: Annotated[str, typer.Option("--dags", metavar="FILE", help="Measured jobs to draw from: tpch_dags.json, a workflow in WfFormat, or a folder of workflows.")] = "",
    option: _Parameter = None,
    partition: Annotated[bool, typer.Option("--partition", help="Cut stages into tasks of about a second (runtime partitioning).")] = False,
    partition_s: Annotated[float, typer.Option("--partition-s", metavar="SECONDS", help="The same, into tasks of about so long.")] = 0.0,
    estimates: Annotated[str, typer.Option("--estimates", help="Of jobs' work: perfect, noisy or learned.")] = "perfect",
    noise: Annotated[float, typer.Option("--noise", help="With noisy: standard deviation of the log of expected over true work.")] = 0.5,
    weight: Annotated[list[float] | None, typer.Option("--weight", help="Of user 0, 1, ...; repeatable.")] = None,
    overhead: Annotated[float | None, typer.Option("--overhead", metavar="SECONDS", help="Of starting a task; default 0.02.")] = None,
    seed: _SeedOf = 0,
    check: _Check = False,
    timeline: _Timeline = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Run jobs of many users on the cores of one Spark application: response times, slowdowns, fairness."""
    module = command("simulate")
    document = module.spark(
        policy=policy, cores=cores, users=users, jobs=jobs, dags=dags, options=option or [], partition=partition,
        partition_s=partition_s, estimates=estimates, noise=noise, weights=weight or [], overhead_s=overhead, seed=seed,
        check=check, timeline=timeline,
    )  # fmt: skip
    emit(document) if as_json else module.show(out(), document)


@simulate_app.command("cluster")
def simulate_cluster(
    trace: Annotated[str, typer.Option("--trace", "-t", metavar="TRACE", help="Standard Workload Format, Philly's or Alibaba's CSV, SURF's Parquet, any CSV with submit_s, run_s and gpus or cpus; or synthetic.")] = "synthetic",
    policy: Annotated[str, typer.Option("--policy", "-p", help="fifo, backfill, conservative, sjf, sjf-backfill, las, best-fit, fragmentation or balance.")] = "fifo",
    nodes: Annotated[str, typer.Option("--nodes", "-n", metavar="NODES", help="16x8 (16 nodes of 8 GPUs), cpu:1024 (a pool), a CSV of nodes; auto: as many as the jobs need at --load.")] = "auto",
    load: Annotated[float, typer.Option("--load", help="Work that arrives over what the cluster does, for auto and synthetic.")] = 0.9,
    setting: _Set = None,
    option: _Parameter = None,
    speed: _Speed = 1.0,
    jobs: Annotated[int, typer.Option("--jobs", min=0, help="Only the first N jobs.")] = 0,
    seed: _SeedOf = 0,
    check: _Check = False,
    timeline: _Timeline = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Run batch and GPU jobs on a cluster: waiting, response, slowdown, utilisation."""
    module = command("simulate")
    document = module.cluster(
        trace, policy=policy, nodes=nodes, load=load, settings=setting or [], options=option or [], speed=speed, limit=jobs,
        seed=seed, check=check, timeline=timeline,
    )  # fmt: skip
    emit(document) if as_json else module.show(out(), document)


@simulate_app.command("serverless")
def simulate_serverless(
    trace: Annotated[str, typer.Option("--trace", "-t", metavar="TRACE", help="Azure's invocations of 2021 (CSV), or synthetic.")] = "synthetic",
    policy: Annotated[str, typer.Option("--policy", "-p", help="none, fixed or histogram.")] = "fixed",
    keep: Annotated[float, typer.Option("--keep", metavar="SECONDS", help="How long an instance is kept without work.")] = 600.0,
    option: _Parameter = None,
    seed: _SeedOf = 0,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Run functions that start cold: share of cold starts against the memory of instances that stand by."""
    module = command("simulate")
    document = module.serverless(trace, policy=policy, keep_s=keep, options=option or [], seed=seed)
    emit(document) if as_json else module.show(out(), document)
