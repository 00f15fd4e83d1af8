import math
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import pytest
from targets import Guarded, Misbehaving, Stumbling

from tunewright.comparing.rows import _verified
from tunewright.errors import ConfigError, TargetError, UnknownNameError, VerificationError
from tunewright.report.report import render_report
from tunewright.sessions.session import Session
from tunewright.sessions.verdict import summary
from tunewright.sessions.watcher import Watcher
from tunewright.space import Choice, Int, Space
from tunewright.store.export import export
from tunewright.store.plan import Plan
from tunewright.store.store import Store
from tunewright.target import BaseTarget, Measurement, Metric
from tunewright.testing import Sphere
from tunewright.tuner import Suggestion


def create(store, target=None, name="a", tuner="tpe", **plan):
    return Session.create(Plan(target="test", tuner=tuner, seed=3, **plan), name, store, target=target or Sphere())


@pytest.mark.parametrize("tuner", ["random", "grid", "tpe", "cmaes", "nsga2"])
def test_stopping_and_resuming_gives_the_unbroken_run(store, tuner):
    create(store, tuner=tuner, name="unbroken").run(trials=14, verify=False)
    create(store, tuner=tuner, name="broken").run(trials=6, verify=False)
    Session.resume("broken", store, target=Sphere()).run(trials=5, verify=False)
    Session.resume("broken", store, target=Sphere()).run(trials=3, verify=False)
    one, two = store.trials("unbroken"), store.trials("broken")
    assert [t.config for t in one] == [t.config for t in two]
    assert [t.scores for t in one] == [t.scores for t in two]


def test_the_default_is_always_first(store):
    session = create(store)
    session.run(trials=3, verify=False)
    assert session.all[0].config == session.space.default
    assert session.all[0].ratio == 1.0


def test_another_seed_gives_other_suggestions(store):
    one = create(store, name="one")
    one.run(trials=5, verify=False)
    two = Session.create(Plan(target="test", tuner="tpe", seed=4), "two", store, target=Sphere())
    two.run(trials=5, verify=False)
    assert [t.config for t in one.all[1:]] != [t.config for t in two.all[1:]]


def test_a_gain_is_verified_and_reported(store):
    session = create(store, target=Sphere(noise=0.02))
    verdict = session.run(trials=15)
    assert verdict.improved
    assert 1.3 < verdict.comparisons["loss"].value < 2.6
    assert verdict.comparisons["loss"].pairs >= 6
    assert verdict.sentence.startswith("Improved: ")
    found = summary(session, verdict)
    assert set(found) == {
        "name", "target", "workload", "tuner", "trials", "failed", "rejected", "best", "ratio", "ratio_low", "ratio_high",
        "improved", "seconds", "taken_back",
    }  # fmt: skip
    assert found["ratio_low"] <= found["ratio"] <= found["ratio_high"]


def test_no_gain_is_said_plainly(store):
    class Flat(Sphere):
        def measure(self, config, **how):
            return super().measure(dict.fromkeys(config, 0.5), **{**how, "seed": how["seed"] + len(self.calls)})

        calls = ()

    verdict = create(store, target=Flat(noise=0.05)).run(trials=12)
    assert not verdict.improved
    assert "No improvement was shown" in verdict.sentence


def test_failures_are_told_and_survived(store):
    session = create(store, target=Sphere(fail_above=0.92), tuner="random")
    session.run(trials=30, verify=False)
    failed = [t for t in session.all if t.status == "failed"]
    assert failed
    assert all("too large" in t.reason for t in failed)
    assert len(session.decided) == 30


def test_a_default_that_fails_ends_the_session_with_its_reason(store):
    with pytest.raises(TargetError, match=r"default configuration cannot be measured.*failed: x0 = 0.900 is too large"):
        create(store, target=Sphere(fail_above=0.5)).run(trials=3)


class Scripted:
    """A tuner that proposes what it is told to."""

    def __init__(self, *configs):
        self.configs, self.seen, self.told = list(configs), [], []

    def ask(self, history):
        self.seen.append(history)
        return Suggestion(config=self.configs.pop(0) if self.configs else {"n": 1, "mode": "safe"}, why="scripted")

    def tell(self, trial):
        self.told.append(trial)


def scripted(store, *configs, **plan):
    session = create(store, target=Guarded(), tuner="random", **plan)
    session.tuner = Scripted(*configs)
    return session


