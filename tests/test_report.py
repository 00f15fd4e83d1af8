import itertools
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from targets import Guarded

from tunewright.errors import ConfigError
from tunewright.report.importance import importance
from tunewright.report.report import render_report, write_report
from tunewright.report.svg import ticks
from tunewright.report.timeline import Bar, figure, rows_of
from tunewright.sessions.session import Session
from tunewright.store.export import export
from tunewright.store.plan import Plan
from tunewright.target import Measurement
from tunewright.testing import Sphere

EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>'


def page(store, target=None, name="a", trials=12, **plan):
    session = Session.create(
        Plan(target="test", tuner="tpe", **plan), name, store, target=target or Sphere(fail_above=0.95)
    )
    session.run(trials=trials)
    return render_report(export(store, name))


def test_it_has_every_part(store):
    text = page(store)
    for part in (
        "History",
        "What a model of the trials goes by",
        "What each change gives",
        "Parallel coordinates",
        "Noise",
        "All trials",
        "Repeat it",
        "What changes",
        "Improved:",
    ):
        assert part in text
    assert text.count("<svg") == 4


def test_figures_are_well_formed_and_hold_every_trial(store):
    text = page(store, target=Sphere(noise=0.05))
    figures = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.S)]
    assert len(figures[1].findall("circle")) == 12
    assert sum(len(f.findall("polyline")) == 12 for f in figures) == 1


def test_everything_is_escaped(store):
    class Evil(Guarded):
        def measure(self, config, **how):
            if config["n"] == 2:
                return Measurement(status="failed", reason=EVIL)
            return super().measure(config, **how)

        def render(self, config):
            return EVIL

        workloads = {EVIL: "evil"}

    text = page(store, target=Evil(), trials=5)
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;" in text


def test_it_is_self_contained_and_runs_nothing(store):
    text = page(store)
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text
    assert "<script" not in text
    assert "default-src 'none'" in text


def test_sessions_without_verdict_or_gain_have_a_report(store):
    session = Session.create(Plan(target="t", tuner="random"), "a", store, target=Sphere())
    session.run(trials=2, verify=False)
    assert "has no verdict yet" in render_report(export(store, "a"))
    assert "No improvement was shown" in page(store, Sphere(optimum=0.9), "b", 3)


def test_pareto_and_weaker_sections(store):
    assert "what weaker guarantees would give" in page(store, Guarded(), trials=5)
    assert "Pareto set" in page(store, Guarded(), "b", 5, objectives=("speed", "safety"), allow=("safety",))


def test_importance_finds_the_parameter_that_matters(store):
    class One(Sphere):
        def measure(self, config, **how):
            return Measurement(values={"loss": 1 + config["x1"] ** 2})

    page(store, One(), trials=40)
    shares, explained = importance(export(store, "a"))
    assert shares[0][0] == "x1" and shares[0][1] > 0.8 and explained > 0.8


@pytest.mark.parametrize("sessions", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_a_model_that_predicts_nothing_is_not_shown(sessions, store):
    """Some twenty trials of pure noise have their most important parameter, too."""

    rng = np.random.default_rng(1)

    class Noise(Sphere):
        def measure(self, config, **how):
            return Measurement(values={"loss": float(rng.lognormal(0, 0.3))})

    told = []
    for seed in range(sessions):
        page(store, Noise(noise=0.3), f"n{seed}", 20, seed=seed)
        told += importance(export(store, f"n{seed}"))[0]
    assert told == []
    assert "Not shown: a model explains" in render_report(export(store, "n0"))


def test_a_directory_that_does_not_exist(store, tmp_path):
    page(store, trials=2)
    with pytest.raises(ConfigError, match="cannot write"):
        write_report(export(store, "a"), tmp_path / "no" / "a.html")


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 1e9), (1e-9, 2e-9), (5, 5)])
def test_ticks_are_few_and_inside(low, high):
    found = ticks(low, high)
    assert 1 <= len(found) <= 12
    assert all(low - 1e-12 <= t <= high * (1 + 1e-12) + 1e-12 for t in found)


def test_bars_of_a_lane_share_rows_only_where_they_do_not_overlap():
    spans = [("node 10", 0, 2), ("node 9", 0, 3), ("node 9", 1, 2), ("node 9", 3, 4), ("node 9", 2.5, 5)]
    bars = [Bar(lane=lane, start_s=start, end_s=end, who="a", what="job") for lane, start, end in spans]
    rows = rows_of(bars)
    assert [lane for lane, _ in rows] == ["node 9", "node 9", "node 10"]
    assert sorted(bar.start_s for _, row in rows for bar in row) == sorted(start for _, start, _ in spans)
    assert all(a.end_s <= b.start_s for _, row in rows for a, b in itertools.pairwise(row))


@pytest.mark.parametrize("users", [1, 2, 8, 9])
def test_a_timeline_has_a_key_where_each_user_has_a_colour_of_its_own(users):
    bars = [Bar(lane="node", start_s=k, end_s=k + 1, who=f"u{k}", what="job") for k in range(users)]
    shown = ElementTree.fromstring(figure(bars, "who ran"))
    keys = [text for text in shown.findall("text") if (text.text or "").startswith("u")]
    assert len(shown.findall("rect")) == users + len(keys) and len(keys) == (users if 1 < users <= 8 else 0)
