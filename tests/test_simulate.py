"""``tunewright simulate``, the scheduling targets, and their real counterparts."""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tunewright.errors import MissingExtraError
from tunewright.plugins import open_target
from tunewright.testing import check_target


def test_serving_as_json(cli):
    got = json.loads(
        cli(
            "simulate",
            "serving",
            "-t",
            "synthetic:chat",
            "-O",
            "requests=300",
            "--policy",
            "sarathi",
            "--chunk",
            "256",
            "--check",
            "--json",
        ).stdout
    )
    assert got["policy"] == "sarathi" and got["requests"] == 300 and got["rejected"] == 0 and got["stable"] is True
    assert set(got["metrics"]["ttft_s"]) == {"mean", "p50", "p90", "p99"} and got["knobs"]["chunk"] == 256
    assert {"throughput_tokens_per_s", "goodput_requests_per_s", "fairness", "tpot_s"} <= set(got["metrics"])
    assert got["requests_per_s_simulated"] > 0 and "agrees" in got["check"] and got["parameters"]["rate"] == 8


def test_spark_and_clusters_as_json_with_pictures(cli, tmp_path):
    page = tmp_path / "s.html"
    got = json.loads(
        cli(
            "simulate",
            "spark",
            "--users",
            "20",
            "--policy",
            "uwfq",
            "--partition",
            "--seed",
            "1",
            "--check",
            "--timeline",
            str(page),
            "--json",
        ).stdout
    )
    assert got["users"] <= 20 and got["partition_s"] == 1.0 and got["metrics"]["small_response_s"]["mean"] > 0
    assert page.read_text().count("<rect") > 100 and "<script" not in page.read_text()
    events = json.loads((tmp_path / "s.trace.json").read_text())["traceEvents"]
    assert {e["ph"] for e in events} == {"M", "X"} and all(e["dur"] >= 0 for e in events if e["ph"] == "X")
    got = json.loads(cli("simulate", "cluster", "--policy", "backfill", "--jobs", "200", "--check", "--json").stdout)
    assert got["jobs"] == 200 and 0 < got["metrics"]["utilisation"] <= 1
    got = json.loads(cli("simulate", "serverless", "--policy", "histogram", "-O", "hours=1", "--json").stdout)
    assert 0 < got["metrics"]["cold_share"] < 1


def test_for_people(cli):
    words = cli("simulate", "serving", "-O", "requests=100").stdout
    assert "ttft [s]" in words and "100 requests" in words and "goodput [requests/s]" in words


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("serving", "--policy", "sarathy"), "Did you mean 'sarathi'"),
        (("serving", "--trace", "/nowhere.csv"), "cannot read the trace"),
        (("serving", "--set", "chunk"), "NAME=VALUE"),
        (("serving", "--set", "max_seqs=lots"), "max_seqs cannot be 'lots'"),
        (("serving", "--model", "llama3-405b"), "GB free"),
        (("serving", "--speed", "0"), "must be above 0"),
        (("serving", "--ttft", "0"), "must be above 0"),
        (("spark", "--policy", "fifa"), "Did you mean 'fifo'"),
        (("spark", "--cores", "0"), "at least 1"),
        (("spark", "-O", "load=-1"), "above 0"),
        (("cluster", "--nodes", "many"), "nodes are 16x8"),
        (("cluster", "--set", "depth=x"), "depth cannot be"),
        (("serverless", "--policy", "forever"), "keep-alive policy"),
    ],
)
def test_wrong_words(cli, words, wanted):
    got = cli("simulate", *words, code=1)
    assert wanted in got.stderr.replace("\n", " ") and "Traceback" not in got.stderr


@pytest.mark.parametrize("name", ["serving", "spark", "cluster", "cluster:serverless"])
def test_targets_keep_their_contract(name):
    target = open_target(name, {"requests": "400"} if name == "serving" else {})
    check_target(target, workload="chat" if name == "serving" else None, others=4)


def test_the_best_knobs_are_printed_as_commands():
    target = open_target("serving", {})
    config = {**target.space.default, "batching": "chunked", "chunk": 777, "order": "slo", "prefill_gpus": 4}
    words = target.render(target.space.fill(config))
    assert words.count("--max-num-batched-tokens 777") == 2 and words.count("--enable-chunked-prefill") == 2
    assert "no option for these: order=slo" in words


def test_options_of_a_target_may_be_given_by_name(cli, tmp_path):
    store = f"sqlite:///{tmp_path}/s.db"
    got = json.loads(cli(
        "tune", "serving", "--workload", "chat", "--objective", "goodput", "--ttft", "1.5", "--tpot", "0.1", "--requests=400", "--tuner", "tpe",
        "--trials", "6", "--store", store, "--json",
    ).stdout)  # fmt: skip
    assert got["trials"] == 6 and got["best"]["metrics"]["goodput"] > 0
    assert "Did you mean '--ttft'" in cli("tune", "serving", "--tft", "2", code=1).stderr.replace("\n", " ")
    assert "needs a value" in cli("tune", "spark", "--cores", code=1).stderr
    assert "Did you mean" in cli("tune", "sqlite", "--trails", "3", code=1).stderr


