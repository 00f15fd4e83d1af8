"""``watch``: looks at an applied configuration, told by intervals alone."""

import json
import math
import random

import numpy as np
import pytest

from tunewright.cli.sessions import reading
from tunewright.errors import ConfigError
from tunewright.measuring.intervals import looks_within, miss_rate
from tunewright.measuring.protocol import Comparison
from tunewright.plugins import open_target
from tunewright.sessions import watch
from tunewright.sessions.session import Session
from tunewright.space import Int, Space
from tunewright.space.amounts import seconds
from tunewright.store.plan import Plan
from tunewright.target import BaseTarget, Measurement, Metric

RATIO = {"kind": "ratio", "pairs": 8}


class Server(BaseTarget):
    """A server in service whose speed is ``gain`` times higher at n = 2; measuring changes what is in service.

    Attributes:
        now: the value that is in service.
        order: what was measured.
    """

    name = "server"
    isolated = False
    live = True
    metrics = (Metric(name="speed", direction="max"),)

    def __init__(self, gain=1.5, noise=0.02, restart="none"):
        self.gain, self.noise, self.rng = gain, noise, np.random.default_rng(7)
        self.space = Space([Int(name="n", low=1, high=2, default=1, restart=restart)])
        self.now, self.order, self.fails, self.stop = 1, [], False, False

    def measure(self, config, *, workload, seed, budget):
        self.now = config["n"]
        self.order.append(self.now)
        if self.stop:
            raise KeyboardInterrupt
        if self.fails and self.now == 2:
            return Measurement(status="failed", reason="out of memory")
        gain = self.gain if self.now == 2 else 1.0
        return Measurement(values={"speed": 100 * gain * math.exp(self.rng.normal(0, self.noise))})

    def snapshot(self, folder):
        return {"n": self.now}

    def restore(self, snapshot):
        self.now = 1  # a rollback command that knows the default alone

    def undo(self, folder, to=None):
        return {"n": self.now}

    def apply(self, config, to=None):
        self.now = config["n"]

    def rollback(self, undo):
        self.now = undo["n"]


@pytest.fixture
def applied(store, monkeypatch):
    """Returns a server whose session found n = 2 and applied it."""
    from tunewright.sessions import changes, service

    def make(**how):
        server = Server(**how)
        Session.create(Plan(target="server", tuner="grid"), "s", store, target=server).run(trials=2)
        for module in (service, watch, changes):
            monkeypatch.setattr(module, "reopen", lambda *_, **__: server)
        monkeypatch.setattr(changes, "restorer", lambda *_, **__: server)
        service.apply_session(store, "s", to=None, spec=None, number=None, force=False)
        assert server.now == 2
        server.order.clear()
        return server

    return make


def test_a_gain_that_lasts_is_told_and_the_configuration_stays_in_service(store, applied):
    server = applied()
    found = watch.look_again(store, "s", auto=True)
    assert found.state == "holds" and found.how == "pairs" and not found.rolled_back
    assert found.compared.low > 1 and 1.4 < found.compared.value < 1.6 and found.compared.pairs >= 8
    assert server.now == 2, "measuring put the default into service, and it was applied again"
    assert sorted(set(server.order)) == [1, 2] and store.session("s")["status"] == "done"


def test_a_gain_that_is_gone_is_told_and_a_rollback_proposed(store, applied):
    server = applied()
    server.gain = 1.0
    found = watch.look_again(store, "s")
    assert found.state == "gone" and "tunewright rollback s" in found.sentence
    assert found.compared.low <= 1 <= found.compared.high < math.sqrt(1.45)
    assert server.now == 2 and not found.rolled_back


def test_with_auto_it_is_taken_back(store, applied):
    server = applied()
    server.gain = 0.7
    found = watch.look_again(store, "s", auto=True)
    assert found.state == "worse" and found.rolled_back and server.now == 1
    assert watch.looks_so_far(store.session("s"))[0]["rolled_back"] is True
    with pytest.raises(ConfigError, match="not applied"):
        watch.look_again(store, "s")


def test_a_candidate_that_fails_now_is_an_alarm(store, applied):
    server = applied()
    server.fails = True
    found = watch.look_again(store, "s", auto=True)
    assert found.state == "failed" and "out of memory" in found.sentence and server.now == 1


def test_what_restarts_a_live_server_is_compared_with_stored_runs(store, applied):
    server = applied(restart="restart")
    found = watch.look_again(store, "s")
    assert found.how == "baseline" and found.state == "holds" and "stored" in found.sentence
    assert set(server.order) == {2}, "what was there before was not put into service"
    server.gain = 1.0
    assert watch.look_again(store, "s").state == "gone"
    server.gain, server.order = 1.5, []
    assert watch.look_again(store, "s", pairs=True).how == "pairs" and set(server.order) == {1, 2}


