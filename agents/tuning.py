"""Agents that learn on a family of targets, and tune its unseen members."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.agents import policy
from tunewright.comparing.games import entry
from tunewright.envs.family import Standing, TuningFamilyEnv
from tunewright.envs.tuning import gain
from tunewright.errors import ConfigError, unknown
from tunewright.plugins import open_target, reopen
from tunewright.store.store import Store
from tunewright.target import BaseTarget

ALGORITHMS = ("ppo", "sac", "td3")
BUDGET = 8  # steps of an episode
HELD_OUT = 1_000_003  # members are drawn from seeds; those of the evaluation lie beyond these
EPISODES = 50
#: settings that worked on the Lustre model; the rest are Stable-Baselines3's
SETTINGS: dict[str, dict[str, Any]] = {
    "ppo": {
        "n_steps": 256, "batch_size": 256, "gamma": 0.7, "gae_lambda": 0.9, "learning_rate": 5e-4, "n_epochs": 8,
        "policy_kwargs": {"net_arch": [128, 128], "log_std_init": -0.7},
    },
    "sac": {"gamma": 0.7, "batch_size": 256, "learning_starts": 1000, "policy_kwargs": {"net_arch": [128, 128]}},
    "td3": {"gamma": 0.7, "batch_size": 256, "learning_starts": 1000, "policy_kwargs": {"net_arch": [128, 128]}},
}  # fmt: skip


def run(
    targets: Sequence[str],
    *,
    algorithm: str = "ppo",
    steps: int = 200_000,
    output: Path = Path("policy.zip"),
    budget: int = BUDGET,
    seed: int = 0,
    resume: bool = False,
    log: Path | None = None,
    demonstrations: Sequence[str] = (),
    store: str | None = None,
    progress: bool = False,
    trust_file: bool = False,
) -> dict[str, Any]:
    """Train, save, and try on members never drawn; see ``tunewright train tuner --help`` for the arguments."""
    if algorithm not in ALGORITHMS:
        raise unknown("algorithm", algorithm, ALGORITHMS)
    if not output.parent.is_dir():
        raise ConfigError(f"there is no directory {output.parent}; make it, or name another file with -o")
    if demonstrations and algorithm == "ppo":
        raise ConfigError("ppo learns from what it does itself; sac and td3 take demonstrations")
    opened = [_opened(t) for t in targets]
    family = TuningFamilyEnv(opened, budget)
    note = {
        "family": [t.name for t in opened], "parameters": list(family.layout.parameters),
        "facts": list(family.layout.facts), "budget": budget,
    }  # fmt: skip
    shown = _demonstrated(family, demonstrations, store) if demonstrations else []

    def prepare(model: Any) -> None:
        for step in shown:
            model.replay_buffer.add(*step)

    policy.train(
        lambda: TuningFamilyEnv(opened, budget), algorithm=algorithm, steps=steps, path=output, seed=seed,
        progress=progress, copies=8 if algorithm == "ppo" else 1, note=note, checkpoint=max(steps // 20, 2_000),
        resume=resume, log=log, prepare=prepare if shown else None, trust_file=trust_file, **SETTINGS[algorithm],
    )  # fmt: skip
    model = policy.load(output)
    return {
        "file": str(output), "family": note["family"], "algorithm": algorithm, "steps": int(model.num_timesteps),
        "seed": seed, "demonstrations": len(shown), "members": EPISODES,
        "held_out": {
            "agent": evaluate(model, opened, budget), "random": evaluate(None, opened, budget),
        },
    }  # fmt: skip


def _opened(text: str) -> BaseTarget:
    read = entry(text, "target")
    if read.workload:
        raise ConfigError(f"{text!r} names a workload; a family draws its own, options are written @NAME=VALUE")
    return open_target(read.spec, read.options)


def evaluate(model: Any, targets: Sequence[Any], budget: int, episodes: int = EPISODES) -> dict[str, float]:
    """Return the median improvement over the default after one trial, after half and all of the budget.

    Args:
        model: a trained agent; None for random configurations.
        targets: whose unseen members are drawn.
        budget: trials of an episode.
        episodes: members.
    """
    env = policy.symmetric(TuningFamilyEnv(targets, budget))
    rng = np.random.default_rng(0)
    shape = env.action_space.shape or (1,)
    gains = []
    for episode in range(episodes):
        seen, _ = env.reset(seed=HELD_OUT + episode)
        own: list[float] = []
        over = False
        while not over:
            action = rng.uniform(-1, 1, shape) if model is None else model.predict(seen, deterministic=not own)[0]
            seen, _, over, _, info = env.step(np.asarray(action, dtype=np.float32))
            own.append(info["best_gain"])
        gains.append(own)
    middle = np.exp(np.median(np.array(gains), axis=0))
    return {"first": float(middle[0]), "half": float(middle[max(budget // 2 - 1, 0)]), "all": float(middle[-1])}


def _demonstrated(family: TuningFamilyEnv, sessions: Sequence[str], url: str | None) -> list[tuple[Any, ...]]:
    """Return the transitions of stored sessions, as a replay buffer takes them.

    A session of any tuner will do: a language model's, an engineer's. Each trial is an action.

    Raises:
        ConfigError: a session is of a target with other parameters.
    """
    store = Store(url)
    found: list[tuple[Any, ...]] = []
    for name in sessions:
        record, trials = store.session(name), [t for t in store.trials(name) if t.decided]
        plan = record["plan"]
        target = reopen(name, record)
        space, objective = target.space, target.metrics[0]
        if tuple(space.params) != family.layout.parameters:
            raise ConfigError(f"session {name!r} tuned {target.name}, which has other parameters than this family")
        about = f"{plan['workload']} {target.workloads[plan['workload']]}"
        default = next((t for t in trials if t.step == 0 and t.ok), None)
        if default is None or len(trials) < 2:
            continue
        base = default.scores[objective.name]
        standing, rest = Standing(space), trials[1:]

        def look(k: int) -> Any:
            left = 1 - k / len(rest)  # noqa: B023 (called within the turn)
            return standing.observe(family.layout, facts=target.facts, about=about, left=left)[None]  # noqa: B023

        for k, trial in enumerate(rest):
            before = look(k)
            gained = gain(objective, trial.scores[objective.name], base) if trial.feasible else None
            reward = standing.advance(dict(trial.config), gained)
            action = (2 * space.encode(trial.config) - 1).astype(np.float32)[None]
            over = np.array([k == len(rest) - 1])
            found.append((before, look(k + 1), action, np.array([reward]), over, [{}]))
    if not found:
        raise ConfigError("the sessions hold no trials beside the default's")
    return found
