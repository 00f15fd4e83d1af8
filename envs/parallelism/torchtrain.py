"""The target ``torch-train``: really trains a small GPT with PyTorch, random weights and generated tokens.

A fixed number of optimizer steps on a fixed global batch; what is measured is their wall time, after steps that warm up
and compile. The loss after these steps must agree with that of the default (a constraint): a setting that trains
something else is no gain.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunewright.errors import ConfigError, TargetError, missing_extra, unknown
from tunewright.space import Choice, Config, Constraint, Space
from tunewright.target import BaseTarget, Budget, Measurement, Metric, check_options, numeric_options

NEEDS = {"torch": "rl"}
TOLERANCE = 0.05  # of the loss, in nats; bfloat16 moves it by some thousandths
SIZES = {
    "tiny": {
        "layers": 2,
        "hidden": 128,
        "heads": 4,
        "vocab": 512,
        "seq": 64,
        "global_batch": 16,
        "steps": 6,
        "warmup": 2,
    },
    "small": {
        "layers": 4,
        "hidden": 256,
        "heads": 8,
        "vocab": 2048,
        "seq": 128,
        "global_batch": 16,
        "steps": 4,
        "warmup": 1,
    },
    "gpt3-125m": {
        "layers": 12,
        "hidden": 768,
        "heads": 12,
        "vocab": 51200,
        "seq": 1024,
        "global_batch": 64,
        "steps": 6,
        "warmup": 2,
    },
    "gpt3-1.3b": {
        "layers": 24,
        "hidden": 2048,
        "heads": 16,
        "vocab": 51200,
        "seq": 2048,
        "global_batch": 32,
        "steps": 4,
        "warmup": 2,
    },
}
_WORDS = {
    "tiny": "2 layers of 128, for tests: about 2 s a trial on two cores",
    "small": "4 layers of 256: 5 to 20 s a trial on two cores",
    "gpt3-125m": "GPT-3 125M; for a GPU",
    "gpt3-1.3b": "GPT-3 1.3B; for a GPU of 80 GB",
}


def open_target(argument: str, options: Mapping[str, Any]) -> TorchTrain:
    """Entry point; takes no argument and the option ``device``.

    Raises:
        ConfigError: an option is wrong.
        MissingExtraError: PyTorch is not installed.
    """
    if argument:
        raise ConfigError(f"target 'torch-train' takes no argument, not {argument!r}")
    check_options("torch-train", options, TorchTrain.options)
    given = numeric_options("torch-train", {k: v for k, v in options.items() if k == "steps"}, {"steps": 0.0})
    device = str(options.get("device", "auto"))
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"option device must be auto, cpu or cuda, not {device!r}")
    try:
        import torch
    except ImportError:
        raise missing_extra("torch", "rl", "target 'torch-train'") from None
    found = torch.cuda.is_available()
    if device == "cuda" and not found:
        raise ConfigError("option device=cuda: PyTorch sees no GPU here; use device=cpu")
    return TorchTrain(device="cuda" if found and device != "cpu" else "cpu", steps=int(given["steps"]))


class TorchTrain(BaseTarget):
    """A small GPT that is really trained with PyTorch, from random weights on generated tokens.

    Args:
        device: cpu or cuda.
        steps: timed optimizer steps; 0 takes each size's own.
    """

    name = "torch-train"
    workloads: Mapping[str, str] = _WORDS
    metrics = (
        Metric(name="tokens_per_s", direction="max", unit="tokens/s", doc="fixed tokens over their wall time"),
        Metric(name="memory", direction="min", unit="MiB", doc="peak memory of the fullest process"),
        Metric(
            name="loss_gap",
            direction="min",
            unit="nats",
            at_most=TOLERANCE,
            doc="loss after the steps against the default's",
        ),
    )
    options: Mapping[str, str] = {"device": "auto, cpu or cuda", "steps": "timed optimizer steps"}
    limit_seconds = 300.0  # torch.compile alone takes half a minute and more
    manual = "https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html"

    def __init__(self, *, device: str = "cpu", steps: int = 0) -> None:
        if steps < 0:
            raise ConfigError(f"option steps must be at least 1, not {steps}")
        self.device, self.steps = device, steps
        cores = os.cpu_count() or 1
        self.facts = {"device": device, "torch": _version()}
        threads = sorted({1, *(t for t in (2, 4, 8, 16) if t <= cores)})
        parallel = ("single", "dp2", "pp2") if device == "cpu" else ("single",)
        self.space = Space(
            [
                Choice(
                    name="micro_batch",
                    choices=(1, 2, 4, 8, 16),
                    default=4,
                    ordered=True,
                    doc="sequences at once; gradients of several add up to a step",
                ),
                Choice(
                    name="checkpointing",
                    choices=(False, True),
                    default=False,
                    doc="compute activations again in the backward pass",
                ),
                Choice(name="precision", choices=("fp32", "bf16"), default="fp32", doc="of matrix products (autocast)"),
                Choice(name="compile", choices=(False, True), default=False, doc="torch.compile"),
                Choice(
                    name="attention",
                    choices=("manual", "sdpa"),
                    default="manual",
                    doc="attention step by step, or the fused kernel",
                ),
                Choice(
                    name="optimizer",
                    choices=("loop", "foreach", "fused"),
                    default="loop",
                    doc="implementation of AdamW",
                ),
                Choice(
                    name="parallel",
                    choices=parallel,
                    default="single",
                    doc="one process, two data-parallel ones, or two pipeline stages",
                ),
                Choice(
                    name="sharding",
                    choices=(False, True),
                    default=False,
                    doc="share optimizer states between data-parallel processes (ZeRO-1)",
                    when="parallel == 'dp2'" if device == "cpu" else None,
                ),
                Choice(
                    name="threads",
                    choices=tuple(threads),
                    default=threads[-1],
                    ordered=True,
                    doc="threads of an operation, in each process",
                ),
                Choice(name="interop", choices=(1, 2), default=1, ordered=True, doc="threads between operations"),
            ],
            [Constraint.of("parallel != 'dp2' or micro_batch <= 8")] if device == "cpu" else [],
        )

    def prepare(self, *, workload: str, seed: int, budget: Budget) -> dict[str, Any]:
        """Train once by the default: its loss is what others must reach."""
        if "loss" in budget.prepared:
            return dict(budget.prepared)
        return {"loss": self._run(self.space.default, workload, seed, budget)["loss"], "seed": seed}

    def measure(self, config: Config, *, workload: str, seed: int, budget: Budget) -> Measurement:
        """Train for the fixed number of steps."""
        if workload not in SIZES:
            raise unknown("workload", workload, SIZES)
        try:
            # every run of a session trains on the same tokens from the same weights, or losses could not be compared
            got = self._run(config, workload, int(budget.prepared.get("seed", seed)), budget)
        except TargetError as error:
            return Measurement(status="failed", reason=str(error))
        size = SIZES[workload]
        tokens = (self.steps or size["steps"]) * size["global_batch"] * size["seq"]
        gap = abs(got["loss"] - float(budget.prepared.get("loss", got["loss"])))
        values = {"tokens_per_s": tokens / got["seconds"], "memory": got["memory_bytes"] / 2**20, "loss_gap": gap}
        return Measurement(values=values, traces={"loss": got["loss"]})

    def _run(self, config: Config, workload: str, seed: int, budget: Budget) -> dict[str, Any]:
        size = SIZES[workload]
        settings = {
            **size,
            **config,
            "sharding": bool(config.get("sharding", False)),
            "device": self.device,
            "seed": 1234 + seed,
        }
        settings["steps"] = self.steps or size["steps"]
        budget.workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=budget.workdir) as folder:
            settings["meeting"] = str(Path(folder) / "meeting")
            path = Path(folder) / "settings.json"
            path.write_text(json.dumps(settings), encoding="utf-8")
            count = 1 if settings["parallel"] == "single" else 2
            command = [sys.executable, "-m", "tunewright.envs.parallelism.torchtrain_worker", str(path)]
            # in this process's group, so that a hard kill takes them along
            workers = [
                subprocess.Popen([*command, str(r)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                for r in range(count)
            ]
            try:
                done = [w.communicate(timeout=budget.seconds) for w in workers]
            except subprocess.TimeoutExpired:
                raise TargetError(f"training did not end within {budget.seconds:.0f} s") from None
            finally:
                for w in workers:
                    if w.poll() is None:
                        w.kill()
                        w.communicate()
        results = []
        for w, (out, error) in zip(workers, done, strict=True):
            line = next((x for x in out.splitlines() if x.startswith("RESULT ")), None)
            if w.returncode or line is None:
                last = next((x for x in reversed(error.strip().splitlines()) if x.strip()), "no message")
                raise TargetError(f"training ended with exit code {w.returncode}: {last[:300]}")
            results.append(json.loads(line.removeprefix("RESULT ")))
        return {
            "seconds": max(r["seconds"] for r in results),
            "loss": results[0]["loss"],
            "memory_bytes": max(r["memory_bytes"] for r in results),
        }

    def render(self, config: Config) -> str:
        """Return the settings as Python."""
        lines = [f"torch.set_num_threads({config['threads']}); torch.set_num_interop_threads({config['interop']})"]
        lines += [f"# {name} = {value}" for name, value in config.items() if name not in ("threads", "interop")]
        return "\n".join(lines)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("torch")
    except PackageNotFoundError:
        return ""
