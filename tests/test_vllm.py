"""The target vllm: an engine's own options, runs of it, calibration and the tuner that simulates first."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason="needs the extra 'serving'")
import engine as stand_in

from tunewright.cli.app import main
from tunewright.envs.scheduling.vllm import calibrate, flags
from tunewright.envs.scheduling.vllm.engine import engine_of, knobs
from tunewright.envs.scheduling.vllm.target import open_target
from tunewright.errors import ConfigError, TargetError, UnknownNameError
from tunewright.plugins import make_tuner
from tunewright.target import Budget
from tunewright.tuner import History, Problem, Trial

ENGINE = Path(stand_in.__file__)
# as vLLM 0.32 prints it
HELP = """usage: api_server.py [-h] [--max-num-seqs MAX_NUM_SEQS]

options:
  -h, --help            show this help message and exit

SchedulerConfig:
  Scheduler configuration.

  --async-scheduling, --no-async-scheduling
                        If set to False, disable async scheduling. (default: None)
  --kv-cache-dtype {auto,bfloat16,fp8}
                        Data type for kv cache storage. If "auto", will use
                        model data type. (default:
                        auto)
  --gpu-memory-utilization GPU_MEMORY_UTILIZATION, --device-memory-utilization GPU_MEMORY_UTILIZATION
                        The fraction of GPU memory. (default: 0.92)
  --quantization QUANTIZATION, -q QUANTIZATION
                        Method used to quantize the weights.
  --max-num-seqs MAX_NUM_SEQS
                        Maximum number of sequences. (default: None)
  --headless            Run in headless mode. (default: False)
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(tmp_path / "home"))
    return tmp_path


def serve(*more):
    return " ".join([sys.executable, str(ENGINE), *more])


# -- options of engines ---------------------------------------------------------------------------------


def test_options_are_read_from_a_help_text():
    found = flags.read_help(HELP)
    assert set(found) == {
        "help", "async-scheduling", "kv-cache-dtype", "gpu-memory-utilization", "quantization", "max-num-seqs",
        "headless",
    }  # fmt: skip
    assert found["async-scheduling"].switch and found["async-scheduling"].off == "--no-async-scheduling"
    assert found["kv-cache-dtype"].choices == ("auto", "bfloat16", "fp8")
    assert found["kv-cache-dtype"].default == "auto"
    assert found["gpu-memory-utilization"].takes and found["gpu-memory-utilization"].default == "0.92"
    assert found["headless"].switch and not found["headless"].off
    assert found["max-num-seqs"].group == "SchedulerConfig"


def test_what_the_engine_resolves_is_its_default():
    found = flags.resolved(flags.read_help(HELP), {"max-num-seqs": 128, "async-scheduling": False})
    assert found["max-num-seqs"] == "128" and found["async-scheduling"] == "false"
    assert found["gpu-memory-utilization"] == "0.92" and "quantization" not in found


def test_every_knob_says_what_it_is():
    for knob in knobs():
        assert knob["doc"] and knob["group"] and knob["flag"]
        assert ("weaker" in knob) == ("loses" in knob)


def test_a_target_has_the_engines_options(home):
    target = open_target("", {"serve": serve(), "rate": "5"})
    params = target.space.params
    assert list(params) == ["max_num_seqs", "max_num_batched_tokens", "enable_chunked_prefill"]
    assert target.space.default == {
        "max_num_seqs": 8, "max_num_batched_tokens": 512, "enable_chunked_prefill": "on",
    }  # fmt: skip
    bad = {"max_num_seqs": 600, "max_num_batched_tokens": 512, "enable_chunked_prefill": "on"}
    assert target.space.problems(bad)
    whole = {"max_num_seqs": 8, "max_num_batched_tokens": 512, "enable_chunked_prefill": "off"}
    assert target.space.problems(whole)  # a prompt of 4,096 tokens would not fit
    words = target.render({**target.space.default, "enable_chunked_prefill": "off"})
    assert "--no-enable-chunked-prefill" in words and "--max-num-seqs=8" in words


def test_what_the_command_line_gives_is_not_tuned(home):
    target = open_target("", {"serve": serve("--max-num-seqs", "4"), "rate": "5"})
    assert "max_num_seqs" not in target.space.params


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({}, ConfigError, "say what is served"),
        ({"serve": "nothing-of-this-name serve m"}, ConfigError, "no program nothing-of-this-name"),
        ({"serve": "'"}, ConfigError, "--serve"),
        ({"serve": "true"}, ConfigError, "explains no options|failed"),
        ({"model": "/nowhere/at/all"}, ConfigError, "no directory /nowhere/at/all"),
        ({"modle": "x"}, UnknownNameError, "model"),
        ({"serve": "S", "ttft": "soon"}, ConfigError, "must be a number"),
        ({"serve": "S", "objective": "speed"}, ConfigError, "goodput or capacity"),
        ({"serve": "S", "groups": "batchin"}, UnknownNameError, "batching"),
        ({"serve": "S", "parameters": "max-num-seq"}, UnknownNameError, "max_num_seqs"),
    ],
)
def test_wrong_options(home, options, kind, words):
    options = {name: serve() if text == "S" else text for name, text in options.items()}
    with pytest.raises(kind, match=words):
        open_target("", options)


def test_a_python_of_a_script_is_found(tmp_path):
    script = tmp_path / "vllm"
    script.write_text(f"#!{sys.executable}\n")
    script.chmod(0o755)
    engine = engine_of(serve=f"{script} serve", python="", model="m")
    assert engine.python == sys.executable
    assert engine.program == engine.words == (str(script), "serve", "m")


