"""The commands ``tunewright train``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from tunewright.agents.placement.cli import Devices
from tunewright.cli.options import Json, StoreUrl, TrustFile, command, console, listed
from tunewright.knowledge.cli import Requests, SkipBad, TraceOption

if TYPE_CHECKING:
    from rich.console import Console

train = typer.Typer(help="Train agents; they are saved as a file.", no_args_is_help=True)
Output = Annotated[Path, Option("--output", "-o", help="File to write, ending in .zip.")]
Seed = Annotated[int, Option("--seed", min=0, help="Of the agent.")]
_OUTPUT = Path("policy.zip")


def _show_placement(console: Console, document: dict[str, Any]) -> None:
    from rich.text import Text

    from tunewright.cli.terminal import table
    from tunewright.report.words import number

    console.print(Text(f"trained on {document['trace']} for {document['steps']:,} requests; mean latency of a replay:"))
    rows = table("policy", "mean us", numbers=("mean us",))
    for row in document["policies"]:
        rows.add_row(Text(row["policy"], style="bold"), number(row["mean_latency_us"]))
    console.print(rows)
    console.print(Text(f"wrote {document['file']}", style="dim"))


def _show_tuner(console: Console, document: dict[str, Any]) -> None:
    from rich.text import Text

    from tunewright.cli.terminal import table

    console.print(
        f"{document['steps']:,} steps of {document['algorithm']} on {', '.join(document['family'])};"
        f" {document['members']} members that were never drawn, median improvement over the default:"
    )
    heads = ("first trial", "half the trials", "all trials")
    rows = table("", *heads, numbers=heads)
    for who, held in document["held_out"].items():
        rows.add_row(Text(who), *(f"{held[k]:.2f} x" for k in ("first", "half", "all")))
    console.print(rows)
    console.print(f"use it: tunewright tune TARGET --tuner policy:{document['file']}", markup=False)


@command(train, "placement", _show_placement)
def placement(
    source: Annotated[str, Option("--trace", metavar="TRACE", help="A block trace, or synthetic:KIND.")],
    algorithm: Annotated[str, Option("--algo", help="dqn, ppo or a2c.")] = "dqn",
    steps: Annotated[int, Option("--steps", min=1, help="Requests to learn from.")] = 100_000,
    output: Output = _OUTPUT,
    devices: Devices = "performance",
    fast: Annotated[float, Option("--fast", help="Share of the footprint that the fastest tier holds.")] = 0.10,
    seed: Seed = 0,
    option: TraceOption = None,
    skip_bad: SkipBad = 0,
    requests: Requests = None,
    as_json: Json = False,
) -> dict[str, Any]:
    """Train a Stable-Baselines3 agent on the placement environment, and say how it compares with simple policies."""
    from tunewright.agents import policy
    from tunewright.agents.placement import policies as P
    from tunewright.agents.placement import training
    from tunewright.envs.storage.hybrid.devices import load_devices
    from tunewright.envs.storage.hybrid.env import PlacementEnv
    from tunewright.errors import ConfigError, unknown
    from tunewright.knowledge.blocktrace import paged
    from tunewright.knowledge.synthetic import open_trace
    from tunewright.plugins import parse_options
    from tunewright.store.outputs import check_output

    options = parse_options(option)
    if algorithm not in training.ALGORITHMS:
        raise unknown("algorithm", algorithm, training.ALGORITHMS)
    if output.suffix != ".zip":
        raise ConfigError(f"{output} must end in .zip")
    if not output.parent.is_dir():
        raise ConfigError(f"there is no directory {output.parent}; make it, or name another file with -o")
    cut = paged(open_trace(source, options, skip_bad=skip_bad, limit=requests))
    tiers = load_devices(devices)
    check_output(output)
    scale = P.time_scale(cut, tiers)

    def make_env() -> PlacementEnv:
        return PlacementEnv(trace=cut, devices=tiers, fast=fast, scale=scale)

    policy.train(
        make_env, algorithm=algorithm, steps=steps, path=output, seed=seed, progress=_drawn(as_json),
        **training.settings_of(algorithm, steps),
    )  # fmt: skip
    setup = P.Setup(paged=cut, devices=tiers, fast=fast, scale=scale)
    rows = [{"policy": n, "mean_latency_us": P.replay(setup, n, seed=seed).mean_us} for n in training.BESIDE]
    trained = {"policy": algorithm, "mean_latency_us": training.evaluate(policy.load(output), make_env())}
    return {
        "file": str(output), "trace": cut.trace.name, "devices": devices, "steps": steps, "seed": seed,
        "policies": [*rows, trained],
    }  # fmt: skip


@command(train, "tuner", _show_tuner)
def tuner(
    targets: Annotated[list[str], Option(
        "--targets", metavar="A,B,...", help="Simulated targets with the same parameters, such as lustre; each draws "
        "machines and workloads of its own.")],
    algorithm: Annotated[str, Option("--algo", help="ppo, sac or td3.")] = "ppo",
    steps: Annotated[int, Option("--steps", min=1, help="Trials to learn from, in all.")] = 200_000,
    output: Output = _OUTPUT,
    budget: Annotated[int, Option(
        "--budget", min=1, help="Trials of an episode: what a session will have.")] = 8,
    seed: Seed = 0,
    resume: Annotated[bool, Option(
        "--resume", help="Go on with the file; it is written twenty times on the way, and on Ctrl-C.")] = False,
    trust_file: TrustFile = False,
    log: Annotated[Path | None, Option("--tensorboard", metavar="DIR", help="Write logs for TensorBoard.")] = None,
    demonstrations: Annotated[list[str] | None, Option(
        "--demonstration", metavar="SESSION", help="A stored session, such as a language model's, whose trials are "
        "put into the replay buffer (sac, td3); repeatable.")] = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> dict[str, Any]:  # fmt: skip
    """Train an agent to tune a family of simulated targets, and try it on members that it never saw."""
    from tunewright.agents.tuning import run

    try:
        return run(
            [name for text in targets for name in listed(text)], algorithm=algorithm, steps=steps, output=output,
            budget=budget, seed=seed, resume=resume, log=log, demonstrations=demonstrations or (), store=store,
            progress=_drawn(as_json), trust_file=trust_file,
        )  # fmt: skip
    except KeyboardInterrupt:
        console().print(f"stopped; what was learned is in {output}; go on with --resume", markup=False)
        raise SystemExit(130) from None


def _drawn(as_json: bool) -> bool:
    """Whether the library that trains may draw its bar: for a person, and not into a document."""
    return not as_json and sys.stderr.isatty()
