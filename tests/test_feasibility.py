"""Bounds on metrics are shown by an interval of their own."""

import math

import numpy as np
import pytest
from targets import Bounded

from tunewright.measuring.feasibility import TRIES, hopeless, looks_of_try, room, spread, standing
from tunewright.measuring.intervals import looks_within, median_interval, miss_rate
from tunewright.measuring.protocol import TRUST
from tunewright.sessions.service import _chosen
from tunewright.sessions.session import Session
from tunewright.store.plan import Plan
from tunewright.target import Metric

LAT = Metric(name="lat", direction="min", unit="ms", at_most=15)


def run(store, name, seed=0, *, trials=20, trust="normal", **target):
    plan = Plan(target="t", tuner="tpe", seed=seed, require=("lat<=15",), trust=trust)
    session = Session.create(plan, name, store, target=Bounded(seed=seed, **target))
    return session, session.run(trials=trials)


@pytest.mark.parametrize(
    ("values", "expected"),
    [(range(4, 16), "met"), (range(10, 22), "open"), (range(16, 28), "missed")],
)
def test_a_bound_is_met_missed_or_open(values, expected):
    assert standing(LAT, [float(v) for v in values], median_interval).standing == expected


def test_a_bound_with_two_sides():
    both = Metric(name="x", direction="max", at_least=2, at_most=9)
    assert standing(both, [3.0] * 6, median_interval).standing == "met"
    assert standing(both, [1.0] * 6, median_interval).standing == "missed"
    assert standing(both, [1.0, *[3.0] * 4, 10.0], median_interval).standing == "open"


def test_the_verification_ends_once_a_bound_cannot_be_shown():
    looks = TRUST["normal"].looks  # at 12 pairs, two values may lie above
    runs = [{"lat": 14.0}] * 5 + [{"lat": 16.0}] * 2
    assert not hopeless([LAT], runs, looks)
    assert hopeless([LAT], [*runs, {"lat": 16.0}], looks)
    assert hopeless([Metric(name="lat", direction="max", at_least=15)], [{"lat": 14.0}] * 3, looks)
    assert not hopeless([Metric(name="lat", direction="min")], [{"lat": 99.0}] * 9, looks)


@pytest.mark.parametrize("level", TRUST.values(), ids=TRUST)
def test_all_tries_together_recommend_a_violation_in_at_most_five_of_a_hundred_sessions(level):
    """At the bound itself, a configuration seems to keep it as often as one end of the interval misses the truth."""
    wrong = sum(miss_rate(looks_of_try(level.looks, number)) / 2 for number in range(TRIES))
    assert wrong <= 0.05


def test_looks_spend_what_they_may():
    for pairs, miss in [((8, 10, 12), 0.05), ((6,), 0.01), ((12, 16, 20, 24, 30), 0.0125)]:
        assert 0 < miss_rate(looks_within(pairs, miss)) <= miss


def test_distance_from_a_bound_is_counted_in_runs():
    assert room([LAT], {"lat": 10.0}, {"lat": 0.1}) == pytest.approx(5)
    assert room([LAT], {"lat": 16.0}, {"lat": 0.1}) < 0
    assert room([LAT], {"lat": 10.0}, {"lat": 0.0}) == math.inf
    assert room([Metric(name="lat", direction="min")], {"lat": 10.0}, {}) == math.inf
    rng = np.random.default_rng(0)
    assert spread(100 * np.exp(rng.normal(0, 0.08, 500))) == pytest.approx(0.08, rel=0.15)


def test_what_is_not_shown_to_keep_a_bound_gives_way_to_the_next(store):
    session, verdict = run(store, "a", 0)
    assert Bounded.latency(verdict.config) <= 15
    assert verdict.improved
    assert verdict.passed_over
    assert "Passed over" in verdict.sentence
    assert "It keeps lat <= 15 ms with" in verdict.sentence
    kept = [it for it in verdict.constraints if it.of == "candidate"]
    assert [it.standing for it in kept] == ["met"]
    over = {entry["number"] for entry in verdict.passed_over}
    assert all(not t.feasible for t in store.trials("a") if t.number in over), "no list recommends it either"
    assert session.best.number not in over
    assert store.session("a")["verdict"]["constraints"][0]["bound"] == "lat <= 15 ms"


def test_a_default_that_breaks_a_bound_is_said_and_can_be_left(store):
    _, verdict = run(store, "a", 1, default=90)
    assert Bounded.latency(verdict.config) <= 15
    assert verdict.improved, "it does what was required, which the default does not"
    assert "which the default does not" in verdict.sentence
    assert "On the objective alone: on fresh runs it is worse, 0." in verdict.sentence
    assert _chosen(store, "a", store.session("a"), None, False)[0] == verdict.config


def test_a_default_that_breaks_a_bound_is_no_choice_at_fast_either(store):
    """It is measured once there, which carries no interval."""
    _, verdict = run(store, "a", 5, trust="fast", default=90)
    assert Bounded.latency(verdict.config) <= 15
    assert verdict.improved


def test_where_nothing_keeps_the_bound_it_is_said(store):
    plan = Plan(target="t", tuner="tpe", seed=3, require=("lat<=10.9",))
    session = Session.create(plan, "a", store, target=Bounded(seed=3, noise=0.2, default=60))
    verdict = session.run(trials=12)
    assert not verdict.improved
    assert "is not shown to hold" in verdict.sentence or "does not hold" in verdict.sentence
    assert "The default does not keep lat <= 10.9 ms" in verdict.sentence


def test_without_noise_one_run_tells_all(store):
    class Exact(Bounded):
        exact = True

    plan = Plan(target="t", tuner="grid", require=("lat<=15",))
    verdict = Session.create(plan, "a", store, target=Exact(noise=0.0)).run(trials=40)
    assert Bounded.latency(verdict.config) <= 15
    assert not verdict.passed_over
    assert verdict.improved


def test_without_bounds_nothing_is_said_of_them(store):
    session = Session.create(Plan(target="t", tuner="tpe"), "a", store, target=Bounded())
    verdict = session.run(trials=8)
    assert verdict.constraints == []
    assert "keeps" not in verdict.sentence


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trust", "default"), [("normal", 20), ("normal", 80), ("fast", 20), ("fast", 80), ("strict", 20)]
)
def test_few_sessions_recommend_a_configuration_that_breaks_its_bound(store, trust, default):
    """8 % noise, where the best configurations lie at the bound: 15 of 40 sessions did before."""
    sessions, broken, unsaid, improved = 40, 0, 0, 0
    for seed in range(sessions):
        session, verdict = run(store, f"s{seed}", seed + 1000, trust=trust, default=default)
        breaks = Bounded.latency(verdict.config) > 15
        broken += breaks and verdict.config != session.space.default
        unsaid += breaks and "not" not in verdict.sentence.lower()
        improved += verdict.improved
    assert broken <= 0.05 * sessions
    assert unsaid <= 0.05 * sessions
    assert improved >= (0.3 if trust == "fast" else 0.8) * sessions
