"""The target ``vllm``: a real engine that serves a language model, started for each run, under a load of requests."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tunewright.envs import command_served
from tunewright.envs.command import CommandTarget
from tunewright.envs.command_file import description_of
from tunewright.envs.command_places import Names
from tunewright.envs.command_record import RUNS
from tunewright.envs.scheduling.vllm import client
from tunewright.envs.scheduling.vllm.engine import Engine, defaults_of, engine_of, flags_of, knobs
from tunewright.envs.scheduling.vllm.flags import Flag, resolved
from tunewright.envs.scheduling.vllm.load import CLIENTS
from tunewright.envs.service_instance import Instance
from tunewright.errors import ConfigError, unknown
from tunewright.sessions import workfolder
from tunewright.space import Config
from tunewright.target import Measurement, check_options, numeric_options

Result = TypeVar("Result")
OPTIONS = {
    "model": "directory or name of the model to serve",
    "python": "Python of the environment that has vLLM, such as ENV/bin/python",
    "serve": "command that starts the engine, such as 'vllm serve MODEL --tensor-parallel-size 2'; its options stay",
    "trace": "what is asked and when: a file, or synthetic:KIND (synthetic:chat)",
    "requests": "of the load (100)",
    "rate": "requests/s; 0 (the default): three quarters of what the engine does with its defaults",
    "closed": "so many clients that wait for their answers, instead of a rate (0)",
    "prompt": "mean tokens of a prompt of generated requests; 0: the kind's (0)",
    "output": "mean tokens of an answer of generated requests; 0: the kind's (0)",
    "ttft": "limit on the time to the first token, s (2)",
    "tpot": "limit on the time of each further token, s (0.1)",
    "objective": "goodput, or capacity: the highest rate that keeps the limits (goodput)",
    "parameters": "names of what is tuned; default: all of batching, cache, scheduling that the engine has",
    "groups": "groups of parameters: batching, cache, scheduling, parallelism, compilation, quantisation",
    "start_limit": "seconds until the engine answers at most (900)",
}
GROUPS = ("batching", "cache", "scheduling", "parallelism", "compilation", "quantisation")
_DEFAULT_GROUPS = "batching,cache,scheduling"
_NUMBERS = {"requests": 100.0, "rate": 0.0, "closed": 0.0, "prompt": 0.0, "output": 0.0, "ttft": 2.0, "tpot": 0.1,
            "start_limit": 900.0}  # fmt: skip
_LOAD_S = 3600.0  # limit of one load; a slow setting takes many times the default's time


def open_target(argument: str, options: Mapping[str, str]) -> VLLMTarget:
    """Serve a language model with a real engine, vLLM or SGLang, and tune its options under a load of requests."""
    given = dict(options)
    if argument:
        given.setdefault("model", argument)
    check_options("vllm", given, OPTIONS)
    model = given.get("model", "")
    if model and ("/" in model or model.startswith(".")) and not Path(model).is_dir() and model.count("/") != 1:
        raise ConfigError(
            f"there is no directory {model}; --model is a directory with a config.json, or a model's name"
        )
    if model and Path(model).is_dir():
        if not Path(model, "config.json").is_file():
            raise ConfigError(f"{model} is no model's directory: it has no config.json")
        model = str(Path(model).resolve())
    engine = engine_of(serve=given.get("serve", ""), python=given.get("python", ""), model=model)
    return VLLMTarget(engine, given, model)


open_target.options = OPTIONS  # type: ignore[attr-defined]  # known without a model


class VLLMTarget(CommandTarget):
    """An engine that serves a language model, under a load.

    Args:
        engine: how it is started.
        options: see ``OPTIONS``.
        model: directory or name.

    Raises:
        ConfigError: an option is wrong, or the engine refuses its command line.
    """

    options: Mapping[str, str] = OPTIONS

    def __init__(self, engine: Engine, options: Mapping[str, str], model: str) -> None:
        numbers = _numbers(options)
        flags = flags_of(engine)
        defaults = resolved(flags, defaults_of(engine))
        longest = defaults.get("max-model-len", "")
        self.knobs = _chosen(engine, flags, defaults, options)
        data = _description(engine, flags, defaults, self.knobs, options, numbers)
        super().__init__(description_of(Path.cwd() / "vllm", data))
        self.name = "vllm"
        self.facts = {
            "engine": engine.kind,
            "model": Path(model).name or "the command's own",
            "CPU_COUNT": os.cpu_count() or 1,
            "ttft_limit_s": numbers["ttft"],
            "tpot_limit_s": numbers["tpot"],
            "load": {
                "trace": options.get("trace", "synthetic:chat"), "requests": int(numbers["requests"]),
                "options": {name: numbers[name] for name in ("prompt", "output") if numbers[name]},
                "rate": numbers["rate"], "closed": int(numbers["closed"]), "ttft_s": numbers["ttft"],
                "tpot_s": numbers["tpot"], "longest": int(longest) if longest.isdigit() else 0,
            },
        }  # fmt: skip

    def run(self, config: Config, load: Callable[[client.Server], Result]) -> Result:
        """Start the engine with a configuration, call a function with its address, and end it.

        Args:
            config: of its parameters.
            load: what is done with it.

        Raises:
            TargetError: the engine did not start; its own last lines are told.
        """
        results: list[Result] = []

        def served(names: Names, server: Instance) -> Measurement:
            results.append(load(client.known(client.Server(url=f"http://127.0.0.1:{names['port']}"))))
            return Measurement(values={})

        with tempfile.TemporaryDirectory(prefix="tunewright-") as folder:
            workfolder.private(Path(folder), RUNS)
            place = self._place(config, workload=next(iter(self.workloads)), seed=0, workdir=Path(folder))
            command_served.served(self.description, config, place, served)
        return results[0]


def _numbers(options: Mapping[str, str]) -> dict[str, float]:
    numbers = numeric_options("vllm", {n: text for n, text in options.items() if n in _NUMBERS}, _NUMBERS)
    for name in numbers:
        if not 0 <= numbers[name] < 1e9 or (name in ("requests", "ttft", "tpot", "start_limit") and not numbers[name]):
            raise ConfigError(f"option {name} of target vllm must be above 0, not {options[name]}")
    if options.get("objective", "goodput") not in ("goodput", "capacity"):
        raise ConfigError(f"option objective of target vllm is goodput or capacity, not {options['objective']!r}")
    return numbers


def _has_gpu() -> bool:
    return any(Path(path).exists() for path in ("/dev/nvidia0", "/dev/kfd"))


def _chosen(
    engine: Engine, flags: Mapping[str, Flag], defaults: Mapping[str, str], options: Mapping[str, str]
) -> list[Mapping[str, Any]]:
    """Return what is known of the options that are tuned."""
    fixed = engine.fixed
    there: dict[str, Mapping[str, Any]] = {
        knob["name"]: {**knob, "its": knob["flag"][engine.kind]}
        for knob in knobs()
        if knob["flag"].get(engine.kind) in flags and knob["flag"][engine.kind] not in fixed
    }
    if "parameters" in options:
        names = [name.strip().replace("-", "_") for name in options["parameters"].split(",") if name.strip()]
        for name in names:
            if name not in there:
                raise unknown(f"option that is known of {engine.kind} and free", name, there)
        wanted = [there[name] for name in names]
    else:
        groups = [g.strip() for g in options.get("groups", _DEFAULT_GROUPS).split(",") if g.strip()]
        for group in groups:
            if group not in GROUPS:
                raise unknown("group of parameters", group, GROUPS)
        gpu = _has_gpu()
        wanted = [k for k in there.values() if k["group"] in groups and (gpu or not k.get("gpu"))]
    # what the engine resolves to nothing has no value to begin from
    chosen = [knob for knob in wanted if flags[knob["its"]].switch or defaults.get(knob["its"], "None") != "None"]
    if not chosen:
        raise ConfigError("no parameter is left to tune: the command line gives them all, or the engine has none")
    return chosen


def _description(
    engine: Engine, flags: Mapping[str, Flag], defaults: Mapping[str, str], chosen: Sequence[Mapping[str, Any]],
    options: Mapping[str, str], numbers: Mapping[str, float],
) -> dict[str, Any]:  # fmt: skip
    """Return the description of a served program, as a TOML file would give it."""
    rows, places = [], []
    for knob in chosen:
        row, place = _parameter(knob, flags[knob["its"]], defaults.get(knob["its"], ""))
        rows.append(row)
        places.append(place)
    names = {row["name"] for row in rows}
    host = ["--host", "127.0.0.1", "--port", "{port}"]
    capacity = options.get("objective") == "capacity"
    service: dict[str, Any] = {
        "start": [*engine.words, *host, *places],
        "ready": {"http": "http://127.0.0.1:{port}/health"},
        "start_limit": numbers["start_limit"],
        "ready_limit": numbers["start_limit"],
        "load_limit": _LOAD_S,
        "tool": "llm",
        "arguments": _load(options, numbers, "{datadir}/rate"),
        "metrics": ["capacity"] if capacity else _GOODPUT,
    }
    if not numbers["rate"] and not numbers["closed"] and not capacity:
        service["fill"] = [
            sys.executable, "-m", "tunewright", "load", "http://127.0.0.1:{port}",
            *_load(options, {**numbers, "closed": float(CLIENTS)}, ""), "--write-rate", "{datadir}/rate",
        ]  # fmt: skip
        service["fill_limit"] = _LOAD_S
    return {
        "target": {
            "name": "vllm", "about": f"{engine.kind} under a load",
            "constraints": _constraints(names, defaults, engine),
        },
        "service": service,
        "parameter": rows,
        "guarantee": _quality(chosen),
    }  # fmt: skip


_GOODPUT = [
    "goodput", "throughput", "ttft_p50", "ttft_p99", "tpot_p50", "tpot_p99", "itl_p99", "response_p99",
]  # fmt: skip


def _load(options: Mapping[str, str], numbers: Mapping[str, float], rate_file: str) -> list[str]:
    words = ["--requests", f"{numbers['requests']:.0f}", "--trace", options.get("trace", "synthetic:chat")]
    words += ["--ttft", f"{numbers['ttft']:g}", "--tpot", f"{numbers['tpot']:g}", "--seed", "{seed}"]
    for name in ("prompt", "output"):
        words += ["-O", f"{name}={numbers[name]:g}"] if numbers[name] else []
    if options.get("objective") == "capacity":
        return [*words, "--capacity"]
    if numbers["closed"]:
        return [*words, "--closed", f"{numbers['closed']:.0f}"]
    return [*words, *(["--rate", f"{numbers['rate']:g}"] if numbers["rate"] else ["--rate-file", rate_file])]


def _parameter(knob: Mapping[str, Any], flag: Flag, default: str) -> tuple[dict[str, Any], str]:
    """Return a parameter as a description gives it, and its place on the command line."""
    common = {"name": knob["name"], "doc": knob["doc"], "restart": True}
    option = f"--{flag.name}"
    if flag.switch:
        on = default.lower() in ("true", "1")
        values = {"on": option, "off": flag.off}  # an empty text leaves the argument out
        return {**common, "type": "choice", "default": "on" if on else "off", "values": values}, f"{{{knob['name']}}}"
    place = f"{option}={{{knob['name']}}}"
    if "choices" in knob:
        known = [str(c) for c in knob["choices"] if not flag.choices or str(c) in flag.choices]
        texts = known if default in known else [default, *known]
        kind: type = int if all(t.isdigit() for t in texts) else str
        choices = [kind(t) for t in texts]
        return {**common, "type": "choice", "choices": choices, "default": kind(default)}, place
    whole = isinstance(knob["low"], int)
    try:
        value: float = int(default) if whole else float(default)
    except ValueError:
        raise ConfigError(f"{option}: the engine's default {default!r} is no number; give the option a value") from None
    low, high = min(knob["low"], value), max(knob["high"], value)
    numeric = {"low": low, "high": high, "log": knob.get("log", False), "default": value}
    return {**common, "type": "int" if whole else "float", **numeric}, place


def _constraints(names: set[str], defaults: Mapping[str, str], engine: Engine) -> list[str]:
    """Return what the engine asks of its options together."""
    constraints = []
    if {"max_num_seqs", "max_num_batched_tokens"} <= names and engine.kind == "vllm":
        constraints.append("max_num_batched_tokens >= max_num_seqs")
        longest = defaults.get("max-model-len", "")
        if "enable_chunked_prefill" in names and longest.isdigit():
            # a prompt that is not computed in parts must fit into one iteration
            constraints.append(f"enable_chunked_prefill == 'on' or max_num_batched_tokens >= {longest}")
    return constraints


def _quality(chosen: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the guarantee that answers stay what they are, where a parameter can weaken it."""
    weak = [knob for knob in chosen if knob.get("weaker")]
    if not weak:
        return []
    strong = " and ".join(f"{k['name']} != {value!r}" for k in weak for value in k["weaker"])
    return [{"name": "quality", "level": [{"when": strong}, {"loses": "; ".join(k["loses"] for k in weak)}]}]
