"""What ``import tunewright`` shows: its names, its version, and its objects on a prompt and in a notebook."""

import re
from importlib.metadata import version

import pytest

import tunewright
from tunewright import Choice, Int, Metric, Plan, Real, Session, Space
from tunewright.errors import VerificationError
from tunewright.target import Measurement
from tunewright.testing import Sphere


def create(store, target=None, name="a"):
    return Session.create(Plan(target="sphere", tuner="random"), name, store, target=target or Sphere())


def test_tab_completion_shows_the_public_names():
    assert {*tunewright.__all__} < {*dir(tunewright)}
    assert all(getattr(tunewright, name) is not None for name in dir(tunewright))
    assert not [name for name in dir(tunewright) if name.startswith("_") and name != "__version__"]


def test_the_version_is_the_installed_one():
    assert tunewright.__version__ == version("tunewright")


def test_a_space_is_a_table_of_its_parameters():
    space = Space(
        [
            Int(name="threads", low=1, high="CPU_COUNT * 2", default=1, unit="threads", doc="how many <work>"),
            Real(name="share", low=0.1, high=1.0, default=0.5, log=True),
            Choice(name="mode", choices=("a<b", "c"), default="c"),
            Int(name="depth", low=1, high=9, default=-1, special={-1: "as the system likes"}, when="mode == 'c'"),
        ],
        ["threads <= 99"],
    )
    assert repr(space) == "<Space of 4 parameters: threads, share, mode, depth>"
    shown = space._repr_html_()
    assert shown.count("<tr>") == 1 + 4 + 1 + 1
    assert "how many &lt;work&gt;" in shown and "a&lt;b, c" in shown and "<work>" not in shown
    assert "1 to CPU_COUNT * 2" in shown and "0.1 to 1.0, logarithmic" in shown
    assert "1 to 9; -1: as the system likes" in shown and "threads &lt;= 99" in shown
    assert repr(Sphere(12).space).endswith("x6, x7, and 4 more>")
    assert repr(Sphere(1).space) == "<Space of 1 parameter: x0>"


def test_a_session_says_where_it_stands(store):
    session = create(store, name="a<b>")
    assert repr(session) == "<Session 'a<b>': sphere, 0 trials>"
    assert session._repr_html_() == "<p>Session <b>a&lt;b&gt;</b>: sphere, 0 trials</p>"
    session.run(trials=5, verify=False)
    best = session.best
    assert (
        repr(session)
        == f"<Session 'a<b>': sphere, 5 trials, best of the search loss {best.scores['loss']:.4g} (trial {best.number}),"
        " not verified yet>"
    )
    assert len(re.findall("<td>x[012]</td>", session._repr_html_())) == len(session.space.changes(best.config))
    verdict = session.run(trials=1)
    for opened in (session, Session.resume("a<b>", store, target=Sphere())):  # the ratio of the search gives way to it
        assert verdict.sentence in repr(opened) and "best of the search" not in repr(opened)
        assert "<th>winner</th>" in opened._repr_html_()


def test_a_verdict_is_its_sentence_and_what_it_changes(store):
    class Escaped(Sphere):
        name = "escaped"

        def __init__(self):
            super().__init__()
            self.metrics = (Metric(name="<loss>", direction="min"),)

        def measure(self, config, **how):
            return Measurement(values={"<loss>": super().measure(config, **how).values["loss"]})

    session = create(store, Escaped())
    verdict = session.run(trials=8)
    assert verdict.improved and verdict.changes == session.space.changes(session.best.config)
    assert repr(verdict) == f"<Verdict on trial {verdict.number}: {verdict.sentence}>"
    shown = verdict._repr_html_()
    assert "&lt;loss&gt;" in shown and "<loss>" not in shown
    assert shown.count("<td>x") == len(verdict.changes)
    assert "changes" not in store.session("a")["verdict"], "stored verdicts stay as they were"


def test_winners_that_all_fail_when_measured_again_are_an_error_of_their_own(store):
    class Tires(Sphere):
        def measure(self, config, **how):
            if how["seed"] >= 999_000_000 and config != self.space.default:
                return Measurement(status="failed", reason="worn out")
            return super().measure(config, **how)

    with pytest.raises(VerificationError, match="three best configurations all failed"):
        create(store, Tires(optimum=0.2)).run(trials=8)
    assert sum(t.reason.endswith("measured again: worn out") for t in store.trials("a")) == 3
