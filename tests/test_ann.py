import numpy as np
import pytest

faiss = pytest.importorskip("faiss", reason="needs the extra: pip install 'tunewright[ann]'")

from tunewright.envs.storage.ann import ANNTarget, open_target
from tunewright.errors import ConfigError
from tunewright.measuring.isolation import measure_once
from tunewright.sessions.session import Session
from tunewright.store.plan import Plan
from tunewright.target import Budget
from tunewright.testing import check_target
from tunewright.tuner import pareto

SMALL = ANNTarget(vectors=2000, dimensions=16, queries=100)


@pytest.fixture(scope="module")
def budget(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ann")
    return Budget(workdir=folder, prepared=SMALL.prepare(workload="clustered", seed=1, budget=Budget(workdir=folder)))


def measured(budget, **changes):
    return measure_once(SMALL, SMALL.space.fill(changes), workload="clustered", seed=1, budget=budget)


@pytest.mark.slow
def test_contract():
    check_target(SMALL)


def test_the_space_is_conditional():
    assert "nprobe" not in SMALL.space.default
    assert "m" not in SMALL.space.fill({"family": "ivf"})
    assert SMALL.space.problems({**SMALL.space.fill({"family": "ivf", "nlist": 8}), "nprobe": 9})


def test_truth_is_exact(budget):
    with np.load(budget.prepared["file"]) as data:
        base, queries, truth = data["base"], data["queries"], data["truth"]
    distances = ((queries[:, None, :] - base[None, :, :]) ** 2).sum(axis=2)
    expected = np.argsort(distances, axis=1)[:, :10]
    assert (np.sort(expected, axis=1) == np.sort(truth, axis=1)).mean() > 0.999


def test_recall_counts_what_is_found(budget):
    everything = measured(budget, family="ivf", nlist=16, nprobe=16)
    assert everything.values["recall_at_10"] == 1.0
    little = measured(budget, family="ivf", nlist=16, nprobe=1)
    assert little.values["recall_at_10"] < 1.0
    assert little.values["qps"] > 0


@pytest.mark.slow
def test_quantised_vectors_need_less_memory(budget):
    whole, small = measured(budget, family="ivf"), measured(budget, family="ivf", coding="pq8")
    assert small.values["memory"] < whole.values["memory"] / 2


@pytest.mark.slow
def test_two_objectives_under_the_recall_constraint(store):
    plan = Plan(target="ann", tuner="tpe", objectives=("qps", "memory"), trust="fast", seed=2)
    session = Session.create(plan, "a", store, target=SMALL)
    session.run(trials=12, verify=False)
    front = pareto(session.decided, session.objectives)
    assert front
    assert all(t.metrics["recall_at_10"] >= 0.95 for t in front)
    ordered = sorted(front, key=lambda t: t.scores["qps"])
    assert [t.scores["memory"] for t in ordered] == sorted(t.scores["memory"] for t in front)


def test_render_builds_the_same_index():
    scope = {"faiss": faiss}
    exec(SMALL.render(SMALL.space.fill({"family": "ivf", "coding": "sq8", "nlist": 12})), scope)
    assert scope["index"].nlist == 12


def test_wrong_input():
    with pytest.raises(ConfigError, match="multiple of 8"):
        open_target("", {"dimensions": "13"})
    with pytest.raises(ConfigError, match="whole number"):
        open_target("", {"vectors": "many"})
