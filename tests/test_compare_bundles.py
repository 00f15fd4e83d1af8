"""Bundles of tournaments: what they hold, that edits are named, merging, the report and its figures."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tournaments import run, undrawn

import tunewright as tw
from tunewright.comparing import checking
from tunewright.errors import ConfigError, UnknownNameError
from tunewright.testing import Sphere

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tournament") / "b"
    return run(folder, targets=[Sphere(), "lustre:ior-16m"], trials=8, executor=None, workers=2)


@pytest.fixture
def copied(played, tmp_path):
    """A copy to be edited."""
    shutil.copytree(played.folder, tmp_path / "b")
    return tw.load(tmp_path / "b")


def test_a_bundle_holds_everything(played):
    assert {p.name for p in played.folder.iterdir()} == {
        "tournament.json", "games.parquet", "trials.parquet", "targets.parquet", "tables.json", "report.html"
    }  # fmt: skip
    assert len(played.games) == 2 * 2 * 3
    assert (played.games["status"] == "done").all()
    assert (played.games["trials"] == 8).all()
    again = tw.load(played.folder)
    for name, table in played.tables.items():
        pd.testing.assert_frame_equal(table, again.tables[name], check_dtype=False)
    config = json.loads((played.folder / "tournament.json").read_text())
    assert config["versions"]["tunewright"]
    assert config["facts"]["CPU_COUNT"] >= 1


def test_a_bundle_shows_itself(played):
    assert repr(played) == f"<Bundle in {str(played.folder)!r}: 12 games of 2 tuners on 2 targets>"
    assert played._repr_html_().startswith("<p>12 games of 2 tuners on 2 targets.")
    assert "<table" in played._repr_html_() and "random" in played._repr_html_()


def test_games_are_paired(played):
    """One seed gives every tuner the same noise: defaults agree exactly within it, and differ between seeds."""
    own = played.games[played.games["target"] == "lustre:ior-16m"]
    assert own.groupby("seed")["default"].nunique().max() == 1
    assert own["default"].nunique() == 3


@undrawn()
def test_the_same_tournament_gives_the_same_values(tmp_path, played):
    """Played by two workers, and in this process."""
    again = run(tmp_path / "b", targets=[Sphere(), "lustre:ior-16m"], trials=8)
    for column in ("value", "ratio", "config", "status"):
        assert again.trials[column].equals(played.trials[column]), column


def test_every_table_follows_from_the_trials(played):
    checked = checking.verify(played.folder)
    assert checked == {**checked, "agrees": True, "edited": [], "tables": [], "older": False, "games": 12, "trials": 96}


@pytest.mark.slow
def test_several_objectives_are_played_and_compared_by_hypervolume(tmp_path):
    spec = "serving@chat@objectives=goodput+ttft_p99"
    made = run(tmp_path / "b", targets=[spec], tuners=["random", "nsga2@population=2"], trials=5, seeds=2)
    assert made.targets.loc[0, "objectives"] == '[["goodput", "max"], ["ttft_p99", "min"]]'
    assert {len(json.loads(text)) for text in made.trials["scores"].dropna()} == {2}
    volumes = made.tables["hypervolume"]
    assert len(volumes) == 2
    assert volumes["value"].between(0, 1).all()
    assert (volumes["value"] > 0).all()
    assert checking.verify(made.folder)["agrees"]
    assert spec in json.loads((made.folder / "tournament.json").read_text())["command"]
    with pytest.raises(UnknownNameError, match="metric of serving@objectives=godput"):
        run(tmp_path / "c", targets=["serving@objectives=godput"])


def test_an_edited_trial_is_named(copied, tmp_path):
    frame = pd.read_parquet(copied.folder / "trials.parquet")
    at = frame.index[(frame["target"] == "sphere") & (frame["tuner"] == "tpe") & (frame["number"] == 4)][0]
    frame.loc[at, "value"] = 0.5
    frame.to_parquet(copied.folder / "trials.parquet", index=False)
    checked = checking.verify(copied.folder)
    assert not checked["agrees"]
    assert any("trial 4 of tpe on sphere, seed 0" in line for line in checked["edited"])
    assert any("best" in line for line in checked["edited"]), "its game is told too"
    with pytest.raises(ConfigError, match="trial 4 of tpe"):
        checking.merge([copied.folder, copied.folder], tmp_path / "c")


def test_an_edited_table_is_named(copied):
    path = copied.folder / "tables.json"
    tables = json.loads(path.read_text())
    tables["leaderboard"][0]["score"] = 0.999
    path.write_text(json.dumps(tables))
    checked = checking.verify(copied.folder)
    assert not checked["agrees"]
    assert checked["edited"] == []
    assert [line for line in checked["tables"] if line.startswith("leaderboard: row 1, score: 0.999")]


@pytest.mark.slow
def test_bundles_of_two_people_make_one_leaderboard(tmp_path):
    ours, theirs = run(tmp_path / "ours"), run(tmp_path / "theirs", seeds=[7, 8])
    both = checking.merge([ours.folder, theirs.folder, ours.folder], tmp_path / "both")
    assert len(both.games) == len(ours.games) + len(theirs.games), "what is there twice counts once"
    assert checking.verify(both.folder)["agrees"]
    assert both.leaderboard["seeds"].tolist() == [5, 5]
    other = run(tmp_path / "other", targets=[Sphere(dimensions=2)])
    with pytest.raises(ConfigError, match="'sphere' has other parameters"):
        checking.merge([ours.folder, other.folder], tmp_path / "no")


def test_tables_of_earlier_statistics_are_not_called_edited_and_written_anew(cli, copied, played):
    """A bundle of the first version: other tables, no statistics' number, no columns for several objectives."""
    raw = pd.read_parquet(copied.folder / "trials.parquet").drop(columns="scores")
    raw.to_parquet(copied.folder / "trials.parquet", index=False)
    facts = pd.read_parquet(copied.folder / "targets.parquet").drop(columns="objectives")
    facts.to_parquet(copied.folder / "targets.parquet", index=False)
    (copied.folder / "tables.json").write_text('{"leaderboard": [{"tuner": "tpe", "score": 0.5}]}')
    path = copied.folder / "tournament.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "statistics"}))
    checked = checking.verify(copied.folder)
    assert (checked["agrees"], checked["older"], checked["edited"]) == (True, True, [])
    assert "tunewright compare report" in cli("compare", "verify", copied.folder).stdout
    cli("compare", "report", copied.folder)
    checked = checking.verify(copied.folder)
    assert (checked["agrees"], checked["older"]) == (True, False)
    assert tw.load(copied.folder).leaderboard.equals(played.leaderboard)


