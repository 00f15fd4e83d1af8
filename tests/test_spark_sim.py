"""The Spark simulator: against a plain one, closed forms, and what each policy promises."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.envs.scheduling.spark import jobs as J
from tunewright.envs.scheduling.spark import reference as R
from tunewright.envs.scheduling.spark import simulate as M
from tunewright.errors import ConfigError, TunewrightError


@given(
    cores=st.sampled_from([1, 3, 8]), users=st.sampled_from([1, 4]), load=st.sampled_from([0.3, 0.9, 2.0]),
    stages=st.sampled_from([1, 3]), skew=st.sampled_from([0.0, 0.3]), seed=st.integers(0, 10**6),
    policy=st.sampled_from(list(M.POLICIES)), partition=st.sampled_from([0.0, 0.0, 1.0]), estimates=st.sampled_from(M.ESTIMATES),
    overhead=st.sampled_from([0.0, 0.02]), weights=st.sampled_from([(), (2.0, 1.0, 0.5, 1.0)]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_compiled_and_plain_simulator_agree(
    cores, users, load, stages, skew, seed, policy, partition, estimates, overhead, weights
):
    mix = J.generate(
        cores, {"users": users, "jobs": 25, "load": load, "work": 20, "stages": stages, "skew": skew}, seed
    )
    how = M.Options(
        policy=policy, partition_s=partition, estimates=estimates, overhead_s=overhead, weights=weights, seed=seed
    )
    o = M.simulate(mix, cores, how)
    expected = M.systems([mix], cores, how).jobs[0]["expected"]
    done = [j.done_at for j in R.Reference(mix, cores, how, expected, R.invariants).run()]
    np.testing.assert_allclose(o.systems.jobs[0]["done_at"], done, rtol=1e-9)


def single_tasks(n, rate, times, user=None):
    arrivals = np.cumsum(np.random.default_rng(1).exponential(1 / rate, n))
    return [
        J.Job(
            name="one",
            stages=(J.Stage(durations=np.array([t])),),
            arrival_s=float(a),
            user=0 if user is None else int(user[k]),
        )
        for k, (a, t) in enumerate(zip(arrivals, np.broadcast_to(times, n), strict=True))
    ]


@pytest.mark.parametrize(("cores", "rate"), [(1, 0.7), (4, 3.2)])
def test_single_tasks_agree_with_m_m_c(cores, rate):
    n = 60_000
    mix = single_tasks(n, rate, np.random.default_rng(2).exponential(1.0, n))
    response = M.simulate(mix, cores, M.Options(overhead_s=0.0)).response_s
    share = rate / cores
    tail = rate**cores / math.factorial(cores) / (1 - share)
    waits = tail / (sum(rate**k / math.factorial(k) for k in range(cores)) + tail)
    wanted = 1.0 + waits / (cores - rate)
    means = np.array([b.mean() for b in np.array_split(response, 40)])
    assert abs(response.mean() - wanted) < 2.7 * means.std(ddof=1) / math.sqrt(40) + 0.01 * wanted


def test_constant_tasks_agree_with_m_d_1():
    response = M.simulate(single_tasks(60_000, 0.7, 1.0), 1, M.Options(overhead_s=0.0)).response_s
    assert response.mean() == pytest.approx(1.0 + 0.7 / (2 * 0.3), rel=0.03)


def test_the_fluid_share_is_processor_sharing_for_a_user_alone():
    """One user, one core: under processor sharing a job's mean response is service over what is left (M/G/1-PS)."""
    mix = single_tasks(60_000, 0.6, np.random.default_rng(3).exponential(1.0, 60_000))
    assert M.simulate(mix, 1).fluid_s.mean() == pytest.approx(1.0 / (1 - 0.6), rel=0.04)


def test_a_virtual_finish_is_when_the_fluid_share_would_end():
    """Three users' jobs at once, by hand: 2 cores; users get equal shares, and each user's jobs equal parts of theirs."""
    body = [(0, 4.0), (0, 8.0), (1, 6.0)]
    mix = [J.Job(name="x", stages=(J.Stage(durations=np.array([w])),), user=u) for u, w in body]
    # user 1 has 1 core: done at 6; user 0's jobs have half a core each: the first 4 of work by 8 s; then, alone, 2 cores
    # at 6 s user 1 is done, so user 0 has both cores: by then each job had 3; the first ends at 7, and the second at 9
    found = M.simulate(mix, 2, M.Options(policy="uwfq", overhead_s=0.0)).fluid_s
    assert found == pytest.approx([7.0, 9.0, 6.0])