def test_illegal_suggestions_are_stored_with_the_reason_and_told(store):
    session = scripted(store, {"n": 9, "mode": "safe"}, {"n": 2, "mode": "loose"}, {"n": 3, "mode": "safe"})
    session.run(trials=2, verify=False)
    rejected = [t for t in store.trials("a") if t.status == "rejected"]
    assert [t.config for t in rejected] == [{"n": 9, "mode": "safe"}, {"n": 2, "mode": "loose"}]
    assert "outside 1 to 5" in rejected[0].reason
    assert "safety no weaker than the default's" in rejected[1].reason
    assert [len(h.refused) for h in session.tuner.seen] == [0, 1, 2]
    assert session.best.config == {"n": 3, "mode": "safe"}


def test_what_the_system_refuses_counts_as_a_trial(store):
    """It was proposed for ever before: such a trial was neither counted nor told."""

    class Refuses(Guarded):
        def measure(self, config, *, workload, seed, budget):
            if config["n"] == 3:
                return Measurement(status="rejected", reason="no three here")
            return super().measure(config, workload=workload, seed=seed, budget=budget)

    session = create(store, target=Refuses(), tuner="random")
    session.tuner = Scripted(*[{"n": 3, "mode": "safe"}] * 3, {"n": 4, "mode": "safe"})
    session.run(trials=3, verify=False)
    assert [(t.config["n"], t.status) for t in session.decided] == [(1, "ok"), (3, "failed"), (4, "ok")]
    refused = session.decided[1]
    assert refused.reason == "refused by the system: no three here" and refused in session.tuner.told


def test_duplicates_are_not_measured_again_unless_asked(store):
    same = {"n": 3, "mode": "safe"}
    session = scripted(store, same, same, same, {"n": 4, "mode": "safe"})
    session.run(trials=3, verify=False)
    assert [t.config["n"] for t in session.decided] == [1, 3, 4]
    again = Session.create(Plan(target="t", tuner="random", repeats=True), "b", store, target=Guarded())
    again.tuner = Scripted(same, same)
    again.run(trials=3, verify=False)
    assert [t.config["n"] for t in again.decided] == [1, 3, 3]


def test_a_tuner_that_only_repeats_itself_does_not_stop_the_session(store):
    session = scripted(store)
    session.run(trials=4, verify=False)
    assert len({session.space.key(t.config) for t in session.decided}) == 4


def test_the_session_ends_when_the_space_is_exhausted(store):
    session = create(store, target=Guarded(), tuner="tpe")
    session.run(trials=50, verify=False)
    assert sorted(t.config["n"] for t in session.decided) == [1, 2, 3, 4, 5]


def test_weaker_guarantees_are_reported_but_not_used(store):
    verdict = create(store, target=Guarded(), tuner="grid").run(trials=5)
    assert verdict.config == {"n": 5, "mode": "safe"}
    assert verdict.weaker[0]["ratio"] == 2.0
    assert verdict.weaker[0]["loses"] == "safety"


def test_allow_lifts_a_guarantee_and_never_forbids_settings(store):
    verdict = create(store, target=Guarded(), tuner="grid", allow=("safety",)).run(trials=10)
    assert verdict.config == {"n": 5, "mode": "loose"}
    verdict = create(
        store, target=Guarded(), tuner="grid", tuner_options={"points": 5}, name="b", never=("n > 3",)
    ).run(trials=10)
    assert verdict.config == {"n": 3, "mode": "safe"}
    with pytest.raises(UnknownNameError, match="no guarantee named 'safty'. Did you mean 'safety'"):
        create(store, target=Guarded(), name="c", allow=("safty",))


class Tradeoff(BaseTarget):
    """Speed against memory, recall as a constraint."""

    name, isolated, exact = "tradeoff", False, True
    metrics = (
        Metric(name="speed", direction="max"),
        Metric(name="memory", direction="min"),
        Metric(name="recall", direction="max", at_least=0.5),
    )

    def __init__(self):
        self.space = Space(
            [Int(name="n", low=1, high=10, default=5), Choice(name="waste", choices=(False, True), default=True)]
        )

    def measure(self, config, **how):
        n = config["n"]
        return Measurement(values={"speed": n, "memory": n * n * (2 if config["waste"] else 1), "recall": 1 - n / 20})


def test_constraints_on_metrics_hold(store):
    session = create(store, target=Tradeoff(), tuner="grid", tuner_options={"points": 10}, require=("recall>=0.7",))
    verdict = session.run(trials=20)
    assert verdict.config["n"] == 6
    assert any(not t.feasible and t.ok for t in session.decided)
    import optuna

    frozen = optuna.load_study(study_name="a", storage=store.url).trials
    assert any(any(v > 0 for v in t.constraints.values()) for t in frozen)


