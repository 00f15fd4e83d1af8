"""Little agents, their environments, and archives that are rewritten."""

import json
import zipfile

import gymnasium
import numpy as np
import pytest

import tunewright.envs  # noqa: F401 (registers the environments)
from tunewright.agents import policy as agents
from tunewright.testing import Sphere

sb3 = pytest.importorskip("stable_baselines3", reason="needs the extra: pip install 'tunewright[rl]'")
torch = pytest.importorskip("torch")


def settings(algorithm, **more):
    """Small and quick settings; a fresh mapping each time, for SB3 writes into it."""
    own = {
        "ppo": {"n_steps": 16, "batch_size": 16, "clip_range": 0.1}, "a2c": {}, "dqn": {"target_update_interval": 5},
    }  # fmt: skip
    if algorithm not in ("ppo", "a2c"):
        more = {"learning_starts": 8, "buffer_size": 64, "batch_size": 8, **more}
    return {**own.get(algorithm, {}), "policy_kwargs": {"net_arch": [4]}, **more}


class Drift(gymnasium.Env):
    """A little environment with numbers or choices as actions."""

    def __init__(self, discrete=False, actions=2, size=3):
        self.observation_space = gymnasium.spaces.Box(-1, 1, (size,))
        self.action_space = gymnasium.spaces.Discrete(actions) if discrete else gymnasium.spaces.Box(-1, 1, (actions,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.low * 0.5, {}

    def step(self, action):
        seen = self.np_random.uniform(-1, 1, self.observation_space.shape).astype(np.float32)
        return seen, float(np.sum(action)), bool(self.np_random.random() < 0.1), False, {}

    def action_masks(self):
        return np.ones(self.action_space.n, bool)


def sphere_env():
    return gymnasium.make("tunewright/Tuning-v0", target=Sphere(2), budget=5)


def table_env(path):
    return lambda: gymnasium.make("tunewright/Tuning-v0", target=f"table:{path}", budget=5)


def equal(one, other):
    """Whether two states of networks or optimisers are the same to the last bit, types and keys included."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    if torch.is_tensor(one):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and one == other


def rewrite(path, change, *, drop=(), add=()):
    """Rewrite an archive with its JSON documents changed, members left out and others put in."""
    with zipfile.ZipFile(path) as before:
        members = {n: before.read(n) for n in before.namelist() if n not in drop} | dict(add)
    with zipfile.ZipFile(path, "w") as after:
        for name, raw in members.items():
            if name.endswith(".json"):
                document = json.loads(raw)
                raw = json.dumps(change(document) or document).encode()
            after.writestr(name, raw)


def one_line(error):
    return "\n" not in str(error) and "Traceback" not in str(error) and len(str(error)) < 700


def train_small(folder):
    """Train a little agent on the sphere and return its file, one of our own format."""
    return agents.train(sphere_env, steps=16, path=folder / "own.zip", note={"a": 1}, **settings("ppo"))
