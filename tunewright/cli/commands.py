"""Commands of the wings: reading traces, manuals and rules, placing, training. Found through entry points."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunewright.errors import TunewrightError

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output and nothing else there.")
]
StoreUrl = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help="Where sessions are kept: sqlite:///FILE or postgresql://HOST/DB. Default: a file in your data directory.", envvar="TUNEWRIGHT_STORE"),
]  # fmt: skip
TrustFile = Annotated[
    bool,
    typer.Option(
        "--trust-file",
        help="Open an agent's file of pickled Python (Stable-Baselines3's own), which can run any code; only if you trust whoever made it.",
    ),
]
ModelName = Annotated[str | None, typer.Option("--model", metavar="NAME", help="Language model to ask.")]
BaseUrl = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        metavar="URL",
        help="Its OpenAI-compatible endpoint; the key is taken from OPENAI_API_KEY.",
    ),
]


def console() -> Console:
    """Return the screen for people's eyes: standard error."""
    from tunewright.cli.terminal import screen

    return screen(stderr=True)


def out() -> Console:
    """Return standard output."""
    from tunewright.cli.terminal import screen

    return screen()


def emit(document: Any) -> None:
    """Print a document as JSON.

    Raises:
        TunewrightError: a number in it is not finite, which JSON has no form for.
    """
    print(document_text(document))


def document_text(document: Any) -> str:
    """Return a document as JSON; errors as for ``emit``."""
    try:
        return json.dumps(document, indent=2, default=str, allow_nan=False)
    except ValueError as error:
        raise TunewrightError(f"the numbers given lead to a result that is not finite: {error}") from None


_TRACE = typer.Argument(
    metavar="TRACE",
    help="A block trace (MSR Cambridge, blkparse, DiskSim/MQSim, CSV; plain, gzip, zstd), or synthetic:KIND (zipf, sequential, mixed, bursts, phases, ycsb, checkpoint, tenants).",
)
_TraceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option", "-O", metavar="KEY=VALUE", help="Parameter of a synthetic workload, such as skew=1.1; repeatable."
    ),
]
_SkipBad = Annotated[
    int, typer.Option("--skip-bad", min=0, metavar="N", help="Tolerate N bad lines in a trace; they are counted.")
]
_Limit = Annotated[int | None, typer.Option("--requests", min=1, metavar="N", help="Use the first N requests only.")]


def command(name: str) -> Any:
    """Return the module behind a command."""
    from tunewright.errors import unknown
    from tunewright.plugins import COMMANDS, installed, load

    points = installed(COMMANDS)
    if name not in points:
        raise unknown("command", name, points, plural="Installed")
    return load(points[name], "command")


def trace(
    source: Annotated[str, _TRACE],
    option: _TraceOption = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="HTML page with plots to write.")] = None,
    skip_bad: _SkipBad = 0,
    requests: _Limit = None,
    as_json: Json = False,
) -> None:
    """Summarise a block trace: mix, sizes, sequentiality, reuse, bursts, hot pages, and what that means for placement."""
    from tunewright.plugins import parse_options

    module = command("trace")
    document = module.run(source, parse_options(option), skip_bad=skip_bad, limit=requests, page=output)
    if as_json:
        emit(document)
    else:
        module.show(out(), document)


