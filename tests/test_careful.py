"""Careful mode: small steps, tight limits, nothing dangerous, and back at once."""

import math
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.errors import ConfigError, TargetError
from tunewright.measuring import guarding
from tunewright.measuring.guarding import Bounds, bounds_of, memory_share
from tunewright.measuring.isolation import measure_once
from tunewright.plugins import open_target
from tunewright.sessions import careful
from tunewright.sessions.careful import Caution
from tunewright.sessions.guards import guarded
from tunewright.sessions.region import FIRST, LEAST, MOST, region_of
from tunewright.sessions.session import Session
from tunewright.space import Choice, Int, Real, Space
from tunewright.store.plan import Plan
from tunewright.store.store import Store
from tunewright.target import BaseTarget, Budget, Measurement, Metric
from tunewright.testing import Sphere
from tunewright.tuner import Trial

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from careful import Cliffs, play

SPACE = Space(
    [
        Real(name="x", low=0.0, high=1.0, default=0.5),
        Int(name="memory", low=1, high=2**20, default=2**10, log=True),
        Int(name="few", low=0, high=4, default=2),
        Int(name="limit", low=10, high=1000, default=-1, special={-1: "none"}),
        Choice(name="mode", choices=("a", "b", "c"), default="a"),
        Real(name="depth", low=0.0, high=1.0, default=0.5, when="mode == 'b'"),
    ]
)
METRICS = (Metric(name="tps", direction="max"), Metric(name="latency", direction="min", unit="ms"))


def trial(number, ratio, space=SPACE, latency=1.0, **changes):
    config = space.fill(changes)
    scores = {"tps": 100.0 * (ratio or 1), "latency": latency}
    status = "ok" if ratio is not None else "failed"
    return Trial(
        number=number, step=number, config=config, status=status, ratio=ratio, metrics=scores, scores=scores
    )  # fmt: skip


def after(*trials, noise=0.0):
    return region_of(SPACE, [trial(0, 1.0), *trials], METRICS, noise)


# -- the region ------------------------------------------------------------------------------------


def test_it_begins_around_todays_values_on_the_parameters_own_scale():
    region = after()
    assert region.words == "careful: region ±8 %" and region.width == FIRST
    for config, inside in (
        ({"x": 0.57}, True), ({"x": 0.59}, False), ({"memory": 2**11}, True), ({"memory": 2**14}, False),
        ({"few": 3}, True), ({"few": 4}, False), ({"mode": "b"}, True), ({"mode": "b", "x": 0.55}, False),
        ({"x": 0.55, "memory": 2**11}, False), ({"limit": 500}, True), ({"limit": 500, "few": 3}, False), ({}, True),
    ):  # fmt: skip
        assert region.contains(SPACE.fill(config)) == inside, config


def test_it_widens_with_success_and_shrinks_with_failure():
    assert after(trial(1, 1.1, x=0.55)).width == pytest.approx(FIRST * 1.5)
    assert after(trial(1, 0.85, x=0.55)).width == pytest.approx(FIRST * 0.75)
    assert after(trial(1, 0.6, x=0.55)).width == after(trial(1, None, x=0.55)).width == pytest.approx(FIRST / 2)
    assert after(*(trial(n, 1.0) for n in range(1, 30))).width == MOST
    assert after(*(trial(n, 0.1) for n in range(1, 30))).width == LEAST


def test_what_is_proven_may_be_combined_and_gone_beyond():
    region = after(trial(1, 1.0, x=0.57), trial(2, 1.0, memory=2**11))
    assert region.contains(SPACE.fill({"x": 0.56, "memory": 2**11}))
    assert region.contains(SPACE.fill({"x": 0.68, "memory": 2**11}))
    assert not region.contains(SPACE.fill({"x": 0.42, "memory": 2**13}))


