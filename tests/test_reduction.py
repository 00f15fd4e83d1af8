"""A winner is recommended without the changes that it does not need."""

import math
from typing import ClassVar

import numpy as np
import pytest

from tunewright.report.report import render_report
from tunewright.sessions import reduction
from tunewright.sessions.session import Session
from tunewright.sessions.verdict import summary
from tunewright.space import Choice, Int, Space
from tunewright.store.export import export
from tunewright.store.plan import Plan
from tunewright.store.store import Store
from tunewright.target import BaseTarget, Measurement, Metric
from tunewright.tuner import BaseTuner, Suggestion


class Program(BaseTarget):
    """A program whose settings have known effects on the log of its speed."""

    name = "program"
    workloads: ClassVar = {"default": "all of it"}
    metrics = (Metric(name="speed", direction="max", unit="1/s"),)
    isolated = False

    def __init__(self, params, speed, noise=0.0, seed=0, rules=(), breaks=lambda config: False):
        self.space, self.exact = Space(params, rules), noise == 0
        self.speed, self.noise, self.rng, self.breaks = speed, noise, np.random.default_rng(seed), breaks
        self.measured = []

    def measure(self, config, *, workload, seed, budget):
        self.measured.append(dict(config))
        if self.breaks(config):
            return Measurement(status="failed", reason="it crashed")
        return Measurement(values={"speed": math.exp(self.speed(config) + self.rng.normal(0, self.noise))})


class Known(BaseTuner):
    """Proposes what it is given."""

    def __init__(self, problem, *configs):
        self.problem, self.configs = problem, configs

    def ask(self, history):
        config = self.configs[(history.step - 1) % len(self.configs)]
        return Suggestion(config=self.problem.space.fill(config), why="given")


def switches(*names):
    return [Choice(name=n, choices=("off", "on", "x"), default="off") for n in names]


def tuned(target, store, *configs, name="a", explain=False, **plan):
    session = Session.create(
        Plan(target="program", tuner="known", **plan), name, store, target=target,
        make=lambda problem: Known(problem, *configs),
    )  # fmt: skip
    return session, session.run(trials=1 + len(configs), explain=explain)


@pytest.fixture
def store(tmp_path):
    opened = Store(f"sqlite:///{tmp_path / 's.db'}")
    yield opened
    opened.close()


ALL = dict.fromkeys(("real", "a", "b", "c", "d"), "on")


def doubled(config):
    return math.log(2) * (config["real"] == "on")


def test_only_what_pays_is_recommended(store):
    right = 0
    for seed in range(20):
        target = Program(switches(*ALL), doubled, noise=0.15, seed=seed)
        session, verdict = tuned(target, store, ALL, name=f"s{seed}")
        assert verdict.improved and verdict.changes["real"] == "on"
        if len(verdict.changes) == 1:
            right += 1
            assert set(verdict.taken_back) == {"a", "b", "c", "d"} and verdict.steps == []
            assert "4 of the 5 changes tried together did not matter" in verdict.sentence
            first = verdict.comparisons["speed"]
            assert 1.4 < first.value < 2.8 and len(verdict.runs) >= 2 * session.level.verify_least
    assert right >= 18


def test_it_is_what_is_shown_stored_and_applied(store):
    session, verdict = tuned(Program(switches(*ALL), doubled, noise=0.02), store, ALL)
    assert verdict.changes == {"real": "on"}
    kept = store.session("a")["verdict"]
    assert kept["config"] == verdict.config and kept["pruned"]["config"] == session.best.config
    shown = summary(session, verdict)
    assert shown["best"]["config"] == verdict.config and set(shown["taken_back"]) == {"a", "b", "c", "d"}
    page = render_report(export(store, "a"))
    assert "Taken back from the winner" in page
    assert session.best.config["a"] == "on", "the trial stays as it was"


def test_two_that_only_pay_together_stay_and_the_staircase_says_so(store):
    def speed(config):
        return 0.7 if config["a"] == config["b"] == "on" else 0.0

    for noise in (0.0, 0.05):
        target = Program(switches("a", "b", "c", "d"), speed, noise=noise)
        session, verdict = tuned(target, store, dict.fromkeys("abcd", "on"), name=f"n{noise}")
        assert set(verdict.changes) == {"a", "b"}
        first, second = verdict.steps
        assert first["ratio"] == pytest.approx(1, abs=0.1) and second["ratio"] == pytest.approx(2, abs=0.2)
        assert second["total"] == pytest.approx(2, abs=0.2) and second["low"] <= second["ratio"] <= second["high"]
        page = render_report(export(store, session.name))
        assert "What each change gives" in page and "times the default" in page


