"""The target torch-train really trains, and every way of doing so trains the same model."""

import os
import signal
import subprocess
import sys

import pytest
from processes import appears, ends, of_this_test

from tunewright.errors import ConfigError
from tunewright.plugins import open_target
from tunewright.target import Budget
from tunewright.testing import check_space

torch = pytest.importorskip("torch", reason="needs the extra: pip install 'tunewright[rl]'")

#: of a training; a busy machine takes minutes to start three processes with torch
LIMIT_S = 400
pytestmark = pytest.mark.timeout(900)


def measure(tmp_path, prepared=None, **changes):
    target = open_target("torch-train", {"device": "cpu", "steps": "2"})
    config = {**target.space.default, "threads": 1, **changes}
    return target.measure(
        config, workload="tiny", seed=0, budget=Budget(workdir=tmp_path, seconds=LIMIT_S, prepared=prepared or {})
    )


@pytest.fixture(scope="module")
def default_loss(tmp_path_factory):
    target = open_target("torch-train", {"device": "cpu", "steps": "2"})
    return target.prepare(
        workload="tiny", seed=0, budget=Budget(workdir=tmp_path_factory.mktemp("t"), seconds=LIMIT_S)
    )["loss"]


def test_the_space():
    check_space(open_target("torch-train", {"device": "cpu"}).space)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"micro_batch": 16, "attention": "sdpa", "optimizer": "fused"}, marks=pytest.mark.slow),
        pytest.param({"checkpointing": True, "optimizer": "foreach", "interop": 2}, marks=pytest.mark.slow),
        pytest.param({"parallel": "dp2", "sharding": True}, marks=pytest.mark.slow),
        {"parallel": "pp2", "micro_batch": 2},
    ],
    ids=["fused", "checkpointing", "dp2", "pp2"],
)
def test_every_way_trains_the_same_model(tmp_path, default_loss, changes):
    got = measure(tmp_path, {"loss": default_loss}, **changes)
    assert got.ok, got.reason
    assert got.values["loss_gap"] < 1e-4 and got.values["tokens_per_s"] > 0 and got.values["memory"] > 50


@pytest.mark.slow
def test_lower_precision_stays_within_the_tolerance(tmp_path, default_loss):
    got = measure(tmp_path, {"loss": default_loss}, precision="bf16")
    assert 0 < got.values["loss_gap"] < 0.05


@pytest.mark.slow
def test_it_learns(tmp_path):
    target = open_target("torch-train", {"device": "cpu", "steps": "20"})
    short = open_target("torch-train", {"device": "cpu", "steps": "1"})
    budget = Budget(workdir=tmp_path, seconds=LIMIT_S)
    after = target.prepare(workload="tiny", seed=0, budget=budget)["loss"]
    before = short.prepare(workload="tiny", seed=0, budget=budget)["loss"]
    assert after < before - 0.5


@pytest.mark.slow
def test_failures_say_why(tmp_path):
    got = measure(tmp_path, hidden=7)
    assert got.status == "failed" and "exit code 1" in got.reason


@pytest.mark.slow
def test_a_session_compares_losses_of_the_same_tokens(tmp_path):
    """Runs of a session have seeds of their own; the tokens must not."""
    target = open_target("torch-train", {"device": "cpu", "steps": "1"})
    prepared = target.prepare(workload="tiny", seed=5, budget=Budget(workdir=tmp_path, seconds=LIMIT_S))
    budget = Budget(workdir=tmp_path, seconds=LIMIT_S, prepared=prepared)
    assert target.measure(target.space.default, workload="tiny", seed=77, budget=budget).values["loss_gap"] < 1e-6


def test_options_are_checked():
    for options, said in (
        ({"device": "tpu"}, "auto, cpu or cuda"),
        ({"steps": "-1"}, "at least 1"),
        ({"size": "1"}, "no option"),
    ):
        with pytest.raises(ConfigError if "size" not in options else Exception, match=said):
            open_target("torch-train", options)
    with pytest.raises(ConfigError, match="no argument"):
        open_target("torch-train:x", {})
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="sees no GPU"):
            open_target("torch-train", {"device": "cuda"})


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_session(tmp_path):
    """The workers of a trial are in its process group: a hard kill takes both of them."""
    code = (
        "from tunewright.plugins import open_target; from tunewright.target import Budget; from pathlib import Path\n"
        "t = open_target('torch-train', {'device': 'cpu', 'steps': '2000'})\n"
        f"t.measure({{**t.space.default, 'parallel': 'dp2', 'threads': 1}}, workload='tiny', seed=0, budget=Budget(workdir=Path({str(tmp_path)!r})))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    assert appears("torchtrain_worker", count=2)
    os.killpg(parent.pid, signal.SIGKILL)
    parent.wait()
    assert ends("torchtrain_worker"), of_this_test("torchtrain_worker")
