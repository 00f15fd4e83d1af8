"""The commands ``tunewright plan``: training plans, serving plans, and predictions beside measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from tunewright.cli.options import Json, command

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    help="Plans for training or serving a model on a cluster: the best one, what it costs, and why.",
    no_args_is_help=True,
)
Model = Annotated[str, Option(
    "--model", "-m", metavar="NAME", help="A preset such as llama3-405b, or the path of a Hugging Face config.json."
)]  # fmt: skip
Cluster = Annotated[str, Option(
    "--cluster", "-c", metavar="KIND:GPUS",
    help="Such as h100:2048 (a100, h100, h800, h200, b200, b300, gb200, gb300, mi250x, jean-zay), or a TOML file.",
)]  # fmt: skip
Runners = Annotated[int, Option("--runners", min=0, help="How many of the next best plans to show.")]

_MOST_LOAD = 10**9  # requests a second, and tokens of one


def _show_left_out(console: Console, document: dict[str, Any]) -> None:
    if "left_out" in document:
        console.print(f"not counted: {', '.join(document['left_out'])}", style="yellow", soft_wrap=True)


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
                name, r["short"], f"{r['time_s']:.3f} s", f"{r['ratio']:.2f}×", f"{100 * r['mfu']:.1f} %",
                f"{r['memory_gib']['total']:.1f}",
            )  # fmt: skip
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
            str(s["gpus"]), f"{s['time_s']:.3f} s", f"{s['cost']['dollars_per_million_tokens']:.3f}",
            f"{100 * s['mfu']:.1f} %", s["short"],
        )  # fmt: skip
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
            name, r["short"], str(r["gpus"]), f"{r['ttft_s']:.2f} s" if r["ttft_s"] is not None else "-",
            f"{1e3 * r['tpot_s']:.1f} ms", goodput, told,
        )  # fmt: skip
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
            name, percent(e.get("mean_error")), percent(e.get("median_error")), percent(e.get("p90_error")),
            f"{e['spearman']:.3f}" if "spearman" in e else "-",
        )  # fmt: skip
    console.print(table)
    if document["kind"] == "training":
        console.print(
            f"regret of the plan ranked first: {percent(document['top1_regret'])} over"
            f" {document['regret_groups']} shapes; memory error"
            f" {percent(document['memory_error'])}; out of memory called so {percent(document['oom_recall'])},"
            f" false alarms {percent(document['oom_false_alarms'])}",
            soft_wrap=True,
        )
        if names := [*document["ignored"], *["model (a name only)"] * document["model_names_only"]]:
            console.print(
                f"columns that are not used: {', '.join(names)}. What is predicted is a dense model with the row's"
                " layers, hidden, heads and vocab.",
                markup=False,
                soft_wrap=True,
            )


@command(app, "train", show_train)
def train(
    model: Model,
    cluster: Cluster,
    global_batch: Annotated[int, Option("--global-batch", "-b", help="Sequences of an iteration.")],
    seq: Annotated[int, Option("--seq", "-s", help="Tokens of a sequence.")],
    precision: Annotated[str, Option("--precision", help="bf16, fp8, or auto for the faster one.")] = "bf16",
    fix: Annotated[list[str] | None, Option(
        "--fix", metavar="NAME=VALUE",
        help="Set a part of the plan, such as tp=8, zero=1, recompute=full; repeatable.")] = None,
    explain: Annotated[bool, Option(
        "--explain", help="What bounds the plan, and what changes when one choice does.")] = False,
    form: Annotated[str, Option(
        "--emit", metavar="FORM", help="Print launch arguments: megatron, deepspeed or torchtitan.")] = "",
    page: Annotated[Path | None, Option(
        "--output", "-o", help="HTML page of figures to write: time, memory, the pipeline's timeline.")] = None,
    runners: Runners = 5,
    calibration: Annotated[str, Option(
        "--calibration", metavar="NAME", help="Efficiencies to use; default: by kind of node.")] = "",
    imbalance: Annotated[float, Option("--imbalance", help="Tokens of the busiest expert over the mean.")] = 1.0,
    scenarios: Annotated[bool, Option(
        "--scenarios", help="What unequal lengths of sequences and failing nodes cost the best plan.")] = False,
    tuner: Annotated[str, Option(
        "--tuner",
        help="Who searches where more than 100 million plans are legal; below that all are computed.")] = "tpe",
    fewer: Annotated[bool, Option(
        "--fewer", help="Also plan for a half, a quarter and an eighth of the GPUs: time against money.")] = False,
    as_json: Json = False,
) -> dict[str, Any]:  # fmt: skip
    """Find the best plan for training a model: degrees of parallelism, ZeRO, micro-batch, recomputation."""
    from tunewright.envs.parallelism import clusters, emit, planning, plans, search
    from tunewright.envs.parallelism.jobs import fixed_of, job_of
    from tunewright.errors import ConfigError, unknown
    from tunewright.store.outputs import check_output

    whole = clusters.load(cluster)
    if not whole.uniform:
        if fix or explain or form or page or fewer or scenarios or precision != "bf16":
            raise ConfigError("a cluster of several kinds of nodes is planned as a whole: leave out all but --json")
        return planning.mixed(model, whole, global_batch, seq, calibration)
    job, name = job_of(model, cluster, global_batch=global_batch, seq=seq, calibration=calibration, imbalance=imbalance)
    if precision not in ("bf16", "fp8", "auto"):
        raise ConfigError(f"--precision must be bf16, fp8 or auto, not {precision!r}")
    if form and form not in emit.TRAIN:
        raise unknown("form for training plans", form, emit.TRAIN)
    if page is not None:
        check_output(page)
    fixed = fixed_of(fix or [])
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
        "runners_up": planning.runners(job, found, runners), "baselines": planning.baselines(job, best["time_s"]),
        "pareto": [search.describe(job, r, v) for r, v in zip(found.pareto, found.pareto_values, strict=True)],
        "feasible": found.feasible, "oom": found.counted - found.feasible, "seconds": found.seconds, **by,
        **planning.left_out(job.model),
    }  # fmt: skip
    if fewer:
        document["sizes"] = planning.sizes(job, choices)
    if scenarios:
        document["scenarios"] = planning.scenarios(job, found)
    if explain:
        document["explanation"] = search.explain(job, found.best[0], found.values[0])
    if form:
        document["launch"] = emit.emit_train(form, plans.from_row(found.best[0]), job)
    if page is not None:
        from tunewright.envs.parallelism.page import write_page

        write_page(page, job, document, found)
        document["page"] = str(page)
    return document


@command(app, "serve", show_serve)
def serve(
    model: Model,
    cluster: Cluster,
    isl: Annotated[int, Option("--isl", min=1, help="Mean tokens of a prompt.")],
    osl: Annotated[int, Option("--osl", min=1, help="Mean tokens of an output.")],
    rate: Annotated[float, Option("--rate", help="Requests a second.")],
    ttft: Annotated[float, Option(
        "--ttft", metavar="SECONDS", help="Longest mean time to the first token; default: no limit.")] = math.inf,
    tpot: Annotated[float, Option(
        "--tpot", metavar="SECONDS", help="Longest mean time of each further token; default: no limit.")] = math.inf,
    backend: Annotated[str, Option("--backend", help="Whose step times: trtllm, sglang or vllm.")] = "vllm",
    precision: Annotated[str, Option(
        "--precision", help="bf16, fp8, fp4, int4, or auto: bf16 and fp8.")] = "auto",
    mode: Annotated[str, Option("--mode", help="auto, or aggregated: no separate workers for prefills.")] = "auto",
    form: Annotated[str, Option("--emit", metavar="FORM", help="Print launch commands: vllm or sglang.")] = "",
    runners: Runners = 5,
    as_json: Json = False,
) -> dict[str, Any]:  # fmt: skip
    """Find the plan with the fewest GPUs that serves a model at a rate within limits on its latencies."""
    from tunewright.envs.parallelism import clusters, emit, models, planning, serving, serving_load, serving_search
    from tunewright.envs.parallelism.families import shown
    from tunewright.errors import ConfigError, unknown

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
            "rate": rate, "isl": isl, "osl": osl, "ttft_s": planning.finite(ttft), "tpot_s": planning.finite(tpot)},
        "best": best, "runners_up": planning.other_plans(service, load, found, order, runners), "baselines": {},
        "counted": found.counted, "oom": found.oom, "seconds": found.seconds,
        "says": planning.verdict(service, load, best), **planning.left_out(service.model),
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


@command(app, "check", show_check)
def check(
    table: Annotated[Path, typer.Argument(
        metavar="TABLE",
        help="CSV of measured plans, plain or gzipped; docs/parallelism.md names the columns.")],
    calibration: Annotated[str, Option(
        "--calibration", metavar="NAME", help="Efficiencies to use for all rows (training).")] = "",
    as_json: Json = False,
) -> dict[str, Any]:  # fmt: skip
    """Compare predictions with measured plans: error, rank correlation, regret, memory."""
    from tunewright.envs.parallelism.check import check as compared

    return compared(table, calibration)
