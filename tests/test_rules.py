"""Rules learned from sessions: evidence, merging, conflicts, files, and their use by tuners."""

import dataclasses
import json
import math
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.agents.llm.playbook import Playbook, rules_for
from tunewright.errors import ConfigError, TunewrightError
from tunewright.knowledge.rulefiles import RuleBook, entry_of
from tunewright.knowledge.rules import Evidence, Rule, fitting, from_session, merge, speaks_against
from tunewright.report.report import render_report
from tunewright.sessions.session import Session
from tunewright.space import Space
from tunewright.space.parameters import Choice, Int
from tunewright.store.export import export
from tunewright.store.plan import Plan
from tunewright.store.store import Store
from tunewright.testing import Sphere
from tunewright.tuner import Problem

SEEN = frozenset({"sequential", "large"})


def proof(effect=2.0, noise=0.05, session="a", **more):
    return Evidence(session=session, better=2, worse=1, effect=effect, noise=noise, **more)


def rule(value=64, instead_of=8, *, parameter="rpcs", context=SEEN, system="sim", **more):
    return Rule(system=system, parameter=parameter, value=value, instead_of=instead_of, context=context,
                evidence=(proof(**more),))  # fmt: skip


def document(trials, noise=0.0, **more):
    """A session as export gives it; trials are (config, score)."""
    runs = [{"of": "candidate", "values": {"s": 1.0 + noise}}, {"of": "candidate", "values": {"s": 1.0 - noise}}]
    return {
        "name": "a", "objectives": ["s"], "metrics": [{"name": "s", "direction": "min"}], "plan": {"target": "sim", "workload": "w"},
        "default": trials[0][0], "created": "2026-01-01T00:00:00", "verdict": None,
        "trials": [
            {"number": k, "step": k, "status": "ok", "violations": {}, "config": c, "scores": {"s": v}, "runs": runs}
            for k, (c, v) in enumerate(trials)
        ], **more,
    }  # fmt: skip


def test_only_single_changes_are_evidence():
    base = {"a": 1, "b": 1}
    found = from_session(document([(base, 10.0), ({"a": 2, "b": 2}, 2.0), ({"a": 2, "b": 1}, 5.0)]), "large, in order")
    assert {(r.parameter, r.value, r.instead_of) for r in found} == {("a", 2, 1), ("b", 2, 1)}
    assert found[0].evidence[0].effect == pytest.approx(2.0) and found[0].context == frozenset({"large", "sequential"})
    assert not from_session(document([(base, 10.0), ({"a": 2, "b": 2}, 2.0)]))


def test_what_noise_explains_is_no_rule():
    base = {"a": 1}
    assert from_session(document([(base, 10.0), ({"a": 2}, 9.0)]))
    assert not from_session(document([(base, 10.0), ({"a": 2}, 9.0)], noise=0.2))
    assert from_session(document([(base, 10.0), ({"a": 2}, 3.0)], noise=0.2))


def test_the_winner_counts_with_its_fresh_runs():
    """The best of many trials was also lucky; its score says too much."""
    verdict = {
        "number": 1,
        "config": {"a": 2},
        "comparisons": {"s": {"kind": "ratio", "value": 1.25}},
        "runs": [{"of": "candidate", "values": {"s": 8.0}}] * 12,
    }
    found = from_session(document([({"a": 1}, 10.0), ({"a": 2}, 5.0)], verdict=verdict))
    assert found[0].evidence[0].effect == pytest.approx(1.25)


def test_the_same_claim_gains_evidence_once():
    rules, done = merge([rule()], [rule(session="b"), rule(session="b")])
    assert len(rules) == 1 and len(rules[0].evidence) == 2 and len(done) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [(rule(64, 8), rule(8, 64)), (rule(64, 8), rule(8, 128)), (rule("on", "off"), rule("off", "on"))],
)
def test_opposite_claims_in_one_context_retire_both(one, other):
    rules, _ = merge([one], [other])
    assert [r.status for r in rules] == ["retired", "retired"] and "contradicts" in rules[0].reason
    apart = dataclasses.replace(other, context=frozenset({"random"}))
    assert [r.status for r in merge([one], [apart])[0]] == ["active", "active"]


