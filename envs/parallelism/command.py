"""The command ``tunewright plan``: training plans, serving plans, and predictions beside measurements."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunewright.envs.parallelism import calibration as K
from tunewright.envs.parallelism import check as C
from tunewright.envs.parallelism import (
    clusters,
    emit,
    models,
    plans,
    scenario,
    search,
    serving,
    serving_load,
    serving_search,
)
from tunewright.envs.parallelism.estimate import RESULTS
from tunewright.envs.parallelism.families import shown
from tunewright.envs.parallelism.training import Job
from tunewright.errors import ConfigError, unknown

_MOST_LOAD = 10**9  # requests a second, and tokens of one
_MOST_TOKENS = 10_000_000  # tokens of a sequence, and sequences of a batch; every divisor is a plan

if TYPE_CHECKING:
    from rich.console import Console

DRAWN_BATCHES = 24  # micro-batches that the timeline shows at most
DRAWN_STAGES = 64
TRIED_SIZES = (1, 2, 4, 8)  # parts of the cluster that --fewer tries


def job_of(
    model: str, cluster: str, *, global_batch: int, seq: int = 0, calibration: str = "", imbalance: float = 1.0
) -> tuple[Job, str]:
    """Return the job that names describe, and the name of the calibration.

    Raises:
        ConfigError: something is missing or impossible.
    """
    shape, nodes = models.load(model), clusters.load(cluster).nodes
    name, found = (calibration, K.calibration(calibration)) if calibration else K.of_nodes(nodes.kind)
    if not seq:
        raise ConfigError("say how long sequences are: --seq 8192")
    for what, value in (("--seq", seq), ("--global-batch", global_batch)):
        if not 1 <= value <= models.MOST:
            raise ConfigError(f"{what} must be at least 1 and at most {models.MOST:,}, not {shown(value)}")
    if not 1.0 <= imbalance <= 100.0:
        raise ConfigError(f"imbalance is the busiest expert's tokens over the mean, 1 or more, not {imbalance}")
    return Job(
        model=shape, nodes=nodes, seq=seq, global_batch=global_batch, calibration=found, imbalance=imbalance
    ), name


def fixed_of(given: Sequence[str]) -> dict[str, Any]:
    """Return what ``--fix NAME=VALUE`` sets.

    Raises:
        ConfigError: a text is no setting of a plan.
    """
    values: dict[str, Any] = {}
    for item in given:
        name, equals, text = item.partition("=")
        if not equals:
            raise ConfigError(f"--fix takes NAME=VALUE, such as tp=8, not {item!r}")
        known = getattr(plans.Plan(), name, None)
        if isinstance(known, bool):
            if text not in ("on", "off", "true", "false", "0", "1"):
                raise ConfigError(f"--fix {name} is on or off, not {text!r}")
            values[name] = text in ("on", "true", "1")
        elif isinstance(known, int):
            if not re.fullmatch(r"-?[0-9]{1,18}", text):
                raise ConfigError(f"--fix {name} takes a whole number, not {shown(text)}")
            values[name] = int(text)
        else:
            values[name] = text
    plans.plan_from(values)  # unknown names and values
    return values


def train(
    model: str, cluster: str, *, global_batch: int, seq: int, precision: str = "bf16", fix: Sequence[str] = (),
    explain: bool = False, form: str = "", page: Path | None = None, runners: int = 5, calibration: str = "",
    imbalance: float = 1.0, fewer: bool = False, scenarios: bool = False, tuner: str = "tpe",
) -> dict[str, Any]:  # fmt: skip
    """Find the best training plan; see ``tunewright plan train --help`` for the arguments."""
    whole = clusters.load(cluster)
    if not whole.uniform:
        if fix or explain or form or page or fewer or scenarios or precision != "bf16":
            raise ConfigError("a cluster of several kinds of nodes is planned as a whole: leave out all but --json")
        return _mixed(model, whole, global_batch, seq, calibration)
    job, name = job_of(model, cluster, global_batch=global_batch, seq=seq, calibration=calibration, imbalance=imbalance)
    if precision not in ("bf16", "fp8", "auto"):
        raise ConfigError(f"--precision must be bf16, fp8 or auto, not {precision!r}")
    if form and form not in emit.TRAIN:
        raise unknown("form for training plans", form, emit.TRAIN)
    fixed = fixed_of(fix)
    wanted = ("bf16", "fp8") if precision == "auto" else (precision,)
    if precision == "fp8" and job.nodes.fp8_tflops <= job.nodes.bf16_tflops:
        raise ConfigError(f"{job.nodes.gpu} has no FP8; take --precision bf16")
    overlap = (fixed["overlap"],) if "overlap" in fixed else ("all",)
    choices = plans.Choices(precision=wanted, fixed=fixed, overlap=overlap)
    by = {}
    try:
        found = search.search(job, choices)
    except search.TooManyPlansError:
        from tunewright.envs.parallelism import tuned

        found, by = tuned.search(job, choices, tuner=tuner), {"searched_by": tuner, "tried": tuned.TRIALS}
    if not found.feasible:
        raise ConfigError(search.shortage(job, found))
    best = search.describe(job, found.best[0], found.values[0])
    document: dict[str, Any] = {
        "model": model, "cluster": cluster, "gpus": job.nodes.gpus, "seq": seq, "global_batch": global_batch,
        "parameters": job.model.params, "calibration": {"name": name, "source": job.calibration.source}, "best": best,
        "runners_up": _runners(job, found, runners), "baselines": _baselines(job, best["time_s"]),
        "pareto": [search.describe(job, r, v) for r, v in zip(found.pareto, found.pareto_values, strict=True)],
        "feasible": found.feasible, "oom": found.counted - found.feasible, "seconds": found.seconds, **by,
        **_left_out(job.model),
    }  # fmt: skip
    if fewer:
        document["sizes"] = _sizes(job, choices)
    if scenarios:
        document["scenarios"] = _scenarios(job, found)
    if explain:
        document["explanation"] = search.explain(job, found.best[0], found.values[0])
    if form:
        document["launch"] = emit.emit_train(form, plans.from_row(found.best[0]), job)
    if page is not None:
        _write_page(page, job, document, found)
        document["page"] = str(page)
    return document


def _mixed(model: str, cluster: clusters.Cluster, global_batch: int, seq: int, calibration: str) -> dict[str, Any]:
    """Plan for several kinds of nodes: pipelines across kinds, data parallelism inside each, layers by speed."""
    jobs = [
        job_of(model, f"{g.kind}:{g.gpus}", global_batch=global_batch, seq=seq, calibration=calibration)[0]
        for g in cluster.groups
    ]
    jobs = [replace(j, nodes=g) for j, g in zip(jobs, cluster.groups, strict=True)]
    found = scenario.plan_mixed(cluster, jobs)
    parts = [
        {"kind": g.kind, "gpus": g.gpus, "stages": s, "layers": n, "plan": p.short}
        for g, s, n, p in zip(cluster.groups, found.stages, found.layers, found.plans, strict=True)
    ]
    return {
        "model": model,
        "cluster": cluster.name,
        "gpus": cluster.gpus,
        "mixed": parts,
        "time_s": found.time_s,
        "tokens_per_s_per_gpu": seq * global_batch / found.time_s / cluster.gpus,
        "layers_evenly_s": found.even_s,
        "slow_link_inside_groups_s": found.naive_s,
    }


def _runners(job: Job, found: search.Found, most: int) -> list[dict[str, Any]]:
    """The next best plans that differ in a degree, not in a flag alone."""
    seen = {tuple(found.best[0][:5])}
    made: list[dict[str, Any]] = []
    for row, values in zip(found.best[1:], found.values[1:], strict=True):
        if tuple(row[:5]) not in seen and len(made) < most:
            seen.add(tuple(row[:5]))
            made.append(
                search.describe(job, row, values) | {"ratio": float(values[search.TIME] / found.values[0, search.TIME])}
            )
    return made


def _baselines(job: Job, best_s: float) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, got in search.baselines(job).items():
        made[name] = (
            None if got is None else search.describe(job, *got) | {"ratio": float(got[1][search.TIME]) / best_s}
        )
    return made


def _scenarios(job: Job, found: search.Found) -> dict[str, Any]:
    """What the best plan meets beside full sequences and nodes that never fail."""
    plan, time_s = plans.from_row(found.best[0]), float(found.values[0, search.TIME])
    lengths = scenario.lengths_of(job)
    ranks = min(plan.dp, len(lengths))
    batching = {how: scenario.batching_factor(lengths, job, ranks, how) for how in scenario.BATCHING}
    failures, nodes = scenario.Failures(), max(job.nodes.gpus // job.nodes.per_node, 1)
    interval = scenario.best_interval_s(failures, nodes)
    smaller = scenario.without_a_rank(job, plan)
    return {
        "unequal_lengths": {
            "what": f"{len(lengths):,} drawn lengths, median {int(np.median(lengths)):,} of {job.seq:,} tokens",
            "time_over_divisible_work": batching,
        },
        "failures": {
            "what": f"a node fails every {failures.node_hours:,.0f} h, {nodes} nodes",
            "best_checkpoint_minutes": interval / 60.0,
            "useful_share": scenario.useful_share(interval, failures, nodes),
            "time_over_no_failures": {
                how: _finite(scenario.with_failures(job, time_s, smaller, failures, interval, how) / time_s)
                for how in ("wait", "shrink", "spare")
            },
        },
    }


def _sizes(job: Job, choices: plans.Choices) -> list[dict[str, Any]]:
    """The best plan on parts of the cluster: time against money."""
    made = []
    for part in TRIED_SIZES:
        if job.nodes.gpus % part:
            continue
        smaller = replace(job, nodes=replace(job.nodes, gpus=job.nodes.gpus // part))
        try:
            found = search.search(smaller, choices)
        except ConfigError:
            continue
        if found.feasible:
            made.append({"gpus": smaller.nodes.gpus, **search.describe(smaller, found.best[0], found.values[0])})
    return made


def serve(
    model: str, cluster: str, *, rate: float, isl: int, osl: int, ttft: float = math.inf, tpot: float = math.inf,
    backend: str = "vllm", precision: str = "auto", mode: str = "auto", form: str = "", runners: int = 5,
) -> dict[str, Any]:  # fmt: skip
    """Find the serving plan with the fewest GPUs that carries a load within limits; see ``plan serve --help``."""
    service = serving.Service(model=models.load(model), nodes=clusters.load(cluster).nodes, backend=backend)
    for what, value in (("--rate", rate), ("--isl", isl), ("--osl", osl), ("--ttft", ttft), ("--tpot", tpot)):
        if not value > 0:
            raise ConfigError(f"{what} must be above 0, not {value}")
        if what in ("--rate", "--isl", "--osl") and value > models.MOST:
            raise ConfigError(f"{what} must be at most {models.MOST:,}, not {shown(value)}")
    if mode not in ("auto", "aggregated"):
        raise ConfigError(f"--mode must be auto or aggregated, not {mode!r}")
    if form and form not in emit.SERVE:
        raise unknown("form for serving plans", form, emit.SERVE)
    if max(rate, isl, osl) > _MOST_LOAD:
        raise ConfigError(f"--rate, --isl and --osl may be {_MOST_LOAD:,}, not {max(rate, isl, osl):g}")
    load = serving.Load(rate=rate, isl=isl, osl=osl, ttft_s=ttft, tpot_s=tpot)
    wanted = ("bf16", "fp8") if precision == "auto" else (precision,)
    found = serving_search.search(service, load, wanted=wanted, disaggregated=mode == "auto")
    if not len(found.plans):
        raise ConfigError(serving_search.shortage(service, load, wanted))
    order = serving_search.rank(found, load)
    plan = found.plan(int(order[0]))
    best = serving_load.describe(service, load, plan, found.values[order[0]])
    most = serving_load.capacity(service, load, plan)
    best["capacity_requests_per_s"], best["goodput_per_gpu"] = most, most / plan.gpus
    document: dict[str, Any] = {
        "model": model, "cluster": cluster, "backend": backend, "load": {
            "rate": rate, "isl": isl, "osl": osl, "ttft_s": _finite(ttft), "tpot_s": _finite(tpot)},
        "best": best, "runners_up": _other_plans(service, load, found, order, runners), "baselines": {},
        "counted": found.counted, "oom": found.oom, "seconds": found.seconds,
        "says": _verdict(service, load, best), **_left_out(service.model),
    }  # fmt: skip
    for name, other in serving_search.baselines(service, load, plan.precision).items():
        if other is None:
            document["baselines"][name] = None
            continue
        got = serving_load.describe(service, load, other, serving_load.evaluate(service, load, other))
        can = serving_load.capacity(service, load, other)
        document["baselines"][name] = got | {
            "capacity_requests_per_s": can,
            "goodput_per_gpu": can / other.gpus,
            "gain": best["goodput_per_gpu"] / (can / other.gpus) if can else None,
        }
    if form:
        document["launch"] = emit.emit_serve(form, plan, service, model)
    return document


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _left_out(model: models.Model) -> dict[str, Any]:
    return {"left_out": list(model.left_out)} if model.left_out else {}


def _show_left_out(console: Console, document: dict[str, Any]) -> None:
    if "left_out" in document:
        console.print(f"not counted: {', '.join(document['left_out'])}", style="yellow", soft_wrap=True)


def _verdict(service: serving.Service, load: serving.Load, best: dict[str, Any]) -> str:
    if best["meets"]:
        return f"{best['gpus']} of {service.nodes.gpus} GPUs carry {load.rate:g} requests a second within the limits"
    if not best["stable"]:
        return (
            f"no plan on {service.nodes.gpus} {service.nodes.gpu} carries {load.rate:g} requests a second: the"
            f" best one would"
            f" need {best['use']:.2f} times as much; more GPUs, fewer requests, or weights of fewer bits"
        )
    return "no plan meets the limits at this load; the one that misses them least is shown"


def _other_plans(
    service: serving.Service, load: serving.Load, found: Any, order: Any, most: int
) -> list[dict[str, Any]]:
    seen = {tuple(found.plans[order[0], :8])}
    made: list[dict[str, Any]] = []
    for k in order[1:2000]:
        key = tuple(found.plans[k, :8])
        if key not in seen and len(made) < most:
            seen.add(key)
            made.append(serving_load.describe(service, load, found.plan(int(k)), found.values[k]))
    return made


def check(path: Path, *, calibration: str = "") -> dict[str, Any]:
    """Compare predictions with a table of measured plans."""
    return C.check(path, calibration)


# -- for people -------------------------------------------------------------------------------------


def _columns(table: Any, *names: str) -> None:
    """Add columns: numbers to the right, and only plans are folded."""
    for name in names:
        words = name in ("", "plan", "one choice changed")
        wide = 10 if name == "plan" else None
        table.add_column(
            name, justify="left" if words else "right", overflow="fold", ratio=wide, no_wrap=name != "plan"
        )


def show_train(console: Console, document: dict[str, Any]) -> None:
    """Print a training plan."""
    if "mixed" in document:
        _show_mixed(console, document)
        return
    from rich.table import Table
    from rich.text import Text

    best = document["best"]
    console.print(Text(best["short"], style="bold"), soft_wrap=True)
    memory = best["memory_gib"]
    console.print(
        f"{best['time_s']:.3f} s an iteration, {best['tokens_per_s_per_gpu']:,.0f} tokens/s a GPU, MFU"
        f" {100 * best['mfu']:.1f} %,"
        f" HFU {100 * best['hfu']:.1f} %, {memory['total']:.1f} GiB a GPU,"
        f" {best['cost']['dollars_per_million_tokens']:.3f} $ per million tokens",
        soft_wrap=True,
    )
    console.print(
        "memory: " + ", ".join(f"{k} {v:.1f}" for k, v in memory.items() if k != "total" and v >= 0.05) + " GiB",
        style="dim",
        soft_wrap=True,
    )
    _show_left_out(console, document)
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    _columns(table, "", "plan", "time", "ratio", "MFU", "GiB")
    others = [("next", r) for r in document["runners_up"]] + list(document["baselines"].items())
    for name, r in others:
        if r is None:
            table.add_row(name, Text("does not fit", style="dim"), "", "", "", "")
        else:
            table.add_row(
                name,
                r["short"],
                f"{r['time_s']:.3f} s",
                f"{r['ratio']:.2f}×",
                f"{100 * r['mfu']:.1f} %",
                f"{r['memory_gib']['total']:.1f}",
            )
    console.print(table)
    if "sizes" in document:
        _show_sizes(console, document["sizes"])
    if "scenarios" in document:
        _show_scenarios(console, document["scenarios"])
    if "explanation" in document:
        _show_explanation(console, document["explanation"])
    if "launch" in document:
        console.print(document["launch"], markup=False, soft_wrap=True)
    total = document["feasible"] + document["oom"]
    by = f" by tuner {document['searched_by']} (too many to compute all)" if "searched_by" in document else ""
    console.print(
        f"{total:,} legal plans{by} in {document['seconds']:.3f} s, {document['oom']:,} of them out of memory."
        f" Calibration {document['calibration']['name']}: {document['calibration']['source']}",
        style="dim", soft_wrap=True,
    )  # fmt: skip
    if "page" in document:
        console.print(f"figures: {document['page']}", markup=False, style="dim")


def _show_mixed(console: Console, document: dict[str, Any]) -> None:
    from rich.table import Table

    time_s = document["time_s"]
    console.print(
        f"{time_s:.3f} s an iteration, {document['tokens_per_s_per_gpu']:,.0f} tokens/s a GPU; with layers dealt out"
        f" evenly {document['layers_evenly_s'] / time_s:.2f}×, and with the slow link inside data-parallel groups too"
        f" {document['slow_link_inside_groups_s'] / time_s:.2f}×",
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    _columns(table, "", "GPUs", "stages", "layers", "plan")
    for part in document["mixed"]:
        table.add_row(part["kind"], str(part["gpus"]), str(part["stages"]), str(part["layers"]), part["plan"])
    console.print(table)


def _show_scenarios(console: Console, told: dict[str, Any]) -> None:
    lengths, failures = told["unequal_lengths"], told["failures"]

    def listed(ratios: dict[str, float | None]) -> str:
        return ", ".join(f"{k} {v:.2f}×" if v is not None else f"{k} impossible" for k, v in ratios.items())

    console.print(
        f"unequal lengths ({lengths['what']}), time over that of divisible work:"
        f" {listed(lengths['time_over_divisible_work'])}",
        soft_wrap=True,
    )
    console.print(
        f"failures ({failures['what']}): a checkpoint every {failures['best_checkpoint_minutes']:.0f} min keeps"
        f" {100 * failures['useful_share']:.1f} % of the work; time over that without failures:"
        f" {listed(failures['time_over_no_failures'])}",
        soft_wrap=True,
    )


def _show_sizes(console: Console, sizes: Sequence[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("GPUs", "time", "$ per million tokens", "MFU", "plan"):
        table.add_column(column, justify="left" if column == "plan" else "right", overflow="fold")
    for s in sizes:
        table.add_row(
            str(s["gpus"]),
            f"{s['time_s']:.3f} s",
            f"{s['cost']['dollars_per_million_tokens']:.3f}",
            f"{100 * s['mfu']:.1f} %",
            s["short"],
        )
    console.print(table)


def _show_explanation(console: Console, told: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    parts = ", ".join(f"{k} {100 * v:.1f} %" for k, v in told["shares"].items() if v >= 0.0005)
    console.print(Text(f"bound by {told['bound_by']}: {parts}"), soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="dim")
    _columns(table, "one choice changed", "time", "GiB", "")
    for e in told["changes"]:
        table.add_row(
            e["change"],
            f"{e['time_ratio']:.3f}×",
            f"{e['memory_gib']:.1f}",
            "" if e["fits"] else Text("out of memory", style="yellow"),
        )
    console.print(table)


def show_serve(console: Console, document: dict[str, Any]) -> None:
    """Print a serving plan."""
    from rich.table import Table
    from rich.text import Text

    best = document["best"]
    console.print(Text(best["short"], style="bold"), soft_wrap=True)
    console.print(document["says"], style="" if best["meets"] else "yellow", soft_wrap=True)
    _show_left_out(console, document)
    first = f"{best['ttft_s']:.2f} s" if best["ttft_s"] is not None else "unbounded"
    console.print(
        f"time to first token {first}, per token {1e3 * best['tpot_s']:.1f} ms,"
        f" {best['tokens_per_s_per_gpu']:,.0f} tokens/s a GPU,"
        f" batch {best['batch']:.0f}, {best['cost']['dollars_per_million_tokens']:.2f} $ and"
        f" {1e6 * best['cost']['joules_per_token'] / 3.6e6:.2f} kWh"
        f" per million tokens; carries up to {best['capacity_requests_per_s']:.1f} requests/s",
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    _columns(table, "", "plan", "GPUs", "first", "token", "1/s/GPU", "")
    for name, r in [("next", r) for r in document["runners_up"]] + list(document["baselines"].items()):
        if r is None:
            table.add_row(name, Text("does not fit", style="dim"), *[""] * 5)
            continue
        goodput = f"{r['goodput_per_gpu']:.2f}" if "goodput_per_gpu" in r else ""
        told = "" if r["meets"] else Text("unstable" if not r["stable"] else "late", style="yellow")
        table.add_row(
            name,
            r["short"],
            str(r["gpus"]),
            f"{r['ttft_s']:.2f} s" if r["ttft_s"] is not None else "-",
            f"{1e3 * r['tpot_s']:.1f} ms",
            goodput,
            told,
        )
    console.print(table)
    if "launch" in document:
        console.print(document["launch"], markup=False, soft_wrap=True)
    console.print(
        f"{document['counted']:,} plans in {document['seconds']:.3f} s. 1/s/GPU: requests a second within the"
        " limits, for each GPU; late: misses the limits at this load.",
        style="dim",
        soft_wrap=True,
    )


def show_check(console: Console, document: dict[str, Any]) -> None:
    """Print how predictions agree with measurements."""
    from rich.table import Table

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f} %"

    console.print(f"{document['count']} {document['kind']} plans of {document['file']}", markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("", "mean error", "median", "90th percentile", "Spearman"):
        table.add_column(column, justify="left" if not column else "right")
    parts = (
        [("time of an iteration", document)]
        if document["kind"] == "training"
        else [("per token", document["tpot"]), ("first token", document["ttft"])]
    )
    for name, e in parts:
        table.add_row(
            name,
            percent(e.get("mean_error")),
            percent(e.get("median_error")),
            percent(e.get("p90_error")),
            f"{e['spearman']:.3f}" if "spearman" in e else "-",
        )
    console.print(table)
    if document["kind"] == "training":
        console.print(
            f"regret of the plan ranked first: {percent(document['top1_regret'])} over"
            f" {document['regret_groups']} shapes; memory error"
            f" {percent(document['memory_error'])}; out of memory called so {percent(document['oom_recall'])},"
            f" false alarms {percent(document['oom_false_alarms'])}",
            soft_wrap=True,
        )


def pipeline(job: Job, plan: plans.Plan, values: Any) -> Any:
    """Draw the plan's pipeline: one iteration, at most ``DRAWN_BATCHES`` micro-batches of it."""
    from tunewright.envs.parallelism.pipeline import schedule
    from tunewright.report.timeline import figure

    v = dict(zip(RESULTS, map(float, values), strict=True))
    rounds = job.global_batch // (plan.dp * plan.micro_batch)
    stages, batches = min(plan.pp, DRAWN_STAGES), min(rounds, max(DRAWN_BATCHES, 2 * plan.pp))
    per_pass = (v["compute_s"] + v["tensor_s"] + v["expert_s"] + v["context_s"] + v["overhead_s"]) / rounds
    forward, backward = [per_pass / 3.0] * stages, [per_pass * 2.0 / 3.0] * stages
    bars = schedule(stages, batches, forward, backward, v["pipeline_s"] / max(2 * rounds, 1))
    note = f"seconds; {batches} of {rounds} micro-batches" + (", drawn without interleaving" if plan.chunks > 1 else "")
    return figure(bars, "the pipeline's schedule", note)


