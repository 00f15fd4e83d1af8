"""Tournaments: the statistics against hand-made cases and known truths, the bundle, and what can go wrong."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import tunewright as tw
from tunewright.comparing import bundle, checking, games
from tunewright.errors import ConfigError, TunewrightError, UnknownNameError
from tunewright.testing import Sphere
from tunewright.tuner import BaseTuner, Suggestion

HERE = Path(__file__).parent


class Slow(Sphere):
    """Takes a moment, and writes down when it ran; not to be run side by side."""

    name = "slow"
    parallel_safe = False

    def __init__(self, log, seconds=0.01, **how):
        super().__init__(**how)
        self.log, self.seconds = log, seconds

    def measure(self, config, **how):
        begun = time.monotonic()
        time.sleep(self.seconds)
        with open(self.log, "a") as file:
            file.write(f"{begun} {time.monotonic()}\n")
        return super().measure(config, **how)


class Deadly(Sphere):
    """Takes its process down at some configurations."""

    name = "deadly"

    def __init__(self, mark, always=False):
        super().__init__()
        self.mark, self.always = Path(mark), always

    def measure(self, config, **how):
        if config["x0"] != 0.9 and (self.always or not self.mark.exists()):
            self.mark.touch()
            os._exit(9)
        return super().measure(config, **how)


class Illegal(BaseTuner):
    """Proposes what is out of range, what was tried, and now and then something new."""

    def ask(self, history):
        space = self.problem.space
        if history.attempt == 0:
            return Suggestion(config={**space.default, "x0": 7.0}, why="out of range")
        if history.attempt == 1:
            return Suggestion(config=space.default, why="the default again")
        return Suggestion(config=space.decode(self.problem.rng(history).random(len(space))), why="at last")


class Broken(BaseTuner):
    def ask(self, history):
        raise ZeroDivisionError("a fault of the tuner")


def run(folder, targets=None, tuners=("random", "tpe"), **how):
    how = {"trials": 6, "seeds": 3, "workers": 2, **how}
    return tw.compare(targets or [Sphere()], tuners, directory=folder, **how)


# -- playing ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    return run(tmp_path_factory.mktemp("tournament") / "b", targets=[Sphere(), "lustre:ior-16m"], trials=8)


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


def test_the_same_tournament_gives_the_same_values(tmp_path, played):
    again = run(tmp_path / "b", targets=[Sphere(), "lustre:ior-16m"], trials=8, workers=1)
    for column in ("value", "ratio", "config", "status"):
        assert again.trials[column].equals(played.trials[column]), column


def test_every_table_follows_from_the_trials(played):
    found = checking.verify(played.folder)
    assert found == {**found, "agrees": True, "edited": [], "tables": [], "older": False, "games": 12, "trials": 96}


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


def test_an_edited_trial_is_named(tmp_path):
    made = run(tmp_path / "b")
    frame = pd.read_parquet(made.folder / "trials.parquet")
    at = frame.index[(frame["tuner"] == "tpe") & (frame["number"] == 4)][0]
    frame.loc[at, "value"] = 0.5
    frame.to_parquet(made.folder / "trials.parquet", index=False)
    found = checking.verify(made.folder)
    assert not found["agrees"]
    assert any("trial 4 of tpe on sphere, seed 0" in line for line in found["edited"])
    assert any("best" in line for line in found["edited"]), "its game is told too"
    with pytest.raises(ConfigError, match="trial 4 of tpe"):
        checking.merge([made.folder, made.folder], tmp_path / "c")


def test_an_edited_table_is_named(tmp_path):
    made = run(tmp_path / "b")
    path = made.folder / "tables.json"
    tables = json.loads(path.read_text())
    tables["leaderboard"][0]["score"] = 0.999
    path.write_text(json.dumps(tables))
    found = checking.verify(made.folder)
    assert not found["agrees"]
    assert found["edited"] == []
    assert [line for line in found["tables"] if line.startswith("leaderboard: row 1, score: 0.999")]


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


def test_tables_of_earlier_statistics_are_not_called_edited_and_written_anew(cli, tmp_path):
    """A bundle of the first version: other tables, no statistics' number, no columns for several objectives."""
    made = run(tmp_path / "b", seeds=2, trials=3)
    raw = pd.read_parquet(made.folder / "trials.parquet").drop(columns="scores")
    raw.to_parquet(made.folder / "trials.parquet", index=False)
    facts = pd.read_parquet(made.folder / "targets.parquet").drop(columns="objectives")
    facts.to_parquet(made.folder / "targets.parquet", index=False)
    (made.folder / "tables.json").write_text('{"leaderboard": [{"tuner": "tpe", "score": 0.5}]}')
    path = made.folder / "tournament.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "statistics"}))
    found = checking.verify(made.folder)
    assert (found["agrees"], found["older"], found["edited"]) == (True, True, [])
    assert "tunewright compare report" in cli("compare", "verify", made.folder).stdout
    cli("compare", "report", made.folder)
    found = checking.verify(made.folder)
    assert (found["agrees"], found["older"]) == (True, False)
    assert tw.load(made.folder).leaderboard.equals(made.leaderboard)


