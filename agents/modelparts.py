"""The parts of a Stable-Baselines3 model as plain data, and back: spaces, settings, policies, schedules, noise.

What is read back is built from the lists here alone: a file can choose among them, and name nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from tunewright.agents.archive import DAMAGE, DamagedError
from tunewright.errors import ConfigError

Arrays = dict[str, NDArray[Any]]
ACTIVATIONS = ("Tanh", "ReLU", "ELU", "LeakyReLU", "GELU", "SiLU", "Sigmoid", "Softplus", "Mish", "Identity")
OPTIMIZERS = ("Adam", "AdamW", "RMSprop", "SGD")
EXTRACTORS = ("FlattenExtractor", "NatureCNN")
_BIG = 2**53  # of counters: what a JSON number keeps exactly


def unkept(what: str) -> ConfigError:
    """Build the error for a part of a model that a file without pickle has no place for."""
    return ConfigError(f"an agent file keeps plain data, and has no place for {what}; leave it at its default")


def whole(low: int, high: int) -> Callable[[Any], int]:
    """Return a check for whole numbers from ``low`` to ``high``."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise DamagedError(f"{value!r} is no whole number from {low} to {high}")
        return value

    return check


def number(low: float, high: float) -> Callable[[Any], float]:
    """Return a check for numbers from ``low`` to ``high``."""

    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise DamagedError(f"{value!r} is no number from {low:g} to {high:g}")
        return value

    return check


def flag(value: Any) -> bool:
    """Check a truth value."""
    if not isinstance(value, bool):
        raise DamagedError(f"{value!r} is neither true nor false")
    return value


