import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tunewright.measuring.pruning import prune


class System:
    """A system whose changes have known effects on the log of its speed."""

    def __init__(self, speed, noise=0.0, seed=0, illegal=lambda names: False):
        self.speed, self.noise, self.rng, self.illegal, self.pairs = (
            speed,
            noise,
            np.random.default_rng(seed),
            illegal,
            0,
        )

    def __call__(self, one, two):
        assert set(two) < set(one)
        if self.illegal(set(two)):
            return None
        self.pairs += 1
        return self.speed(set(one)) - self.speed(set(two)) + self.rng.normal(0, self.noise)


def additive(**effects):
    return lambda names: sum(effects.get(n, 0.0) for n in names)


def test_placebos_go_and_what_pays_stays():
    """A change that doubles the speed, four that do nothing, 15 % noise of a run."""
    names, right, pairs = ["a", "b", "real", "c", "d"], 0, 0
    for seed in range(300):
        rng = np.random.default_rng([seed, 1])
        system = System(additive(real=math.log(2)), noise=0.15 * math.sqrt(2), seed=seed)
        right += prune(system, list(rng.permutation(names)), noise=0.21, most=8).names == ("real",)
        pairs += system.pairs
    assert right / 300 >= 0.95
    assert pairs / 300 < 24


def test_a_false_alarm_about_many_changes_keeps_none_of_them():
    class Jumpy(System):
        def __call__(self, one, two):
            log = super().__call__(one, two)
            return log + (0.7 if self.pairs <= 5 and len(one) - len(two) == 4 else 0.0)

    found = prune(Jumpy(additive(real=0.7), 0.02), ["a", "b", "c", "d", "real"], noise=0.02, most=12)
    assert found.removals[0].needed, "the four seemed to matter together"
    assert found.names == ("real",)


def test_two_changes_that_only_pay_together_survive():
    def speed(names):
        return 0.7 if {"a", "b"} <= names else -0.2 * len(names & {"a", "b"})

    right = 0
    for seed in range(200):
        rng = np.random.default_rng([seed, 2])
        left = prune(System(speed, 0.1, seed), list(rng.permutation(["a", "x", "b", "y"])), noise=0.1, most=8).names
        right += set(left) == {"a", "b"}
    assert right / 200 >= 0.95


def test_of_two_changes_that_do_the_same_one_stays():
    def speed(names):
        return 0.7 if names & {"a", "b"} else 0.0

    left = prune(System(speed), ["a", "x", "b"], noise=0.0, most=8).names
    assert len(set(left) & {"a", "b"}) == 1 == len(left)


def test_many_small_changes_that_matter_only_together_are_not_lost():
    """Each gives 4 %, which eight pairs at 14 % noise cannot tell; all of them 48 %."""
    names, kept, loss = [f"p{i}" for i in range(10)], 0, []
    for seed in range(100):
        found = prune(System(additive(**dict.fromkeys(names, 0.04)), 0.14, seed), names, noise=0.14, most=8)
        kept += found.together or len(found.names) >= 5
        loss.append(1 - len(found.names) / 10)
    assert kept / 100 >= 0.9 and np.mean(loss) < 0.4


def test_what_may_not_be_taken_back_stays():
    system = System(additive(a=0.7), illegal=lambda names: "b" not in names)
    assert set(prune(system, ["b", "c", "a"], noise=0.0, most=8).names) == {"a", "b"}


def test_an_outlier_decides_nothing():
    class Jumpy(System):
        def __call__(self, one, two):
            log = super().__call__(one, two)
            return log + (3.0 if self.pairs == 1 else 0.0)

    assert prune(Jumpy(additive(real=0.7), 0.05), ["a", "b", "real"], noise=0.05, most=12).names == ("real",)


@given(st.lists(st.floats(0.0, 1.0).map(lambda x: x if x > 0.05 else 0.0), min_size=1, max_size=9), st.randoms())
def test_without_noise_exactly_what_pays_stays(effects, random):
    names = [f"p{i}" for i in range(len(effects))]
    random.shuffle(names)
    system = System(additive(**{f"p{i}": e for i, e in enumerate(effects)}))
    found = prune(system, names, noise=0.0, most=5)
    paying = {f"p{i}" for i, e in enumerate(effects) if e}
    assert set(found.names) == paying or (not paying and len(found.names) == 1)
    assert system.pairs <= 2 * len(names) + 2