def test_bundles_of_another_version_are_refused(tmp_path):
    made = run(tmp_path / "b")
    path = made.folder / "tournament.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(ConfigError, match="format 99"):
        tw.load(made.folder)


def test_illegal_and_repeated_proposals_cost_asks_not_games(tmp_path):
    made = run(tmp_path / "b", tuners=["random", ("illegal", Illegal)])
    row = made.leaderboard.set_index("tuner").loc["illegal"]
    assert row["illegal"] == 3 * 5, "one of each step after the default"
    assert row["refused"] == 2 * 3 * 5
    assert (made.games["trials"] == 6).all()


def test_a_fault_of_a_tuner_costs_its_game_only(tmp_path):
    made = run(tmp_path / "b", tuners=["random", ("broken", Broken)])
    row = made.leaderboard.set_index("tuner").loc["broken"]
    assert (row["failed_games"], row["score"]) == (3, 0)
    lost = made.games[made.games["tuner"] == "broken"]
    assert lost["reason"].str.contains("ZeroDivisionError: a fault of the tuner").all()
    assert "a fault of the tuner" in (made.folder / "report.html").read_text()


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_its_game_goes_on(tmp_path):
    made = run(tmp_path / "b", targets=[Deadly(tmp_path / "mark")])
    assert (made.games["status"] == "done").all()
    assert (made.games["trials"] == 6).all()
    assert made.games["failed"].sum() in (1, 2), "what took it down counts as failed; the other worker's may too"


@pytest.mark.slow
def test_a_game_that_always_kills_its_worker_is_given_up(tmp_path):
    made = run(tmp_path / "b", targets=[Sphere(), Deadly(tmp_path / "mark", always=True)], seeds=1)
    lost = made.games[made.games["target"] == "deadly"]
    assert (lost["status"] == "failed").all()
    assert lost["reason"].str.contains("died").all()
    assert (made.games.loc[made.games["target"] == "sphere", "status"] == "done").all()


def test_real_systems_never_run_side_by_side(tmp_path):
    log = tmp_path / "log"
    run(tmp_path / "b", targets=[Slow(str(log))], seeds=2, trials=4)
    spans = sorted(tuple(map(float, line.split())) for line in log.read_text().splitlines())
    assert len(spans) >= 2 * 2 * 4
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


class Losing(Executor):
    """Loses the worker of everything that it is given, the first time."""

    def __init__(self):
        self.given = set()

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        if args in self.given:
            future.set_result(fn(*args, **kwargs))
        else:
            self.given.add(args)
            future.set_exception(RuntimeError("the worker is gone"))
        return future


@pytest.mark.parametrize("safe", [True, False])
def test_a_game_whose_worker_is_lost_is_played_by_another(tmp_path, safe):
    target = Slow(str(tmp_path / "log"))
    target.parallel_safe = safe
    made = run(tmp_path / "b", targets=[target], seeds=1, trials=3, executor=Losing())
    assert (made.games["status"] == "done").all()
    assert (made.games["trials"] == 3).all()