@pytest.mark.parametrize("bad", ["recall", "recall>=x", "recal>=0.5"])
def test_requirements_that_cannot_be_read(store, bad):
    with pytest.raises((ConfigError, UnknownNameError)):
        create(store, target=Tradeoff(), require=(bad,))


@pytest.mark.parametrize("tuner", ["nsga2", "tpe", "random"])
def test_several_objectives_give_a_pareto_set(store, tuner):
    session = create(store, target=Tradeoff(), tuner=tuner, objectives=("speed", "memory"))
    verdict = session.run(trials=20)
    front = [p["config"] for p in verdict.pareto]
    assert [c["n"] for c in front] == list(range(1, 11))
    assert all(c["waste"] is False for c in front)
    verified = [p for p in verdict.pareto if p["comparisons"]]
    assert len(verified) >= 5
    assert set(verified[0]["comparisons"]) == {"speed", "memory"}


def test_patience_ends_a_session_that_gains_nothing(store):
    session = create(store, tuner="random", target=Sphere(optimum=0.9))
    session.run(trials=200, patience=10, verify=False)
    assert len(session.decided) == 11


def test_minutes_end_a_session(store):
    session = create(store, tuner="random")
    session.run(minutes=0.02, verify=False)
    assert 1 <= len(session.decided) < 1000


def test_say_how_long(store):
    with pytest.raises(ConfigError, match="how long"):
        create(store).run()


def test_ctrl_c_interrupts_cleanly_and_resume_continues_the_same(store):
    class Impatient(Watcher):
        def began(self, session, trial):
            if trial.step == 4:
                raise KeyboardInterrupt

    session = create(store, name="broken")
    session.watcher = Impatient()
    with pytest.raises(KeyboardInterrupt):
        session.run(trials=8, verify=False)
    assert store.session("broken")["status"] == "interrupted"
    assert [t.status for t in store.trials("broken")] == ["ok"] * 4 + ["interrupted"]
    Session.resume("broken", store, target=Sphere()).run(trials=4, verify=False)
    create(store, name="unbroken").run(trials=8, verify=False)
    again = [t.config for t in store.trials("broken") if t.decided]
    assert again == [t.config for t in store.trials("unbroken")]


def test_workers_measure_in_parallel_without_loss(store):
    with ThreadPoolExecutor(4) as pool:
        session = Session.create(Plan(target="t", tuner="tpe"), "a", store, target=Sphere(), workers=4, executor=pool)
        session.run(trials=20, verify=False)
    assert len(session.decided) == 20
    assert len({session.space.key(t.config) for t in session.decided}) == 20
    assert [t.number for t in store.trials("a")] == list(range(20))


def test_workers_need_a_target_that_allows_them(store):
    with pytest.raises(ConfigError, match="cannot be measured in parallel"):
        Session.create(Plan(target="t", tuner="random"), "a", store, target=Misbehaving(), workers=2)


@pytest.mark.slow
def test_a_real_measurement_goes_through_any_executor(store):
    class Parallel(Misbehaving):
        parallel_safe = True

    with ThreadPoolExecutor(2) as pool:
        plan = Plan(target="t", tuner="grid", limit_s=2, memory_mb=200)
        session = Session.create(plan, "a", store, target=Parallel(), workers=2, executor=pool)
        session.run(trials=len(Misbehaving.ways), verify=False)
    status = {t.config["how"]: t.status for t in session.decided}
    assert status["hang"] == "timed out"
    assert status["eat"] == "killed"
    assert status["well"] == "ok"
    assert status["segfault"] == "failed"


class Deadly(Sphere):
    """Takes the worker down with it on its third configuration."""

    def measure(self, config, **how):
        import os

        if config["x0"] != 0.9:
            os._exit(7)
        return super().measure(config, **how)


def test_a_lost_worker_fails_the_trial_and_the_session_resumes(store):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        session = Session.create(Plan(target="t", tuner="random"), "a", store, target=Deadly(), executor=pool)
        with pytest.raises(TargetError, match="takes no more work"):
            session.run(trials=5, verify=False)
    assert [t.status for t in store.trials("a")] == ["ok", "failed", "interrupted"]
    assert "its worker was lost" in store.trials("a")[1].reason
    Session.resume("a", store, target=Sphere()).run(trials=2, verify=False)
    assert sum(t.ok for t in store.trials("a")) == 3


