import pytest
from tunewright.tuners.basic import GridTuner, RandomTuner
from tunewright.tuners.optuna import CMAESTuner, GPTuner, NSGA2Tuner, TPETuner

from tunewright.errors import ConfigError, MissingExtraError, TunerError, UnknownNameError
from tunewright.plugins import TUNERS, installed, make_tuner
from tunewright.space import Choice, Int, Real, Space
from tunewright.target import BaseTarget, Measurement, Metric
from tunewright.testing import Sphere, check_tuner, run_tuner
from tunewright.tuner import Problem

LEARNERS = [TPETuner, CMAESTuner, NSGA2Tuner, pytest.param(GPTuner, marks=pytest.mark.slow)]


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
    check_tuner(make, target=target, trials=8 if make is GPTuner else 16)


@pytest.mark.parametrize("make", LEARNERS)
def test_it_learns_a_known_problem(make):
    """Better than random search with the same budget, in the median over seeds."""

    trials, seeds = (20, 3) if make is GPTuner else (60, 7)

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
    assert {"default", "random", "grid", "tpe", "gp", "cmaes", "nsga2", "policy"} <= set(installed(TUNERS))


def test_unknown_tuner():
    problem = Problem(space=Sphere().space, metrics=Sphere().metrics, objectives=["loss"])
    with pytest.raises(UnknownNameError, match="no tuner named 'tep'. Did you mean 'tpe'.*Installed: "):
        make_tuner("tep", problem)