def read(
    manuals: Annotated[list[str], typer.Argument(metavar="MANUAL...", help="Files or folders (Markdown, HTML, reStructuredText, PDF, man pages, settings with comments), pg_settings as CSV, the text of 'gluster volume set help', or postgresql://HOST/DB.")],
    system: Annotated[str, typer.Option("--system", "-s", help="Name of the system; default: from the first file.")] = "",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File of parameters to write (JSON).")] = None,
    model: ModelName = None,
    base_url: BaseUrl = None,
    names: Annotated[str, typer.Option("--names", metavar="NAME,...", help="With --model: the parameters to read; default: those that are not fully described, up to --most.")] = "",
    most: Annotated[int, typer.Option("--most", min=1, help="With --model: most parameters to read, by importance.")] = 40,
    ask: Annotated[str, typer.Option("--ask", metavar="QUESTION", help="Show the passages that fit a question best.")] = "",
    embeddings: Annotated[str | None, typer.Option("--embeddings", metavar="NAME", help="With --ask: a model of the endpoint, to search by meaning too.")] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="How many passages.")] = 5,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Read manuals: parameters with type, unit, default, range and effect, each claim with its quote.

    Structure and common phrases are read without a model; prose needs one (--model).
    """
    module = command("read")
    wanted = [n.strip() for n in names.split(",") if n.strip()]
    asks = command("extract").reader(model, base_url or "") if model else None
    means = command("extract").open_embeddings(embeddings, base_url or "") if embeddings else None
    with _steps("reading") as tick:
        document = module.run(
            manuals,
            system=system,
            output=output,
            ask=ask,
            count=count,
            tick=tick,
            reader=asks,
            names=wanted,
            most=most,
            embeddings=means,
        )
    if as_json:
        emit(document)
    else:
        module.show(out(), document)


def place(
    source: Annotated[str, _TRACE],
    devices: Annotated[str, typer.Option("--devices", "-d", help="performance, cost, triple, quad, or a TOML file.")] = "performance",
    policy: Annotated[list[str] | None, typer.Option("--policy", "-p", help="all, or a policy's name; repeatable.")] = None,
    fast: Annotated[float, typer.Option("--fast", help="Share of the trace's footprint that the fastest tier holds.")] = 0.10,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of initial weights and random choices.")] = 0,
    option: _TraceOption = None,
    scale: Annotated[str, typer.Option("--time-scale", help="Factor on the trace's inter-arrival times; auto: as little as the slowest tier alone needs to keep up.")] = "auto",
    speed: Annotated[float, typer.Option("--speed", min=0.001, help="Replay so many times as fast as that: 4 is four times the load.")] = 1.0,
    mechanisms: Annotated[str, typer.Option("--mechanisms", help="own: each policy's own; full: extent eviction, backlog gating and idle reserve for all; plain: for none.")] = "own",
    real: Annotated[str | None, typer.Option("--real", metavar="TIERS", help="Replay on real directories instead, such as fast=/dev/shm/t,slow=DIR?delay=2ms; files are made there and deleted again.")] = None,
    save: Annotated[Path | None, typer.Option("--save", help="Write the agent after the replay (one learning policy).")] = None,
    saved: Annotated[Path | None, typer.Option("--load", metavar="FILE", help="Go on with an agent that --save wrote.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="HTML page with plots to write.")] = None,
    skip_bad: _SkipBad = 0,
    requests: _Limit = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Replay a block trace on simulated tiers under placement policies, and compare their latencies."""
    from tunewright.plugins import parse_options

    module = command("place")
    with _steps("placing") as tick:
        document = module.run(
            source, parse_options(option), devices=devices, policies=policy or ["all"], fast=fast, seed=seed,
            scale=scale, load=speed, mechanisms=mechanisms, real=real, save=save, agent=saved, page=output, skip_bad=skip_bad,
            limit=requests, tick=tick,
        )  # fmt: skip
    if as_json:
        emit(document)
    else:
        module.show(out(), document)


rules_app = typer.Typer(
    help="Rules learned from sessions: text files in a folder, which 'tune --rules FOLDER' uses.", no_args_is_help=True
)
_Folder = Annotated[
    Path,
    typer.Option(
        "--rules", "-r", metavar="FOLDER", help="The folder; it can be kept in git.", envvar="TUNEWRIGHT_RULES"
    ),
]
_RULES = Path("rules")


@rules_app.command("list")
def list_rules(
    folder: _Folder = _RULES,
    system: Annotated[str, typer.Option("--system", "-s", help="Only those of one system.")] = "",
    retired: Annotated[bool, typer.Option("--all", help="Retired ones too.")] = False,
    as_json: Json = False,
) -> None:
    """List the rules of a folder."""
    module = command("rules")
    document = module.listing(folder, system=system, retired=retired)
    emit(document) if as_json else module.show_list(out(), document, folder)


@rules_app.command("show")
def show_rule(
    name: Annotated[str, typer.Argument(help="A rule's name; see 'tunewright rules list'.")],
    folder: _Folder = _RULES,
    as_json: Json = False,
) -> None:
    """Show a rule: what it says, where it holds, and the trials that it rests on."""
    module = command("rules")
    document = module.one(folder, name)
    emit(document) if as_json else module.show_one(out(), document)