def test_exact_targets_are_pruned_exactly(store):
    def speed(config):
        return 0.001 * (config["a"] == "on") + 0.5 * (config["b"] == "on")

    target = Program(switches("a", "b", "c"), speed)
    _, verdict = tuned(target, store, dict.fromkeys("abc", "on"))
    assert set(verdict.changes) == {"a", "b"}
    assert [s["names"] for s in verdict.steps] == [("b",), ("a",)]
    assert math.prod(s["ratio"] for s in verdict.steps) == pytest.approx(math.exp(0.501))


def test_keep_all_keeps_all_and_explains_when_asked(store):
    def program():
        return Program(switches(*ALL), doubled, noise=0.02)

    _, verdict = tuned(program(), store, ALL, keep_all=True)
    assert len(verdict.changes) == 5 and verdict.pruned is None and not verdict.steps
    _, verdict = tuned(program(), store, ALL, name="b", keep_all=True, explain=True)
    assert len(verdict.changes) == 5 and sum(s["ratio"] > 1.5 for s in verdict.steps) == 1


def test_what_may_not_be_taken_back_stays(store):
    """A rule ties ``b`` to ``a``; without ``c`` the program crashes."""
    target = Program(
        switches("a", "b", "c", "d"), lambda config: 0.7 * (config["a"] == "on"), noise=0.02,
        rules=["a != 'on' or b == 'on'"], breaks=lambda config: config["a"] == "on" and config["c"] == "off",
    )  # fmt: skip
    _, verdict = tuned(target, store, dict.fromkeys("abcd", "on"))
    assert set(verdict.changes) == {"a", "b", "c"}
    assert [s["names"] for s in verdict.steps][-1][-1] and verdict.steps[-1]["total"] == pytest.approx(2, rel=0.1)
    assert any(not r["pairs"] for r in verdict.pruned["removals"]), "something could not be measured without it"
    assert store.session("a")["verdict"]["config"] == verdict.config, "and the session can be read again"
    assert "Improved" in render_report(export(store, "a"))


def test_a_parameter_that_is_active_under_another_goes_with_it(store):
    params = [
        *switches("main", "other"),
        Int(name="size", low=1, high=64, default=8, when="main == 'on'"),
        Int(name="depth", low=1, high=64, default=8, when="other == 'on'"),
    ]
    target = Program(params, lambda config: 0.7 * (config.get("size") == 64), noise=0.02)
    _, verdict = tuned(target, store, {"main": "on", "size": 64, "other": "on", "depth": 32})
    assert verdict.changes == {"main": "on", "size": 64} and set(verdict.taken_back) == {"other", "depth"}
    assert [set(s["names"]) for s in verdict.steps] in ([{"main", "size"}], [{"main"}, {"size"}])


def test_a_constraint_that_a_change_is_there_for_keeps_it(store):
    class Bounded(Program):
        metrics = (Metric(name="speed", direction="max"), Metric(name="memory", direction="min", unit="MB"))

        def measure(self, config, **how):
            measured = super().measure(config, **how)
            memory = 100.0 + 80 * (config["fast"] == "on") - 90 * (config["lean"] == "on")
            return Measurement(values={**measured.values, "memory": memory})

    target = Bounded(switches("fast", "lean", "c"), lambda config: 0.7 * (config["fast"] == "on"), noise=0.02)
    _, verdict = tuned(target, store, dict.fromkeys(("fast", "lean", "c"), "on"), require=("memory<=120",))
    assert set(verdict.changes) == {"fast", "lean"}


def test_noise_is_not_taken_for_zero_where_values_happen_to_repeat():
    metric = Metric(name="v", direction="max")
    runs = [{"of": of, "values": {"v": 2.0}, "status": "ok"} for of in ("candidate", "default") * 8]
    assert reduction._noise(runs, metric) > 0


def test_the_weakest_is_first_as_far_as_the_trials_tell():
    space = Space(switches("a", "b", "c"))
    rng = np.random.default_rng(0)
    trials = []
    for _ in range(40):
        config = {n: str(rng.choice(["off", "on", "x"])) for n in "abc"}
        trials.append((config, math.exp(0.5 * (config["b"] == "on") + rng.normal(0, 0.05))))
    order = reduction.weakest_first(space, dict.fromkeys("abc", "on"), trials)
    assert order[-1] == "b" and sorted(order) == ["a", "b", "c"]


def test_an_interruption_keeps_the_verdict_of_the_winner(store, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(reduction, "reduce", stop)
    with pytest.raises(KeyboardInterrupt):
        tuned(Program(switches(*ALL), doubled, noise=0.02), store, ALL)
    assert store.session("a")["verdict"]["improved"] and store.session("a")["status"] == "interrupted"
