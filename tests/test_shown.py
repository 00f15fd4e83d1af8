"""The search's ratios, the verified one and the verdict agree wherever they stand; what is copied is never cut."""

import re
from dataclasses import asdict, replace

import optuna
import pytest
from forked import ended
from test_overview import dies

from tunewright.measuring.protocol import Comparison
from tunewright.report.dashboard import note
from tunewright.report.report import render_report
from tunewright.report.verdicts import beside_search, fresh_values, verified
from tunewright.sessions.session import Session
from tunewright.sessions.verdict import sentence
from tunewright.space import Choice, Int, Space
from tunewright.store.export import changes_of, export, overview, repeat_command
from tunewright.store.plan import Plan
from tunewright.target import Measurement, Metric
from tunewright.testing import Sphere

TOML = """
[target]
name = "long"
command = ["python3", "-c", "import sys  # {comment}\\nprint('v:', 1 + ({more} > 5))", "{{{name}}}"]
[[parameter]]
name = "{name}"
type = "int"
low = 1
high = 10
default = 1
[[metric]]
name = "v"
direction = "max"
regex = 'v: ([0-9.]+)'
"""
NAME = "a_parameter_" + "with_a_name_that_is_longer_than_most_lines_" * 3
COMMENT = "words of a command that is longer than a line of any terminal " * 5


def test_what_is_piped_is_neither_wrapped_nor_cut(cli, tmp_path):
    text = TOML.format(name=NAME, comment=COMMENT, more="int(sys.argv[1])")
    (tmp_path / "long.toml").write_text(text)
    store = ("--store", f"sqlite:///{tmp_path}/s.db")
    spec = str(tmp_path / "long.toml")
    tuned = cli("tune", spec, "-t", "grid", "-n", "4", "--name", "a", "--trust", "fast", *store).stdout
    shown = cli("show", "a", *store).stdout
    for printed in (tuned, shown):
        assert f"import sys  # {COMMENT}" in printed and "…" not in printed
        assert re.search(r"^verdict: (not )?shown\. .*fresh pairs\)", printed, re.M)
    assert f"{NAME}=" in shown
    assert f"# {COMMENT}" in cli("show", f"command:{spec}").stdout or NAME in cli("show", f"command:{spec}").stdout


class Lucky(Sphere):
    """Nothing has an effect; the candidate is lucky in the search, and not in the verification."""

    def __init__(self):
        super().__init__()
        self.exact, self.runs = False, 0

    def measure(self, config, *, seed, **how):
        lucky = config != self.space.default and seed < 900_000_000
        self.runs += 1
        return Measurement(values={"loss": (0.5 if lucky else 1.0) * (1 + 0.02 * (self.runs % 3))})


@pytest.fixture
def lucky(store):
    session = Session.create(Plan(target="lucky", tuner="random"), "a", store, target=Lucky())
    return store, session, session.run(trials=4)


def test_a_lucky_search_is_explained_and_no_value_of_it_stands_as_the_result(lucky):
    store, session, verdict = lucky
    document = export(store, "a")
    said = beside_search(verdict.stored(), "loss", [(t.number, t.config, t.ratio) for t in session.decided])
    assert not verdict.improved and f"trial {verdict.number} looked like" in said
    page, noted = render_report(document), note(document, [(t.number, t.config, t.ratio) for t in session.decided])
    for text in (page, noted):
        assert f"trial {verdict.number} looked like" in text and "Not shown to be better than the default" in text
        assert "best configuration" not in text.lower()
    default, winner = fresh_values(document["verdict"], "loss")
    assert winner == pytest.approx(default, rel=0.03), "fresh runs, not those of the search"
    assert "best found" not in page
    assert "No improvement was shown" in repr(session) and "No improvement" in session._repr_html_()


def test_where_search_and_verdict_agree_nothing_is_explained():
    compared = {"value": 1.9, "low": 1.7, "high": 2.2, "pairs": 8, "kind": "ratio"}
    verdict = {"comparisons": {"speed": compared}, "config": {"x": 1}, "improved": True}
    assert beside_search(verdict, "speed", [(3, {"x": 1}, 2.0)]) == ""
    assert beside_search(verdict, "speed", [(3, {"x": 2}, 9.0)]) == "", "another configuration"
    assert "trial 3 looked like 3.00×" in beside_search(verdict, "speed", [(3, {"x": 1}, 3.0)])