@rules_app.command("merge")
def merge_rules(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Sessions, or folders of rules.")],
    folder: _Folder = _RULES,
    manual: Annotated[str | None, typer.Option("--manual", metavar="PATH,...", help="Manuals, for a quote in each rule.")] = None,
    model: ModelName = None,
    base_url: BaseUrl = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Add what sessions show about single parameters, or another folder's rules. A model, if given, words them."""
    module = command("rules")
    document = module.merge(
        folder, sources, store=store, manual=manual or "", model=model or "", base_url=base_url or ""
    )
    emit(document) if as_json else module.show_done(out(), document, folder)


@rules_app.command("retire")
def retire_rule(
    name: Annotated[str, typer.Argument(help="A rule's name.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept in the file.")] = "",
    folder: _Folder = _RULES,
    as_json: Json = False,
) -> None:
    """Take a rule out of use; it stays in its file."""
    module = command("rules")
    document = module.retire(folder, name, reason)
    emit(document) if as_json else module.show_done(out(), document, folder)


@rules_app.command("rollback")
def rollback_rules(folder: _Folder = _RULES, as_json: Json = False) -> None:
    """Undo the last change of a folder."""
    module = command("rules")
    document = module.rollback(folder)
    emit(document) if as_json else module.show_done(out(), document, folder)


train_app = typer.Typer(help="Train agents; they are saved as a file.", no_args_is_help=True)


@train_app.command("placement")
def train_placement(
    source: Annotated[str, typer.Option("--trace", metavar="TRACE", help="A block trace, or synthetic:KIND.")],
    algorithm: Annotated[str, typer.Option("--algo", help="dqn, ppo or a2c.")] = "dqn",
    steps: Annotated[int, typer.Option("--steps", min=1, help="Requests to learn from.")] = 100_000,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, ending in .zip.")] = Path("policy.zip"),
    devices: Annotated[str, typer.Option("--devices", "-d", help="performance, cost, triple, quad, or a TOML file.")] = "performance",
    fast: Annotated[float, typer.Option("--fast", help="Share of the footprint that the fastest tier holds.")] = 0.10,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the agent.")] = 0,
    option: _TraceOption = None,
    skip_bad: _SkipBad = 0,
    requests: _Limit = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Train a Stable-Baselines3 agent on the placement environment, and say how it compares with simple policies."""
    from tunewright.plugins import parse_options

    module = command("train-placement")
    document = module.run(
        source, parse_options(option), algorithm=algorithm, steps=steps, output=output, devices=devices, fast=fast,
        seed=seed, skip_bad=skip_bad, limit=requests, progress=not as_json and sys.stderr.isatty(),
    )  # fmt: skip
    if as_json:
        emit(document)
    else:
        module.show(out(), document)


@train_app.command("tuner")
def train_tuner(
    targets: Annotated[list[str], typer.Option("--targets", metavar="A,B,...", help="Simulated targets with the same parameters, such as lustre; each draws machines and workloads of its own.")],
    algorithm: Annotated[str, typer.Option("--algo", help="ppo, sac or td3.")] = "ppo",
    steps: Annotated[int, typer.Option("--steps", min=1, help="Trials to learn from, in all.")] = 200_000,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, ending in .zip.")] = Path("policy.zip"),
    budget: Annotated[int, typer.Option("--budget", min=1, help="Trials of an episode: what a session will have.")] = 8,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the agent.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the file; it is written twenty times on the way, and on Ctrl-C.")] = False,
    trust_file: TrustFile = False,
    log: Annotated[Path | None, typer.Option("--tensorboard", metavar="DIR", help="Write logs for TensorBoard.")] = None,
    demonstrations: Annotated[list[str] | None, typer.Option("--demonstration", metavar="SESSION", help="A stored session, such as a language model's, whose trials are put into the replay buffer (sac, td3); repeatable.")] = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Train an agent to tune a family of simulated targets, and try it on members that it never saw."""
    module = command("train-tuner")
    names = [part for text in targets for part in text.split(",") if part]
    try:
        document = module.run(
            names, algorithm=algorithm, steps=steps, output=output, budget=budget, seed=seed, resume=resume, log=log,
            demonstrations=demonstrations or (), store=store, progress=not as_json and sys.stderr.isatty(),
            trust_file=trust_file,
        )  # fmt: skip
    except KeyboardInterrupt:
        console().print(f"stopped; what was learned is in {output}; go on with --resume", markup=False)
        raise SystemExit(130) from None
    if as_json:
        emit(document)
    else:
        module.show(out(), document)


plan_app = typer.Typer(
    help="Plans for training or serving a model on a cluster: the best one, what it costs, and why.",
    no_args_is_help=True,
)
_Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", metavar="NAME", help="A preset such as llama3-405b, or the path of a Hugging Face config.json."
    ),
]
_Cluster = Annotated[
    str,
    typer.Option(
        "--cluster",
        "-c",
        metavar="KIND:GPUS",
        help="Such as h100:2048 (a100, h100, h800, h200, b200, b300, gb200, gb300, mi250x), or a TOML file.",
    ),
]
_Runners = Annotated[int, typer.Option("--runners", min=0, help="How many of the next best plans to show.")]


