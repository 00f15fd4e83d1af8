import re
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from tunewright.envs.storage.lustre.target import LustreModel
from tunewright.errors import ConfigError, MissingExtraError, TunerError, UnknownNameError
from tunewright.plugins import TUNERS, installed, make_tuner
from tunewright.space import Choice, Int, Real, Space
from tunewright.target import BaseTarget, Measurement, Metric
from tunewright.testing import Sphere, check_tuner, run_tuner
from tunewright.tuner import MAX_ASKS, BaseTuner, History, Problem, Suggestion, completed
from tunewright.tuners import gaussian
from tunewright.tuners.additive import AdditiveGPTuner
from tunewright.tuners.basic import GridTuner, RandomTuner
from tunewright.tuners.ensemble import EnsembleTuner
from tunewright.tuners.hybrid import HybridTuner
from tunewright.tuners.optuna import CMAESTuner, GPTuner, NSGA2Tuner, TPETuner
from tunewright.tuners.smac import SMACTuner

NO_SMAC = pytest.mark.skipif(find_spec("smac") is None, reason="needs the extra: pip install 'tunewright[smac]'")
PROCESSES = (GPTuner, AdditiveGPTuner, EnsembleTuner, HybridTuner)  # Gaussian processes: few trials, time for each
LEARNERS = [
    TPETuner, CMAESTuner, NSGA2Tuner, pytest.param(SMACTuner, marks=[pytest.mark.slow, NO_SMAC]),
    *(pytest.param(make, marks=pytest.mark.slow) for make in PROCESSES),
]  # fmt: skip


class Mixed(BaseTarget):
    """Every kind of parameter: specials, conditions, constraints, failures, a constraint metric."""

    name, isolated, exact = "mixed", False, True
    metrics = (Metric(name="speed", direction="max"), Metric(name="recall", direction="max", at_least=0.4))

    def __init__(self):
        self.space = Space(
            [
                Choice(name="family", choices=("a", "b"), default="a"),
                Int(name="n", low=1, high=100, default=4, log=True, special={-1: "all"}),
                Real(name="x", low=0.001, high=1.0, default=0.5, log=True, when="family == 'b'"),
                Int(name="low", low=0, high=10, default=2),
                Int(name="high", low="low", high=20, default=8),
            ],
            ["low + high <= 24"],
        )

    def measure(self, config, **how):
        if config["low"] == 7:
            return Measurement(status="failed", reason="seven")
        speed = (
            10
            + (5 if config["family"] == "b" else 0)
            - abs(config["n"] - 30) / 10
            + config["high"]
            - config.get("x", 0)
        )
        return Measurement(values={"speed": max(speed, 0.1), "recall": 1 - config["high"] / 25})


@pytest.mark.parametrize("make", [RandomTuner, GridTuner, *LEARNERS])
@pytest.mark.parametrize("target", [Sphere(fail_above=0.95), Mixed()], ids=["sphere", "mixed"])
def test_contract(make, target):
    check_tuner(make, target=target, trials=8 if make in PROCESSES else 16)


