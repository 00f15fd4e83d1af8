"""What list, show, their JSON and the report say of a session: one and the same."""

import json
import os
import re
import threading
from dataclasses import asdict, replace
from io import StringIO

import pytest
from forked import ended
from rich.console import Console

from tunewright.cli.display import show_session, show_sessions
from tunewright.report.report import render_report
from tunewright.sessions.session import Session
from tunewright.sessions.verdict import sentence
from tunewright.sessions.watcher import Watcher
from tunewright.store.export import export, overview
from tunewright.store.plan import Plan
from tunewright.store.store import Store
from tunewright.testing import Sphere


class Killed(Watcher):
    def began(self, session, trial):
        if trial.step == 2:
            os._exit(9)


def dies(url):
    """Run a session that ends with its process in the third trial."""
    run(Store(url), watcher=Killed())


def run(store, name="a", trials=4, **how):
    with Session.create(Plan(target="sphere", tuner="random"), name, store, target=Sphere(), **how) as session:
        return session.run(trials=trials)


def printed(show, *things, width=120, terminal=False):
    file = StringIO()
    show(Console(file=file, width=width, force_terminal=terminal, color_system=None), *things)
    return file.getvalue()


def test_a_session_whose_process_is_gone_is_interrupted(store):
    assert ended(dies, store.url) == 9
    assert not store.held("a")
    row, document = overview(store, "a"), export(store, "a")
    assert (row["status"], document["status"]) == ("interrupted", "interrupted")
    assert [t["status"] for t in document["trials"]] == ["ok", "ok", "interrupted"]
    shown = printed(show_session, document)
    assert "running" not in printed(show_sessions, [row]) + shown + render_report(document)
    assert shown.count("interrupted") == 2
    assert "interrupted" in render_report(document)
    # to look at it changes nothing: the next run must still know that it was cut off
    assert store.session("a")["status"] == "running"
    assert [t.status for t in store.trials("a")] == ["ok", "ok", "running"]
    Session.resume("a", store, target=Sphere()).run(trials=1)
    assert overview(store, "a")["status"] == "done"


def test_a_session_that_runs_is_running(store):
    statuses = []

    class Looks(Watcher):
        def began(self, session, trial):
            other = Store(store.url)
            statuses.append((overview(other, "a")["status"], export(other, "a")["trials"][-1]["status"]))
            other.close()

    run(store, watcher=Looks())
    assert set(statuses) == {("running", "running")}
    assert (overview(store, "a")["status"], store.held("a")) == ("done", False)


def test_asking_does_not_keep_a_session_from_starting(store):
    run(store)
    done = threading.Event()

    def ask():
        other = Store(store.url)
        while not done.is_set():
            other.held("a")
        other.close()

    asking = [threading.Thread(target=ask) for _ in range(2)]
    for thread in asking:
        thread.start()
    try:
        for _ in range(50):
            with store.lock("a"):
                pass
    finally:
        done.set()
        for thread in asking:
            thread.join()
    assert not store.held("another")


@pytest.fixture(params=[True, False])
def verified(request, store):
    """A session with a verified ratio of 1.68, which is shown or is not."""
    found = run(store)
    objective = Sphere().metrics[0]
    low = 1.31 if request.param else 0.82
    compared = replace(found.comparisons["loss"], value=1.68, low=low, high=2.4, pairs=5, improved=request.param)
    found = replace(
        found, comparisons={"loss": compared}, improved=request.param, sentence=sentence(compared, objective)
    )
    store.set_verdict("a", asdict(found))
    return store, found


def test_a_ratio_stands_beside_what_it_is_worth(verified):
    store, found = verified
    words = "shown" if found.improved else "not shown"
    row, document = overview(store, "a"), export(store, "a")
    assert (row["ratio"], row["verdict"], row["sentence"]) == (1.68, words, found.sentence)
    assert row["improved"] == document["verdict"]["improved"] == found.improved
    for terminal in (True, False):
        line = printed(show_sessions, [row], terminal=terminal).splitlines()[1]
        assert f" 1.68× {words} " in line
        shown = printed(show_session, document, terminal=terminal, width=200)
        assert found.sentence in shown
        assert f"verdict: {words}" in shown
        assert not re.search(r"1\.68×", shown)
    page = render_report(document)
    assert f'<span class="big">1.68× {words}</span>' in page
    assert "1.68×" not in page.replace(f"1.68× {words}", "")
    assert document["verdict"]["sentence"] == found.sentence


def test_where_nothing_beat_the_default_no_ratio_is_claimed(store):
    class Flat(Sphere):
        def measure(self, config, **how):
            measured = super().measure(self.space.default, **how)
            return replace(measured, values={"loss": measured.values["loss"] + (config != self.space.default)})

    with Session.create(Plan(target="flat", tuner="random"), "a", store, target=Flat()) as session:
        assert not session.run(trials=3).improved
    row = overview(store, "a")
    assert (row["verdict"], row["improved"]) == ("not shown", False)
    assert "×" not in printed(show_sessions, [row])
    assert '<span class="big">not shown</span>' in render_report(export(store, "a"))


def test_without_a_verdict_nothing_is_said_of_it(store):
    Session.create(Plan(target="sphere", tuner="random"), "a", store, target=Sphere())
    row = overview(store, "a")
    assert (row["ratio"], row["verdict"], row["sentence"], row["status"]) == (None, "", "", "new")
    assert "no verdict yet" in printed(show_session, export(store, "a"))


def test_names_are_printed_in_full(cli, tmp_path):
    (tmp_path / "t.csv").write_text("a,b,time-\n" + "".join(f"{n},{n % 3},{n % 7}\n" for n in range(20)))
    name = "a-session-with-a-name-" + "that-is-longer-than-a-line-" * 4
    store = f"sqlite:///{tmp_path}/s.db"
    spec = f"table:{tmp_path / 't.csv'}"
    cli("tune", spec, "-t", "random", "-n", "4", "--name", name, "--trust", "fast", "--store", store)
    piped = cli("list", "--store", store).stdout
    line = next(line for line in piped.splitlines() if name in line)
    assert spec in line and line.split()[-2] == "done"
    rows = json.loads(cli("list", "--store", store, "--json").stdout)
    sentence_of_it = rows[0]["sentence"]
    assert sentence_of_it and sentence_of_it in cli("show", name, "--store", store).stdout
    assert json.loads(cli("show", name, "--store", store, "--json").stdout)["status"] == rows[0]["status"]
    folded = printed(show_sessions, rows, width=100, terminal=True)
    column = "".join(line[:30].split("  ")[0].strip() for line in folded.splitlines()[1:])
    assert name in column, "a narrow terminal folds it"
    assert os.linesep in folded