def test_a_crash_between_writing_and_tidying_up_counts_no_game_twice(tmp_path):
    made = run(tmp_path / "b", seeds=1)
    bundle.Keeper(made.folder, bundle.played(made.folder))  # the rows as they lay there before
    again = run(tmp_path / "b", seeds=1, resume=True)
    assert len(again.games) == len(made.games)
    assert checking.verify(made.folder)["agrees"]


SCRIPT = """
import sys
sys.path.insert(0, {here!r})
import tunewright as tw
from test_compare import Slow
if __name__ == "__main__":
    slow = Slow({log!r}, 0.02)
    slow.parallel_safe = {safe}
    tw.compare([slow], ["random", "tpe"], directory={folder!r}, trials=10, seeds=4, workers=2, resume={resume})
"""


def started(folder, log, resume=False, safe=True):
    text = SCRIPT.format(here=str(HERE), log=str(log), folder=str(folder), resume=resume, safe=safe)
    path = folder.parent / "script.py"
    path.write_text(text)
    return subprocess.Popen([sys.executable, str(path)], start_new_session=True, stderr=subprocess.PIPE, text=True)


def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def lines(path):
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize(("sign", "safe"), [(signal.SIGKILL, True), (signal.SIGINT, True), (signal.SIGKILL, False)])
def test_an_interrupted_tournament_goes_on_where_it_was(tmp_path, sign, safe):
    folder, log = tmp_path / "b", tmp_path / "log"
    first = started(folder, log, safe=safe)
    wait_for(lambda: lines(log) > 35)
    if sign == signal.SIGKILL:
        os.killpg(first.pid, sign)
    else:
        os.kill(first.pid, sign)
    _, errors = first.communicate(timeout=120)
    if sign == signal.SIGINT:
        assert errors.count("KeyboardInterrupt") <= 1, errors[-2000:]
    before = lines(log)
    with pytest.raises(ConfigError, match="has not ended"):
        tw.load(folder)
    again = started(folder, log, resume=True, safe=safe)
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors[-3000:]
    made = tw.load(folder)
    assert (made.games["trials"] == 10).all(), made.games["reason"].tolist()
    assert not made.trials.duplicated(["target", "tuner", "seed", "number"]).any()
    assert not (made.trials["status"] == "running").any()
    games = 2 * 4
    assert lines(log) <= games * (10 + 2) + 4, "what was done is not done again"
    assert before > 0
    assert checking.verify(folder)["agrees"]