def maybe(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a check that lets None through."""
    return lambda value: None if value is None else check(value)


any_number = number(-1e12, 1e12)
_share, _positive = number(0, 1), number(0, 1e12)
_batch = whole(1, 2**20)

#: attributes that shape a model, and what each may be; those that an algorithm lacks are left out
SETTINGS: dict[str, Callable[[Any], Any]] = {
    "seed": maybe(whole(0, _BIG)), "gamma": _share, "use_sde": flag, "sde_sample_freq": whole(-1, 2**31),
    "_stats_window_size": _batch, "n_steps": _batch, "gae_lambda": _share, "vf_coef": any_number,
    "max_grad_norm": _positive, "normalize_advantage": flag, "batch_size": _batch, "n_epochs": whole(1, 2**16),
    "target_kl": maybe(_positive), "buffer_size": whole(1, 2**40), "learning_starts": whole(0, _BIG), "tau": _share,
    "gradient_steps": whole(-1, 2**20), "optimize_memory_usage": flag, "use_sde_at_warmup": flag,
    "target_update_interval": whole(1, _BIG), "target_entropy": any_number, "policy_delay": whole(1, 2**31),
    "target_policy_noise": _positive, "target_noise_clip": _positive, "exploration_initial_eps": _share,
    "exploration_final_eps": _share, "exploration_fraction": _share,
}  # fmt: skip
#: attributes that say how far learning has come
COUNTERS: dict[str, Callable[[Any], Any]] = {
    "num_timesteps": whole(0, _BIG), "_total_timesteps": whole(0, _BIG), "_num_timesteps_at_start": whole(0, _BIG),
    "_episode_num": whole(0, _BIG), "_n_updates": whole(0, _BIG), "_n_calls": whole(0, _BIG),
    "_current_progress_remaining": any_number, "exploration_rate": _share,
}  # fmt: skip
_POLICY: dict[str, Callable[[Any], Any]] = {
    "ortho_init": flag, "use_sde": flag, "log_std_init": any_number, "full_std": flag, "use_expln": flag,
    "squash_output": flag, "clip_mean": any_number, "share_features_extractor": flag, "normalize_images": flag,
    "n_critics": whole(1, 64),
}  # fmt: skip
_BUFFER: dict[str, Callable[[Any], Any]] = {"handle_timeout_termination": flag, "n_steps": _batch, "gamma": _share}


def plain(value: Any) -> Any:
    """Return a NumPy number as Python's."""
    return value.item() if isinstance(value, np.generic) else value


# -- spaces -----------------------------------------------------------------------------------------


def space_to(space: spaces.Space[Any], name: str, arrays: Arrays) -> dict[str, Any]:
    """Return a space as plain data; its bounds go to the arrays."""
    if type(space) is spaces.Box:
        arrays[f"{name}.low"], arrays[f"{name}.high"] = space.low, space.high
        return {"kind": "box", "dtype": str(space.dtype)}
    if type(space) is spaces.Discrete:
        return {"kind": "discrete", "n": int(space.n), "start": int(space.start)}
    if type(space) is spaces.MultiDiscrete:
        arrays[f"{name}.nvec"] = space.nvec
        return {"kind": "multidiscrete"}
    if type(space) is spaces.MultiBinary:
        return {"kind": "multibinary", "n": [int(n) for n in np.atleast_1d(space.n)]}
    raise unkept(f"observations or actions of the space {type(space).__name__}")


def space_from(document: Any, name: str, arrays: Mapping[str, NDArray[Any]]) -> spaces.Space[Any]:
    """Rebuild a space."""
    kind = document["kind"]
    if kind == "box":
        low, high = arrays[f"{name}.low"], arrays[f"{name}.high"]
        if low.shape != high.shape or low.dtype != high.dtype or str(low.dtype) != document["dtype"]:
            raise DamagedError(f"the bounds of {name} do not fit each other")
        return spaces.Box(low, high, dtype=low.dtype.type)
    if kind == "discrete":
        return spaces.Discrete(whole(1, 2**20)(document["n"]), start=whole(-(2**31), 2**31)(document["start"]))
    if kind == "multidiscrete":
        counts = arrays[f"{name}.nvec"]
        if counts.dtype.kind not in "iu" or not counts.size or counts.min() < 1 or counts.sum() > 2**20:
            raise DamagedError(f"{name} has no such numbers of choices")
        return spaces.MultiDiscrete(counts)
    if kind == "multibinary":
        size = [whole(1, 2**20)(n) for n in document["n"]]
        if not size or math.prod(size) > 2**20:
            raise DamagedError(f"{name} is no size")
        return spaces.MultiBinary(size[0] if len(size) == 1 else size)
    raise DamagedError(f"{name} is of an unknown kind")


# -- schedules and noise ----------------------------------------------------------------------------


def schedule_to(value: Any, what: str) -> Any:
    """Return a number, or a course over the training that SB3 can draw, as plain data."""
    value = plain(getattr(value, "value_schedule", value))
    if value is None or isinstance(value, int | float):
        return value
    ends = [getattr(value, name, None) for name in ("start", "end", "end_fraction")]
    if all(isinstance(e, int | float) for e in ends):
        return {"start": ends[0], "end": ends[1], "end_fraction": ends[2]}
    seen = {float(value(k / 100)) for k in range(101)} if callable(value) else set()
    if len(seen) != 1:
        raise unkept(f"{what} as a function")
    return seen.pop()


def schedule_from(value: Any) -> Any:
    """Rebuild what :func:`schedule_to` made plain."""
    if not isinstance(value, dict):
        return _positive(value)
    from stable_baselines3.common.utils import LinearSchedule

    return LinearSchedule(_positive(value["start"]), _positive(value["end"]), number(1e-9, 1)(value["end_fraction"]))


def noise_to(noise: Any) -> Any:
    """Return the noise that is added to actions, as plain data."""
    noise = getattr(noise, "base_noise", noise)  # one copy for each environment is made anew
    if noise is None:
        return None
    kind = type(noise).__name__
    if kind not in ("NormalActionNoise", "OrnsteinUhlenbeckActionNoise"):
        raise unkept(f"action noise of the class {kind}")
    document = {
        "kind": kind, "mean": np.atleast_1d(noise._mu).tolist(), "sigma": np.atleast_1d(noise._sigma).tolist(),
    }  # fmt: skip
    if kind == "OrnsteinUhlenbeckActionNoise":
        if noise.initial_noise is not None:
            raise unkept("action noise that begins elsewhere than at zero")
        document |= {"theta": plain(noise._theta), "dt": plain(noise._dt)}
    return document


def noise_from(document: Any) -> Any:
    """Rebuild what :func:`noise_to` made plain."""
    if document is None:
        return None
    from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise

    mean, sigma = (np.array([any_number(v) for v in document[name]]) for name in ("mean", "sigma"))
    if document["kind"] == "NormalActionNoise":
        return NormalActionNoise(mean, sigma)
    if document["kind"] != "OrnsteinUhlenbeckActionNoise":
        raise DamagedError("the action noise is of an unknown kind")
    return OrnsteinUhlenbeckActionNoise(mean, sigma, theta=any_number(document["theta"]), dt=_positive(document["dt"]))


# -- policies ---------------------------------------------------------------------------------------


def policy_to(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a policy's keyword arguments as plain data: classes become names of the lists above."""
    document: dict[str, Any] = {}
    for name, value in settings.items():
        if value is None:
            continue
        if name == "net_arch":
            document[name] = value
        elif name in ("activation_fn", "optimizer_class", "features_extractor_class"):
            classes = {"activation_fn": _activations, "optimizer_class": _optimizers}.get(name, _extractors)()
            names = [n for n, c in classes.items() if c is value]
            if not names:
                raise unkept(f"{name} = {getattr(value, '__name__', value)}")
            document[name] = names[0]
        elif name in ("optimizer_kwargs", "features_extractor_kwargs"):
            document[name] = {k: list(v) if isinstance(v, tuple) else plain(v) for k, v in value.items()}
        elif name in _POLICY:
            document[name] = plain(value)
        else:
            raise unkept(f"policy_kwargs[{name!r}]")
    return document


def policy_from(document: Mapping[str, Any]) -> dict[str, Any]:
    """Rebuild a policy's keyword arguments."""
    settings: dict[str, Any] = {}
    for name, value in document.items():
        if name == "net_arch":
            settings[name] = _widths(value)
        elif name in ("activation_fn", "optimizer_class", "features_extractor_class"):
            classes = {"activation_fn": _activations, "optimizer_class": _optimizers}.get(name, _extractors)()
            settings[name] = classes[value]
        elif name in ("optimizer_kwargs", "features_extractor_kwargs"):
            settings[name] = {str(k): _argument(v) for k, v in value.items()}
        else:
            settings[name] = _POLICY[name](value)
    return settings


def _widths(value: Any) -> Any:
    if isinstance(value, dict) and set(value) <= {"pi", "vf", "qf"}:
        return {name: _widths(list(widths)) for name, widths in value.items()}
    if not isinstance(value, list) or len(value) > 64:
        raise DamagedError("net_arch is no list of widths")
    return [whole(1, 2**20)(width) for width in value]


def _argument(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(any_number(v) for v in value)
    return value if value is None or isinstance(value, bool) else any_number(value)


def _activations() -> dict[str, Any]:
    from torch import nn

    return {name: getattr(nn, name) for name in ACTIVATIONS}


def _optimizers() -> dict[str, Any]:
    from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
    from torch import optim

    return {name: getattr(optim, name) for name in OPTIMIZERS} | {"RMSpropTFLike": RMSpropTFLike}


def _extractors() -> dict[str, Any]:
    from stable_baselines3.common import torch_layers

    return {name: getattr(torch_layers, name) for name in EXTRACTORS}


# -- settings ---------------------------------------------------------------------------------------


def settings_to(model: Any) -> dict[str, Any]:
    """Return what shapes a model, as plain data.

    Raises:
        ConfigError: a setting is an object of a program, such as a function or a class of its own.
    """
    held = vars(model)
    document: dict[str, Any] = {name: plain(held[name]) for name in (*SETTINGS, "ent_coef") if name in held}
    for name in ("learning_rate", "clip_range", "clip_range_vf"):
        if name in held:
            document[name] = schedule_to(held[name], name)
    if "train_freq" in held:
        document["train_freq"] = [int(held["train_freq"].frequency), held["train_freq"].unit.value]
    document["action_noise"] = noise_to(held.get("action_noise"))
    document["policy_kwargs"] = policy_to(held["policy_kwargs"])
    document |= _buffers(held)
    for name, value in document.items():
        try:
            _attribute(name, value)
        except DAMAGE:
            raise unkept(f"{name} = {value!r}") from None
    return document


def _buffers(held: Mapping[str, Any]) -> dict[str, Any]:
    """Return the replay buffer's arguments; buffers of other classes than SB3's plain ones are refused."""
    for kind in ("rollout", "replay"):
        used = held.get(f"{kind}_buffer_class")
        if used is not None and used.__name__ not in (
            "RolloutBuffer", "MaskableRolloutBuffer", "ReplayBuffer", "NStepReplayBuffer",
        ):  # fmt: skip
            raise unkept(f"a {kind} buffer of the class {used.__name__}")
    arguments = held.get("replay_buffer_kwargs") or {}
    if held.get("rollout_buffer_kwargs") or set(arguments) - set(_BUFFER):
        raise unkept("arguments of a buffer")
    return {"replay_buffer_kwargs": dict(arguments)} if "replay_buffer_kwargs" in held else {}


def settings_from(document: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes that a file gives a model.

    Args:
        document: from :func:`settings_to`.
        known: attributes of a fresh model of the same algorithm; the file may set no other.
    """
    for name in document:
        if name not in known:
            raise DamagedError(f"{name} is no setting of this algorithm")
    return {name: _attribute(name, value) for name, value in document.items()}


def _attribute(name: str, value: Any) -> Any:
    """Rebuild one setting."""
    if name in SETTINGS:
        return SETTINGS[name](value)
    if name in ("learning_rate", "clip_range"):
        return schedule_from(value)
    if name == "clip_range_vf":
        return maybe(schedule_from)(value)
    if name == "ent_coef":
        return _entropy(value)
    if name == "train_freq":
        frequency, unit = value
        if unit not in ("step", "episode"):
            raise DamagedError("train_freq counts neither steps nor episodes")
        return whole(1, 2**31)(frequency), unit
    if name == "action_noise":
        return noise_from(value)
    if name == "policy_kwargs":
        return policy_from(value)
    if name == "replay_buffer_kwargs":
        return {key: _BUFFER[key](argument) for key, argument in value.items()}
    raise DamagedError(f"{name} is no setting that a file may hold")


def _entropy(value: Any) -> Any:
    """Check a coefficient of entropy: a number, ``auto``, or ``auto_`` and the number that it begins with."""
    if isinstance(value, str):
        head, _, begin = value.partition("_")
        if head != "auto" or (begin and not 0 < float(begin) < 1e12):
            raise DamagedError("ent_coef is neither a number nor auto")
        return value
    return any_number(value)
