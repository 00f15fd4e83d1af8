"""Training plans: which are legal, and the best of all of them."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_jobs import job

from tunewright.envs.parallelism import models, plans, search
from tunewright.envs.parallelism.emit import TRAIN, emit_train
from tunewright.envs.parallelism.estimate import RESULTS, estimate_numpy
from tunewright.errors import UnknownNameError

TIME, MEMORY = RESULTS.index("time_s"), RESULTS.index("memory_gb")


@given(
    st.sampled_from(["llama3-8b", "mixtral-8x7b", "bloom-176b"]),
    st.sampled_from([4, 24, 64, 96]),
    st.sampled_from([96, 256, 480]),
)
@settings(max_examples=20)
def test_all_enumerated_plans_are_legal(name, gpus, batch):
    given_job = job(name, f"h100:{gpus}", batch=batch)
    rows = list(plans.enumerate_plans(given_job))
    if rows:
        every = np.concatenate(rows)
        assert len(np.unique(every, axis=0)) == len(every)
        for row in every[np.random.default_rng(0).integers(0, len(every), 50)]:
            assert plans.problems(plans.from_row(row), given_job) == []
            assert np.array_equal(plans.from_row(row).row, row)


def test_enumeration_finds_every_legal_plan_of_a_small_job():
    """Against all combinations, judged one by one by the rules."""
    given_job = job("mixtral-8x7b", "h100:8", batch=16)
    found = {tuple(r) for rows in plans.enumerate_plans(given_job) for r in rows}
    expected = set()
    degrees = (1, 2, 4, 8)
    for tp, pp, dp, cp, ep in itertools.product(degrees, repeat=5):
        if tp * pp * dp * cp != 8:
            continue
        for b, v, z, r, sp, off in itertools.product(
            (1, 2, 4, 8, 16), range(1, 9), range(4), ("none", "full"), (False, True), (False, True)
        ):
            plan = plans.Plan(
                tp=tp,
                pp=pp,
                dp=dp,
                cp=cp,
                ep=ep,
                micro_batch=b,
                chunks=v,
                zero=z,
                recompute=r,
                sequence_parallel=sp,
                offload=off,
            )
            if not plans.problems(plan, given_job) and (z == 0 or dp * cp > 1):
                expected.add(tuple(plan.row))
    # fewer than 1,024 tokens of a sequence on a GPU are legal, but not looked at
    assert found == {r for r in expected if r[3] <= 4}


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"tp": 3, "dp": 4}, "not the 16 GPUs"),
        ({"tp": 8, "dp": 1}, "dp = 2 would"),
        ({"dp": 16, "micro_batch": 3}, "micro_batch could be 2 or 4"),
        ({"dp": 16, "ep": 2}, "has none"),
        ({"dp": 16, "chunks": 2}, "interleaving"),
        ({"pp": 2, "dp": 8, "zero": 3}, "zero 3 gathers weights"),
        ({"dp": 16, "sequence_parallel": True}, "tp above 1"),
        ({"dp": 16, "zero": 0, "offload": True}, "offload needs zero 1"),
        ({"cp": 16, "dp": 1, "micro_batch": 0}, "micro_batch must be at least 1"),
    ],
)
def test_impossible_plans_say_the_rule_and_what_is_near(plan, said):
    assert any(said in p for p in plans.problems(plans.Plan(**plan), job()))


def test_heads_that_do_not_divide():
    odd = replace(job("llama3-8b", "h100:24", batch=48), model=replace(models.load("llama3-8b"), heads=40, kv_heads=8))
    said = plans.problems(plans.Plan(tp=24, dp=1), odd)
    assert any("does not divide the 40 attention heads; nearest: 20 or 40" in p for p in said)


def test_search_finds_the_best_and_its_front():
    given_job = job("llama3-8b", "h100:16", batch=256)
    found = search.search(given_job)
    every = np.concatenate(list(plans.enumerate_plans(given_job)))
    out = estimate_numpy(given_job.numbers, every)
    fits = out[:, MEMORY] <= given_job.nodes.memory_gb
    assert found.counted == len(every) and found.feasible == fits.sum()
    assert found.values[0, TIME] == pytest.approx(out[fits, TIME].min())
    front = found.pareto_values
    assert (np.diff(front[:, TIME]) >= 0).all() and (np.diff(front[:, MEMORY]) < 0).all()
    for values in front:
        better = (out[fits, TIME] < values[TIME] - 1e-12) & (out[fits, MEMORY] < values[MEMORY] - 1e-12)
        assert not better.any()
    for name, got in search.baselines(given_job).items():
        assert got is None or got[1][TIME] >= found.values[0, TIME] * (1 - 1e-9), name


def test_a_model_that_fits_nowhere_says_what_would_help():
    given_job = job("llama3-405b", "h100:8", batch=64)
    found = search.search(given_job)
    assert not found.feasible
    said = search.shortage(given_job, found)
    assert "GB more than the 80 GB" in said and "such GPUs" in said


def test_explanations_change_one_choice():
    given_job = job("llama3-8b", "h100:16", batch=256)
    found = search.search(given_job)
    told = search.explain(given_job, found.best[0], found.values[0])
    assert told["bound_by"] == "compute" and sum(told["shares"].values()) == pytest.approx(1)
    searched = [c for c in told["changes"] if c["fits"] and not c["change"].startswith("precision")]
    assert searched and all(c["time_ratio"] >= 1 - 1e-9 for c in searched), "no neighbour of the best is faster"


@pytest.mark.parametrize("form", TRAIN)
def test_launch_arguments(form):
    plan = plans.Plan(tp=2, pp=4, dp=2, chunks=2, zero=1, recompute="full", sequence_parallel=True)
    given_job = job("llama3-8b", "h100:16", batch=256)
    text = emit_train(form, plan, given_job)
    for words in {
        "megatron": (
            "--tensor-model-parallel-size 2",
            "--pipeline-model-parallel-size 4",
            "--sequence-parallel",
            "--num-query-groups 8",
        ),
        "deepspeed": ('"stage": 1', "num_stages=4", '"autotp_size": 2'),
        "torchtitan": ("tensor_parallel_degree = 2", "Interleaved1F1B", "data_parallel_shard_degree = 2"),
    }[form]:
        assert words in text
    with pytest.raises(UnknownNameError, match="megatron"):
        emit_train("megatrn", plan, given_job)
