"""The commands ``tunewright simulate``: LLM servers, Spark, clusters, functions that start cold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from tunewright.cli.options import Json, command
from tunewright.envs.scheduling import names

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    help="Simulate schedulers: requests on LLM servers, jobs on Spark, jobs on clusters, functions that start cold.",
    no_args_is_help=True,
)
Setting = Annotated[list[str] | None, Option(
    "--set", metavar="NAME=VALUE", help="Change a knob of the policy; repeatable."
)]  # fmt: skip
Parameter = Annotated[list[str] | None, Option(
    "--option", "-O", metavar="NAME=VALUE", help="Parameter of generated work; repeatable."
)]  # fmt: skip
Timeline = Annotated[Path | None, Option(
    "--timeline", metavar="FILE", help="Write a page of who ran where and when, and a Chrome trace beside it."
)]  # fmt: skip
Check = Annotated[bool, Option(
    "--check", help="Also run a plain reference on the first part, with its rules checked, and compare."
)]  # fmt: skip
Speed = Annotated[float, Option("--speed", help="Arrivals are so many times as dense: the load.")]
Seed = Annotated[int, Option("--seed", min=0, help="Of generated work and of estimates' errors.")]

LOGGED = 20_000  # pieces of work that a timeline shows at most
_CORE_BYTES = 64  # of memory for a core that is simulated
_SWITCHES = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}


def texts_of(pairs: Sequence[str] | None, what: str) -> dict[str, str]:
    """Return ``NAME=VALUE`` settings.

    Raises:
        ConfigError: one has no ``=``.
    """
    from tunewright.errors import ConfigError

    texts = {}
    for item in pairs or ():
        name, equals, value = item.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"{what} takes NAME=VALUE, not {item!r}")
        texts[name.strip()] = value.strip()
    return texts


def _show(screen: Console, document: Mapping[str, Any]) -> None:
    from rich.text import Text

    from tunewright.cli.terminal import table

    policy, metrics = document["policy"], document["metrics"]
    screen.print(Text(f"{policy}: {document['about']}" if "about" in document else policy, style="bold"))
    things = ("requests", "jobs", "tasks", "users", "rejected")
    counted = [f"{document[thing]:,} {thing}" for thing in things if isinstance(document.get(thing), int)]
    cores = f"{document['cores']} cores" if "cores" in document else ""
    told = [document.get("trace"), *counted, document.get("system") or document.get("nodes") or cores]
    screen.print(Text(" · ".join(words for words in told if words), style="dim"))
    if document.get("stable") is False:
        screen.print(Text(document["unstable_because"], style="bold red"))
    spreads = {name: values for name, values in metrics.items() if isinstance(values, dict)}
    columns = list(dict.fromkeys(column for values in spreads.values() for column in values))
    rows = table("", *columns, numbers=columns)
    for name, values in spreads.items():
        cells = ("" if values.get(column) is None else f"{values[column]:,.4g}" for column in columns)
        rows.add_row(Text(_label(name)), *cells)
    screen.print(rows)
    rows = table()
    rows.add_column()
    rows.add_column(justify="right")
    for name, value in metrics.items():
        if not isinstance(value, dict):
            words = "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
            rows.add_row(Text(_label(name)), words)
    screen.print(rows)
    for note in document.get("notes", ()):
        screen.print(Text(note, style="yellow"))
    if "check" in document:
        screen.print(Text(f"checked: {document['check']}", style="green"))
    for file in document.get("files", ()):
        screen.print(Text(f"written: {file}", style="cyan"))
    for name, value in document.items():
        if name.endswith("_per_s_simulated"):
            screen.print(Text(f"simulated {value:,.0f} {name.split('_per')[0]} a second", style="dim"))
            break


def _label(name: str) -> str:
    for end, unit in (("_tokens_per_s", "tokens/s"), ("_requests_per_s", "requests/s"), ("_gb_s", "GB s"), ("_s", "s")):
        if name.endswith(end):
            return f"{name.removesuffix(end).replace('_', ' ')} [{unit}]"
    return name.replace("_", " ")


@command(app, "serving", _show)
def serving(
    trace: Annotated[str, Option(
        "--trace", "-t", metavar="TRACE", help="Azure's CSV, Mooncake's JSON lines, any CSV with columns arrival_s, "
        "input_tokens, output_tokens (and user); plain or gzip. Or synthetic:KIND (chat, bursts, summary, reasoning, "
        "mixed, tenants, prefixes, questions).")] = "synthetic:chat",
    model: Annotated[str, Option(
        "--model", "-m", metavar="NAME", help="A preset, or the path of a Hugging Face config.json.")] = "llama3-8b",
    cluster: Annotated[str, Option("--cluster", "-c", metavar="KIND:GPUS", help="Such as h100:8.")] = "h100:1",
    policy: Annotated[str, Option("--policy", "-p", help=names.said(names.SERVING))] = "vllm",
    chunk: Annotated[int, Option(
        "--chunk", help="Tokens of an iteration with chunked prompts; default: the policy's.")] = 0,
    settings: Setting = None,
    options: Parameter = None,
    tp: Annotated[int, Option(
        "--tp", help="GPUs of an engine; the rest are replicas. Default: as few as fit.")] = 0,
    prefill_gpus: Annotated[int, Option(
        "--prefill-gpus", min=0, help="GPUs of workers that only prefill; 0: none.")] = 0,
    precision: Annotated[str, Option("--precision", help="bf16, fp8, fp4 or int4.")] = "bf16",
    backend: Annotated[str, Option("--backend", help="Whose step times: trtllm, sglang or vllm.")] = "vllm",
    engine: Annotated[Path | None, Option(
        "--engine", metavar="FILE", help="Step times of an engine that 'tunewright calibrate serving' measured, in the "
        "place of --model, --cluster, --tp, --precision and --backend.")] = None,
    speed: Speed = 1.0,
    limit: Annotated[int, Option("--requests", min=0, help="Only the first N requests.")] = 0,
    ttft_s: Annotated[float, Option(
        "--ttft", metavar="SECONDS", help="Limit on the time to the first token.")] = 2.0,
    tpot_s: Annotated[float, Option(
        "--tpot", metavar="SECONDS", help="Limit on the time of each further token.")] = 0.1,
    error: Annotated[float, Option(
        "--error", min=0.0,
        help="Standard deviation of the log of predicted over true output lengths.")] = 0.0,
    seed: Seed = 0,
    check: Check = False,
    timeline: Timeline = None,
    as_json: Json = False,
) -> dict[str, Any]:  # fmt: skip
    """Serve requests to a language model under a scheduling policy: latencies, goodput, fairness, use of the cache."""
    from tunewright.envs.parallelism import clusters, models
    from tunewright.envs.parallelism.serving import Service
    from tunewright.envs.parallelism.steptime import stack_of
    from tunewright.envs.scheduling import limits
    from tunewright.envs.scheduling.inspection import bars_of_serving, check_serving
    from tunewright.envs.scheduling.serving import policies
    from tunewright.envs.scheduling.serving import simulate as simulator
    from tunewright.envs.scheduling.serving.state import REJECTED
    from tunewright.envs.scheduling.serving.trace import load
    from tunewright.envs.scheduling.vllm import calibrate
    from tunewright.report.timeline import check_outputs, write
    from tunewright.store.files import finite

    limits.check(
        "--", speed=speed, requests=limit, ttft=ttft_s, tpot=tpot_s, error=error, tp=tp, prefill_gpus=prefill_gpus,
        seed=seed,
    )  # fmt: skip
    changes = [*(settings or []), *([f"chunk={chunk}"] if chunk else [])]
    knobs = policies.policy(policy, **policies.settings(texts_of(changes, "--set")))
    requests = load(trace, texts_of(options, "--option"), seed).faster(speed)
    if limit:
        requests = requests.first(limit)
    if engine is not None:
        system = calibrate.read(engine).setup(block=knobs.block)
    else:
        service = Service(model=models.load(model), nodes=clusters.load(cluster).nodes, backend=backend)
        stack_of(backend, service.nodes.kind)  # an unknown backend
        plan = simulator.default_plan(service, tp=tp, precision=precision, prefill_gpus=prefill_gpus)
        system = simulator.setup(service, plan, knobs)
    asked = {"ttft_s": ttft_s, "tpot_s": tpot_s, "error": error, "seed": seed}
    if timeline:
        check_outputs(timeline)
    log = LOGGED if timeline else 0
    simulator.simulate(requests.first(1), system, knobs, **asked)  # type: ignore[arg-type]  # compiled, so not timed
    outcome = simulator.simulate(requests, system, knobs, log=log, **asked)  # type: ignore[arg-type]
    stable, words = simulator.stability(outcome)
    rejected = int((outcome.systems.requests[0]["phase"] == REJECTED).sum())
    document: dict[str, Any] = {
        "policy": policy, "about": policies.POLICIES[policy][0], "trace": requests.source, "requests": len(requests),
        "rejected": rejected, "stable": stable, "unstable_because": words, "metrics": simulator.metrics(outcome),
        "requests_per_s": (len(requests) - 1) / requests.duration_s if requests.duration_s > 0 else None,
        "limits": {"ttft_s": ttft_s, "tpot_s": tpot_s}, "system": system.words, "gpus": system.gpus,
        "knobs": vars(knobs), "parameters": dict(requests.parameters), "notes": list(requests.notes),
        "requests_per_s_simulated": len(requests) / max(outcome.seconds, 1e-9),
    }  # fmt: skip
    if rejected:
        document["notes"].append(f"{rejected} requests need more cache than a replica has, and were refused")
    if check:
        document["check"] = check_serving(requests, system, knobs, asked)
    if timeline:
        title = f"{requests.source}, policy {policy}"
        document["files"] = write(timeline, title, bars_of_serving(outcome), system.words)
    return finite(document)  # type: ignore[no-any-return]


@command(app, "spark", _show)
def spark(
    policy: Annotated[str, Option("--policy", "-p", help=names.said(names.SPARK))] = "fifo",
    cores: Annotated[int, Option("--cores", help="Cores that tasks run on.")] = 32,
    users: Annotated[int, Option("--users", min=0, help="How many; default 20.")] = 0,
    jobs: Annotated[int, Option("--jobs", min=0, help="How many; default 400.")] = 0,
    dags: Annotated[str, Option(
        "--dags", metavar="FILE", help="Measured jobs to draw from: tpch_dags.json, a workflow in WfFormat, or a "
        "folder of workflows.")] = "",
    options: Parameter = None,
    partition: Annotated[bool, Option(
        "--partition", help="Cut stages into tasks of about a second (runtime partitioning).")] = False,
    partition_s: Annotated[float, Option(
        "--partition-s", metavar="SECONDS",
        help="Split stages into tasks of about this many seconds (runtime partitioning).")] = 0.0,
    estimates: Annotated[str, Option("--estimates", help="Of jobs' work: perfect, noisy or learned.")] = "perfect",
    noise: Annotated[float, Option(
        "--noise", help="With noisy: standard deviation of the log of expected over true work.")] = 0.5,
    weights: Annotated[list[float] | None, Option("--weight", help="Of user 0, 1, ...; repeatable.")] = None,
    overhead_s: Annotated[float | None, Option(
        "--overhead", metavar="SECONDS", help="Of starting a task; default 0.02.")] = None,
    seed: Seed = 0,
    check: Check = False,
    timeline: Timeline = None,
    as_json: Json = False,
) -> dict[str, Any]:  # fmt: skip
    """Run jobs of many users on the cores of one Spark application: response times, slowdowns, fairness."""
    from tunewright.envs.scheduling import limits
    from tunewright.envs.scheduling.inspection import bars_of_spark, check_spark
    from tunewright.envs.scheduling.spark import jobs as work
    from tunewright.envs.scheduling.spark import simulate as simulator
    from tunewright.report.timeline import check_outputs, write
    from tunewright.store.files import check_size, finite

    limits.check(
        "--", cores=cores, users=users, jobs=jobs, partition_s=partition_s, noise=noise, overhead=overhead_s, seed=seed
    )
    for each in weights or ():
        limits.check("--", weight=each)
    given: dict[str, Any] = dict(texts_of(options, "--option"))
    given |= {name: count for name, count in (("users", users), ("jobs", jobs)) if count}
    how = simulator.Options(
        policy=policy, partition_s=partition_s or (simulator.PARTITION_S if partition else 0.0), estimates=estimates,
        noise=noise, overhead_s=simulator.OVERHEAD_S if overhead_s is None else overhead_s,
        weights=tuple(weights or ()), seed=seed,
    )  # fmt: skip
    simulator.check(how)
    check_size(f"--cores {cores}", cores, _CORE_BYTES)
    mix = work.generate(cores, given, seed, work.pool_of(dags))
    if timeline:
        check_outputs(timeline)
    simulator.simulate(mix[:1], cores, how)  # compiled now, so not timed
    outcome = simulator.simulate(mix, cores, how, log=LOGGED if timeline else 0)
    stable, words = simulator.stability(outcome)
    document: dict[str, Any] = {
        "policy": policy, "about": simulator.POLICIES[policy], "partition_s": how.partition_s, "cores": cores,
        "jobs": len(mix), "users": len({job.user for job in mix}), "tasks": outcome.tasks, "stable": stable,
        "unstable_because": words, "metrics": simulator.metrics(outcome),
        "parameters": {**work.parameters_of(given), "seed": seed, "dags": dags}, "estimates": estimates,
        "tasks_per_s_simulated": outcome.tasks / max(outcome.seconds, 1e-9),
        "decisions_per_s_simulated": outcome.decisions / max(outcome.seconds, 1e-9),
    }  # fmt: skip
    if check:
        document["check"] = check_spark(mix, cores, how)
    if timeline:
        title = f"{len(mix)} jobs, policy {policy}"
        document["files"] = write(timeline, title, bars_of_spark(outcome), f"{cores} cores")
    return finite(document)  # type: ignore[no-any-return]


@command(app, "cluster", _show)
def cluster(
    trace: Annotated[str, Option(
        "--trace", "-t", metavar="TRACE", help="Standard Workload Format, Philly's or Alibaba's CSV, SURF's Parquet, "
        "any CSV with submit_s, run_s and gpus or cpus; or synthetic.")] = "synthetic",
    policy: Annotated[str, Option("--policy", "-p", help=names.said(names.CLUSTER))] = "fifo",
    nodes: Annotated[str, Option(
        "--nodes", "-n", metavar="NODES", help="16x8 (16 nodes of 8 GPUs), cpu:1024 (a pool), a CSV of nodes; auto: "
        "as many as the jobs need at --load.")] = "auto",
    load: Annotated[float, Option(
        "--load", help="Work that arrives over what the cluster does, for auto and synthetic.")] = 0.9,
    settings: Setting = None,
    options: Parameter = None,
    speed: Speed = 1.0,
    limit: Annotated[int, Option("--jobs", min=0, help="Only the first N jobs.")] = 0,
    seed: Seed = 0,
    check: Check = False,
    timeline: Timeline = None,
    as_json: Json = False,
) -> dict[str, Any]:  # fmt: skip
    """Run batch and GPU jobs on a cluster: waiting, response, slowdown, utilisation."""
    from tunewright.envs.scheduling import limits
    from tunewright.envs.scheduling.cluster import jobs as work
    from tunewright.envs.scheduling.cluster import simulate as simulator
    from tunewright.envs.scheduling.inspection import bars_of_cluster, check_cluster
    from tunewright.errors import ConfigError
    from tunewright.report.timeline import check_outputs, write
    from tunewright.store.files import finite

    limits.check("--", speed=speed, load=load, jobs=limit, seed=seed)
    changes: dict[str, Any] = {}
    for name, value in texts_of(settings, "--set").items():
        known = getattr(simulator.Policy(), name, None)
        try:
            if isinstance(known, bool):
                changes[name] = _SWITCHES[value.lower()]
            else:
                changes[name] = value if known is None else type(known)(value)
        except (ValueError, KeyError):
            raise ConfigError(f"{name} cannot be {value!r}; its default is {known!r}") from None
    chosen = simulator.policy(policy, **changes)
    given = texts_of(options, "--option")
    if trace == "synthetic":
        where = work.nodes("16x8" if nodes == "auto" else nodes)
        jobs = work.generate(where, {"load": load, **({"jobs": limit} if limit else {}), **given}, seed)
    else:
        if given:
            raise ConfigError(f"{', '.join(given)}: only --trace synthetic takes parameters")
        jobs = work.read(Path(trace))
        jobs = jobs.first(limit) if limit else jobs
        where = work.nodes(nodes, jobs, load)
    jobs = jobs.faster(speed)
    if timeline:
        check_outputs(timeline)
    simulator.simulate(jobs.first(1), where, chosen)  # compiled now, so not timed
    outcome = simulator.simulate(jobs, where, chosen, log=LOGGED if timeline else 0)
    stable, words = simulator.stability(outcome)
    refused = int(outcome.systems.systems[0]["refused"])
    notes = [*jobs.notes, *([f"{refused} jobs want more than the cluster has, and were refused"] if refused else [])]
    document: dict[str, Any] = {
        "policy": policy, "about": simulator.POLICIES[policy][0], "trace": jobs.source, "jobs": len(jobs),
        "rejected": refused, "nodes": where.words, "stable": stable, "unstable_because": words,
        "metrics": simulator.metrics(outcome), "settings": vars(chosen), "notes": notes,
        "jobs_per_s_simulated": len(jobs) / max(outcome.seconds, 1e-9),
    }  # fmt: skip
    if check:
        document["check"] = check_cluster(jobs, where, chosen)
    if timeline:
        document["files"] = write(timeline, f"{jobs.source}, policy {policy}", bars_of_cluster(outcome), where.words)
    return finite(document)  # type: ignore[no-any-return]


@command(app, "serverless", _show)
def serverless(
    trace: Annotated[str, Option(
        "--trace", "-t", metavar="TRACE", help="Azure's invocations of 2021 (CSV), or synthetic.")] = "synthetic",
    policy: Annotated[str, Option("--policy", "-p", help=names.said(names.SERVERLESS))] = "fixed",
    keep_s: Annotated[float, Option(
        "--keep", metavar="SECONDS", help="How long an instance is kept without work.")] = 600.0,
    options: Parameter = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> dict[str, Any]:  # fmt: skip
    """Run functions that start cold: share of cold starts against the memory of instances that stand by."""
    from tunewright.envs.scheduling import limits
    from tunewright.envs.scheduling.cluster import serverless as functions
    from tunewright.errors import ConfigError

    limits.check("--", keep=keep_s, seed=seed)
    given = texts_of(options, "--option")
    if trace == "synthetic":
        invocations = functions.generate(given, seed)
    elif given:
        raise ConfigError(f"{', '.join(given)}: only --trace synthetic takes parameters")
    else:
        invocations = functions.read(Path(trace))
    metrics = functions.simulate(invocations, policy, keep_s)
    return {"policy": policy, "keep_s": keep_s, "trace": invocations.source, "metrics": metrics}
