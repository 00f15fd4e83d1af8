"""The search's ratios, the verified one and the verdict agree wherever they stand; what is copied is never cut."""

import re
from dataclasses import replace

import optuna
import pytest
from forked import ended
from test_overview import dies

from tunewright.measuring.protocol import Comparison
from tunewright.report.dashboard import note
from tunewright.report.report import render_report
from tunewright.report.verdicts import beside_search, fresh_values, verified
from tunewright.sessions.session import Session
from tunewright.store.export import export, overview
from tunewright.store.plan import Plan
from tunewright.target import Measurement
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
