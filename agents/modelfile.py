"""Stable-Baselines3 models as files without pickle: ``agent.json`` and arrays, in one zip.

SB3's own files hold pickled Python, which runs whatever it likes when it is opened. Here a file names an algorithm and
a policy of a fixed list and gives numbers; the model is built by SB3 from these, and its tensors are filled in.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.agents import archive as A
from tunewright.agents import modelparts as P
from tunewright.agents.archive import DamagedError
from tunewright.errors import ConfigError, missing_extra, unknown

#: the class of each algorithm in Stable-Baselines3, or in sb3-contrib
CLASSES = {
    "ppo": "PPO", "sac": "SAC", "td3": "TD3", "a2c": "A2C", "ddpg": "DDPG", "dqn": "DQN", "maskableppo": "MaskablePPO",
}  # fmt: skip
AGENT = "agent.json"
VERSION = 1
_POLICIES = ("MlpPolicy", "CnnPolicy")
_CANDIDATES = "CandidatePolicy"  # of tunewright.agents.scheduling
#: what an optimiser keeps of each parameter once it has made a step
_MOMENTS = {
    "Adam": {"step", "exp_avg", "exp_avg_sq"}, "AdamW": {"step", "exp_avg", "exp_avg_sq"}, "SGD": {"momentum_buffer"},
    "RMSprop": {"step", "square_avg"}, "RMSpropTFLike": {"step", "square_avg"},
}  # fmt: skip


def algorithm_class(name: str) -> Any:
    """Return the class of an algorithm.

    Raises:
        UnknownNameError: there is none.
        MissingExtraError: its package is not installed.
    """
    if name not in CLASSES:
        raise unknown("algorithm", name, CLASSES)
    package = "sb3-contrib" if name == "maskableppo" else "stable-baselines3"
    try:
        return getattr(import_module(package.replace("-", "_")), CLASSES[name])
    except ImportError:
        raise missing_extra(package, "rl", "a learning policy") from None


def algorithm_of(model: Any) -> str:
    """Return the name of a model's algorithm; a subclass of a user's own has none."""
    for name, spelt in CLASSES.items():
        if type(model).__name__ == spelt and type(model) is algorithm_class(name):
            return name
    raise P.unkept(f"an algorithm of the class {type(model).__name__}")


# -- writing ----------------------------------------------------------------------------------------


def described(model: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return a model as a JSON-able document and arrays.

    Raises:
        ConfigError: something of it is an object of a program, which a file without pickle cannot hold.
    """
    arrays: dict[str, NDArray[Any]] = {}
    if model.get_vec_normalize_env() is not None:
        raise P.unkept("VecNormalize, an environment that keeps statistics")
    modules, variables = model._get_torch_save_params()
    optimizers = {}
    for name in modules:
        part = _part(model, name)
        if hasattr(part, "param_groups"):
            optimizers[name] = _optimizer(part, name, arrays)
        else:
            arrays |= {f"{name}/{key}": _numpy(tensor) for key, tensor in part.state_dict().items()}
    for name in variables:
        arrays[f"variables/{name}"] = _numpy(_part(model, name))
    held = vars(model)
    document = {
        "algorithm": algorithm_of(model), "policy": _policy_name(model), "n_envs": int(model.n_envs),
        "observation_space": P.space_to(model.observation_space, "observation_space", arrays),
        "action_space": P.space_to(model.action_space, "action_space", arrays),
        "settings": P.settings_to(model), "optimizers": optimizers,
        "counters": {name: P.plain(held[name]) for name in P.COUNTERS if name in held},
    }  # fmt: skip
    for name in ("observation_space", "action_space"):
        try:
            P.space_from(document[name], name, arrays)
        except A.DAMAGE:
            raise P.unkept(f"the {name.replace('_', ' ')} {getattr(model, name)}") from None
    return document, arrays


def write(path: Path, model: Any, extra: Mapping[str, Any]) -> None:
    """Write a model whole or not at all.

    Args:
        path: the file.
        model: the model.
        extra: further entries of the document, JSON-able.

    Raises:
        ConfigError: it cannot be written, or holds what a file without pickle has no place for.
    """
    from tunewright.space.facts import versions

    document, arrays = described(model)
    used = versions("stable-baselines3", "torch", "numpy")
    head = {"format": "tunewright agent", "version": VERSION, "versions": used}
    A.write(path, {AGENT: {**head, **document, **extra}}, arrays)


def _policy_name(model: Any) -> Any:
    used = model.policy_class
    for name in _POLICIES:
        if model.policy_aliases.get(name) is used:
            return name
    arguments = vars(used).get("arguments")
    if used.__name__ == _CANDIDATES and used.__module__ == "tunewright.agents.scheduling" and arguments:
        return {"name": _CANDIDATES, **arguments}
    raise P.unkept(f"a policy of the class {used.__name__}")