def test_an_optimum_between_is_no_contradiction():
    rules, _ = merge([], [rule(64, 8), rule(64, 4096)])
    assert all(r.status == "active" for r in rules)


def test_mild_differences_stay_until_evidence_decides():
    rules, _ = merge([], [rule(64, 8, effect=1.5), rule(128, 8, effect=1.6)])
    assert {r.status for r in rules} == {"alternative"}
    rules, done = merge(
        rules, [rule(128, 8, effect=2.4, noise=0.001, session="c"), rule(64, 8, effect=1.5, noise=0.001, session="c")]
    )
    by = {r.value: r for r in rules}
    assert by[64].status == "retired" and by[128].status == "active" and "better by more than noise" in by[64].reason
    assert any("retired" in d for d in done)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([4, 8, 64, 256]), st.sampled_from([4, 8, 64, 256]), st.floats(1.05, 4), st.sampled_from("abc")).filter(lambda t: t[0] != t[1]),
        max_size=6,
    )
)  # fmt: skip
def test_merging_does_not_depend_on_the_order(claims):
    made = [rule(v, w, effect=e, session=s) for v, w, e, s in claims]

    def said(rules):
        return {(r.id, r.status, frozenset(e.session for e in r.evidence)) for r in rules}

    forward, backward = merge([], made)[0], merge([], made[::-1])[0]
    assert said(forward) == said(backward) == said(merge(forward, made)[0])


def test_pooled_effects_weigh_by_precision():
    both = dataclasses.replace(rule(), evidence=(proof(2.0, 0.02), proof(1.0, 0.2)))
    effect, low, high = both.interval
    assert 1.95 < effect < 2.0 and low < effect < high
    assert math.log(high / low) == pytest.approx(2 * 1.96 / math.sqrt(1 / 0.02**2 + 1 / 0.2**2))


def test_files_go_round_and_can_be_undone(tmp_path):
    book = RuleBook(tmp_path)
    book.merge([rule(), rule("on", "off", parameter="cache", beside={"x": 3})], "session a")
    again = RuleBook(tmp_path)
    assert [entry_of(r) for r in sorted(again.rules, key=lambda r: r.id)] == [
        entry_of(r) for r in sorted(book.rules, key=lambda r: r.id)
    ]
    name = again.rules[0].id
    assert again.retire(name, "no").status == "retired"
    kept, _ = merge(RuleBook(tmp_path).rules, [rule(session="z")])
    assert sum(r.status == "retired" for r in kept) == 1, "what was retired by hand stays so"
    assert RuleBook(tmp_path).rollback() == f"retire {name}"
    assert all(r.status == "active" for r in RuleBook(tmp_path).rules)
    assert RuleBook(tmp_path).rollback() == "merge session a"
    assert not RuleBook(tmp_path).rules
    with pytest.raises(ConfigError, match="nothing to undo"):
        RuleBook(tmp_path).rollback()


def test_undoing_leaves_what_is_not_ours(tmp_path):
    folder, elsewhere = tmp_path / "rules", tmp_path / "elsewhere.toml"
    RuleBook(folder).merge([rule()], "session a")
    (folder / "mine.toml").write_text("x = 1\n")
    elsewhere.write_text("y = 2\n")
    (folder / "link.toml").symlink_to(elsewhere)
    assert RuleBook(folder).rollback() == "merge session a"
    assert sorted(p.name for p in folder.glob("*.toml")) == ["link.toml", "mine.toml"]
    assert (folder / "mine.toml").read_text() == "x = 1\n" and elsewhere.read_text() == "y = 2\n"
    assert (folder / "link.toml").is_symlink()


def test_a_file_that_was_changed_since_is_not_undone(tmp_path):
    RuleBook(tmp_path).merge([rule()], "session a")
    path = tmp_path / "sim.toml"
    edited = path.read_text() + "# a remark of mine\n"
    path.write_text(edited)
    with pytest.raises(ConfigError, match=r"sim.toml was changed since 'merge session a', .* move it away"):
        RuleBook(tmp_path).rollback()
    assert path.read_text() == edited
    RuleBook(tmp_path).merge([rule(parameter="zeta", session="q")], "session b")
    assert RuleBook(tmp_path).rollback() == "merge session b"
    assert path.read_text() == edited, "as it was before that merge"
    path.rename(tmp_path / "kept")
    assert RuleBook(tmp_path).rollback() == "merge session a"
    assert not path.exists()


