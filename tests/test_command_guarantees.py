"""Guarantees that the description of any program declares are treated as those of our own targets."""

import pytest

from tunewright.envs.command import CommandTarget
from tunewright.envs.command_file import load_description
from tunewright.errors import ConfigError
from tunewright.sessions.guards import guarded
from tunewright.sessions.session import Session
from tunewright.store.plan import Plan

HEAD = """
[target]
name = "server"
command = ["python3", "-c", "import sys; c, n = sys.argv[1:3]; print('v:', int(n) * {'on': 1, 'local': 2, 'off': 3}[c])",
           "{commit}", "{n}", "{sync}"]
[[parameter]]
name = "commit"
type = "choice"
choices = ["on", "local", "off"]
default = "on"
[[parameter]]
name = "sync"
type = "choice"
choices = ["yes", "no"]
default = "yes"
when = "commit != 'off'"
[[parameter]]
name = "n"
type = "int"
low = 1
high = 3
default = 1
[[metric]]
name = "v"
direction = "max"
regex = 'v: ([0-9.]+)'
"""
DURABILITY = """
[[guarantee]]
name = "durability"
[[guarantee.level]]
when = "commit == 'on' and sync == 'yes'"
[[guarantee.level]]
when = "commit == 'local'"
loses = "a failover may lose the last transactions"
[[guarantee.level]]
loses = "a crash may lose the last transactions"
"""


@pytest.fixture
def target(tmp_path):
    def make(more=DURABILITY, head=HEAD):
        path = tmp_path / "server.toml"
        path.write_text(head + more)
        return CommandTarget(load_description(path))

    return make


def test_levels_are_read_strongest_first(target):
    server = target()
    levels = [
        server.guarantees(server.space.fill({"commit": c, "sync": s}))["durability"]
        for c, s in [("on", "yes"), ("local", "yes"), ("on", "no"), ("off", "yes")]
    ]
    assert levels == [2, 1, 0, 0]
    assert server.guarantee_names() == ("commit", "sync")
    assert target("").guarantees(server.space.default) == {}


def test_nothing_weaker_than_the_default_is_tried_unless_it_is_allowed(target):
    space = guarded(target())
    for commit in ("local", "off"):  # with "off", ``sync`` is not active
        weak = space.fill({"commit": commit})
        assert "durability no weaker" in " ".join(space.problems(weak))
    assert space.problems(space.fill({"n": 3})) == []
    assert guarded(target(), allow=["durability"]).problems(space.fill({"commit": "off"})) == []


def test_each_weaker_level_is_shown_with_what_it_loses(target):
    server = target()
    shown = {w.loses: w.config["commit"] for w in server.weaker(server.space.default)}
    assert shown == {
        "a failover may lose the last transactions": "local",
        "a crash may lose the last transactions": "off",
    }
    assert server.weaker(server.space.fill({"commit": "off"})) == []


def test_a_number_can_carry_a_guarantee(target):
    quality = """
[[guarantee]]
name = "quality"
[[guarantee.level]]
when = "n <= 2"
[[guarantee.level]]
loses = "visible blocks"
"""
    server = target(quality)
    assert [w.config["n"] for w in server.weaker(server.space.default)] == [3]


def test_a_session_wins_nothing_by_a_weaker_guarantee_and_says_what_it_would_give(store, target):
    plan, server = Plan(target="t", tuner="grid", trust="fast"), target()
    server.isolated = False  # without a process for each run
    verdict = Session.create(plan, "a", store, target=server).run(trials=6)
    assert verdict.config["commit"] == "on"
    assert {row["loses"]: round(row["ratio"]) for row in verdict.weaker} == {
        "a failover may lose the last transactions": 2,
        "a crash may lose the last transactions": 3,
    }


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (DURABILITY.replace("commit ==", "comit =="), "Did you mean 'commit'"),
        (DURABILITY.replace("loses =", "looses ="), "Did you mean 'loses'"),
        (DURABILITY.replace('loses = "a crash may lose the last transactions"', ""), "what it 'loses'"),
        (DURABILITY + DURABILITY, "two guarantees have this name"),
        (DURABILITY.replace("when = \"commit == 'local'\"", ""), "'when' is missing"),
        (DURABILITY.replace("== 'local'", "== "), "level"),
        ("[[guarantee]]\nname = 'x'\n", "'level' is missing"),
    ],
)
def test_a_wrong_guarantee_is_said_in_a_line(target, more, words):
    with pytest.raises(ConfigError) as raised:
        target(more)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


DANGERS = '"commit == \'off\'" = "commits get lost"\n"n > 2 * CPU_COUNT" = "threads would wait"\n'


def test_careful_mode_never_tries_what_the_description_calls_dangerous(target):
    listed = HEAD.replace("\n[[parameter]]", "\ndangerous = [\"commit == 'off'\"]\n[[parameter]]", 1)
    for server, reason in [
        (target("", listed), "the description calls it dangerous"),
        (target(f"[target.dangerous]\n{DANGERS}"), "commits get lost"),
    ]:
        off = server.space.fill({"commit": "off"})
        [problem] = guarded(server, careful=True).problems(off)
        assert problem.startswith(f"careful mode: not commit == 'off', since {reason}")
        assert guarded(server).problems(off) == []


@pytest.mark.parametrize(
    ("dangerous", "said"),
    [
        ("""["comit == 'off'"]""", "dangerous: no parameter named 'comit'. Did you mean 'commit'"),
        ('["n >"]', "dangerous: "),
        ("[1]", "every entry of dangerous must be a text"),
        ('"n > 1"', "dangerous must be a list or a table"),
        ('{ "n > 1" = "" }', "say in a text why n > 1 is"),
    ],
)
def test_a_danger_that_cannot_be_read_is_one_line(target, dangerous, said):
    with pytest.raises(ConfigError, match="dangerous") as caught:
        target("", HEAD.replace("\n[[parameter]]", f"\ndangerous = {dangerous}\n[[parameter]]", 1))
    assert said in str(caught.value) and "\n" not in str(caught.value)
