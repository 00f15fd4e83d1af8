import itertools
import math

import numpy as np
import pytest

from tunewright.errors import DefaultFailsError, UnknownNameError, VerificationError
from tunewright.measuring.intervals import further, median_interval, miss_rate, rank_of
from tunewright.measuring.protocol import TRUST, Baseline, compare_pairs, evaluate, trust, verify
from tunewright.measuring.runs import fails_more, failures
from tunewright.target import Measurement, Metric

SPEED = Metric(name="speed", direction="max")
TIME = Metric(name="time", direction="min")


@pytest.mark.parametrize("n", [6, 9, 12, 17])
def test_interval_covers_the_median_as_often_as_it_says(n):
    rng = np.random.default_rng(n)
    hits = 0
    for _ in range(2000):  # a skewed law whose median is known
        _, low, high = median_interval(rng.exponential(size=n))
        hits += low <= math.log(2) <= high
    assert hits / 2000 >= 0.94


def test_interval_matches_the_binomial_table():
    # Conover, table of the quantile test: n = 12 gives the 3rd and 10th, n = 17 the 5th and 13th value
    assert median_interval(range(1, 13))[1:] == (3, 10)
    assert median_interval(range(1, 18))[1:] == (5, 13)


def test_too_few_values_have_no_interval():
    assert median_interval([1, 2, 3, 4, 5]) == (3, -math.inf, math.inf)


def test_ratio_above_one_is_better_in_both_directions():
    assert compare_pairs(SPEED, [(20, 10)] * 6).value == pytest.approx(2)
    assert compare_pairs(TIME, [(10, 20)] * 6).value == pytest.approx(2)
    assert compare_pairs(TIME, [(20, 10)] * 6).improved is False


def test_values_of_zero_are_compared_by_difference():
    found = compare_pairs(Metric(name="loss", direction="min"), [(-1.0, 0.0)] * 6)
    assert (found.kind, found.value, found.improved) == ("difference", 1.0, True)


class Bench:
    """Runs with known speeds; counts them."""

    def __init__(self, speeds, noise=0.0, seed=0):
        self.speeds, self.noise, self.rng, self.runs = speeds, noise, np.random.default_rng(seed), []

    def __call__(self, config, seed):
        self.runs.append((config["name"], seed))
        speed = self.speeds[config["name"]]
        if speed is None:
            return Measurement(status="failed", reason="it broke")
        return Measurement(values={"speed": speed * math.exp(self.rng.normal(0, self.noise))}, seconds=1.0)


def trial(bench, name, level="normal", best=0.0, noise=0.02):
    baseline = None if name == "default" else Baseline(values={"speed": 100.0}, noise=noise, best=best)
    return evaluate(
        bench, {"name": name}, {"name": "default"}, [SPEED], SPEED, trust(level), baseline, seed=5, exact=False
    )


def test_pairs_share_a_seed_and_alternate_in_order():
    bench = Bench({"default": 100, "good": 150})
    found = trial(bench, "good")
    assert bench.runs == [("good", 5), ("default", 5), ("default", 6), ("good", 6), ("good", 7), ("default", 7)]
    assert found.ratio == pytest.approx(1.5)


def test_a_clearly_worse_candidate_gets_one_pair():
    bench = Bench({"default": 100, "bad": 30})
    assert trial(bench, "bad").ratio == pytest.approx(0.3)
    assert bench.runs == [("bad", 5), ("default", 5)]


def test_a_machine_that_became_slow_does_not_condemn_a_winner():
    """The default's reference is from before: 100 then, 10 now; the candidate is twice as fast at any time."""
    bench = Bench({"default": 10, "good": 20})
    assert trial(bench, "good").ratio == pytest.approx(2)
    assert len(bench.runs) == 6, "it is a contender, and gets all its pairs"


def test_a_slightly_worse_candidate_is_dropped_after_one_pair():
    bench = Bench({"default": 100, "meh": 90})
    trial(bench, "meh")
    assert len(bench.runs) == 2


def test_strict_spends_more_than_normal_than_fast():
    counts = []
    for level in ("fast", "normal", "strict"):
        bench = Bench({"default": 100, "good": 150})
        trial(bench, "good", level)
        counts.append(len(bench.runs))
    assert counts == [1, 6, 14]


