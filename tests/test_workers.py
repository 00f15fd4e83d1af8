"""What workers and tuners take of the machine, scripts that start workers, and tournaments that are stopped."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import tunewright as tw
from tunewright.comparing import bundle
from tunewright.errors import ConfigError
from tunewright.measuring import scripts
from tunewright.measuring.threads import ASKED, one_thread
from tunewright.sessions.session import Session
from tunewright.store.plan import Plan
from tunewright.testing import Sphere
from tunewright.tuner import BaseTuner, Suggestion

threadpoolctl = pytest.importorskip("threadpoolctl", reason="needs the extras: pip install 'tunewright[rl]'")


def threads():
    return {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture
def unasked(monkeypatch):
    for name in ASKED:
        monkeypatch.delenv(name, raising=False)
    with threadpoolctl.threadpool_limits(2):  # as on a machine with two cores, whatever this one has
        yield monkeypatch


def count():
    with Path(os.environ["COUNTED"]).open("a") as file:
        file.write(f"{max(threads())}\n")


class Counting(BaseTuner):
    """Notes how many threads it may use, where it is asked and where it is told."""

    def ask(self, history):
        count()
        return Suggestion(
            config=self.problem.space.decode(self.problem.rng(history).random(len(self.problem.space))), why=""
        )

    def tell(self, trial):
        if trial.step:
            count()


def test_one_thread_unless_asked(unasked):
    assert threads() == {2}
    with one_thread():
        assert threads() == {1}
        with one_thread():
            assert threads() == {1}
        assert threads() == {1}
    assert threads() == {2}
    unasked.setenv("OMP_NUM_THREADS", "2")
    with one_thread():
        assert threads() == {2}


def test_torch_has_one_thread_too(unasked):
    torch = pytest.importorskip("torch", reason="needs the extra: pip install 'tunewright[rl]'")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_tuners_have_one_thread_in_sessions(unasked, tmp_path, store):
    unasked.setenv("COUNTED", str(tmp_path / "here"))
    session = Session.create(Plan(target="sphere", trust="fast"), "threads", store, target=Sphere(), make=Counting)
    session.run(total=4, verify=False)
    assert set((tmp_path / "here").read_text().split()) == {"1"}
    assert threads() == {2}, "what the caller had"


def test_workers_of_a_tournament_have_one_thread(unasked, tmp_path):
    unasked.setenv("COUNTED", str(tmp_path / "there"))
    tw.compare([Sphere()], [("counting", Counting)], trials=3, seeds=1, workers=1, directory=tmp_path / "b")
    assert set((tmp_path / "there").read_text().split()) == {"1"}


# -- scripts ----------------------------------------------------------------------------------------

SCRIPT = """import tunewright as tw
from tunewright.testing import Sphere
{guard}
    bundle = tw.compare([Sphere()], ["random"], trials=3, seeds=1, workers=1, directory={folder!r})
    print(len(bundle.games), "game")
"""


def run_script(tmp_path, guard):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(guard=guard, folder=str(tmp_path / "b")))
    return subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=120, check=False)


def test_a_script_without_a_main_guard_gets_a_sentence(tmp_path):
    done = run_script(tmp_path, "if True:")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "script.py, line 4: tunewright.compare starts worker processes" in done.stderr
    assert 'if __name__ == "__main__":' in done.stderr
    assert not (tmp_path / "b").exists()


def test_a_script_with_a_main_guard_runs(tmp_path):
    done = run_script(tmp_path, 'if __name__ == "__main__":')
    assert (done.returncode, done.stdout.strip()) == (0, "1 game"), done.stderr


def test_the_sentence_can_be_caught_as_an_error():
    with pytest.raises(ConfigError, match="worker"):
        raise scripts.UnguardedScriptError("worker")


# -- stopped tournaments ----------------------------------------------------------------------------


def begun(folder, **entry):
    """A tournament of 1 target, 2 tuners and 3 seeds, of which one game is done."""
    folder.mkdir()
    named = {"label": "sphere", "spec": "sphere", "workload": "", "options": {}, "object": False}
    tuners = [{**named, "label": name, "spec": name} for name in ("random", "tpe")]
    config = {"format": bundle.FORMAT, "targets": [{**named, **entry}], "tuners": tuners, "seeds": [0, 1, 2]}
    (folder / bundle.CONFIG).write_text(json.dumps(config))
    (folder / bundle.ROWS).write_text(json.dumps({"game": {"name": "sphere | tpe | 0"}, "trials": []}) + "\n")


def test_a_stopped_tournament_says_what_can_be_resumed(tmp_path):
    assert "nothing to go on with" in bundle.remains(tmp_path / "never")
    begun(tmp_path / "a")
    said = bundle.remains(tmp_path / "a")
    assert "1 of 6 games are done" in said
    assert said.endswith(f"tunewright compare --resume -o {tmp_path / 'a'}")
    begun(tmp_path / "b", object=True)
    assert "Go on from the same program, with resume=True" in bundle.remains(tmp_path / "b")
    begun(tmp_path / "c", options={"password": bundle.MASK})
    said = bundle.remains(tmp_path / "c")
    assert "go on with the same command and --resume" in said
    assert "--resume -o" not in said


@pytest.mark.slow
def test_a_tournament_that_is_stopped_prints_what_goes_on(tmp_path):
    words = ["compare", "--targets", "lustre", "--tuners", "random,tpe", "--trials", "300", "--seeds", "6", "--skip",
             "--workers", "1", "-o", str(tmp_path / "b")]  # fmt: skip
    program = subprocess.Popen(
        [sys.executable, "-m", "tunewright", *words], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    rows = tmp_path / "b" / bundle.ROWS
    for _ in range(1200):
        if rows.exists() and rows.read_text().count("\n") >= 1:
            break
        try:
            program.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        break
    os.kill(program.pid, signal.SIGINT)
    _, errors = program.communicate(timeout=120)
    assert program.returncode == 130, errors
    assert " of 12 games are done and kept" in errors
    assert f"tunewright compare --resume -o {tmp_path / 'b'} --skip --workers 1" in " ".join(errors.split())


# -- targets with very many values ------------------------------------------------------------------


def test_very_many_values_are_cut_to_what_helps(cli, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("name,other,time-\n" + "".join(f"row{k:05d},{k % 3},{1 + k % 7}\n" for k in range(2_000)))
    shown = cli("show", f"table:{path}").stdout
    assert len(shown) < 6000
    flat = " ".join(shown.split())
    assert "2,000 values" in flat
    assert "row00000" in flat and "row01999" in flat
    document = json.loads(cli("show", f"table:{path}", "--json").stdout)
    assert len(document["parameters"][0]["choices"]) == 2_000