# -- what is wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"tuners": ["nobody"]}, "no tuner named 'nobody'"),
        ({"targets": ["nothing"]}, "no target named 'nothing'"),
        ({"tuners": ["tpe", "tpe"]}, "stands twice"),
        ({"tuners": ["tpe@fast"]}, "@NAME=VALUE"),
        ({"tuners": ["tpe@start=3"]}, "tpe@start=3 on sphere cannot work.*no tuner option named 'start'"),
        ({"targets": ["lustre:ior16m"]}, "Workloads of lustre, written lustre@WORKLOAD: ior-64k, ior-16m"),
        ({"targets": ["lustre@nowhere"]}, "no workload of lustre named 'nowhere'"),
        ({"trials": 1}, "at least 2 trials"),
        ({"seeds": 0}, "seeds must be"),
        ({"seeds": [1, 1]}, "different numbers"),
        ({"trust": "blind"}, "no trust level"),
        ({"tuners": []}, "name at least one tuner"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(tmp_path, how, said):
    with pytest.raises((ConfigError, UnknownNameError, TunewrightError), match=said):
        run(tmp_path / "b", **how)
    assert not (tmp_path / "b").exists(), "nothing is left"


def test_other_things_in_the_directory_are_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        run(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    run(tmp_path / "b")
    with pytest.raises(ConfigError, match="--resume"):
        run(tmp_path / "b")
    with pytest.raises(ConfigError, match="another tournament: trials differ"):
        run(tmp_path / "b", trials=7)


@pytest.mark.slow
def test_tournaments_share_a_store_and_nothing_else(tmp_path):
    url = f"sqlite:///{tmp_path}/all.db"
    first = run(tmp_path / "a", store=url, seeds=1)
    second = run(tmp_path / "b", store=url, seeds=1, trials=8)
    assert (first.games["trials"] == 6).all()
    assert (second.games["trials"] == 8).all()


@pytest.mark.slow
def test_pairs_that_do_not_work_can_be_left_out(tmp_path):
    made = run(tmp_path / "b", targets=[Sphere(dimensions=6)], tuners=["random", "grid@points=40"], skip=True)
    assert set(made.games["tuner"]) == {"random"}
    assert "nothing to compare" in made.verdict


# -- figures and commands ---------------------------------------------------------------------------


def test_the_report_is_one_page_without_scripts(played):
    page = (played.folder / "report.html").read_text()
    assert "<script" not in page
    assert "http-equiv" in page
    assert all(name in page for name in ("random", "tpe", "sphere", "lustre:ior-16m"))
    assert len(page) < 2_000_000


@pytest.mark.parametrize("name", ["regret", "time", "near", "profile", "scores", "critical_difference"])
def test_figures(played, name):
    made = getattr(tw.plot, name)(played)
    drawn = tw.plot.svg(made)
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


@pytest.mark.slow
def test_the_commands(cli, tmp_path):
    words = [
        "compare",
        "--targets",
        "lustre@ior-64k,serveplan",
        "--tuners",
        "random,tpe@startup=2",
        "--trials",
        5,
        "--seeds",
        "2",
    ]
    document = json.loads(cli(*words, "-o", tmp_path / "b", "--json").stdout)
    assert {r["tuner"] for r in document["leaderboard"]} == {"random", "tpe@startup=2"}
    assert {r["target"] for r in document["targets"]} == {"lustre@ior-64k", "serveplan"}
    assert document["games"] == 8
    assert "verdict" in cli("compare", "show", tmp_path / "b").stdout
    assert "agrees" in cli("compare", "verify", tmp_path / "b").stdout
    assert (
        json.loads(cli("compare", "report", tmp_path / "b", "-o", tmp_path / "r.html", "--json").stdout)["bytes"] > 1000
    )
    command = json.loads((tmp_path / "b" / "tournament.json").read_text())["command"]
    again = json.loads(cli(*command.split()[1:-1], tmp_path / "c", "--json").stdout)
    assert again["leaderboard"][0]["score"] == document["leaderboard"][0]["score"]
    merged = cli("compare", "merge", tmp_path / "b", tmp_path / "c", "-o", tmp_path / "d", "--json")
    assert json.loads(merged.stdout)["games"] == 8, "the same games"
    (tmp_path / "b" / "tables.json").write_text("{}")
    assert "does not hold this table" in cli("compare", "verify", tmp_path / "b", code=1).stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compare", "--targets", "lustre"], "-o DIR"),
        (["compare", "-o", "x"], "--targets"),
        (["compare", "--targets", "lustre", "--seeds", "many", "-o", "x"], "--seeds is how many"),
        (["compare", "verify", "nowhere"], "holds no tournament"),
        (["compare", "--resume", "-o", "nowhere"], "holds no tournament"),
        (["compare", "--targets", "lustre", "--executor", "slurm", "-o", "x"], "dask:ADDRESS"),
    ],
)
def test_wrong_commands(cli, tmp_path, words, said):
    assert said in cli(*words, code=1, cwd=tmp_path).stderr


def test_entries_are_read():
    found = games.entries(["lustre:ior-16m", "serving@chat@ttft=2", "trainplan:bloom"], "target")
    assert [(e.spec, e.workload, dict(e.options)) for e in found] == [
        ("lustre", "ior-16m", {}), ("serving", "chat", {"ttft": "2"}), ("trainplan:bloom", "", {})
    ]  # fmt: skip


def test_the_published_bundle_still_gives_its_tables():
    """What docs/results/tournament.md shows, from its raw trials, by this version's statistics."""
    found = checking.verify(HERE.parent / "docs" / "results" / "tournament")
    assert found["agrees"], [*found["edited"], *found["tables"]][:10]
    assert not found["older"]