def mean_small(policy, mix, cores=32, **kwargs):
    return M.metrics(M.simulate(mix, cores, M.Options(policy=policy, **kwargs)))["small_response_s"]["mean"]


def test_partitioned_virtual_finish_times_help_small_jobs():
    mix = J.generate(32, {"users": 20, "jobs": 600, "load": 0.8, "heavy_factor": 40.0}, 1)
    best = mean_small("uwfq", mix, partition_s=1.0)
    assert best < 0.5 * mean_small("fifo", mix) and best < 0.6 * mean_small("fair", mix)


def test_fair_pools_protect_users_from_each_other():
    mix = J.generate(16, {"users": 10, "jobs": 500, "load": 0.9, "heavy_users": 0.1, "heavy_factor": 30.0}, 2)
    fifo, fair = (M.metrics(M.simulate(mix, 16, M.Options(policy=p, partition_s=1.0))) for p in ("fifo", "uwfq"))
    assert fair["unfair_delay_s"] < 0.2 * fifo["unfair_delay_s"] and fair["fairness"] > fifo["fairness"]


def test_weights_shift_the_share():
    user = np.arange(400) % 2
    mix = [J.Job(name="x", stages=(J.Stage(durations=np.array([1.0]), tasks=4),), user=int(u)) for u in user]
    o = M.simulate(mix, 8, M.Options(policy="weighted", weights=(3.0, 1.0)))
    assert np.median(o.response_s[user == 0]) < 0.75 * np.median(o.response_s[user == 1])


def test_learned_estimates_are_worth_having():
    mix = J.generate(32, {"jobs": 600, "load": 0.9, "heavy_factor": 40.0, "work_cv": 0.3}, 1)
    learned, perfect = (mean_small("sjf", mix, estimates=e) for e in ("learned", "perfect"))
    assert learned < 1.2 * perfect and learned < 0.5 * mean_small("fifo", mix)


def test_an_overloaded_cluster_is_called_unstable():
    mix = J.generate(8, {"jobs": 400, "load": 3.0}, 1)
    stable, words = M.stability(M.simulate(mix, 8))
    assert not stable and "add cores" in words
    assert M.stability(M.simulate(mix, 8, most_alive=50))[1].startswith("given up")


def test_a_cycle_is_named(tmp_path):
    tasks = [{"id": "a", "parents": ["b"]}, {"id": "b", "parents": ["a"]}, {"id": "c", "parents": []}]
    path = tmp_path / "w.json"
    times = [{"id": t["id"], "runtimeInSeconds": 1.0} for t in tasks]
    path.write_text(json.dumps({"workflow": {"specification": {"tasks": tasks}, "execution": {"tasks": times}}}))
    with pytest.raises(ConfigError, match="w has a cycle: stages 0, 1 wait for each other"):
        J.wfcommons(path)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: M.simulate([], 4), "no jobs"),
        (lambda: M.simulate(J.generate(4, {"jobs": 3}), 0), "at least one core"),
        (lambda: M.simulate(J.generate(4, {"jobs": 3}), 4, M.Options(policy="fifa")), "Did you mean 'fifo'"),
        (lambda: J.generate(4, {"userz": 3}), "Did you mean 'users'"),
        (lambda: J.generate(4, {"heavy_share": 2}), "is a share"),
        (lambda: J.generate(4, {"jobs": 2.5}), "whole number"),
        (lambda: J.ordered("q", [J.Stage(durations=np.ones(1), parents=(7,))], "f"), "waits for stage 7"),
        (lambda: M.simulate(list(reversed(J.generate(4, {"jobs": 3}))), 4), "order of their arrival"),
    ],
)
def test_bad_input(wrong, words):
    with pytest.raises(TunewrightError, match=words):
        wrong()


@pytest.mark.data
def test_measured_jobs(data):
    queries = J.tpch(data / "sched/tpch_dags.json.gz")
    assert len(queries) == 154 and all(j.work > 0 for j in queries)
    flows = [J.wfcommons(p) for p in sorted((data / "sched/wfcommons").glob("*.gz"))]
    assert len(flows) == 9 and all(j.alone(8) >= max(j.paths()) for j in flows)
    mix = J.generate(32, {"jobs": 100}, 1, queries)
    assert np.isfinite(M.simulate(mix, 32, M.Options(policy="uwfq", partition_s=1.0)).response_s).all()
