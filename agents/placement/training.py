"""The command ``tunewright train placement``: Stable-Baselines3 agents on the placement environment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunewright.agents import policy
from tunewright.agents.placement import policies as P
from tunewright.envs.storage.hybrid.devices import load_devices
from tunewright.envs.storage.hybrid.env import PlacementEnv
from tunewright.errors import ConfigError, unknown
from tunewright.knowledge.blocktrace import paged
from tunewright.knowledge.synthetic import open_trace

if TYPE_CHECKING:
    from rich.console import Console

ALGORITHMS = ("dqn", "ppo", "a2c")
#: what the policies are compared with
BESIDE = ("fast-only", "slow-only", "lru", "lru-write")


def evaluate(model: Any, env: PlacementEnv) -> float:
    """Return the mean latency of one episode in us, actions chosen without exploration."""
    seen, _ = env.reset(seed=0)
    latencies, over = [], False
    while not over:
        action, _ = model.predict(seen, deterministic=True)
        seen, _, over, _, info = env.step(action)
        latencies.append(info["latency_us"])
    return float(np.mean(latencies))


def run(
    source: str,
    options: dict[str, str],
    *,
    algorithm: str = "dqn",
    steps: int = 100_000,
    output: Path = Path("policy.zip"),
    devices: str = "performance",
    fast: float = 0.10,
    seed: int = 0,
    skip_bad: int = 0,
    limit: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Train, save and compare; see ``tunewright train placement --help`` for the arguments."""
    if algorithm not in ALGORITHMS:
        raise unknown("algorithm", algorithm, ALGORITHMS)
    if output.suffix != ".zip":
        raise ConfigError(f"{output} must end in .zip")
    if not output.parent.is_dir():
        raise ConfigError(f"there is no directory {output.parent}; make it, or name another file with -o")
    cut = paged(open_trace(source, options, skip_bad=skip_bad, limit=limit))
    tiers = load_devices(devices)
    scale = P.time_scale(cut, tiers)

    def make_env() -> PlacementEnv:
        return PlacementEnv(trace=cut, devices=tiers, fast=fast, scale=scale)

    # small networks and long horizons of nothing: what the published agents use, as far as SB3 has it
    settings: dict[str, Any] = {"policy_kwargs": {"net_arch": [20, 30]}, "gamma": 0.9}
    if algorithm == "dqn":
        settings |= {"learning_starts": min(500, steps // 4), "buffer_size": 10_000, "exploration_final_eps": 0.02}
    policy.train(make_env, algorithm=algorithm, steps=steps, path=output, seed=seed, progress=progress, **settings)
    setup = P.Setup(paged=cut, devices=tiers, fast=fast, scale=scale)
    rows = [{"policy": n, "mean_latency_us": P.replay(setup, n, seed=seed).mean_us} for n in BESIDE]
    trained = {"policy": algorithm, "mean_latency_us": evaluate(policy.load(output), make_env())}
    return {
        "file": str(output),
        "trace": cut.trace.name,
        "devices": devices,
        "steps": steps,
        "seed": seed,
        "policies": [*rows, trained],
    }


def show(console: Console, document: dict[str, Any]) -> None:
    """Print the comparison for a person."""
    from rich.table import Table
    from rich.text import Text

    from tunewright.report.words import number

    console.print(Text(f"trained on {document['trace']} for {document['steps']:,} requests; mean latency of a replay:"))
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("policy")
    table.add_column("mean us", justify="right")
    for row in document["policies"]:
        table.add_row(Text(row["policy"], style="bold"), number(row["mean_latency_us"]))
    console.print(table)
    console.print(Text(f"wrote {document['file']}", style="dim"))