def test_what_was_bad_is_not_tried_again():
    bad = after(trial(1, 0.19, memory=2**9))
    assert not bad.contains(SPACE.fill({"memory": 2**9})) and not bad.contains(SPACE.fill({"memory": 1000}))
    assert bad.contains(SPACE.fill({"memory": 1100})), "the other direction is open"
    worse = after(trial(1, 0.85, x=0.55), *(trial(n, 1.0) for n in range(2, 6)))
    assert worse.contains(SPACE.fill({"x": 0.549})) and not worse.contains(SPACE.fill({"x": 0.56}))
    banned = after(trial(1, 0.5, mode="b"))
    assert not banned.contains(SPACE.fill({"mode": "b"})) and banned.contains(SPACE.fill({"mode": "c"}))


def test_a_latency_above_twice_todays_is_bad_whatever_the_objective():
    assert after(trial(1, 1.5, latency=2.5, x=0.55)).width == pytest.approx(FIRST / 2)
    assert not after(trial(1, 1.5, latency=2.5, x=0.55)).contains(SPACE.fill({"x": 0.55}))


def test_noise_is_no_failure():
    assert after(trial(1, 0.9, x=0.55), noise=0.05).width > FIRST > after(trial(1, 0.9, x=0.55)).width


@given(
    st.lists(st.tuples(st.lists(st.floats(0, 1), min_size=6, max_size=6), st.floats(0.0, 2.0)), max_size=12),
    st.lists(st.floats(0, 1), min_size=6, max_size=6),
)
def test_every_suggestion_is_brought_into_the_region(history, point):
    trials = [trial(0, 1.0)]
    rng = np.random.default_rng(0)
    for u, ratio in history:  # as a session makes them: each within the region of its time
        config = region_of(SPACE, trials, METRICS).within(SPACE.decode(np.array(u)), rng)
        trials.append(trial(len(trials), ratio, **config))
    region = region_of(SPACE, trials, METRICS)
    config = region.within(SPACE.decode(np.array(point)), rng)
    assert SPACE.problems(config) == []
    assert region.contains(config) or config == SPACE.default
    assert region.contains(region.draw(rng, SPACE.default)) or region.banned


# -- what is never tried ------------------------------------------------------------------------------


def test_dangerous_settings_are_refused_in_careful_mode_alone():
    target = Cliffs(3)
    loose, strict = guarded(target), guarded(target, careful=True)
    spilled = {**target.space.default, "work_mem": 64}
    assert loose.problems(spilled) == []
    assert strict.problems(spilled) == [
        "careful mode: not work_mem < 4096, since sorts and hashes spill to disk does not hold (work_mem = 64)"
    ]


def test_what_the_default_does_already_and_what_is_not_tuned_is_no_danger():
    target = Sphere()
    target.dangerous = lambda: {"x0 > 0.5": "it is so today", "unknown > 1": "nothing", "x1 < 0.1": "real"}
    assert len(guarded(target, careful=True).constraints) == 1


def test_postgres_names_what_is_dangerous():
    from tunewright.envs.storage.postgres_params import dangerous

    space = Space(
        [
            Int(name="work_mem", low=64, high=2**20, default=4096, log=True),
            Choice(name="fsync", choices=("on", "off"), default="on"),
        ]
    )
    target = BaseTarget()
    target.space, target.dangerous = space, lambda: dangerous(space)
    rules = guarded(target, careful=True)
    for change in ({"work_mem": 64}, {"work_mem": 2**20}, {"fsync": "off"}):
        assert rules.problems(space.fill(change)), change
    assert not rules.problems(space.fill({"work_mem": 16384}))


@pytest.mark.parametrize(
    ("plan", "workers", "said"),
    [({"trust": "fast"}, 1, "use --trust normal or strict"), ({}, 2, "leave out --workers")],
)
def test_what_careful_mode_cannot_work_with(store, plan, workers, said):
    target = Sphere(noise=0.01)
    with pytest.raises(ConfigError, match=said):
        Session.create(
            Plan(target="sphere", tuner="random", careful=True, **plan), "a", store, target=target, workers=workers
        )