@plan_app.command("train")
def plan_train(
    model: _Model,
    cluster: _Cluster,
    global_batch: Annotated[int, typer.Option("--global-batch", "-b", help="Sequences of an iteration.")],
    seq: Annotated[int, typer.Option("--seq", "-s", help="Tokens of a sequence.")],
    precision: Annotated[str, typer.Option("--precision", help="bf16, fp8, or auto for the faster one.")] = "bf16",
    fix: Annotated[list[str] | None, typer.Option("--fix", metavar="NAME=VALUE", help="Set a part of the plan, such as tp=8, zero=1, recompute=full; repeatable.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="What bounds the plan, and what changes when one choice does.")] = False,
    launch: Annotated[str, typer.Option("--emit", metavar="FORM", help="Print launch arguments: megatron, deepspeed or torchtitan.")] = "",
    page: Annotated[Path | None, typer.Option("--output", "-o", help="HTML page of figures to write: time, memory, the pipeline's timeline.")] = None,
    runners: _Runners = 5,
    calibration: Annotated[str, typer.Option("--calibration", metavar="NAME", help="Efficiencies to use; default: by kind of node.")] = "",
    imbalance: Annotated[float, typer.Option("--imbalance", help="Tokens of the busiest expert over the mean.")] = 1.0,
    scenarios: Annotated[bool, typer.Option("--scenarios", help="What unequal lengths of sequences and failing nodes cost the best plan.")] = False,
    tuner: Annotated[str, typer.Option("--tuner", help="Who searches where more than 100 million plans are legal; below that all are computed.")] = "tpe",
    fewer: Annotated[bool, typer.Option("--fewer", help="Also plan for a half, a quarter and an eighth of the GPUs: time against money.")] = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Find the best plan for training a model: degrees of parallelism, ZeRO, micro-batch, recomputation."""
    module = command("plan")
    document = module.train(
        model, cluster, global_batch=global_batch, seq=seq, precision=precision, fix=fix or [], explain=explain, form=launch,
        page=page, runners=runners, calibration=calibration, imbalance=imbalance, fewer=fewer,
        scenarios=scenarios, tuner=tuner,
    )  # fmt: skip
    emit(document) if as_json else module.show_train(out(), document)


@plan_app.command("serve")
def plan_serve(
    model: _Model,
    cluster: _Cluster,
    isl: Annotated[int, typer.Option("--isl", min=1, help="Mean tokens of a prompt.")],
    osl: Annotated[int, typer.Option("--osl", min=1, help="Mean tokens of an output.")],
    rate: Annotated[float, typer.Option("--rate", help="Requests a second.")],
    ttft: Annotated[float, typer.Option("--ttft", metavar="SECONDS", help="Longest mean time to the first token; default: no limit.")] = float("inf"),
    tpot: Annotated[float, typer.Option("--tpot", metavar="SECONDS", help="Longest mean time of each further token; default: no limit.")] = float("inf"),
    backend: Annotated[str, typer.Option("--backend", help="Whose step times: trtllm, sglang or vllm.")] = "vllm",
    precision: Annotated[str, typer.Option("--precision", help="bf16, fp8, fp4, int4, or auto: bf16 and fp8.")] = "auto",
    mode: Annotated[str, typer.Option("--mode", help="auto, or aggregated: no separate workers for prefills.")] = "auto",
    launch: Annotated[str, typer.Option("--emit", metavar="FORM", help="Print launch commands: vllm or sglang.")] = "",
    runners: _Runners = 5,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Find the plan with the fewest GPUs that serves a model at a rate within limits on its latencies."""
    module = command("plan")
    document = module.serve(
        model, cluster, rate=rate, isl=isl, osl=osl, ttft=ttft, tpot=tpot, backend=backend, precision=precision, mode=mode,
        form=launch, runners=runners,
    )  # fmt: skip
    emit(document) if as_json else module.show_serve(out(), document)


@plan_app.command("check")
def plan_check(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="CSV of measured plans, plain or gzipped; docs/parallelism.md names the columns.")],
    calibration: Annotated[str, typer.Option("--calibration", metavar="NAME", help="Efficiencies to use for all rows (training).")] = "",
    as_json: Json = False,
) -> None:  # fmt: skip
    """Compare predictions with measured plans: error, rank correlation, regret, memory."""
    module = command("plan")
    document = module.check(table, calibration=calibration)
    emit(document) if as_json else module.show_check(out(), document)


@contextmanager
def _steps(what: str) -> Iterator[Any]:
    """Show a progress bar on the terminal; yields ``tick(done, total, words)``."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn(what),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} {task.description}", markup=False),
        TimeElapsedColumn(),
    )
    screen = console()
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("", total=1)

        def tick(done: int, total: int, words: str) -> None:
            bar.update(task, completed=done, total=total, description=words)

        yield tick