@pytest.mark.parametrize("make", LEARNERS)
def test_it_learns_a_known_problem(make):
    """Better than random search with the same budget, in the median over seeds."""

    trials, seeds = (20, 3) if make in PROCESSES else (60, 7)

    def median(tuner):
        runs = [run_tuner(tuner, Sphere(4), trials=trials, seed=seed) for seed in range(seeds)]
        return sorted(min(t.scores["loss"] for t in run if t.ok) for run in runs)[seeds // 2]

    assert median(make) < median(RandomTuner)


@pytest.mark.parametrize("make", [TPETuner, CMAESTuner])
def test_startup_trials_can_be_set(make):
    few = run_tuner(make, Sphere(), trials=8, seed=1, options={"startup": 2})
    many = run_tuner(make, Sphere(), trials=8, seed=1, options={"startup": 8})
    assert [t.config for t in few] != [t.config for t in many]
    assert sum("random" in t.why for t in few) < sum("random" in t.why for t in many) or make is CMAESTuner


@pytest.mark.parametrize("options", [{"startup": "x"}, {"startup": 0}])
def test_bad_options(options):
    with pytest.raises(ConfigError, match="startup"):
        run_tuner(TPETuner, Sphere(), trials=2, options=options)


def test_constraints_reach_the_sampler():
    """More of the objective lies beyond the bound; only a sampler that knows the bound stays before it."""

    class Unbounded(Mixed):
        metrics = (Metric(name="speed", direction="max"), Metric(name="recall", direction="max"))

    def within(target):
        late = [t for seed in range(4) for t in run_tuner(TPETuner, target, trials=50, seed=seed)[25:] if t.ok]
        return sum(t.metrics["recall"] >= 0.4 for t in late) / len(late)

    assert within(Mixed()) > within(Unbounded()) + 0.2


def test_grid_is_complete_and_says_when_it_ends():
    target = Sphere(2)
    with pytest.raises(TunerError, match="all 9 points"):
        run_tuner(GridTuner, target, trials=30, options={"points": 3})
    with pytest.raises(TunerError, match="more than 100,000"):
        run_tuner(GridTuner, Sphere(12), trials=2)


def test_cmaes_has_one_objective():
    target = Mixed()
    with pytest.raises(TunerError, match="one objective"):
        run_tuner(CMAESTuner, target, trials=2, objectives=["speed", "recall"])


def test_missing_extra_says_what_to_install(monkeypatch):
    import builtins

    real = builtins.__import__

    def without_torch(name, *args, **kwargs):
        if name == "torch":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    problem = Problem(space=Sphere().space, metrics=Sphere().metrics, objectives=["loss"])
    with pytest.raises(MissingExtraError, match=r"pip install 'tunewright\[rl\]'"):
        make_tuner("gp", problem)
    assert make_tuner("auto", problem)[0] == "tpe", "auto takes the best that is installed"


def test_every_tuner_of_the_design_is_installed():
    assert {"default", "random", "grid", "tpe", "gp", "gp2", "ensemble", "cmaes", "nsga2", "policy"} <= set(
        installed(TUNERS)
    )


def test_unknown_tuner():
    problem = Problem(space=Sphere().space, metrics=Sphere().metrics, objectives=["loss"])
    with pytest.raises(UnknownNameError, match="no tuner named 'tep'. Did you mean 'tpe'.*Installed: "):
        make_tuner("tep", problem)


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_the_gradient_of_the_process_is_that_of_its_loss(seed):
    rng = np.random.default_rng(seed)
    target = Mixed()
    encoder = gaussian.Encoder(target.space)
    rows = encoder.rows([target.space.decode(rng.random(5)) for _ in range(8)])
    distance, goal = encoder.distances(rows, rows), rng.normal(size=8)
    theta, centre, spread = rng.normal(size=9), np.zeros(9), np.full(9, 2.0)
    _, slope = gaussian._loss(theta, distance, goal, centre, spread)
    for k in range(9):
        step = np.eye(9)[k] * 1e-5
        up, _ = gaussian._loss(theta + step, distance, goal, centre, spread)
        down, _ = gaussian._loss(theta - step, distance, goal, centre, spread)
        assert slope[k] == pytest.approx((up - down) / 2e-5, rel=1e-3, abs=1e-4)


def test_the_encoder_puts_unlike_values_at_distance_one():
    space = Mixed().space
    encoder = gaussian.Encoder(space)
    base = space.default
    rows = encoder.rows([base, {**base, "n": -1}, {**base, "n": 100}, space.fill({**base, "family": "b"})])
    distance = encoder.distances(rows, rows)[:, 0, :]
    assert distance[0] == pytest.approx([0, 0, 0, 1])
    assert distance[1, 1] > 1 and 0 < distance[1, 2] < 1  # a special value is unlike any number


def test_expected_improvement_agrees_with_its_definition_and_does_not_underflow():
    z = np.array([-3.0, -1.0001, -0.9999, 0.0, 2.0])
    plain = np.log(np.exp(-z * z / 2) / np.sqrt(2 * np.pi) + z * ndtr(z))
    assert gaussian.log_expected_improvement(-z, np.ones(5), 0.0) == pytest.approx(plain, rel=1e-9)
    far = gaussian.log_expected_improvement(np.array([50.0, 5000.0, 1e5]), np.ones(3), 0.0)
    assert np.all(np.isfinite(far)) and np.all(np.diff(far) < 0)


def test_listed_spaces_are_searched_to_their_end():
    target = Sphere(2)
    found = run_tuner(AdditiveGPTuner, target, trials=12, seed=3)
    assert len({target.space.key(t.config) for t in found}) == 12


@pytest.mark.parametrize("tuner", [TPETuner, CMAESTuner, pytest.param(GPTuner, marks=pytest.mark.slow)])
def test_a_size_in_bytes_is_no_list_of_four_billion_numbers(tuner):
    """Optuna's Gaussian process lists whole numbers; 32 GiB for the stripe size of Lustre."""
    target = LustreModel(noise=0.0)
    trials = run_tuner(tuner, target, trials=5)
    assert len(trials) == 5 and all(
        isinstance(t.config["stripe_size"], int) and not target.space.problems(t.config) for t in trials
    )


def test_after_failures_gp2_stays_nearer_to_what_worked():
    """Where most of the space fails, looking far away teaches nothing."""

    class Narrow(BaseTarget):
        name = "narrow"
        space = Space([Real(name=f"x{k}", low=0.0, high=1.0, default=0.0) for k in range(8)])
        metrics = (Metric(name="loss", direction="min"),)
        isolated = False

        def measure(self, config, *, workload, seed, budget):
            if sum(v > 0.5 for v in config.values()) > 2:
                return Measurement(status="failed", reason="out of memory")
            return Measurement(values={"loss": 9.0 - sum(config.values())})

    for seed in range(3):
        trials = run_tuner(AdditiveGPTuner, Narrow(), trials=7, seed=seed)
        assert sum(t.ok for t in trials[1:]) >= 2


def test_a_tuner_needs_ask_and_tell_alone():
    class Bare:
        def __init__(self):
            self.told = []

        def ask(self, history):
            return Suggestion(config={}, why="bare")

        def tell(self, trial):
            self.told.append(trial)

    bare = Bare()
    whole = completed(bare)
    whole.tell("a trial")
    assert whole.ask(History()).why == "bare" and bare.told == ["a trial"]
    assert (whole.repeats, whole.asks, whole.notes()) == (False, MAX_ASKS, {})
    bare.repeats, bare.asks, bare.notes = True, 3, lambda: {"a": 1}
    assert (whole.repeats, whole.asks, completed(bare).notes()) == (True, 3, {"a": 1})
    tuner = BaseTuner(Problem(space=Sphere().space, metrics=Sphere().metrics, objectives=["loss"]))
    assert completed(tuner) is tuner
    with pytest.raises(TunerError, match="no ask method"):
        tuner.ask(History())


def test_leave_one_out_is_what_a_fit_to_the_others_predicts():
    """The closed form against plain refitting with the same lengths, one value left out at a time."""
    space = Space([Real(name=n, low=0.0, high=1.0, default=0.5) for n in "ab"])
    encoder = gaussian.Encoder(space)
    rng = np.random.default_rng(3)
    rows = rng.random((7, 2))
    values = np.sin(4 * rows[:, 0]) + rows[:, 1]
    model = gaussian.fit(encoder, rows, values, None)
    noise = np.exp(model.theta[-1]) + gaussian.JITTER
    scaled = (values - values.mean()) / values.std()
    covariance = gaussian._kernel(model.theta, encoder.distances(rows, rows))[0] + noise * np.eye(7)
    expected = 0.0
    for k in range(7):
        others = [i for i in range(7) if i != k]
        weights = np.linalg.solve(covariance[np.ix_(others, others)], covariance[others, k])
        mean, variance = weights @ scaled[others], covariance[k, k] - weights @ covariance[others, k]
        expected += -0.5 * (np.log(2 * np.pi * variance) + (scaled[k] - mean) ** 2 / variance)
    assert gaussian.leave_one_out(model) == pytest.approx(expected)


def test_half_ranks_keeps_the_better_half_and_tames_the_worse():
    warped = gaussian.half_ranks(np.array([1.0, 2.0, 3.0, 1e6, 50.0]))
    assert list(warped[:3]) == [1.0, 2.0, 3.0] and 3.0 < warped[4] < warped[3] < 10.0
    assert np.all(gaussian.half_ranks(np.full(4, 7.0)) == 7.0)


def test_the_ensemble_opens_neither_beside_the_default_nor_at_the_far_end():
    target = Sphere(8)
    for seed in range(3):
        default, second = run_tuner(EnsembleTuner, target, trials=2, seed=seed)
        change = np.abs(target.space.encode(dict(second.config)) - target.space.encode(dict(default.config)))
        far = np.maximum(target.space.encode(dict(default.config)), 1 - target.space.encode(dict(default.config)))
        assert 0.2 < change.sum() / far.sum() < 0.85


def test_the_ensemble_mixes_its_processes_and_says_which_one_it_heard():
    target = Sphere(2)
    trials = run_tuner(EnsembleTuner, target, trials=5, seed=1)
    assert all(re.search(r"mostly of the (additive|joint|additive and joint) kernel", t.why) for t in trials[2:])
    assert len({target.space.key(t.config) for t in trials}) == 5