def test_looks_go_on_where_they_were(store, applied):
    applied()
    numbers = [watch.look_again(store, "s").number for _ in range(3)]
    record = store.session("s")
    looks = watch.looks_so_far(record)
    assert numbers == [1, 2, 3] and [entry["look"] for entry in looks] == numbers
    assert looks[0]["miss"] > looks[1]["miss"] > looks[2]["miss"] and looks[2]["pairs"] >= looks[0]["pairs"]
    assert watch.due(record, 60.0) == looks[-1]["at"] + 60 and watch.due({}, 60.0) == 0


def test_a_signal_leaves_the_applied_configuration_in_service(store, applied):
    server = applied()
    server.stop = True
    with pytest.raises(KeyboardInterrupt):
        watch.look_again(store, "s")
    assert server.now == 2 and watch.looks_so_far(store.session("s")) == []
    server.stop = False
    assert watch.look_again(store, "s").number == 1


def test_all_looks_together_miss_within_five_percent():
    total = sum(miss_rate(looks_within([8, 10, 12], watch.miss_of(k))) for k in range(1, 60))
    assert total <= 0.05


def test_no_false_alarms_by_a_simulation():
    """Gains that last are never told to be gone, over 200 watches of 6 looks with heavy noise."""
    rng, wrong = random.Random(3), 0
    metric = Metric(name="t", direction="min")
    before = Comparison(value=1.3, low=1.2, high=1.4, improved=True, **RATIO)
    for _ in range(200):
        stored = [100 * math.exp(rng.gauss(0, 0.2)) for _ in range(12)]
        for number in range(1, 7):
            miss = watch.miss_of(number, 0.025)
            runs = [100 / 1.3 * math.exp(rng.gauss(0, 0.2)) for _ in range(14)]
            compared = watch.against_stored(metric, runs, stored, miss)
            wrong += watch.judged(compared, before) in ("gone", "worse") and compared.high < 1.3
    assert wrong <= 10


def test_states_follow_from_intervals_alone():
    def state(low, value, high, gain=1.44):
        before = gain and Comparison(value=gain, low=1.1, high=2.0, improved=True, **RATIO)
        return watch.judged(Comparison(value=value, low=low, high=high, improved=low > 1, **RATIO), before)

    assert state(1.01, 1.1, 1.3) == "holds"
    assert state(0.9, 0.95, 0.99) == "worse"
    assert state(0.9, 0.8, 1.19) == "gone" and state(0.9, 1.0, 1.21) == "open"
    assert state(0.0, 0.5, math.inf) == "open", "an interval that is not there tells nothing"
    assert state(0.9, 1.0, 1.1, gain=None) == "open"


@pytest.mark.slow
def test_a_watch_from_the_command_line(cli, tmp_path):
    """A program's file is applied, watched by lines of JSON, and the alarm is an exit code."""
    path = tmp_path / "app.toml"
    path.write_text(
        '[target]\nname = "app"\ncommand = ["cat", "app.conf"]\n[[parameter]]\nname = "x"\ntype = "int"\nlow = 1\n'
        'high = 9\ndefault = 1\n[[metric]]\nname = "v"\ndirection = "max"\nregex = "v: ([0-9]+)"\n'
        '[[file]]\npath = "app.conf"\ncontent = "v: {x}"\n'
    )
    target = open_target(str(path), {})
    target.isolated, target.exact = False, True
    target.measure = lambda config, **_: Measurement(values={"v": float(config["x"])})
    with reading(None) as store:
        Session.create(Plan(target=str(path), tuner="random", trust="fast"), "s", store, target=target).run(trials=3)
    assert "not applied" in cli("watch", "s", "--times", 1, code=1).stderr
    assert "cannot read the time" in cli("watch", "s", "--every", "soon", code=1).stderr
    cli("apply", "s")
    text = (tmp_path / "app.conf").read_text()
    [line] = cli("watch", "s", "--times", 1, "--json").stdout.splitlines()
    said = json.loads(line)
    assert said["state"] == "holds" and said["low"] > 1 and said["session"] == "s" and said["pairs"] >= 6
    assert (tmp_path / "app.conf").read_text() == text
    cli("rollback", "s")
    assert not (tmp_path / "app.conf").exists()


def test_times_are_read():
    assert (seconds("1h"), seconds("90 s"), seconds("1.5d"), seconds("2min")) == (3600, 90, 129600, 120)
    for text in ("", "0s", "-1h", "1 week", "nan", "1e9h"):
        with pytest.raises(ConfigError, match="cannot read the time"):
            seconds(text)
