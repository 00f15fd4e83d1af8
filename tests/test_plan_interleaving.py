"""Pipeline stages and their chunks: what frameworks run, and what the estimates count."""

import itertools
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.envs.parallelism import calibration, clusters, models, plans, search
from tunewright.envs.parallelism.check import check
from tunewright.envs.parallelism.emit import emit_train
from tunewright.envs.parallelism.env import TrainPlanEnv
from tunewright.envs.parallelism.estimate import RESULTS, estimate, estimate_numpy
from tunewright.envs.parallelism.target import train_space
from tunewright.envs.parallelism.training import Job
from tunewright.errors import ConfigError

TIME = RESULTS.index("time_s")
ESTIMATES = (estimate, estimate_numpy)


def job(model="llama3-70b", cluster="h100:128", *, layers=0, batch=256):
    shape, nodes = models.load(model), clusters.load(cluster).nodes
    shape = replace(shape, layers=layers) if layers else shape
    return Job(model=shape, nodes=nodes, seq=4096, global_batch=batch, calibration=calibration.of_nodes(nodes.kind)[1])


def layers_of_slowest(given_job, plan, estimated):
    """Layers of the fullest stage, from the overhead of a layer and micro-batch."""
    out = dict(zip(RESULTS, estimated(given_job.numbers, plan.row[None])[0], strict=True))
    k, rounds = given_job.numbers, given_job.global_batch // (plan.dp * plan.micro_batch)
    return out["overhead_s"] / (rounds * k.overhead * k.drag)


@pytest.mark.parametrize("estimated", ESTIMATES)
def test_eight_stages_of_five_chunks_have_ten_of_eighty_layers(estimated):
    base = job()
    times = {}
    for chunks in (1, 2, 5):
        plan = plans.Plan(tp=4, pp=8, dp=4, chunks=chunks, sequence_parallel=True)
        assert plans.problems(plan, base) == []
        assert layers_of_slowest(base, plan, estimated) == pytest.approx(10)
        times[chunks] = estimated(base.numbers, plan.row[None])[0, TIME]
    assert times[5] < times[2] < times[1]


@given(st.integers(1, 130), st.integers(1, 64), st.sampled_from(["h100:64", "a100:64"]))
@settings(max_examples=150)
def test_the_slowest_stage_sets_the_pace(layers, stages, cluster):
    base = job(cluster=cluster, layers=layers)
    stages = min(stages, layers)
    counts = plans.stage_layers(base, stages)
    assert sum(counts) == layers
    assert max(counts) - min(counts) <= 1
    for chunks, estimated in itertools.product(plans.legal_chunks(base, stages), ESTIMATES):
        plan = plans.Plan(pp=stages, chunks=chunks)
        assert layers_of_slowest(base, plan, estimated) == pytest.approx(max(counts), rel=1e-9)


def megatron_runs(text):
    """Layers of each stage, by Megatron-LM's rules for its arguments; fails where it would refuse them."""
    number = {k: int(v) for k, v in re.findall(r"--([a-z-]+) (\d+)\b", text)}
    layers, stages = number["num-layers"], number["pipeline-model-parallel-size"]
    per_chunk = number.get("num-layers-per-virtual-pipeline-stage")
    counted = [f"--account-for-{end}-in-pipeline-split" in text for end in ("embedding", "loss")]
    if layout := re.search(r'--pipeline-model-parallel-layout "(\S+)"', text):
        assert per_chunk is None and not any(counted)
        parts = re.sub(r"(.)\*(\d+)", lambda x: x[1] * int(x[2]), layout[1]).split("|")
        assert len(parts) == stages and parts[0][0] == "E" and parts[-1][-1] == "L"
        assert "".join(parts).strip("EL") == "t" * layers
        return [part.count("t") for part in parts], 1
    whole = layers + sum(counted)
    assert whole % stages == 0
    per_stage = whole // stages
    assert per_stage % (per_chunk or per_stage) == 0
    each = [per_stage] * stages
    each[0], each[-1] = each[0] - counted[0], each[-1] - counted[1]
    return each, per_stage // per_chunk if per_chunk else 1