# -- sessions ----------------------------------------------------------------------------------------


def test_a_session_stays_in_the_region_says_so_and_goes_on_with_the_same_one(store):
    target, plan = Cliffs(5), Plan(target="cliffs", tuner="random", careful=True)
    session = Session.create(plan, "a", store, target=target)
    session.run(trials=8, verify=False)
    first = session.careful
    assert first.startswith("careful: region ±")
    resumed = Session.resume("a", store, target=target)
    assert resumed.plan.careful
    resumed.run(trials=6, verify=False)
    decided = resumed.decided
    assert all("(careful: region ±" in t.why for t in decided[1:] if "untried" not in t.why)
    noise = resumed.noise()
    for number in range(1, len(decided)):
        region = region_of(resumed.space, decided[:number], target.metrics, noise)
        assert len(region.news(decided[number].config)) <= 1 or noise > 0.03
    store.close()


def test_careful_sessions_spare_a_server_what_others_do_to_it():
    """A slice of benchmarks/careful.py, which prints the shares of 50 sessions."""
    how = {"tuner": "random", "told": True, "sudden": 0.0, "trials": 12}
    cautious = [play(seed, careful=True, **how) for seed in range(3)]
    other = play(0, careful=False, **how)
    assert all(one["worst"] >= 0.5 for one in cautious)
    assert other["worst"] < 0.5
    assert max(one["best"] for one in cautious) > 1.02, "and they find a gain all the same"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_over_fifty_sessions_the_worst_trial_stays_above_half_in_nearly_all():
    played = [play(seed, careful=True, tuner="tpe", told=True, sudden=0.0) for seed in range(50)]
    share = np.mean([one["worst"] >= 0.5 for one in played])
    print(f"worst trial above half of the default's in {100 * share:.0f} % of 50 sessions")
    assert share >= 0.9
    assert np.median([one["best"] for one in played]) > 1.1


# -- runs that are ended --------------------------------------------------------------------------------


class Slow(BaseTarget):
    """A load that reports how it goes, and takes a minute where it is slow; it notes when it is set back."""

    name = "slow"

    def __init__(self, folder):
        self.folder = folder
        self.space = Space([Choice(name="how", choices=("well", "slow", "silent"), default="well")])
        self.metrics, self.workloads = METRICS, {"only": "one"}

    def measure(self, config, *, workload, seed, budget):
        self._note(config["how"])
        if config["how"] != "well":
            for _ in range(600):
                if config["how"] == "slow":
                    budget.report({"latency": 31.0, "tps": 3.0})
                time.sleep(0.1)
        return Measurement(values={"tps": 100.0, "latency": 10.0})

    def revert(self):
        self._note("reverted")

    def _note(self, text):
        with (self.folder / "log").open("a") as log:
            log.write(f"{text}\n")


def test_bounds_are_broken_by_two_reports_in_a_row():
    bounds = bounds_of(METRICS, METRICS[0], {"tps": 100.0, "latency": 10.0}, 2.0)
    assert (bounds.at_most, bounds.at_least) == ({"latency": 20.0}, {"tps": 50.0})
    assert bounds.broken([{"latency": 30.0}]) == ""
    assert bounds.broken([{"latency": 30.0}, {"latency": 15.0}, {"tps": 40.0}]) == ""
    assert bounds.broken([{"latency": 30.0}, {"latency": 31.0}]) == (
        "latency was 31, above 20, 2 times worse than today's"
    )
    assert bounds.broken([{"tps": 40.0}, {"tps": 30.0}]).startswith("tps was 30, below 50")