def test_a_link_in_the_place_of_a_file_is_a_link_again(tmp_path):
    folder, elsewhere = tmp_path / "rules", tmp_path / "elsewhere.toml"
    RuleBook(tmp_path / "first").merge([rule()], "session a")
    (tmp_path / "first" / "sim.toml").rename(elsewhere)
    folder.mkdir()
    (folder / "sim.toml").symlink_to("../elsewhere.toml")
    before = elsewhere.read_text()
    RuleBook(folder).merge([rule(parameter="zeta", session="q")], "session b")
    assert elsewhere.read_text() == before
    RuleBook(folder).rollback()
    assert (folder / "sim.toml").readlink().name == "elsewhere.toml" and elsewhere.read_text() == before


def test_what_an_earlier_version_merged_can_be_undone(tmp_path):
    RuleBook(tmp_path).merge([rule()], "session a")
    before = (tmp_path / "sim.toml").read_text()
    RuleBook(tmp_path).merge([rule(parameter="zeta", session="q")], "session b")
    for noted in (tmp_path / ".history").glob("*/written.json"):
        noted.unlink()
    (tmp_path / "mine.toml").write_text("x = 1\n")
    assert RuleBook(tmp_path).rollback() == "merge session b"
    assert (tmp_path / "sim.toml").read_text() == before
    assert RuleBook(tmp_path).rollback() == "merge session a"
    assert [p.name for p in tmp_path.glob("*.toml")] == ["mine.toml"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"^cannot write the rules in .*/file/rules: Not a directory"):
        RuleBook(tmp_path / "file" / "rules").merge([rule()], "session a")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("rule = [", "cannot read"), ('[[rule]]\nsystem = "s"', "missing or wrong"),
        ('[[rule]]\nsystem="s"\nparameter="p"\nvalue=1\ninstead_of=2\ncontext=["my app"]\nevidence=[{session="a",better=1,worse=2,effect=2.0,noise=0.1}]', "my app"),
        ('[[rule]]\nsystem="s"\nparameter="p"\nvalue=1\ninstead_of=2\ncontext=[]\nevidence=[]', "needs evidence"),
        ('[[rule]]\nsystem="s"\nparameter="p"\nvalue=1\ninstead_of=2\ncontext=[]\nstatus="gone"\nevidence=[]', "gone"),
    ],
)  # fmt: skip
def test_files_are_checked(tmp_path, text, why):
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(TunewrightError, match=why):
        RuleBook(tmp_path)


def space():
    return Space(
        [Int(name="rpcs", low=1, high=256, default=8), Int(name="mods", low=1, high=255, default=7), Choice(name="cache", choices=("off", "on"), default="off")],
        ["mods < rpcs"],
    )  # fmt: skip


def test_rules_that_fit_come_first_and_may_forbid():
    seen = frozenset({"sequential", "large", "writes"})
    rules = [
        rule(64, 8),
        rule(128, 8, context=frozenset({"random", "small"})),
        rule(4, 8, system="other"),
        rule(999, 8),
        dataclasses.replace(rule(32, 8), status="retired"),
    ]
    assert [r.value for r in fitting(rules, "sim", seen, space())] == [64]
    book = Playbook(space(), "large writes in order", rules=fitting(rules, "sim", seen, space()))
    assert book.advice()[0].value == 64 and book.advice()[0].because.startswith("learned")
    better = Playbook(space(), "large writes in order", rules=[rule("off", "on", parameter="cache"), rule(8, 16)])
    assert not [a for a in better.advice() if a.name == "rpcs"], (
        "the default was better than what the playbook would try"
    )
    assert speaks_against(rule(8, 16), 32) and not speaks_against(rule(8, 16), 12)


def test_a_rule_brings_what_makes_room_for_it():
    mods = rule(100, 7, parameter="mods", beside={"rpcs": 128, "cache": "on"})
    book = Playbook(space(), "large writes in order", rules=[mods])
    config, _ = book.combine(space().default, book.advice())
    assert config == {"rpcs": 128, "mods": 100, "cache": "off"}