def test_scores_are_corrected_for_drift():
    class Drifting(Bench):
        def __call__(self, config, seed):
            found = super().__call__(config, seed)
            return Measurement(values={"speed": found.values["speed"] * 0.5})  # the machine became slow

    found = trial(Drifting({"default": 100, "good": 150}), "good", best=-1.0)
    assert found.metrics["speed"] == pytest.approx(75)
    assert found.scores["speed"] == pytest.approx(150)


class Flaky(Bench):
    """Fails in some of its runs, by name."""

    def __init__(self, speeds, rates, seed=0):
        super().__init__(speeds, seed=seed)
        self.rates, self.chance = rates, np.random.default_rng([seed, 9])

    def __call__(self, config, seed):
        measured = super().__call__(config, seed)
        failed = self.chance.random() < self.rates.get(config["name"], 0.0)
        return Measurement(status="timed out", reason="it hung") if failed else measured


def test_a_run_that_fails_is_repeated_before_its_configuration_is_said_to_fail():
    bench = Bench({"default": 100, "broken": None})
    found = trial(bench, "broken")
    assert (found.status, found.reason, len(bench.runs)) == ("failed", "it broke", 2)
    assert [r["status"] for r in found.runs] == ["failed", "failed"]
    baseline = Baseline(values={"speed": 100.0}, repeat=False)  # where repeating never helped
    bench = Bench({"default": 100, "broken": None})
    evaluate(
        bench, {"name": "broken"}, {"name": "default"}, [SPEED], SPEED, trust("normal"), baseline, seed=5, exact=False
    )
    assert len(bench.runs) == 1


def test_a_tenth_of_runs_that_hang_costs_no_default_and_few_candidates():
    lost = 0
    for seed in range(200):
        bench = Flaky({"default": 100, "good": 150}, {"default": 0.1, "good": 0.1}, seed)
        assert trial(bench, "default").status == "ok"
        lost += trial(bench, "good").status != "ok"
    assert lost / 200 < 0.1


@pytest.mark.parametrize("level", TRUST)
def test_a_verification_survives_a_tenth_of_runs_that_hang(level):
    rates = {"default": 0.1, "good": 0.1}
    for seed in range(200):
        bench = Flaky({"default": 100, "good": 150}, rates, seed)
        compared, runs = verify(bench, {"name": "good"}, {"name": "default"}, [SPEED], trust(level), seed)
        assert compared["speed"].improved
        assert sum(failed for failed, _ in failures(runs).values()) == sum(r["status"] != "ok" for r in runs)


@pytest.mark.parametrize("who", ["good", "default"])
def test_a_side_that_fails_too_often_is_named(who):
    bench = Flaky({"default": 100, "good": 150}, {who: 0.9})
    with pytest.raises(
        VerificationError, match=f"the {'candidate' if who == 'good' else who} failed in .* runs .*it hung"
    ):
        verify(bench, {"name": "good"}, {"name": "default"}, [SPEED], trust("normal"), 1)


def test_failures_are_compared_as_by_fishers_test():
    stats = pytest.importorskip("scipy.stats", reason="needs scipy")
    for (a, n), (b, m) in itertools.product([(0, 8), (3, 9), (8, 10)], [(0, 8), (2, 12), (6, 6)]):
        expected = stats.fisher_exact([[a, n - a], [b, m - b]], alternative="greater").pvalue
        assert fails_more((a, n), (b, m)) == pytest.approx(expected)


def test_verification_stops_once_narrow():
    bench = Bench({"default": 100, "good": 150}, noise=0.001)
    compared, runs = verify(bench, {"name": "good"}, {"name": "default"}, [SPEED], trust("normal"), 9)
    assert len(runs) == 16, "the fewest pairs that normal looks at"
    assert compared["speed"].improved
    noisy = Bench({"default": 100, "good": 100}, noise=0.2, seed=1)
    compared, runs = verify(noisy, {"name": "good"}, {"name": "default"}, [SPEED], trust("normal"), 9)
    assert len(runs) == 24
    assert not compared["speed"].improved