@pytest.mark.parametrize(("model", "cluster"), [
    ("llama3-70b", "h100:64"), ("llama3-405b", "h100:128"), ("deepseek-v3", "h800:128"), ("bloom-176b", "jean-zay:96"),
    ("gpt3-175b", "a100:96"),
])  # fmt: skip
def test_megatron_takes_every_enumerated_plan(model, cluster):
    base = job(model, cluster, batch=1920)
    every = np.concatenate(list(plans.enumerate_plans(base)))
    shapes = {(int(r[1]), int(r[6])): r for r in every}
    # 61 layers, with or without their ends, are no multiple of stages and chunks on a power of two of GPUs
    assert (len({c for _, c in shapes}) > 1) == (model != "deepseek-v3")
    for (stages, chunks), row in shapes.items():
        plan = plans.from_row(row)
        counts, virtual = megatron_runs(emit_train("megatron", plan, base))
        assert virtual == chunks
        assert counts == plans.stage_layers(base, stages)
        assert layers_of_slowest(base, plan, estimate) == pytest.approx(max(counts))


def test_chunks_that_do_not_cut_the_layers_are_refused_with_what_is_near():
    base = job()
    plan = plans.Plan(tp=4, pp=8, dp=4, chunks=3, sequence_parallel=True)
    (said,) = plans.problems(plan, base)
    assert "chunks 3 of 8 stages do not cut the 80 layers evenly" in said and "nearest: 2 or 5" in said
    with pytest.raises(ConfigError, match="do not cut the 80 layers") as told:
        emit_train("megatron", plan, base)
    assert "\n" not in str(told.value)
    with pytest.raises(ConfigError, match="pp = 8, chunks = 3"):
        search.search(base, plans.Choices(fixed={"pp": 8, "chunks": 3}))


def test_a_target_offers_chunks_that_some_plan_has():
    space = train_space(job())
    assert space.params["chunks"].choices == (1, 2, 4, 5, 8)
    config = {**space.default, "tp": 4, "pp": 8, "cp": 1, "ep": 1, "micro_batch": 1}
    assert space.problems({**config, "chunks": 5}) == []
    assert space.problems({**config, "chunks": 4}) != []


def test_the_environment_masks_chunks_that_do_not_cut_the_layers():
    env = TrainPlanEnv(count=1)
    env.reset(seed=0)
    env.case = replace(env.case, job=job())
    env.chosen = {"tp": 4, "cp": 1, "pp": 8, "ep": 1, "micro_batch": 1}
    name, options = env.parts[len(env.chosen)]
    assert name == "chunks"
    assert [c for c, legal in zip(options, env.action_masks(), strict=False) if legal] == [1, 2]


def test_torchtitan_is_told_how_many_layers_a_chunk_has():
    base = job()
    text = emit_train("torchtitan", plans.Plan(tp=4, pp=8, dp=4, chunks=5, sequence_parallel=True), base)
    assert "pipeline_parallel_layers_per_stage = 2\n" in text
    assert "pipeline_parallel_first_stage_less_layers = 0" in text


def test_a_measured_plan_whose_chunks_differ_counts_its_slowest_stage(tmp_path):
    """61 layers in 4 x 4 chunks, dealt out by hand: no stage needs more than 16."""
    head = "layers,hidden,heads,tp,pp,dp,micro_batch,global_batch,seq,interleave,cluster,sec_per_iter\n"
    predicted = []
    for layers, chunks in ((61, 4), (64, 4), (80, 5), (80, 3)):
        path = tmp_path / "t.csv"
        path.write_text(f"{head}{layers},4096,32,1,4,2,1,64,4096,{chunks},h100,1.0\n")
        predicted.append(json.loads(json.dumps(check(path)))["rows"][0]["predicted"])
    assert 0.9 < predicted[0] / predicted[1] < 1.0
    # five chunks of four layers idle less than three, and no stage has more layers for it
    assert predicted[2] < predicted[3] < 1.1 * predicted[2]


def test_columns_of_measured_plans_that_are_not_used_are_named(tmp_path, cli):
    path = tmp_path / "plans.csv"
    path.write_text(
        "model,layers,hidden,heads,tp,pp,dp,micro_batch,global_batch,sec_per_iter,ep,kv_heads,note\n"
        "m,24,2048,16,2,2,2,1,64,2.0,8,4,\n"
    )
    assert check(path)["ignored"] == ["ep", "kv_heads"], "an empty column is none"
    said = cli("plan", "check", str(path)).stdout
    assert "columns that are not used: ep, kv_heads, model (a name only)" in said