# -- runs -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_session(home, capsys):
    """From one sequence at a time to several: the engine of known times has something to gain."""
    words = ["tune", "vllm", "-O", f"serve={serve()}", "-O", "parameters=max_num_seqs", "-O", "requests=40",
             "-O", "prompt=30", "-O", "output=12", "-O", "rate=120", "--ttft", "0.5", "--tpot", "0.05"]  # fmt: skip
    assert main([*words, "--trials", "5", "--trust", "fast", "--name", "s", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["best"]["config"]["max_num_seqs"] > 8


@pytest.mark.slow
def test_an_engine_that_refuses_is_a_failed_trial(home):
    target = open_target("", {"serve": serve(), "parameters": "max_num_seqs", "rate": "20", "requests": "5"})
    budget = Budget(workdir=home, seconds=100)
    with pytest.raises(TargetError, match="thirteen sequences are not supported"):
        target.measure({"max_num_seqs": 13}, workload="default", seed=1, budget=budget)


@pytest.mark.slow
@pytest.mark.alone
def test_step_times_are_those_of_the_engine(home):
    """An engine whose iterations take known times is calibrated from outside."""
    target = open_target("", {"serve": serve("--max-num-seqs", "64"), "rate": "5"})
    found, rows = target.run(target.space.default, lambda server: calibrate.calibrate(
        server, rounds=2, most_seqs=16, most_tokens=512
    ))  # fmt: skip
    assert found.blocks == 4096 and found.block == 16
    assert len(rows) > 12 and found.error < 0.25
    assert found.engine.fixed_s == pytest.approx(stand_in.FIXED_S, rel=0.5)
    assert found.engine.prefill_s == pytest.approx(stand_in.TOKEN_S, rel=0.3)
    calibrate.write(home / "engine.json", found)
    assert calibrate.read(home / "engine.json").engine == found.engine


# -- the fit --------------------------------------------------------------------------------------------


def rows_of(fixed=0.004, each=5e-4, token=5e-5, request=0.002, noise=0.0):
    rng = np.random.default_rng(1)
    made = []
    for decodes in (0, 1, 4, 16, 64):
        for tokens in (0, 16, 64, 256, 1024):
            if decodes or tokens:
                first = float(not decodes)
                seconds = fixed + each * decodes + token * tokens + request * first
                made.append(calibrate.Row(
                    decodes=decodes, context=decodes * 100.0, prompts=float(tokens > 0), tokens=tokens,
                    pairs=tokens**2 / 2, first=first, seconds=seconds * (1 + noise * rng.normal()),
                ))  # fmt: skip
    return made


def test_a_fit_finds_what_made_the_times():
    engine, request_s, error = calibrate.fit(rows_of())
    assert engine.fixed_s == pytest.approx(0.004, rel=0.02)
    assert engine.prefill_s == pytest.approx(5e-5, rel=0.02)
    assert request_s == pytest.approx(0.002, rel=0.05)
    assert error < 1e-3
    assert calibrate.fit(rows_of(noise=0.05))[2] < 0.1


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": 1}', '{"version": 2}', "nonsense"])
def test_files_that_are_no_step_times(tmp_path, text):
    path = tmp_path / "engine.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"engine\.json"):
        calibrate.read(path)


@pytest.fixture
def step_times(tmp_path):
    engine, request_s, error = calibrate.fit(rows_of())
    path = tmp_path / "engine.json"
    calibrate.write(path, calibrate.Calibrated(
        engine=engine, request_s=request_s, blocks=4096, block=16, error=error, words="known"
    ))  # fmt: skip
    return path


def test_the_simulator_takes_an_engine(step_times, capsys):
    assert main(["simulate", "serving", "--engine", str(step_times), "--requests", "200", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["ttft_s"]["p50"] > 0


# -- simulating first -----------------------------------------------------------------------------------


def test_screen_proposes_what_the_simulator_likes_and_learns(home, step_times):
    target = open_target("", {"serve": serve(), "rate": "40", "prompt": "200", "output": "20", "ttft": "0.3"})
    problem = Problem(
        space=target.space, metrics=target.metrics, objectives=["goodput"], facts=target.facts,
        options={"engine": str(step_times), "draws": 60},
    )  # fmt: skip
    tuner = make_tuner("screen", problem)[1]
    first = Trial(number=0, config=target.space.default, status="ok", scores={"goodput": 1.0})
    proposed = tuner.ask(History(trials=[first], step=1))
    assert "times the default's goodput" in proposed.why
    assert not target.space.problems(proposed.config)
    best = max(tuner._predicted(c) for c in tuner.pool)
    assert tuner._predicted(proposed.config) == pytest.approx(best)
    # it turns out bad, and with it what is near
    bad = Trial(number=1, config=proposed.config, status="ok", scores={"goodput": 0.001})
    other = tuner.ask(History(trials=[first, bad], step=2))
    assert target.space.key(other.config) != target.space.key(proposed.config)
    assert other == tuner.ask(History(trials=[first, bad], step=2))


def test_screen_needs_step_times(home):
    target = open_target("", {"serve": serve(), "rate": "40"})
    problem = Problem(space=target.space, metrics=target.metrics, objectives=["goodput"], facts=target.facts)
    with pytest.raises(ConfigError, match="calibrate serving"):
        make_tuner("screen", problem)