def test_gains_without_a_ratio_are_listed_by_their_difference(store):
    class Signed(Sphere):
        def measure(self, config, **how):
            return Measurement(values={"loss": config["x0"] - 5})

    Session.create(Plan(target="signed", tuner="random"), "a", store, target=Signed()).run(trials=4)
    row = overview(store, "a")
    assert row["ratio"] is None and verified(row) == f"{row['difference']:+.4g} shown"


def test_a_session_whose_process_is_gone_is_interrupted_in_the_dashboard(store):
    assert ended(dies, store.url) == 9
    dashboard = pytest.importorskip("optuna_dashboard", reason="needs: pip install 'tunewright[dashboard]'")
    from tunewright.report.dashboard import serve

    serve(store, port=0).server_close()
    body = dashboard.get_note(optuna.load_study(study_name="a", storage=store.optuna))
    assert "interrupted" in body and "running" not in body


def test_a_comparison_that_was_never_measured_explains_nothing():
    same = Comparison(kind="ratio", value=1.0, low=1.0, high=1.0, pairs=0, improved=False)
    verdict = {"comparisons": {"speed": vars(replace(same))}, "config": {}, "improved": False}
    assert beside_search(verdict, "speed", [(0, {}, 1.0)]) == ""


class Conditional(Sphere):
    """A mode pays, its depth does nothing; the depth is active under the mode alone."""

    name = "conditional"

    def __init__(self):
        super().__init__()
        self.space = Space([
            Choice(name="mode", choices=("plain", "fast"), default="plain"),
            Int(name="depth", low=1, high=99, default=5, when="mode == 'fast'"),
        ])  # fmt: skip
        self.metrics = (Metric(name="speed", direction="max"),)

    def measure(self, config, *, workload, seed, budget):
        return Measurement(values={"speed": (200 if config["mode"] == "fast" else 100) * (1 + 0.02 * (seed * 7 % 11))})


def test_a_parameter_at_its_own_default_under_a_change_is_no_change(store, cli):
    plan = Plan(target="conditional", tuner="random", trust="fast")
    verdict = Session.create(plan, "a", store, target=Conditional()).run(trials=6)
    assert verdict.config == {"mode": "fast", "depth": 5} and verdict.changes == {"mode": "fast"}
    assert "1 of the 2 changes tried together did not matter and was taken back." in verdict.sentence
    document = export(store, "a")
    assert changes_of(document, verdict.config) == {"mode": "fast"}
    assert changes_of(document, {"mode": "fast", "depth": 6}) == {"mode": "fast", "depth": 6}
    page = render_report(document)
    assert "(not active)" not in page, "neither as a change"
    old = {k: v for k, v in document.items() if k != "inactive"}
    assert changes_of(old, verdict.config) == verdict.config, "a session of an older version"


def test_a_difference_without_a_unit_has_one_space():
    compared = Comparison(kind="difference", value=5.0, low=4.0, high=6.0, pairs=12, improved=True)
    assert "+5 against the default in score" in sentence(compared, Metric(name="score", direction="max"))
    assert "+5 ms against the default" in sentence(compared, Metric(name="score", direction="max", unit="ms"))


def test_a_careful_session_is_repeated_carefully():
    plan = asdict(Plan(target="sqlite", careful=True))
    assert repeat_command(plan, 3).endswith("--careful")


def test_trials_that_miss_a_bound_are_marked_wherever_they_stand(store, cli):
    plan = Plan(target="sphere", tuner="random", trust="fast", require=("loss<=1.6",))
    session = Session.create(plan, "a", store, target=Sphere())
    session.run(trials=8, verify=False)
    broken = [t for t in session.decided if t.ok and not t.feasible]
    assert broken and len(broken) < 8
    rows = [row for row in cli("show", "a", "--store", store.url).stdout.splitlines() if "misses loss" in row]
    assert [int(row.split()[0]) for row in rows] == [t.number for t in broken]
    assert render_report(export(store, "a")).count("misses loss</span>") == len(broken)