def test_a_workload_without_its_data_says_what_to_do(cli, tmp_path, monkeypatch):
    monkeypatch.delenv("TUNEWRIGHT_DATA", raising=False)
    got = cli(
        "tune", "serving", "--workload", "azure-conv", "--store", f"sqlite:///{tmp_path}/s.db", code=1, cwd=tmp_path
    )
    assert "set TUNEWRIGHT_DATA" in got.stderr.replace("\n", " ")


def test_tuning_the_simulator_gains(cli, tmp_path):
    got = json.loads(
        cli(
            "tune", "spark", "--tuner", "tpe", "--trials", "15", "--store", f"sqlite:///{tmp_path}/s.db", "--json"
        ).stdout
    )
    assert got["best"]["metrics"]["small_response"] < 10


# --- real counterparts


@pytest.mark.slow
@pytest.mark.alone
def test_simulated_latencies_are_those_of_a_real_model():
    """A small Llama is computed for the composed batches; calibrated on others. The benchmark shows 15 %; machines are noisy."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tunewright.envs.scheduling.serving import executor as X
    from tunewright.envs.scheduling.serving import policies as P
    from tunewright.envs.scheduling.serving import reference as R
    from tunewright.envs.scheduling.serving import simulate as M
    from tunewright.envs.scheduling.serving import synthetic

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x = X.LlamaExecutor(hidden=64, layers=2, heads=4, vocab=500, tokens=512)
        X.measure(x, 1)
        e = X.calibrate(X.measure(x, 3, seed=1))
        knobs = P.policy("sarathi", max_seqs=8, chunk=64)
        requests = synthetic.generate(
            "chat", {"requests": 25, "rate": 20.0, "prompt": 60, "output": 15, "prompt_cv": 0.5}, 3
        )
        real = R.Reference(requests, x.setup(e), knobs, step_s=x.step_s, each=R.invariants).run()
        ours = M.metrics(M.simulate(requests, x.setup(e), knobs))
    finally:
        torch.set_num_threads(threads)
    response = float(np.mean([a.done_at - a.arrival for a in real]))
    assert 0.5 < ours["response_s"]["mean"] / response < 2.0
    assert all(np.isfinite(a.done_at) for a in real)


def test_the_real_model_attends_to_its_own_cache():
    """A prompt in two chunks and token by token gives the logits of one pass over all of it."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tunewright.envs.scheduling.serving.executor import LlamaExecutor

    x = LlamaExecutor(hidden=32, layers=2, heads=2, vocab=100, slots=3, tokens=64)
    x.forward([1], [0], 12)
    whole = x.keys[:, 1, :, :12].clone()
    for k, (start, count) in enumerate(((0, 5), (5, 6), (11, 1))):
        x.forward([2] if k < 2 else [2, 0], [start] if k < 2 else [start, 3], count)
    torch.testing.assert_close(x.keys[:, 2, :, :12], whole, atol=1e-5, rtol=1e-4)


def test_spark_local_says_what_is_missing(monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "pyspark" else found(name, *a))
    with pytest.raises(MissingExtraError, match="spark"):
        open_target("spark-local", {})


@pytest.mark.parametrize(
    "problem", [FileNotFoundError("java"), subprocess.CalledProcessError(1, "java"), OSError(28, "full")]
)
def test_spark_starts_without_an_archive_where_none_can_be_made(monkeypatch, problem):
    from tunewright.envs.scheduling.spark import archive

    def fail(*args, **kwargs):
        raise problem

    monkeypatch.setattr(archive.subprocess, "run", fail)
    assert archive.archive() is None


def test_what_a_killed_process_left_of_an_archive_goes(monkeypatch):
    from tunewright.envs.scheduling.spark import archive

    pytest.importorskip("pyspark", reason="needs the extra 'spark'")

    def run(command, **how):
        if command[0].endswith("java"):
            return subprocess.CompletedProcess(command, 0, "", "version 17")
        Path(command[-1]).write_text("classes")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(archive.subprocess, "run", run)
    made = archive.archive()
    left, running = made.with_suffix(".999999999"), made.with_suffix(f".{os.getppid()}")
    made.rename(left)
    running.touch()
    assert archive.archive() == made and made.read_text() == "classes"
    assert running.exists() and not left.exists()


@pytest.mark.slow
@pytest.mark.alone
def test_a_real_spark(tmp_path):
    pytest.importorskip("pyspark", reason="needs the extra 'spark'")
    if not shutil.which("java"):
        pytest.skip("Spark needs Java, and there is none")
    from tunewright.measuring.isolation import measure_once
    from tunewright.target import Budget

    target = open_target("spark-local", {"rows": "100000"})
    budget = Budget(workdir=tmp_path, seconds=200)
    prepared = target.prepare(workload="small", seed=1, budget=budget)
    assert Path(prepared["archive"]).stat().st_size > 1e6
    assert target.prepare(workload="small", seed=1, budget=budget) == prepared, "made once"
    budget = replace(budget, prepared=prepared)
    found = {}
    for partitions in (8, 200):
        config = target.space.fill(
            {**target.space.default, "shuffle_partitions": partitions, "adaptive": False, "broadcast_mb": 0}
        )
        got = measure_once(target, config, workload="small", seed=1, budget=budget)
        assert got.ok, got.reason
        found[partitions] = got.values["makespan"]
    assert found[200] > 1.3 * found[8], found
    assert not list(tmp_path.glob("spark-*")), "files are left behind"
    assert "spark.sql.shuffle.partitions 200" in target.render(target.space.default)