def test_the_option_names_a_folder(tmp_path):
    target = Sphere(2)
    problem = Problem(
        space=target.space,
        metrics=target.metrics,
        objectives=["loss"],
        target="sphere",
        options={"rules": str(tmp_path / "no")},
    )
    with pytest.raises(ConfigError, match="no folder of rules"):
        rules_for(problem)


def test_explaining_takes_back_each_change_once(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 's.db'}")
    with Session.create(Plan(target="sphere", tuner="random", seed=3), "a", store, target=Sphere(3)) as session:
        session.run(trials=6, explain=True)
        best = max((t for t in session.decided[:6]), key=lambda t: -t.scores["loss"])
        extra = session.decided[6:]
        assert len(extra) == len(session.space.changes(best.config)) and all(
            "to see what it gives" in t.why for t in extra
        )
        for trial in extra:
            assert sum(trial.config[n] != best.config[n] for n in best.config) == 1
        count = len(session.decided)
        page = render_report(export(store, "a"))
        assert page.count("×</td>") > len(extra) and "What a change gives" in page
        found = from_session(export(store, "a"), "random")
        session.run(trials=0, explain=True)
        assert session.best.config == best.config
        assert len(session.decided) == count, "nothing is measured twice"
    assert found and {r.parameter for r in found} <= {"x0", "x1", "x2"}


@pytest.mark.slow
def test_the_commands(cli, tmp_path):
    store = f"sqlite:///{tmp_path / 's.db'}"
    cli(
        "tune",
        "lustre",
        "-w",
        "ior-16m",
        "-t",
        "playbook",
        "-n",
        "6",
        "--explain",
        "--seed",
        "1",
        "--name",
        "one",
        "--store",
        store,
    )
    made = json.loads(cli("rules", "merge", "one", "--rules", str(tmp_path / "r"), "--store", store, "--json").stdout)
    assert made["rules"] and any("stripe_count" in d for d in made["done"])
    listed = json.loads(cli("rules", "list", "--rules", str(tmp_path / "r"), "--json").stdout)
    name = next(r["id"] for r in listed if r["parameter"] == "stripe_count")
    text = cli("rules", "list", "--rules", str(tmp_path / "r")).stdout
    assert "stripe_count = -1, not 1" in text
    assert "better trial" in cli("rules", "show", name, "--rules", str(tmp_path / "r")).stdout
    used = json.loads(
        cli(
            "tune",
            "lustre",
            "-w",
            "macsio-16m",
            "-t",
            "hybrid",
            "-n",
            "3",
            "--rules",
            str(tmp_path / "r"),
            "--store",
            store,
            "--name",
            "two",
            "--json",
        ).stdout
    )
    assert used["ratio"] > 3
    why = next(
        t["why"] for t in json.loads(cli("show", "two", "--store", store, "--json").stdout)["trials"] if t["step"] == 1
    )
    assert "learned: stripe_count = -1" in why
    cli("rules", "retire", name, "--rules", str(tmp_path / "r"), "--reason", "x")
    assert name not in cli("rules", "list", "--rules", str(tmp_path / "r")).stdout.replace("\n", "")
    assert "undone: retire" in cli("rules", "rollback", "--rules", str(tmp_path / "r")).stdout
    (tmp_path / "one").mkdir()  # a folder of a session's name is not taken for its rules
    assert "more evidence" not in cli("rules", "merge", "one", "--store", store, cwd=tmp_path).stdout
    assert list((tmp_path / "rules").glob("*.toml"))
    (tmp_path / "none").mkdir()
    assert "holds no rules" in cli("rules", "merge", "none", "--store", store, cwd=tmp_path, code=1).stderr


def test_rules_can_be_kept_in_git(tmp_path):
    RuleBook(tmp_path).merge([rule()], "a")
    before = (tmp_path / "sim.toml").read_text()
    RuleBook(tmp_path).merge([rule(parameter="zeta", session="q")], "b")
    after = (tmp_path / "sim.toml").read_text()
    (tmp_path / "before").write_text(before)
    (tmp_path / "after").write_text(after)
    told = subprocess.run(["diff", tmp_path / "before", tmp_path / "after"], capture_output=True, text=True).stdout
    assert not [line for line in told.splitlines() if line.startswith("<")], "one more rule only adds lines"
