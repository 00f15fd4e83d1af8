"""Tournaments: how they are played, and what can go wrong; their statistics and bundles have files of their own."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future
from pathlib import Path

import pytest
from tournaments import Broken, Deadly, Illegal, Slow, run, undrawn

import tunewright as tw
from tunewright.comparing import bundle, checking, games
from tunewright.errors import ConfigError, TunewrightError, UnknownNameError
from tunewright.testing import Sphere

HERE = Path(__file__).parent


# -- playing ----------------------------------------------------------------------------------------


@undrawn()
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
    assert list(made.never_played()) == ["broken"] and "a fault" in made.never_played()["broken"]
    assert lost["reason"].str.contains("ZeroDivisionError: a fault of the tuner").all()
    assert "a fault of the tuner" in (made.folder / "report.html").read_text()


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_its_game_goes_on(tmp_path):
    made = run(tmp_path / "b", targets=[Deadly(tmp_path / "mark")], executor=None, workers=2)
    assert (made.games["status"] == "done").all()
    assert (made.games["trials"] == 6).all()
    assert made.games["failed"].sum() in (1, 2), "what took it down counts as failed; the other worker's may too"


@pytest.mark.slow
def test_a_game_that_always_kills_its_worker_is_given_up(tmp_path):
    targets = [Sphere(), Deadly(tmp_path / "mark", always=True)]
    made = run(tmp_path / "b", targets=targets, seeds=1, executor=None, workers=2)
    lost = made.games[made.games["target"] == "deadly"]
    assert (lost["status"] == "failed").all()
    assert lost["reason"].str.contains("died").all()
    assert (made.games.loc[made.games["target"] == "sphere", "status"] == "done").all()


@undrawn()
def test_real_systems_never_run_side_by_side(tmp_path):
    log = tmp_path / "log"
    run(tmp_path / "b", targets=[Slow(str(log))], seeds=2, trials=4, executor=None, workers=2)
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
@undrawn()
def test_a_game_whose_worker_is_lost_is_played_by_another(tmp_path, safe):
    target = Slow(str(tmp_path / "log"))
    target.parallel_safe = safe
    made = run(tmp_path / "b", targets=[target], seeds=1, trials=3, executor=Losing())
    assert (made.games["status"] == "done").all()
    assert (made.games["trials"] == 3).all()


@undrawn()
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
from tournaments import Slow
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


@undrawn()
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


# -- commands ---------------------------------------------------------------------------------------


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


def test_a_tuner_that_never_worked_is_an_error_at_the_end(cli, tmp_path, endpoint):
    tuners = f"random,llm@model=m@base_url={endpoint(401).url}"
    words = ("--targets", "lustre:ior-16m", "--tuners", tuners, "--trials", "2", "--seeds", "1", "-o", tmp_path / "b")
    done = cli("compare", *words, code=1, env={"OPENAI_API_KEY": "k"}.items())
    assert done.stderr.splitlines()[-1].startswith("error: llm@model=m") and "accept the key" in done.stderr
    assert "verdict" in done.stdout and (tmp_path / "b/report.html").is_file()