def test_a_run_that_reports_to_be_clearly_worse_is_ended_while_it_goes_on(tmp_path):
    bounds = Bounds(at_most={"latency": 20.0}, words="twice today's")
    budget = Budget(workdir=tmp_path, seconds=60, bounds=bounds)
    begun = time.monotonic()
    found = measure_once(Slow(tmp_path), {"how": "slow"}, workload="only", seed=0, budget=budget)
    assert found.status == "timed out" and "ended early: latency was 31, above 20" in found.reason
    assert time.monotonic() - begun < 30


def test_a_run_is_ended_when_memory_is_nearly_full(tmp_path, monkeypatch):
    monkeypatch.setattr(guarding, "memory_share", lambda: 0.95)
    budget = Budget(workdir=tmp_path, seconds=60, bounds=Bounds())
    found = measure_once(Slow(tmp_path), {"how": "silent"}, workload="only", seed=0, budget=budget)
    assert found.status == "killed" and found.reason == "95 % of the memory was in use, limit 90 %"


@pytest.mark.slow
def test_after_such_an_end_the_system_is_set_back_given_time_and_the_default_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(careful, "PAUSE_S", 0.3)
    target, store = Slow(tmp_path), Store(f"sqlite:///{tmp_path / 's.db'}")
    session = Session.create(Plan(target="slow", tuner="grid", careful=True), "a", store, target=target)
    begun = time.monotonic()
    session.run(trials=3, verify=False)
    assert time.monotonic() - begun < 90
    log = (tmp_path / "log").read_text().split()
    for how in ("slow", "silent"):
        at = log.index(how)
        assert log[at + 1 : at + 3] == ["reverted", "well"] and log.count(how) == 1, "it is not tried again"
    silent = next(t for t in session.decided if t.config["how"] == "silent")
    assert "limit" in silent.reason, "by a time limit derived from the default's runs"
    assert session.careful == "careful: region ±2 %"
    store.close()


def test_memory_that_stays_full_ends_the_session_with_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(guarding, "memory_share", lambda: 0.97)
    monkeypatch.setattr(careful, "_MOST_PAUSES", 2)
    caution = Caution(limit_s=1.0, bounds=Bounds(), pause_s=0.01)
    with pytest.raises(TargetError, match="more than 90 % of the memory is in use"):
        caution.budget(Budget(workdir=tmp_path))


def test_the_share_of_memory_is_one():
    assert 0.0 < memory_share() < 1.0 and math.isfinite(memory_share(Path("/nowhere")))


def test_the_command_line_has_it(cli):
    assert "--careful" in cli("tune", "--help").stdout
    assert "use --trust normal or strict" in cli("tune", "sqlite", "--careful", "--trust", "fast", code=1).stderr


def test_a_described_load_that_prints_how_it_goes_is_ended_early(tmp_path):
    """The tool prints a line a second, a third of today's rate; the whole run takes 30 s."""
    (tmp_path / "load.py").write_text(
        "import time\n"
        "for n in range(1, 31):\n"
        "    time.sleep(1)\n"
        "    print(f'[ {n}s ] thds: 1 tps: 33.00 qps: 1 lat (ms,95%): 30.00 err/s: 0.00', flush=True)\n"
        "print('    transactions: 990 (33.0 per sec.)\\nLatency (ms):\\n  avg: 30.0\\n')\n"
    )
    (tmp_path / "own.toml").write_text(
        f"""
[target]
name = "own"
command = [{sys.executable!r}, "{tmp_path}/load.py", "{{size}}"]
tool = "sysbench"
metrics = ["tps", "latency"]
[parameters]
size = {{ low = 1, high = 9, default = 1 }}
"""
    )
    target = open_target(str(tmp_path / "own.toml"))
    bounds = bounds_of(target.metrics, target.metrics[0], {"tps": 100.0, "latency": 10.0}, 2)
    budget = Budget(workdir=tmp_path, seconds=60, bounds=bounds)
    measured = measure_once(target, {"size": 2}, workload="default", seed=0, budget=budget)
    assert measured.status == "timed out" and "it was ended early: tps was 33, below 50" in measured.reason
    assert measured.seconds < 20
