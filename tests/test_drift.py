"""The drift watch: whether the machine changed, and who is told."""

import math

import numpy as np
import pytest

from tunewright.agents.llm.tuning import describe
from tunewright.measuring import drift
from tunewright.measuring.protocol import Baseline, evaluate, trust
from tunewright.report.report import render_report
from tunewright.sessions.session import Session
from tunewright.sessions.watcher import Watcher
from tunewright.space import Int, Space
from tunewright.store.export import export
from tunewright.store.plan import Plan
from tunewright.target import BaseTarget, Measurement, Metric
from tunewright.tuner import BaseTuner, Suggestion

NOISE = {
    "gaussian": lambda rng, n: rng.normal(0, 0.1, n),
    "bimodal": lambda rng, n: rng.choice([-0.1, 0.1], n) + rng.normal(0, 0.02, n),
    "outliers": lambda rng, n: rng.normal(0, np.where(rng.random(n) < 0.1, 1, 0.05)),
    "skewed": lambda rng, n: 0.15 * rng.exponential(size=n),
}


@pytest.mark.parametrize("kind", NOISE)
def test_noise_alone_is_seldom_called_a_change(kind):
    rng = np.random.default_rng(1)
    assert sum(drift.find(np.exp(NOISE[kind](rng, 30)), end=True) is not None for _ in range(150)) <= 4  # 0.8 % each


@pytest.mark.parametrize("kind", ["gaussian", "outliers"])
def test_all_looks_of_a_session_together_have_few_false_alarms(kind):
    rng, alarms = np.random.default_rng(7), 0
    for _ in range(100):
        values, last, alarm = np.exp(NOISE[kind](rng, 70)), 0, False
        for runs in range(7, 41):
            if drift.due(runs, last):
                last, alarm = runs, alarm or drift.find(values[:runs]) is not None
        alarms += alarm or drift.find(values, end=True) is not None
    assert alarms <= 4  # 2 % at most


@pytest.mark.parametrize("at", [3, 10, 22])
def test_a_step_is_found_where_it_is(at):
    rng = np.random.default_rng(2)
    for _ in range(20):
        values = np.exp(rng.normal(0, 0.05, 25) + (np.arange(25) >= at) * math.log(0.1))
        found = drift.find(values, end=True)
        assert (found.kind, found.index) == ("step", at)
        assert found.after / found.before == pytest.approx(0.1, rel=0.2)


def test_a_slow_change_is_a_trend_and_two_outliers_in_a_row_are_nothing():
    rng = np.random.default_rng(3)
    found = drift.find(np.exp(rng.normal(0, 0.02, 30) + np.linspace(0, 0.5, 30)))
    assert found.kind == "trend" and 1.2 < found.after / found.before < 1.6
    assert drift.find([5.0, 5.2, *np.exp(rng.normal(0, 0.02, 20))]) is None


def test_values_of_zero_and_below_are_watched_too():
    assert drift.find([-1.0, 0.1, -0.2, 0.9, 0.0, 0.5, 9.0, 10.0, 9.5, 10.2, 9.9, 10.1]).index == 6
    assert drift.find([0.0] * 12) is None


def test_what_a_step_adds_is_no_noise():
    rng = np.random.default_rng(4)
    values = np.exp(rng.normal(0, 0.03, 30) + (np.arange(30) >= 15) * 1.0)
    assert drift.spread(values) > 0.3
    assert drift.spread(values, [drift.find(values)]) == pytest.approx(0.03, rel=0.5)


class Drifting(BaseTarget):
    """Becomes ten times slower after some runs; x above 50 is twice as fast at any time, and x of 7 and less fails."""

    name, isolated = "drifting", False
    metrics = (Metric(name="ops", direction="max", unit="1/s"),)

    def __init__(self, after):
        self.after, self.runs = after, 0
        self.space = Space([Int(name="x", low=1, high=100, default=10)])

    def measure(self, config, **how):
        self.runs += 1
        if config["x"] <= 7:
            return Measurement(status="failed", reason="x is too small")
        speed = (1000 if self.runs <= self.after else 100) * (2 if config["x"] > 50 else 1)
        return Measurement(values={"ops": speed * (1 + 0.01 * (self.runs % 3))})


class Hears(Watcher):
    def __init__(self):
        self.texts = []

    def told(self, session, text):
        self.texts.append(text)


class Sees(BaseTuner):
    """Proposes one after the other, and keeps what it was shown."""

    label = "sees"

    def ask(self, history):
        self.history = history
        return Suggestion(config={"x": 30 + 8 * history.step % 70}, why="next")


def tuned(store, name, trust, after, trials=12):
    heard, sees = Hears(), []

    def make(problem):
        sees.append(Sees(problem))
        return sees[-1]

    plan = Plan(target="drifting", tuner="sees", trust=trust)
    session = Session.create(plan, name, store, target=Drifting(after), watcher=heard, make=make)
    return session, session.run(trials=trials), heard, sees[0]


@pytest.mark.parametrize("level", ["normal", "strict"])
def test_a_machine_that_became_slow_costs_no_winner_and_is_said_everywhere(store, level):
    first_runs = {"normal": 3, "strict": 7}[level]
    session, verdict, heard, sees = tuned(store, "a", level, first_runs)
    assert verdict.improved and verdict.comparisons["ops"].value == pytest.approx(2, rel=0.05)
    assert len(heard.texts) == 1
    assert "changed between trials 0 and 1: the default's ops went from 1010 to" in heard.texts[0]
    assert sees.history.machine == tuple(heard.texts)
    assert heard.texts[0] in describe(session.problem, sees.history)
    document = export(store, "a")
    assert len(document["drift"]["changes"]) == 1
    assert "The machine changed between trials 0 and 1" in render_report(document)
    assert session.noise() < 0.02
    again = Session.resume("a", store, target=session.target, watcher=(more := Hears()), make=Sees)
    again.run(trials=2)
    assert more.texts == [], "it is said once"


def test_a_change_after_the_search_is_seen_by_the_verification(store):
    session, _, heard, _ = tuned(store, "a", "normal", after=10_000, trials=6)
    assert heard.texts == []
    before = session.target.runs
    session, verdict, heard, _ = tuned(store, "b", "normal", after=before - 16, trials=6)
    assert verdict.improved and len(heard.texts) == 1 and "the verification" in heard.texts[0]


def test_fast_sessions_have_no_watch(store):
    assert tuned(store, "a", "fast", after=1)[2].texts == []
    assert "drift" not in store.session("a")


OPS = Metric(name="ops", direction="max")


@pytest.mark.parametrize(
    ("status", "unwatched", "beside"), [("failed", False, 0), ("failed", True, 1), ("timed out", False, 1)]
)
def test_a_candidate_that_fails_has_the_default_beside_it_where_it_may_be_the_machine(status, unwatched, beside):
    def run(config, seed):
        return Measurement(status=status, reason="too slow" if config["x"] else "slow as well")

    baseline = Baseline(values={"ops": 100.0}, unwatched=unwatched, repeat=False)
    found = evaluate(run, {"x": 1}, {"x": 0}, [OPS], OPS, trust("normal"), baseline, 1, False)
    assert [r["of"] for r in found.runs].count("default") == beside
    assert ("so did the default beside it: slow as well" in found.reason) == bool(beside)
