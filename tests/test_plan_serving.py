"""The step-time model and serving plans."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.envs.parallelism import clusters, models, serving, serving_load, serving_search, steptime
from tunewright.envs.parallelism.check import check
from tunewright.envs.parallelism.emit import SERVE, emit_serve
from tunewright.errors import ConfigError, TunewrightError, UnknownNameError
from tunewright.testing import check_space, check_target


def service(model="llama3-70b", cluster="h100:16", backend="vllm"):
    return serving.Service(model=models.load(model), nodes=clusters.load(cluster).nodes, backend=backend)


LOAD = serving.Load(rate=8.0, isl=1000, osl=300, ttft_s=1.0, tpot_s=0.05)


def engine(model="llama3-70b", kind="h100", gpus=4, precision="bf16", **more):
    size, speed, four = steptime.precision_of(precision, kind)
    nodes = clusters.load(f"{kind}:{max(gpus, 8)}").nodes
    return steptime.engine(
        steptime.shape_of(models.load(model)), nodes, steptime.stack_of("vllm", kind), gpus=gpus, weight_bytes=size, speed=speed, four=four, **more
    )  # fmt: skip


# -- steps ------------------------------------------------------------------------------------------


def test_a_step_is_never_faster_than_its_bytes():
    """One sequence: all weights come through memory once, at no more than its bandwidth."""
    e = engine()
    model = models.load("llama3-70b")
    weights = (model.params - model.embedding_params) * 2.0 / 4  # of a GPU; the embedding is looked up, not read
    assert steptime.decode_s(e, 1.0, 0.0) > weights / 3.35e12
    assert steptime.decode_s(e, 1.0, 0.0) < 2.5 * weights / 3.35e12


def test_a_prefill_is_never_faster_than_its_products():
    e, model = engine(), models.load("llama3-70b")
    ideal = 2.0 * (model.params - 2 * model.embedding_params) * 4096 / (4 * 989.4e12)
    assert ideal < steptime.prefill_s(e, 4096) < 4 * ideal


@given(st.floats(1, 512), st.floats(1, 20_000))
@settings(max_examples=50)
def test_more_work_takes_longer(batch, context):
    e = engine()
    assert steptime.decode_s(e, batch + 1, context) > steptime.decode_s(e, batch, context)
    assert steptime.decode_s(e, batch, context * 2) > steptime.decode_s(e, batch, context)
    assert steptime.prefill_s(e, 512, context) > steptime.prefill_s(e, 512, 0.0)


def test_chunks_add_up_to_the_whole_prompt():
    e = engine()
    parts = sum(steptime.prefill_s(e, 512.0, 512.0 * k) for k in range(8))
    assert parts == pytest.approx(steptime.prefill_s(e, 4096.0))


def test_few_tokens_touch_few_experts():
    e = engine("mixtral-8x7b", gpus=2)
    one, many = steptime.decode_s(e, 1.0, 0.0), steptime.decode_s(e, 64.0, 0.0)
    assert float(e.chance) == pytest.approx(6 / 8)
    assert many > 1.8 * one, "two of eight experts for one token, all of them for 64"
    dense = engine("llama3-8b", gpus=2)
    assert steptime.decode_s(dense, 64.0, 0.0) < 1.6 * steptime.decode_s(dense, 1.0, 0.0)


def test_arrays_and_compiled_code_give_the_same():
    import numba

    e = steptime.Engine(*(float(v) for v in engine()))
    compiled = numba.njit(_decode())
    for batch in (1.0, 17.0, 200.0):
        assert compiled(e, batch, 1500.0) == pytest.approx(float(steptime.decode_s(e, batch, 1500.0)))
    batches = np.array([1.0, 17.0, 200.0])
    assert np.allclose(steptime.decode_s(e, batches, 1500.0), [steptime.decode_s(e, b, 1500.0) for b in batches])


def _decode():
    """decode_s with the functions that it calls compiled too, as the simulator does."""
    import types

    import numba

    names = {**vars(steptime), "larger": numba.njit(steptime.larger), "missed": numba.njit(steptime.missed)}
    return types.FunctionType(steptime.decode_s.__code__, names, "decode")


def test_precisions():
    assert steptime.decode_s(engine(precision="fp8"), 1.0, 0.0) < 0.75 * steptime.decode_s(
        engine(precision="bf16"), 1.0, 0.0
    )
    with pytest.raises(ConfigError, match="a100 has no FP8"):
        steptime.precision_of("fp8", "a100")
    with pytest.raises(UnknownNameError, match="Did you mean 'fp8'"):
        steptime.precision_of("fp9", "h100")
    with pytest.raises(UnknownNameError, match="Did you mean 'vllm'"):
        steptime.stack_of("vlm", "h100")


# -- plans ------------------------------------------------------------------------------------------


def test_littles_law_holds_in_the_steady_state():
    sv = service()
    found = serving_search.search(sv, LOAD)
    stable = found.values[:, serving_load.RESULTS.index("use")] <= 1
    aggregated = stable & (found.plans[:, serving_search.COLUMNS.index("p_count")] == 0)
    v = found.values[aggregated]
    count = found.plans[aggregated, 0]
    batch, tpot = v[:, serving_load.RESULTS.index("batch")], v[:, serving_load.RESULTS.index("tpot_s")]
    small = batch < 1  # the time of a token is that of at least one sequence
    assert np.allclose(batch[~small], (LOAD.rate / count * LOAD.osl * tpot)[~small], rtol=1e-3)


def test_one_plan_is_what_the_search_says():
    sv = service()
    found = serving_search.search(sv, LOAD)
    for k in np.random.default_rng(0).integers(0, len(found.plans), 40):
        plan = found.plan(int(k))
        assert serving.problems(plan, sv) == []
        assert np.allclose(serving_load.evaluate(sv, LOAD, plan), found.values[k], rtol=1e-6)
        assert plan.gpus <= sv.nodes.gpus


def test_the_best_plan_carries_the_load_with_fewest_gpus():
    sv = service()
    found = serving_search.search(sv, LOAD)
    best = serving_search.rank(found, LOAD)[0]
    meets = np.array([serving_load.meets(v, LOAD) for v in found.values])
    assert (
        meets[best]
        and found.values[best, serving_load.RESULTS.index("gpus")]
        == found.values[meets, serving_load.RESULTS.index("gpus")].min()
    )
    most = serving_load.capacity(sv, LOAD, found.plan(int(best)))
    assert most >= LOAD.rate
    assert not serving_load.meets(
        serving_load.evaluate(sv, replace(LOAD, rate=most * 1.01), found.plan(int(best))), LOAD
    )


def test_an_overloaded_system_says_so():
    sv = service("llama3-70b", "h100:4")
    heavy = replace(LOAD, rate=500.0)
    found = serving_search.search(sv, heavy)
    best = found.values[serving_search.rank(found, heavy)[0]]
    assert best[serving_load.RESULTS.index("use")] > 1 and math.isinf(best[serving_load.RESULTS.index("ttft_s")])


def test_large_clusters_are_searched_too():
    sv = service("llama3-70b", "h100:50000")
    heavy = serving.Load(rate=30_000.0, isl=3000, osl=300, ttft_s=2.0, tpot_s=0.05)
    found = serving_search.search(sv, heavy)
    assert len(found.plans) < 10**6 and serving_load.meets(found.values[serving_search.rank(found, heavy)[0]], heavy)


def test_a_model_that_fits_nowhere():
    sv = service("llama3-405b", "a100:4")
    found = serving_search.search(sv, LOAD, wanted=("bf16",))
    assert not len(found.plans) and found.oom > 0
    said = serving_search.shortage(sv, LOAD, ("bf16",))
    assert "GB more than" in said and "8 or more GPUs" in said


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (serving.ServePlan(engines=serving.Part(tp=3)), "nearest: 2 or 4"),
        (serving.ServePlan(engines=serving.Part(tp=8, count=3)), "needs 24 GPUs"),
        (serving.ServePlan(engines=serving.Part(pp=3)), "pp 3 must be"),
        (serving.ServePlan(engines=serving.Part(ranks=4)), "need a model with experts"),
        (serving.ServePlan(engines=serving.Part(count=0)), "at least 1"),
        (serving.ServePlan(engines=serving.Part(), kv_share=2.0), "kv_share"),
        (serving.ServePlan(engines=serving.Part(), prefill=serving.Part(tp=5)), "prefill: tp 5"),
    ],
)
def test_impossible_plans(plan, said):
    assert any(said in p for p in serving.problems(plan, service()))
    with pytest.raises(ConfigError):
        serving_load.evaluate(service(), LOAD, plan)


@pytest.mark.parametrize("form", SERVE)
def test_launch_commands(form):
    plan = serving.ServePlan(
        engines=serving.Part(count=2, tp=4), prefill=serving.Part(count=3, tp=2), precision="fp8", max_batch=64
    )
    text = emit_serve(form, plan, service(), "my/model")
    assert (
        "my/model" in text
        and "# 2 of these, decode, 4 GPUs each" in text
        and "# 3 of these, prefill, 2 GPUs each" in text
    )
    assert ("--tensor-parallel-size 4" if form == "vllm" else "--tp-size 4") in text
    with pytest.raises(UnknownNameError):
        emit_serve("tgi", plan, service(), "x")


def test_corrections_are_of_what_was_measured():
    stack = ("vllm", "llama3-70b", "h100", "fp8")
    whole, own = steptime.step_factors(*stack), steptime.step_factors(*stack, version="")
    assert whole != steptime.Factors() and all(0.2 < f < 5 for f in whole)
    assert len({round(b / a, 9) for a, b in zip(whole, own, strict=True)}) == 1, "a version is one factor on all parts"
    assert steptime.step_factors(*stack, version="of tomorrow") == whole
    assert steptime.step_factors("vllm", "llama3-70b", "a100", "bf16") == steptime.Factors(), (
        "other GPUs' factors do not fit"
    )
    assert steptime.first_factor("vllm", "llama3-70b", "a100", "bf16") == 1.0 != steptime.first_factor(*stack)


def test_each_part_is_corrected_by_its_own_factor():
    e = steptime.engine(
        steptime.shape_of(models.load("llama3-8b")),
        clusters.load("h100:8").nodes,
        steptime.stack_of("vllm", "h100"),
        gpus=1.0,
    )
    slow = steptime.corrected(e, steptime.Factors(prefill=2.0))
    assert steptime.decode_s(slow, 8, 500) == steptime.decode_s(e, 8, 500)
    assert steptime.prefill_s(slow, 500) == pytest.approx(2 * steptime.prefill_s(e, 500))
    twice = steptime.corrected(e, steptime.Factors(2.0, 2.0, 2.0, 2.0))
    assert steptime.tpot_s(twice, 8, 500, 100) == pytest.approx(2 * steptime.tpot_s(e, 8, 500, 100))


@pytest.mark.data
def test_measured_serving_plans(data):
    """The bars of accuracy on all rows; docs/results/plans.md has the held-out ones."""
    found = check(data / "parallelism" / "serving_silicon_fit.csv.gz")
    assert found["tpot"]["median_error"] <= 0.13 and found["ttft"]["median_error"] <= 0.40
    assert found["tpot"]["spearman"] >= 0.95 and found["ttft"]["spearman"] >= 0.75


def test_the_target_keeps_the_contract():
    from tunewright.envs.parallelism.serving_target import ServePlanTarget

    target = ServePlanTarget(service("llama3-8b", "h100:8"))
    check_space(target.space)
    for workload in target.workloads:
        check_target(target, workload=workload, others=3)


def test_the_command(cli):
    words = (
        "plan",
        "serve",
        "-m",
        "llama3-70b",
        "-c",
        "h100:16",
        "--isl",
        "3000",
        "--osl",
        "300",
        "--rate",
        "10",
        "--ttft",
        "2",
        "--tpot",
        "0.05",
    )
    found = json.loads(cli(*words, "--json", "--emit", "vllm").stdout)
    best = found["best"]
    assert best["meets"] and best["ttft_s"] <= 2 and best["tpot_s"] <= 0.05 and best["capacity_requests_per_s"] >= 10
    assert set(found["baselines"]) == {"tensor", "defaults", "apex"} and "vllm serve" in found["launch"]
    assert "within the limits" in cli(*words).stdout


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rate": 0.0}, "--rate must be above 0"),
        ({"backend": "vlm"}, "Did you mean 'vllm'"),
        ({"precision": "fp3"}, "no precision named"),
        ({"mode": "split"}, "auto or aggregated"),
        ({"form": "tgi"}, "no form for serving plans"),
        ({"cluster": "h100:1", "precision": "bf16"}, "does not fit"),
        ({"cluster": "a100:8", "precision": "fp8"}, "a100 has no FP8"),
    ],
)
def test_what_is_wrong_is_explained(given, said):
    from tunewright.envs.parallelism import cli

    base = {"model": "llama3-70b", "cluster": "h100:16", "rate": 10.0, "isl": 3000, "osl": 300}
    with pytest.raises(TunewrightError, match=said):
        cli.serve(**{**base, **given})


def test_aggregated_plans_alone():
    from tunewright.envs.parallelism import cli

    base = {
        "model": "llama3-70b",
        "cluster": "h100:16",
        "rate": 10.0,
        "isl": 3000,
        "osl": 300,
        "ttft": 2.0,
        "tpot": 0.05,
    }
    alone, every = cli.serve(**base, mode="aggregated"), cli.serve(**base)
    assert alone["best"]["plan"]["prefill"] is None and alone["best"]["gpus"] >= every["best"]["gpus"]


def test_overload_on_the_terminal(cli):
    text = cli(
        "plan", "serve", "-m", "llama3-70b", "-c", "h100:4", "--isl", "3000", "--osl", "300", "--rate", "100"
    ).stdout
    assert "no plan on 4" in text and "times as much" in text