@pytest.mark.slow
def test_a_dask_cluster_is_an_executor(store):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        session = Session.create(
            Plan(target="t", tuner="random"), "a", store, target=Sphere(), workers=2, executor=client.get_executor()
        )
        session.run(trials=8, verify=False)
    assert len(session.decided) == 8


def test_a_winner_that_fails_when_measured_again_gives_way(store):
    class Fragile(Guarded):
        calls = 0

        def measure(self, config, **how):
            if config["n"] == 5:
                type(self).calls += 1
                if self.calls > 1:
                    return Measurement(status="failed", reason="it broke the second time")
            return super().measure(config, **how)

    verdict = create(store, target=Fragile(), tuner="grid").run(trials=5)
    assert verdict.config["n"] == 4
    trial = next(t for t in store.trials("a") if t.config["n"] == 5)
    assert trial.status == "failed"
    assert "second time" in trial.reason


def test_unknown_names_are_helped(store):
    for wrong, words in [
        ({"tuner": "tpee"}, "Did you mean 'tpe'"), ({"workload": "wirte"}, "workload of guarded"), ({"objectives": ("sped",)}, "Did you mean 'speed'"),
        ({"trust": "norml"}, "Did you mean 'normal'"), ({"tuner_options": {"startp": 3}}, "Did you mean 'startup'"),
    ]:  # fmt: skip
        with pytest.raises(UnknownNameError, match=words):
            Session.create(Plan(**{"target": "t", "tuner": "tpe", **wrong}), "x", store, target=Guarded())
    assert store.names() == [], "a session that cannot start leaves nothing behind"


def test_noise_is_estimated_from_repeated_defaults(store):
    session = create(store, target=Sphere(noise=0.05), tuner="random")
    session.run(trials=25, verify=False)
    assert 0.02 < session.noise() < 0.1


def test_a_store_can_be_shared_by_sessions(tmp_path):
    url = f"sqlite:///{tmp_path / 's.db'}"
    for name in ("one", "two"):
        with create(Store(url), name=name) as session:
            session.run(trials=2, verify=False)
    assert Store(url).names() == ["one", "two"]
    assert not math.isnan(session.seconds)


@pytest.mark.parametrize("level", ["normal", "strict"])
def test_a_session_survives_a_tenth_of_runs_that_fail(level, store, tmp_path):
    target = Stumbling(tmp_path, {n for n in range(1000) if n % 10 in (0, 7) and n % 20 != 10})
    verdict = create(store, target=target, tuner="grid", trust=level).run(trials=2)
    assert verdict.improved and "Runs that failed and were repeated:" in verdict.sentence
    document = export(store, "a")
    assert "winner, verified" in render_report(document), "runs without values are left out of its figures"
    pairs = _verified(document["verdict"], target.metrics[0])
    assert len(pairs) == verdict.comparisons["speed"].pairs and all(c > d for c, d in pairs), "nor do they shift pairs"


def test_a_winner_that_fails_more_often_than_the_default_is_not_called_an_improvement(store, tmp_path):
    target = Stumbling(tmp_path, {n for n in range(1000) if n % 5 in (1, 3)}, better_only=True)
    verdict = create(store, target=target, tuner="grid", trust="strict").run(trials=2)
    assert not verdict.improved
    assert verdict.sentence.startswith("No improvement was shown: it fails more often than the default, in ")
    assert "0 of the default's" in verdict.sentence
    assert verdict.comparisons["speed"].low > 1, "where it works it is faster"


def test_a_default_that_fails_too_often_is_not_blamed_on_the_winner(store, tmp_path):
    class DefaultBreaks(Stumbling):
        def measure(self, config, **given):
            measured = super().measure(config, **given)
            if config["mode"] == "plain" and (self.folder / "runs").stat().st_size > 6:
                return Measurement(status="failed", reason="it stumbled")
            return measured

    session = create(store, target=DefaultBreaks(tmp_path, ()), tuner="grid", trust="fast")
    with pytest.raises(VerificationError, match="^the default failed in "):
        session.run(trials=2)
    assert [t.status for t in session.decided] == ["ok", "ok"]


def test_repeating_failed_runs_ends_where_it_never_helped(store, tmp_path):
    class Breaking(Misbehaving):
        ways, isolated = ("well", "raise"), False

    session = create(store, target=Breaking(), tuner="random", repeats=True)
    session.run(trials=12, verify=False)
    failed = [t for t in session.decided if not t.ok]
    assert len(failed) > 4
    tries = [sum(r["of"] == "candidate" for r in t.runs) for t in failed]
    assert tries[:3] == [2, 2, 2] and set(tries[3:]) == {1}
