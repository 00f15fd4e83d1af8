"""What a verdict estimates, where the user asks for something else than the median of the pairs' ratios."""

import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from tunewright.errors import ConfigError
from tunewright.measuring import estimates
from tunewright.measuring.protocol import TRUST, compare, verify
from tunewright.sessions.session import Session
from tunewright.store.export import repeat_command
from tunewright.store.plan import Plan
from tunewright.target import Measurement, Metric
from tunewright.testing import Sphere

SPEED = Metric(name="speed", direction="max")
TIME = Metric(name="time", direction="min")
SKEW = 0.3


def truth(estimate):
    """Ratio of exp(SKEW e) to exp(-SKEW e) for exponential e, in closed form."""
    if estimate.name == "mean":
        return (1 + SKEW) / (1 - SKEW)
    q = estimate.quantile or 0.5
    return math.exp(SKEW * (-math.log(1 - q) - math.log(q)))


@pytest.mark.parametrize("name", ["median", "mean", "p75", "p25"])
@pytest.mark.parametrize("level", ["fast", "normal"])
def test_opposite_skew_does_not_fool_it(name, level):
    estimate, trust, hits, sessions = estimates.estimate_of(name), TRUST[level], 0, 300
    trust = replace(trust, looks=estimates.looks(estimate, level, trust.looks))
    for seed in range(sessions):
        rng = np.random.default_rng([seed, 5])

        def bench(config, _, rng=rng):
            return Measurement(values={"speed": math.exp((SKEW if config["c"] else -SKEW) * rng.exponential())})

        found, _ = verify(bench, {"c": 1}, {"c": 0}, [SPEED], trust, seed, estimate=estimate)
        hits += found["speed"].low <= truth(estimate) <= found["speed"].high
    assert hits / sessions > 0.95 - 2.5 * math.sqrt(0.05 * 0.95 / sessions)


@pytest.mark.parametrize("name", ["median", "mean", "p80"])
def test_a_ratio_above_one_is_better_in_both_directions(name):
    rng, estimate = np.random.default_rng(1), estimates.estimate_of(name)
    pairs = [(200 * math.exp(rng.normal(0, 0.02)), 100 * math.exp(rng.normal(0, 0.02))) for _ in range(30)]
    faster, slower = compare(SPEED, pairs, None, estimate), compare(TIME, pairs, None, estimate)
    assert faster.value == pytest.approx(2, rel=0.05)
    assert faster.improved
    assert 1 < faster.low < faster.value < faster.high
    assert slower.value == pytest.approx(1 / faster.value)
    assert (slower.low, slower.high) == (pytest.approx(1 / faster.high), pytest.approx(1 / faster.low))


@pytest.mark.parametrize("name", ["median", "mean", "p75"])
def test_values_of_zero_are_compared_by_difference(name):
    pairs = [(-1.0 - 0.01 * (i % 3), 0.01 * (i % 5)) for i in range(20)]
    found = compare(TIME, pairs, None, estimates.estimate_of(name))
    assert found.kind == "difference"
    assert found.improved
    assert found.low <= found.value <= found.high


def test_too_few_runs_bound_no_quantile():
    _, low, high = estimates.side(estimates.estimate_of("p90"))([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert (low, high) == (4.0, math.inf) or (math.isfinite(low) and high == math.inf)
    assert estimates.fewest(0.9) == 36
    assert estimates.looks(estimates.estimate_of("p90"), "fast", TRUST["fast"].looks) == ((36, 1),)


@pytest.mark.parametrize(
    ("text", "words"), [("p99", "p5 to p95"), ("mode", "median, mean"), ("quantile", "such as p90")]
)
def test_an_estimate_that_is_none(store, text, words):
    with pytest.raises(ConfigError, match=words):
        Session.create(Plan(target="t", tuner="random", estimate=text), "a", store, target=Sphere(noise=0.1))


def test_a_verdict_says_what_it_estimates(store):
    session = Session.create(Plan(target="t", tuner="random", estimate="mean"), "a", store, target=Sphere(noise=0.02))
    verdict = session.run(trials=8)
    assert "ratio of means; 95 % interval" in verdict.sentence
    assert verdict.comparisons["loss"].pairs == 20
    assert store.session("a")["verdict"]["estimate"] == "mean"
    plan = asdict(Plan(target="t", estimate="p90", believe=("loss",)))
    assert "--believe loss --estimate p90" in repeat_command(plan, 5)
    assert Session.resume("a", store, target=Sphere(noise=0.02)).plan.estimate == "mean"
    exact = Session.create(Plan(target="t", tuner="random", estimate="p90"), "b", store, target=Sphere()).run(trials=5)
    assert exact.comparisons["loss"].pairs <= 1, "values that repeat exactly need no more"