def _write_page(path: Path, job: Job, document: dict[str, Any], found: search.Found) -> None:
    from tunewright.report.pages import write_figures
    from tunewright.report.svg import bars, curves, stacks

    best = document["best"]
    rows = [("best", best)] + [(n, b) for n, b in document["baselines"].items() if b]
    parts = [p for p in search.PARTS if any(r["parts_s"][p] > 0 for _, r in rows)]
    memory = [m for m in search.MEMORY_PARTS if any(r["memory_gib"][m] > 0.05 for _, r in rows)]
    front = document["pareto"][::-1]
    sections: list[tuple[str, Any, str]] = [
        (
            "Time of an iteration",
            bars([(n, r["time_s"], f"{r['time_s']:.3g} s, {100 * r['mfu']:.0f} % MFU") for n, r in rows], "seconds"),
            best["short"],
        ),
        (
            "What the time goes to",
            stacks(
                [(n, [r["parts_s"][p] / r["time_s"] for p in parts]) for n, r in rows], parts, "share of the iteration"
            ),
            "",
        ),
        (
            "What the memory goes to",
            stacks(
                [(n, [r["memory_gib"][m] / r["memory_gib"]["total"] for m in memory]) for n, r in rows],
                memory,
                "share of a GPU's use",
            ),
            "",
        ),
        (
            "Time against memory",
            curves(
                [("", [r["memory_gib"]["total"] for r in front], [r["time_s"] for r in front])], "GiB a GPU", "seconds"
            ),
            "Plans that no other one beats in both.",
        ),
    ]
    plan = plans.from_row(found.best[0])
    if plan.pp > 1:
        sections.append(
            ("The pipeline", pipeline(job, plan, found.values[0]), "1F1B of the best plan; gaps are the bubble.")
        )
    write_figures(
        path,
        f"Training {document['model']} on {document['cluster']}",
        f"{best['short']}; {document['calibration']['source']}",
        sections,
    )