def _optimizer(optimizer: Any, name: str, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Return an optimiser's settings and single numbers; its moments go to the arrays."""
    state = optimizer.state_dict()
    numbers: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if hasattr(value, "detach"):
                arrays[f"{name}/{index}/{key}"] = _numpy(value)
            elif value is not None:
                numbers.setdefault(str(index), {})[key] = P.plain(value)
    groups = [
        {k: list(v) if isinstance(v, tuple) else P.plain(v) for k, v in group.items() if k != "params"}
        for group in state["param_groups"]
    ]
    return {"groups": groups, "numbers": numbers}


def _numpy(tensor: Any) -> NDArray[Any]:
    return np.asarray(tensor.detach().cpu().numpy())


def _part(model: Any, name: str) -> Any:
    for step in name.split("."):
        model = getattr(model, step)
    return model


# -- reading ----------------------------------------------------------------------------------------


def is_own(path: Path) -> bool:
    """Whether a file is an agent in this format, by its table of contents."""
    try:
        with zipfile.ZipFile(path) as archive:
            return AGENT in archive.namelist()
    except (*A.DAMAGE, OSError):
        return False


def head(path: Path) -> dict[str, Any]:
    """Return the document of an agent file, with what :func:`write` was given as ``extra``.

    Raises:
        ConfigError: the file is damaged, or of a later version.
    """
    with told(path, "an agent file"), A.opened(path, stored=True) as archive:
        return _head(archive)


def _head(archive: zipfile.ZipFile) -> dict[str, Any]:
    document = A.read_json(archive, AGENT)
    versioned(document)
    if document.get("algorithm") not in CLASSES:
        raise DamagedError("it names no algorithm that there is")
    if not isinstance(document.get("note"), dict):
        raise DamagedError("its note is no JSON object")
    return document


def read(path: Path, env: Any = None) -> Any:
    """Build the model that a file describes.

    Args:
        path: the file.
        env: environments to go on learning in; without them the model only acts, and has no buffer.

    Raises:
        ConfigError: the file is damaged, or its spaces are not the environment's.
    """
    with told(path, "an agent file"), A.opened(path, stored=True) as archive:
        document = _head(archive)
        names = [n.removesuffix(".npy") for n in archive.namelist() if n != AGENT]
        arrays = {name: A.read_array(archive, name) for name in names}
        fixed = {name: P.space_from(document[name], name, arrays) for name in ("observation_space", "action_space")}
    if env is not None:
        env = algorithm_class(document["algorithm"])._wrap_env(env)
        fits(path, fixed, env)
    with told(path, "an agent file"):
        return _built(document, arrays, fixed, env)


def fits(path: Path, spaces: Mapping[str, Any], env: Any) -> None:
    """Check that an agent's spaces are those of an environment.

    Raises:
        ConfigError: one differs.
    """
    for name, space in spaces.items():
        if space != getattr(env, name):
            here = getattr(env, name)
            raise ConfigError(
                f"{path} was trained on something else: its {name.replace('_', ' ')} is {space}, here it is {here};"
                " name another file with -o"
            )


@contextmanager
def told(path: Path, what: str) -> Iterator[None]:
    """Whatever is wrong with a file, or with what is built of it, becomes one line."""
    try:
        yield
    except (*A.DAMAGE, AttributeError, AssertionError, ArithmeticError) as error:
        raise A.damaged(path, what, error) from None


def versioned(document: Mapping[str, Any]) -> None:
    """Check that this release reads a file's format.

    Raises:
        DamagedError: it does not.
    """
    if document.get("version") != VERSION:
        raise DamagedError(f"its format is version {document.get('version')!r}; this release reads {VERSION}")


def _built(
    document: Mapping[str, Any], arrays: dict[str, NDArray[Any]], fixed: Mapping[str, Any], env: Any
) -> Any:  # fmt: skip
    made, policy = algorithm_class(document["algorithm"]), document["policy"]
    if isinstance(policy, dict):
        from tunewright.agents.scheduling import candidate_policy

        numbers = {str(k): P.whole(0, 2**16)(v) for k, v in policy.items() if k != "name"}
        if policy["name"] != _CANDIDATES:
            raise DamagedError("it names no policy that there is")
        policy = candidate_policy(**numbers)
    elif policy not in _POLICIES:
        raise DamagedError("it names no policy that there is")
    model = made(policy, env, device="cpu", _init_setup_model=False)
    vars(model).update(P.settings_from(document["settings"], vars(model)))
    vars(model).update(fixed)
    model.n_envs = P.whole(1, 2**16)(document["n_envs"]) if env is None else env.num_envs
    _set_up(model, sum(a.size for a in arrays.values()), acts_only=env is None)
    _fill(model, document["optimizers"], arrays)
    for name, value in document["counters"].items():
        if name not in P.COUNTERS or name not in vars(model):
            raise DamagedError(f"{name} is no counter of this algorithm")
        setattr(model, name, P.COUNTERS[name](value))
    if model.use_sde:
        model.policy.reset_noise()
    return model


def _set_up(model: Any, most: int, *, acts_only: bool) -> None:
    """Build the networks and, unless the model only acts, the buffer; neither larger than the file and memory allow."""
    kept = {name: getattr(model, name) for name in ("replay_buffer", "rollout_buffer_class") if hasattr(model, name)}
    if acts_only:
        vars(model).update({name: _nothing for name in kept})
    else:
        _buffer_fits(model)
    with _limited(most):
        model._setup_model()
    if acts_only:
        vars(model).update(kept)


def _nothing(*given: Any, **named: Any) -> None:
    """Stand in for the buffer of a model that only acts."""


def _buffer_fits(model: Any) -> None:
    import psutil

    rows = getattr(model, "buffer_size", None) or model.n_steps * model.n_envs
    width = 2 * math.prod(model.observation_space.shape or (1,)) + math.prod(model.action_space.shape or (1,)) + 8
    if 4 * rows * width > psutil.virtual_memory().total:
        raise DamagedError(f"its buffer of {rows:,} steps is larger than this machine's memory")


@contextmanager
def _limited(most: int) -> Iterator[None]:
    """Let no more numbers be allocated for networks than a file holds of them: all of a model's weights are in it."""
    import torch
    from torch.overrides import TorchFunctionMode

    makers: dict[Callable[..., Any], None] = dict.fromkeys(
        (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)
    )

    class Limit(TorchFunctionMode):
        left = 2 * most + 2**22  # beside weights there are constants, and layers that a policy replaces at once

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in makers:
                size = (kwargs or {}).get("size", args[0] if args and hasattr(args[0], "__len__") else args)
                self.left -= math.prod(int(n) for n in size)
                if self.left < 0:
                    raise DamagedError("its networks are larger than its weights")
            return func(*args, **(kwargs or {}))

    with Limit():
        yield


def _fill(model: Any, optimizers: Mapping[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
    """Put a file's numbers into a model that was just built; all of them, and no others."""
    import torch

    left = {n: a for n, a in arrays.items() if not n.startswith(("observation_space.", "action_space."))}

    def take(name: str, shape: Any, dtype: Any = None) -> Any:
        tensor = torch.from_numpy(left.pop(name))
        if tensor.shape != shape or dtype not in (None, tensor.dtype):
            raise DamagedError(f"{name} has the shape {tuple(tensor.shape)}, not {tuple(shape)}")
        return tensor

    modules, variables = model._get_torch_save_params()
    for name in modules:
        part = _part(model, name)
        if hasattr(part, "param_groups"):
            part.load_state_dict(_optimizer_state(part, name, optimizers[name], left, take))
        else:
            own = part.state_dict()
            part.load_state_dict({key: take(f"{name}/{key}", t.shape, t.dtype) for key, t in own.items()})
    for name in variables:
        tensor = _part(model, name)
        tensor.data = take(f"variables/{name}", tensor.shape, tensor.dtype)
    if left:
        raise DamagedError(f"it holds {next(iter(left))}, which its model has no place for")


def _optimizer_state(
    optimizer: Any, name: str, document: Any, left: Mapping[str, Any], take: Callable[..., Any]
) -> dict[str, Any]:
    """Return the state of an optimiser; its moments have the shapes of the parameters that they belong to."""
    own = optimizer.state_dict()
    groups = []
    for mine, stored in zip(own["param_groups"], document["groups"], strict=True):
        for key, value in stored.items():
            if key == "params" or not _alike(mine[key], value):
                raise DamagedError(f"{key} = {value!r} is no setting of its optimiser")
        groups.append(mine | {key: tuple(v) if isinstance(v, list) else v for key, v in stored.items()})
    state: dict[int, dict[str, Any]] = {}
    needed = _MOMENTS[type(optimizer).__name__]
    for index, tensor in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        prefix = f"{name}/{index}/"
        entries: dict[str, Any] = {}
        for key in [n.removeprefix(prefix) for n in left if n.startswith(prefix)]:
            entries[key] = take(prefix + key, () if key == "step" else tensor.shape, tensor.dtype)
        if "step" in document["numbers"].get(str(index), {}):
            entries["step"] = P.whole(0, 2**53)(document["numbers"][str(index)]["step"])
        if entries and not needed <= set(entries):
            raise DamagedError(f"the state of {name} is incomplete")
        if entries:
            state[index] = entries
    return {"state": state, "param_groups": groups}


def _alike(mine: Any, value: Any) -> bool:
    """Whether a file's value can stand for an optimiser's own: the same kind of thing."""
    if isinstance(value, list):
        return isinstance(mine, tuple) and len(mine) == len(value) and all(map(_alike, mine, value))
    if mine is None or isinstance(mine, bool):
        return value is None or isinstance(value, bool)
    return isinstance(mine, int | float) and isinstance(value, int | float) and not isinstance(value, bool)