def test_what_is_left_of_a_winner_is_measured_longer_before_its_gain_is_given_up():
    """A gain of one and a half times the noise: six pairs show it in three of four verifications."""
    level, shown, longest = trust("fast"), {(): 0, further(trust("fast").looks): 0}, 0
    for more, seed in itertools.product(shown, range(100)):
        bench = Bench({"default": 100, "good": 160}, noise=0.2, seed=seed)
        compared, runs = verify(bench, {"name": "good"}, {"name": "default"}, [SPEED], level, seed, more=more)
        shown[more] += compared["speed"].improved
        longest = max(longest, len(runs))
    brief, long = shown.values()
    assert brief < 85 < 93 < long and longest <= 32


def test_no_gain_is_claimed_more_often_than_the_interval_allows():
    false = 0
    for seed in range(300):
        bench = Bench({"default": 100, "same": 100}, noise=0.1, seed=seed)
        compared, _ = verify(bench, {"name": "same"}, {"name": "default"}, [SPEED], trust("normal"), seed)
        false += compared["speed"].improved
    assert false / 300 <= 0.05  # one-sided share of a 95 % interval is 2.5 %


def test_a_failure_during_verification_says_which():
    with pytest.raises(VerificationError, match="candidate failed .* it broke"):
        verify(Bench({"default": 1, "x": None}), {"name": "x"}, {"name": "default"}, [SPEED], trust("fast"), 0)


def test_unknown_trust():
    with pytest.raises(UnknownNameError, match="Did you mean 'strict'"):
        trust("strct")


@pytest.mark.parametrize("level", TRUST.values(), ids=TRUST)
def test_all_looks_together_miss_the_truth_in_at_most_five_of_a_hundred(level):
    assert miss_rate(level.looks) <= miss_rate([*level.looks, *further(level.looks)]) <= 0.05
    assert all(0 < rank <= rank_of(pairs) for pairs, rank in level.looks)


def test_the_miss_rate_is_that_of_all_sequences_of_signs():
    looks = [(6, 1), (8, 1), (10, 2)]
    missed = 0
    for signs in itertools.product([0, 1], repeat=10):
        missed += any(min(sum(signs[:n]), n - sum(signs[:n])) < rank for n, rank in looks)
    assert miss_rate(looks) == missed / 2**10


def test_pairs_are_verified_in_an_order_drawn_by_lot():
    """A machine that favours every second run, or the outer two of four, must not favour the candidate."""
    firsts = []
    for seed in range(40):
        bench = Bench({"good": 150, "default": 100})
        verify(bench, {"name": "good"}, {"name": "default"}, [SPEED], trust("normal"), seed)
        names = [name for name, _ in bench.runs]
        assert all(sorted(names[i : i + 2]) == ["default", "good"] for i in range(0, len(names), 2))
        firsts += names[::2]
    assert 80 < firsts.count("good") < 160, "240 pairs, each order by lot"


@pytest.mark.parametrize("level", ["normal", "strict"])
def test_stopping_at_a_narrow_interval_keeps_its_coverage(level):
    """Skewed noise that drifts and has the period of the pairs; benchmarks/verdicts.py has all kinds."""
    rng, covered, sessions = np.random.default_rng(7), 0, 400
    for seed in range(sessions):
        runs = itertools.count()

        def bench(config, _, runs=runs):
            n = next(runs)
            noise = 0.02 * rng.exponential() + 0.01 * n + 0.05 * (n % 4 in (0, 3))
            return Measurement(
                values={"speed": (110 if config["name"] == "good" else 100) * math.exp(noise)}, seconds=1.0
            )

        found, _ = verify(bench, {"name": "good"}, {"name": "default"}, [SPEED], trust(level), seed)
        covered += found["speed"].low <= 1.1 <= found["speed"].high
    assert covered / sessions > 0.95 - 2.5 * math.sqrt(0.05 * 0.95 / sessions)


def test_a_default_that_fails_in_half_of_its_runs_costs_no_verdict_and_blames_nobody():
    for seed in range(20):
        bench = Flaky({"default": 100, "good": 150}, {"default": 0.5}, seed)
        compared, _ = verify(bench, {"name": "good"}, {"name": "default"}, [SPEED], trust("normal"), seed)
        assert compared["speed"].improved
    bench = Flaky({"default": 100, "good": 150}, {"default": 0.95})
    with pytest.raises(DefaultFailsError):
        verify(bench, {"name": "good"}, {"name": "default"}, [SPEED], trust("normal"), 1)
