"""The cluster simulator: against a plain one, closed forms, and what each policy promises; functions that start cold."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.envs.scheduling.cluster import jobs as J
from tunewright.envs.scheduling.cluster import reference as R
from tunewright.envs.scheduling.cluster import serverless as F
from tunewright.envs.scheduling.cluster import simulate as M
from tunewright.errors import ConfigError, TunewrightError


@given(
    nodes=st.sampled_from(["1x4", "3x2", "4x4", "cpu:8", "2x8"]), load=st.sampled_from([0.5, 1.0, 3.0]),
    run_s=st.sampled_from([50, 2000]), gpus=st.sampled_from([2, 8]), order=st.sampled_from(M.ORDERS),
    backfill=st.sampled_from(M.BACKFILLS), placement=st.sampled_from(M.PLACEMENTS), depth=st.sampled_from([3, 100]),
    levels=st.sampled_from([2, 3]), level_s=st.sampled_from([100, 3600]), every_s=st.sampled_from([0.0, 0.0, 200.0]),
    refuse=st.sampled_from([False, False, True]), seed=st.integers(0, 10**6),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_compiled_and_plain_simulator_agree(
    nodes, load, run_s, gpus, order, backfill, placement, depth, levels, level_s, every_s, refuse, seed
):
    where = J.nodes(nodes)
    jobs = J.generate(where, {"jobs": 40, "load": load, "run_s": run_s, "gpus": gpus}, seed)
    policy = M.Policy(
        order=order, backfill="none" if order == "las" else backfill, placement=placement, depth=depth, levels=levels,
        level_s=level_s, every_s=every_s, balance=0.2, refuse=refuse and order != "las",
    )  # fmt: skip
    rows = M.simulate(jobs, where, policy).systems.jobs[0]
    items = R.Reference(jobs, where, policy, R.invariants).run()
    np.testing.assert_allclose(rows["done_at"], [j.done_at for j in items], rtol=1e-9)
    np.testing.assert_allclose(rows["first_start_at"], [j.first_start for j in items], rtol=1e-9)
    assert rows["preempted"].tolist() == [j.preempted for j in items]


def pool_jobs(n, rate, run, estimate=None):
    arrivals = np.cumsum(np.random.default_rng(1).exponential(1 / rate, n))
    rows = {"submit_s": arrivals, "run_s": np.broadcast_to(run, n), "cpu": np.full(n, 1000)}
    return J.jobs_of("test", rows if estimate is None else {**rows, "estimate_s": estimate})


@pytest.mark.parametrize(("servers", "rate"), [(1, 0.7), (4, 3.2)])
def test_a_pool_agrees_with_m_m_c(servers, rate):
    n = 60_000
    jobs = pool_jobs(n, rate, np.maximum(np.random.default_rng(2).exponential(1.0, n), 1e-3))
    rows = M.simulate(jobs, J.nodes(f"cpu:{servers}")).systems.jobs[0]
    wait = rows["first_start_at"] - rows["submit_s"]
    share = rate / servers
    tail = rate**servers / math.factorial(servers) / (1 - share)
    wanted = tail / (sum(rate**k / math.factorial(k) for k in range(servers)) + tail) / (servers - rate)
    means = np.array([b.mean() for b in np.array_split(wait, 40)])
    assert abs(wait.mean() - wanted) < 2.7 * means.std(ddof=1) / math.sqrt(40) + 0.01 * wanted


def test_constant_jobs_agree_with_m_d_1():
    rows = M.simulate(pool_jobs(60_000, 0.7, 1.0), J.nodes("cpu:1")).systems.jobs[0]
    assert (rows["first_start_at"] - rows["submit_s"]).mean() == pytest.approx(0.7 / (2 * 0.3), rel=0.04)


def test_refusing_agrees_with_erlang_b():
    n, servers, load = 60_000, 5, 4.0
    jobs = pool_jobs(n, load, np.maximum(np.random.default_rng(2).exponential(1.0, n), 1e-3))
    o = M.simulate(jobs, J.nodes(f"cpu:{servers}"), M.Policy(refuse=True))
    wanted = load**servers / math.factorial(servers) / sum(load**k / math.factorial(k) for k in range(servers + 1))
    assert o.systems.systems[0]["refused"] / n == pytest.approx(wanted, rel=0.04)


def by_hand(rows, nodes="cpu:4", **policy):
    """Start times of jobs given as (submit, run, estimate, CPUs)."""
    submit, run, estimate, cpus = (np.array(c, float) for c in zip(*rows, strict=True))
    jobs = J.jobs_of("hand", {"submit_s": submit, "run_s": run, "estimate_s": estimate, "cpu": cpus * 1000})
    return M.simulate(jobs, J.nodes(nodes), M.Policy(**policy)).systems.jobs[0]["first_start_at"].tolist()


def test_backfill_by_hand():
    """4 CPUs: A takes 3 for 10 s; B wants 4; C wants 1 for 5 s (ends before A), D wants 1 for 20 s (would delay B)."""
    rows = [(0, 10, 10, 3), (1, 5, 5, 4), (2, 5, 5, 1), (3, 20, 20, 1)]
    assert by_hand(rows) == [0, 10, 15, 15]
    assert by_hand(rows, backfill="easy") == [0, 10, 2, 15]
    assert by_hand(rows, backfill="conservative") == [0, 10, 2, 15]


def test_conservative_protects_the_second_of_the_queue_too():
    """B may start at 10 and C at 20; D fits beside B until 28, which delays C but not B: only EASY lets it."""
    rows = [(0, 10, 10, 3), (1, 10, 10, 3), (2, 5, 5, 4), (3, 25, 25, 1)]
    assert by_hand(rows, backfill="easy") == [0, 10, 28, 3]
    assert by_hand(rows, backfill="conservative") == [0, 10, 20, 25]


def test_shortest_first_and_least_attained_service():
    rows = [(0, 100, 100, 4), (1, 50, 50, 4), (2, 5, 5, 4)]
    assert by_hand(rows, order="sjf") == [0, 105, 100]
    assert by_hand(rows, order="las", level_s=20, restart_s=0.0) == [0, 5, 10]


def test_what_fits_nowhere_is_refused():
    jobs = J.jobs_of("t", {"submit_s": [0, 1], "run_s": [5, 5], "gpus": [64, 1]})
    o = M.simulate(jobs, J.nodes("2x4"))
    assert (
        o.systems.jobs[0]["phase"].tolist() == [M.state.REJECTED, M.state.DONE] and o.systems.systems[0]["refused"] == 1
    )


def test_fragmentation_aware_placement_keeps_whole_gpus():
    """Parts of GPUs come first and stay; then jobs of 4 GPUs: the more of them start at once, the less is broken."""
    rng = np.random.default_rng(4)
    n = 60
    gpus, milli = np.r_[np.ones(n), np.full(20, 4)], np.r_[rng.choice([300, 600], n), np.full(20, 1000)]
    rows = {
        "submit_s": np.r_[np.arange(n), np.full(20, 1000.0)],
        "run_s": np.full(n + 20, 10_000.0),
        "gpus": gpus,
        "milli": milli,
    }
    jobs = J.jobs_of("t", rows)

    def started(placement):
        found = M.simulate(jobs, J.nodes("24x4"), M.Policy(placement=placement)).systems.jobs[0]
        return int((found["first_start_at"][n:] <= 1000.0).sum())

    assert started("fragmentation") > started("worst") and started("fragmentation") >= started("first")


def test_jobs_are_moved_for_balance_and_pay_for_it():
    jobs = J.generate(J.nodes("8x4"), {"jobs": 400, "load": 0.6, "gpus": 2}, 3)
    plain, moved = (
        M.simulate(jobs, J.nodes("8x4"), M.Policy(every_s=e, balance=0.2, migrate_s=60.0)) for e in (0.0, 100.0)
    )
    assert M.metrics(plain)["migrations"] == 0 and M.metrics(moved)["migrations"] > 10
    a, b = (o.systems.jobs[0] for o in (plain, moved))
    assert (b["done_at"] - b["first_start_at"] - b["run_s"]).sum() == pytest.approx(
        60.0 * M.metrics(moved)["migrations"]
    )
    assert (a["done_at"] - a["first_start_at"]).sum() == pytest.approx(a["run_s"].sum())


def test_an_overloaded_cluster_is_called_unstable():
    where = J.nodes("2x4")
    jobs = J.generate(where, {"jobs": 500, "load": 2.0, "run_cv": 1.0}, 1)
    stable, words = M.stability(M.simulate(jobs, where))
    assert not stable and "of 8 GPUs busy" in words
    assert M.stability(M.simulate(jobs, where, most_waiting=50))[1].startswith("given up")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("submit_s,gpus\n1,2\n", "no column of run times"),
        ("run_s,gpus\n1,2\n", "no column of submissions"),
        ("submit_s,run_s\n1,2\n", "no column of what a job needs"),
        ("submit_s,run_s,gpus\n1,-5,2\n", "line 2: a time must be from 0 to"),
        ("submit_s,run_s,gpus\n1,5,2\n1,x,2\n", "line 3"),
        ("; header\n1 0 -1 83\n", "line 2: not in the Standard Workload Format"),
        ("; header only\n", "no jobs"),
    ],
)
def test_bad_traces_name_row_and_reason(tmp_path, text, words):
    path = tmp_path / "jobs.txt"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        J.read(path)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: J.nodes("16by8"), "nodes are 16x8"),
        (lambda: J.nodes("auto"), "say which nodes"),
        (lambda: M.policy("fifo", backfill="hard"), "backfill"),
        (lambda: M.policy("las", backfill="easy"), "preempts instead"),
        (lambda: M.policy("backfil"), "Did you mean 'backfill'"),
        (lambda: J.generate(J.nodes("2x4"), {"over": 0.5}), "over is at least 1"),
    ],
)
def test_bad_settings(wrong, words):
    with pytest.raises(TunewrightError, match=words):
        wrong()


@pytest.mark.data
@pytest.mark.parametrize(
    "name",
    [
        "philly.csv.gz",
        "LCG.swf.gz",
        "NASA-iPSC-1993-3.1-cln.swf.gz",
        "openb_pod_list_default.csv.gz",
        "surf_week/tasks.parquet",
    ],
)
def test_real_traces(data, name):
    jobs = J.read(data / "sched" / name).first(2000)
    where = J.nodes("auto", jobs)
    found = M.metrics(M.simulate(jobs, where, M.policy("backfill")))
    assert 0 < found["utilisation"] <= 1 and found["wait_s"]["mean"] >= 0


@pytest.mark.data
def test_a_list_of_nodes(data):
    where = J.nodes(str(data / "sched/openb_node_list_gpu_node.csv"))
    assert len(where.gpus) == 1213 and int(where.gpus.sum()) == 6212


# --- functions that start cold


def test_cold_starts_agree_with_the_closed_form():
    """Poisson calls that take no time find an instance if the last was less than the keep-alive ago: cold share e^-rate*keep."""
    rng = np.random.default_rng(0)
    n, rate, keep = 100_000, 0.01, 60.0
    at = np.cumsum(rng.exponential(1 / rate, n))
    x = F.Invocations(
        source="poisson",
        function=np.zeros(n, int),
        at_s=at,
        run_s=np.zeros(n),
        memory_mb=np.array([1024.0]),
        cold_s=np.array([0.0]),
    )
    found = F.simulate(x, "fixed", keep)
    assert found["cold_share"] == pytest.approx(math.exp(-rate * keep), rel=0.01)
    # an instance stands by until the next call, or for the whole keep-alive
    assert found["idle_gb_s"] / n == pytest.approx((1 - math.exp(-rate * keep)) / rate, rel=0.01)
    assert F.simulate(x, "none")["cold_share"] == 1.0 and F.simulate(x, "none")["idle_gb_s"] == 0.0


def test_the_histogram_brings_clockwork_back_in_time():
    """A function called every twenty minutes: kept ten minutes it is always cold; the histogram has it there in time."""
    at = np.arange(200) * 1200.0
    x = F.Invocations(
        source="clock",
        function=np.zeros(200, int),
        at_s=at,
        run_s=np.ones(200),
        memory_mb=np.array([1024.0]),
        cold_s=np.array([1.0]),
    )
    fixed, learned, long = (
        F.simulate(x, "fixed", 600.0),
        F.simulate(x, "histogram", 600.0),
        F.simulate(x, "fixed", 1300.0),
    )
    assert fixed["cold_share"] == 1.0 and learned["cold_share"] < 0.1
    assert learned["idle_gb_s"] < 0.6 * long["idle_gb_s"]


def test_bad_functions(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("app,func\na,b\n")
    with pytest.raises(ConfigError, match="end_timestamp"):
        F.read(path)
    with pytest.raises(TunewrightError, match="Did you mean 'hours'"):
        F.generate({"hour": 3})
