"""Values that look too good to be measurements: they win nothing without the user's word."""

import pytest

from tunewright.measuring.plausibility import doubts, sign_changed, watched
from tunewright.sessions.session import Session
from tunewright.space import Int, Space
from tunewright.store.plan import Plan
from tunewright.target import BaseTarget, Measurement, Metric

LAT = Metric(name="lat", direction="min", unit="ms")
OPS = Metric(name="ops", direction="max")
LOSS = Metric(name="loss", direction="min")


def of(metric, default, values):
    return sorted(doubts(metric, default, {n: [v] if isinstance(v, int | float) else v for n, v in enumerate(values)}))


@pytest.mark.parametrize(
    ("metric", "default", "values", "expected"),
    [
        (LAT, [89, 89], [60, -1, 55, -1], [1, 3]),  # "no value"
        (LAT, [89, 90], [60, 0, 55], [1]),  # nothing takes no time
        (LOSS, [89, 90], [60, 0, 0, 55], [1, 2]),  # the very same value twice, and nothing between
        (OPS, [500, 510], [600, 1e9, 800], [1]),
        (OPS, [500, 510], [600, 999999, 999999, 800], [1, 2]),
        (OPS, [500, 510], [[600, 610], [99999, 99999], [700, 690]], [1]),  # it repeats exactly, where others do not
        (OPS, [-5, -4], [-3, 2], [1]),  # a change of sign, which the user has to vouch for
        (LAT, [89, 89], [120, 300, -0.5], [2]),
        # what is real
        (LAT, [89, 89], [60, 52, 50], []),
        (OPS, [100, 103], [[490, 512], [480, 499]], []),  # 4.9 times, as one setting of SQLite gives
        (OPS, [100, 103], [[5200, 5350], [5100, 4900]], []),  # 50 times, but it varies as measurements do
        (OPS, [1, 1], [733, 410, 52, 912, 300], []),  # what is measured is the parameter itself
        (LOSS, [3600, 3600], [2500, 400, 100, 4, 1, 0], []),  # a parabola whose least value is 0
        (LOSS, [3, -2], [-5, 4], []),  # the default has both signs
        (OPS, [5, 4], [-3, 2], []),  # a change of sign for the worse
        (OPS, [0, 0], [1, 2, 3], []),
    ],
)
def test_what_is_doubted(metric, default, values, expected):
    assert of(metric, default, values) == expected


def test_tables_and_simulators_are_doubted_for_their_sign_alone():
    assert doubts(OPS, [5, 5], {1: [1e9], 2: [10], 3: [20]}, far=False) == {}
    assert list(doubts(LAT, [5, 5], {1: [-1], 2: [10]}, far=False)) == [1]


def test_a_bound_in_the_better_direction_says_what_is_possible():
    assert watched(Metric(name="lat", direction="min", at_most=15))
    assert not watched(Metric(name="lat", direction="min", at_least=0))
    assert not watched(Metric(name="ops", direction="max", at_most=1e6))
    assert not sign_changed(LAT, 100, [89, 90]), "a change for the worse is none"


class MinusOne(BaseTarget):
    """The latency falls with ``a`` to 50 ms; above a = 50 it is -1, "no value", always or now and then."""

    name = "minusone"
    isolated = False

    def __init__(self, share=1.0, **bounds):
        self.share, self.runs = share, 0
        self.space = Space([Int(name="a", low=1, high=100, default=11)])
        self.metrics = (Metric(name="lat", direction="min", unit="ms", **bounds), OPS)
        self.workloads = {"only": "one"}

    def measure(self, config, *, workload, seed, budget):
        self.runs += 1
        lacking = config["a"] > 50 and self.runs % 10 < 10 * self.share
        noise = 1 + 0.01 * (self.runs * 7 % 11) / 11
        return Measurement(values={"lat": -1.0 if lacking else (100 - config["a"]) * noise, "ops": 1.0 + config["a"]})


def run(store, name="a", target=None, trials=20, **plan):
    plan = {"tuner": "tpe", "seed": 2, **plan}
    session = Session.create(Plan(target="t", **plan), name, store, target=target or MinusOne())
    return session, session.run(trials=trials)


def test_a_latency_of_minus_one_does_not_win(store):
    _, verdict = run(store)
    assert verdict.improved
    assert 11 < verdict.config["a"] <= 50
    assert "Not believed, in " in verdict.sentence
    assert "--believe lat" in verdict.sentence
    assert "at_least" in verdict.doubted["lat"]
    stored = store.trials("a")
    assert any(t.config["a"] > 50 and t.ok for t in stored), "nothing that was measured is lost"
    assert all(not t.feasible and "not believed" in t.reason for t in stored if t.config["a"] > 50)
    assert store.session("a")["verdict"]["doubted"] == dict(verdict.doubted)


def test_tuners_are_told_that_it_failed(store):
    told = []
    session = Session.create(Plan(target="t", tuner="tpe"), "a", store, target=MinusOne())
    inner = session.tuner.tell
    session.tuner.tell = lambda trial: (told.append(trial), inner(trial))
    session.run(trials=12, verify=False)
    doubted = [t for t in told if t.config["a"] > 50]
    assert doubted
    assert all(t.status == "failed" for t in doubted)
    assert session.best.config["a"] <= 50


def test_where_nothing_else_is_better_no_gain_is_called(store):
    class Only(MinusOne):
        def measure(self, config, **how):
            found = super().measure(config, **how)
            return (
                found if config["a"] > 50 else Measurement(values={**found.values, "lat": 90.0 + abs(config["a"] - 11)})
            )

    _, verdict = run(store, target=Only(), trials=10)
    assert not verdict.improved
    assert "Not believed" in verdict.sentence


def test_the_users_yes_is_enough_from_the_start_and_afterwards(store):
    _, verdict = run(store, "yes", believe=("lat",), trials=10)
    assert verdict.config["a"] > 50
    assert "Not believed" not in verdict.sentence
    run(store, "later", trials=10)
    again = Session.resume("later", store, target=MinusOne(), believe=["lat"])
    assert again.run(trials=1).config["a"] > 50
    assert store.session("later")["plan"]["believe"] == ["lat"]
    assert Session.resume("later", store, target=MinusOne()).run(trials=1).config["a"] > 50, "it is not asked again"


@pytest.mark.parametrize(("least", "wins"), [(0, False), (-1, True)])
def test_a_bound_is_an_answer(store, least, wins):
    _, verdict = run(store, target=MinusOne(at_least=least))
    assert (verdict.config["a"] > 50) == wins
    assert "Not believed" not in verdict.sentence


def test_a_constraint_is_not_kept_by_a_value_that_is_none(store):
    """The throughput decides, the latency is bounded: -1 would keep any bound."""
    _, verdict = run(store, objectives=("ops",), require=("lat<=70",))
    assert 30 <= verdict.config["a"] <= 50
    assert "Not believed" in verdict.sentence


def test_a_value_that_lacks_now_and_then_is_seen_in_the_verification(store):
    _, verdict = run(store, target=MinusOne(share=0.3))
    assert verdict.config["a"] <= 50 or all(
        r["values"]["lat"] > 0 for r in verdict.runs if r["of"] == "candidate" and r["values"]
    )
    assert not any("difference" == c.kind for c in verdict.comparisons.values())


def test_an_unknown_metric_to_believe(store):
    with pytest.raises(Exception, match="Did you mean 'lat'"):
        Session.create(Plan(target="t", tuner="tpe", believe=("latt",)), "a", store, target=MinusOne())