def test_bundles_of_another_version_are_refused(copied):
    path = copied.folder / "tournament.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(ConfigError, match="format 99"):
        tw.load(copied.folder)


def test_the_report_is_one_page_without_scripts(played):
    page = (played.folder / "report.html").read_text()
    assert "<script" not in page
    assert "http-equiv" in page
    assert all(name in page for name in ("random", "tpe", "sphere", "lustre:ior-16m"))
    assert len(page) < 2_000_000


@pytest.mark.parametrize("name", ["regret", "time", "near", "profile", "scores", "critical_difference"])
def test_figures(played, name):
    drawn = tw.plot.svg(getattr(tw.plot, name)(played))
    assert drawn.startswith("<svg")
    assert "tpe" in drawn
    assert drawn == tw.plot.svg(getattr(tw.plot, name)(played)), "the same data give the same bytes"


def test_figures_of_one_target(played):
    assert "lustre" in tw.plot.svg(tw.plot.regret(played, "lustre:ior-16m"))
    with pytest.raises(UnknownNameError, match="no target of this tournament"):
        tw.plot.regret(played, "luster")


def test_runs_of_neighbours_within_the_critical_difference():
    from tunewright.comparing.plot import _cliques

    assert _cliques(np.array([1.0, 1.5, 2.6, 2.9, 4.0]), 1.2) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert _cliques(np.array([1.0, 3.0]), 1.0) == []


def test_the_published_bundle_still_gives_its_tables():
    """What docs/results/tournament.md shows, from its raw trials, by this version's statistics."""
    checked = checking.verify(HERE.parent / "docs" / "results" / "tournament")
    assert checked["agrees"], [*checked["edited"], *checked["tables"]][:10]
    assert not checked["older"]
