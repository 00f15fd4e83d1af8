import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tunewright.errors import ConfigError
from tunewright.plugins import located, located_options

KEYS = {
    "name",
    "target",
    "workload",
    "tuner",
    "trials",
    "failed",
    "rejected",
    "best",
    "ratio",
    "ratio_low",
    "ratio_high",
    "improved",
    "preflight",
    "seconds",
    "taken_back",
}


@pytest.fixture
def table(tmp_path):
    rows = [f"{a},{b},{100 + 10 * abs(a - 3) + b}" for a in range(6) for b in range(6)]
    (tmp_path / "t.csv").write_text("a,b,time-\n" + "\n".join(rows) + "\n")
    return f"table:{tmp_path / 't.csv'}"


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 's.db'}"


@pytest.mark.slow
def test_the_commands_of_the_design(cli, tmp_path):
    store = "sqlite:///s.db"
    words = "tune sqlite --workload write-heavy --tuner tpe --trials 4 --seed 1 --name a --json -O rows=500 --trust fast".split()
    found = json.loads(cli(*words, "--store", store, cwd=tmp_path).stdout)
    assert set(found) == KEYS
    assert set(found["best"]) == {"config", "metrics"}
    assert found["trials"] == 4
    again = json.loads(cli("resume", "a", "--trials", "2", "--store", store, "--json", cwd=tmp_path).stdout)
    assert again["trials"] == 6
    cli("report", "a", "--store", store, "-o", "a.html", cwd=tmp_path)
    assert "<h1>a</h1>" in (tmp_path / "a.html").read_text()
    listed = json.loads(cli("list", "--store", store, "--json", cwd=tmp_path).stdout)
    assert [row["name"] for row in listed] == ["a"]
    shown = json.loads(cli("show", "a", "--store", store, "--json", cwd=tmp_path).stdout)
    assert len(shown["trials"]) == 6
    cli("export", "a", "--store", store, "-o", "a.json", cwd=tmp_path)
    assert json.loads((tmp_path / "a.json").read_text())["name"] == "a"


@pytest.mark.data
def test_the_table_of_the_design(cli, data, url):
    words = f"tune table:data/tables/moot_LLVM.csv.gz --tuner tpe --trials 30 --seed 3 --json --store {url}".split()
    found = json.loads(cli(*words, cwd=data.parent).stdout)
    assert found["trials"] == 30
    assert found["ratio"] > 1


def test_targets_and_tuners(cli):
    names = {row["name"] for row in json.loads(cli("targets", "--json").stdout)}
    assert names >= {"sqlite", "rocksdb", "postgres", "ann", "command", "table"}
    tuners = {row["name"] for row in json.loads(cli("tuners", "--json").stdout)}
    assert tuners >= {"default", "random", "grid", "tpe", "gp", "cmaes", "nsga2", "policy"}
    assert "sqlite" in cli("targets").stdout


def test_show_a_target(cli):
    found = json.loads(cli("show", "sqlite", "--json").stdout)
    assert {p["name"] for p in found["parameters"]} == {
        "journal_mode", "synchronous", "page_size", "cache_size", "mmap_size", "temp_store", "wal_autocheckpoint", "locking_mode",
        "auto_vacuum", "threads",
    }  # fmt: skip
    assert "journal_mode" in cli("show", "sqlite").stdout


def test_json_is_alone_on_standard_output(cli, table, url):
    done = cli("tune", table, "-t", "random", "-n", "5", "--store", url, "--json")
    json.loads(done.stdout)
    assert "tuning table" in done.stderr


def test_what_a_person_sees(cli, table, url):
    done = cli("tune", table, "-t", "tpe", "-n", "12", "--store", url, "--name", "mine")
    assert "verdict" in done.stdout
    assert "Improved" in done.stdout
    assert "tunewright report mine" in done.stdout
    assert done.stderr.count("×") == 12
    assert "the yardstick" in done.stderr


def test_names_are_made_from_the_target(cli, table, url):
    for _ in range(2):
        cli("tune", table, "-t", "random", "-n", "2", "--store", url)
    assert [row["name"] for row in json.loads(cli("list", "--store", url, "--json").stdout)] == ["t-1", "t-2"]


@pytest.mark.slow
def test_export_repeats_the_session(cli, table, url):
    cli("tune", table, "-t", "tpe", "-n", "8", "--seed", "5", "--store", url, "--name", "a", "-T", "startup=2")
    first = json.loads(cli("export", "a", "--store", url).stdout)
    import shlex

    words = shlex.split(first["repeat"])[1:]
    cli(*words, "--store", url, "--name", "b")
    second = json.loads(cli("export", "b", "--store", url).stdout)
    assert [t["config"] for t in first["trials"]] == [t["config"] for t in second["trials"]]


def test_relative_files_are_found_again_from_elsewhere(cli, table, url, tmp_path):
    cli("tune", "table:t.csv", "-t", "tpe", "-n", "3", "--store", url, "--name", "a", cwd=tmp_path)
    cli("resume", "a", "-n", "2", "--store", url, cwd="/")


def test_relative_files_are_not_taken_from_here(monkeypatch, tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    for folder in (there, here):
        (folder / "rules").mkdir(parents=True)
        for name in ("t.csv", "agent.zip", "a.md", "b.md", "jobs.csv", "llama"):
            (folder / name).touch()
    (here / "new.csv").touch()
    record = {"cwd": str(there)}
    monkeypatch.chdir(here)
    for spec in ("table:t.csv", "policy:agent.zip"):
        assert located("a", spec, record) == spec.replace(":", f":{there}/")
    assert located("a", "sqlite", record) == "sqlite"
    with pytest.raises(ConfigError, match=r"gone, and new.csv in this directory .* --target table:PATH$"):
        located("a", "table:new.csv", record)
    stored = {"manual": "a.md, b.md", "rules": "rules", "model": "llama"}
    absolute = {"manual": f"{there}/a.md,{there}/b.md", "rules": f"{there}/rules", "model": "llama"}
    assert located_options("a", stored, record, tuner=True) == absolute
    assert located_options("a", {"trace": "jobs.csv", "nodes": "4x8"}, record) == {
        "trace": f"{there}/jobs.csv", "nodes": "4x8"
    }  # fmt: skip
    (there / "jobs.csv").unlink()
    with pytest.raises(ConfigError, match=r"--option trace=PATH"):
        located_options("a", {"trace": "jobs.csv"}, record)
    assert located_options("a", {"trace": "jobs.csv"}, record, {"trace"}) == {"trace": "jobs.csv"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tune", "sqlit"], "no target named 'sqlit'. Did you mean 'sqlite'? Installed: "),
        (["tune", "sqlite", "-w", "write"], "Did you mean 'write-heavy'"),
        (["tune", "sqlite", "-t", "tpee"], "Did you mean 'tpe'"),
        (["tune", "sqlite", "--objective", "thruput"], "Did you mean 'throughput'"),
        (["tune", "sqlite", "--trust", "much"], "no trust level named 'much'"),
        (["tune", "sqlite", "-O", "rows"], "write KEY=VALUE"),
        (["tune", "sqlite", "-O", "rws=3"], "Did you mean 'rows'"),
        (["tune", "sqlite", "-T", "startup=-1"], "at least 1"),
        (["tune", "sqlite", "--never", "cache_size >"], "cannot read the expression"),
        (["tune", "sqlite", "--never", "cach_size > 3"], "Did you mean 'cache_size'"),
        (["tune", "sqlite", "--never", "cache_size > 3"], "default configuration is not legal"),
        (["tune", "sqlite", "--allow", "durablity"], "Did you mean 'durability'"),
        (["tune", "sqlite", "--require", "throughput=3"], "METRIC>=NUMBER"),
        (["tune", "sqlite", "--workers", "2"], "cannot be measured in parallel"),
        (["tune", "table:none.csv"], "there is no table none.csv"),
        (["tune", "none.toml"], "there is no file none.toml"),
        (["resume", "nothing"], "no session named 'nothing'"),
        (["show", "nothing"], "no session named 'nothing'"),
        (["apply", "nothing"], "no session named 'nothing'"),
    ],
)
def test_wrong_input_is_one_clear_line(cli, url, words, said):
    store = [] if words[0] == "show" and words[1] == "sqlite" else ["--store", url]
    done = cli(*words, *store, code=1)
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["show", "export", "report", "resume", "apply", "rollback"])
def test_a_name_that_is_no_text_damages_no_store(cli, url, command):
    said = cli(command, os.fsdecode(b"\xff\xfe"), "--store", url, code=1).stderr
    assert "no session has the name '\\udcff\\udcfe'" in said and "Restore a backup" not in said


def test_usage_errors_have_exit_code_two(cli):
    assert "--trials" in cli("tune", "sqlite", "--trials", "0", code=2).stderr
    cli("tune", code=2)


def test_an_existing_file_that_is_no_target(cli, tmp_path, url):
    (tmp_path / "t.csv").write_text("a,b-\n1,2\n")
    assert "write table:" in cli("tune", tmp_path / "t.csv", "--store", url, code=1).stderr


def test_init_does_not_overwrite(cli, tmp_path):
    cli("init", tmp_path / "my.toml")
    assert "exists already" in cli("init", tmp_path / "my.toml", code=1).stderr
    cli("init", tmp_path / "my.toml", "--force")
    assert "must end in .toml" in cli("init", tmp_path / "my.txt", code=1).stderr


def test_apply_needs_a_shown_gain(cli, tmp_path, url):
    (tmp_path / "flat.csv").write_text("a,y-\n1,5\n2,6\n3,7\n")
    cli("tune", f"table:{tmp_path}/flat.csv", "-t", "grid", "-n", "3", "--store", url, "--name", "a")
    assert "nothing to apply" in cli("apply", "a", "--store", url, code=1).stderr


def test_help_teaches(cli):
    text = cli("--help").stdout
    for command in (
        "tune",
        "resume",
        "list",
        "show",
        "export",
        "report",
        "apply",
        "rollback",
        "targets",
        "tuners",
        "init",
        "check",
    ):
        assert command in text
    assert "tunewright tune sqlite" in text
    assert "durability" in cli("tune", "--help").stdout
    assert cli("--version").stdout.startswith("tunewright 0.")


def start(tmp_path, url, seconds=120):
    script = "import time, sys; time.sleep(0.2); print('speed:', sys.argv[1])"
    (tmp_path / "m.toml").write_text(
        f"[target]\nname='m'\ncommand = ['{sys.executable}', '-c', \"{script}\", '{{n}}']\n[[parameter]]\nname='n'\ntype='int'\nlow=1\nhigh=900\n"
        "default=1\n[[metric]]\nname='speed'\ndirection='max'\nregex='speed: ([0-9]+)'\n"
    )
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("tunewright")), "tune", str(tmp_path / "m.toml"), "-t", "random", "-n", "50", "--trust", "fast", "--store", url, "--name", "a"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background inherits it ignored
    )  # fmt: skip
    from tunewright.store.store import Store

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (tmp_path / "s.db").exists():
            try:
                if len(Store(url).trials("a")) >= 3:
                    return process
            except Exception:
                pass
        time.sleep(0.1)
    raise AssertionError(f"it never got going: {process.communicate()}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_a_signal_stops_cleanly_and_the_session_resumes(cli, tmp_path, url, number):
    process = start(tmp_path, url)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "tunewright resume a" in err
    assert "Traceback" not in err
    shown = json.loads(cli("show", "a", "--store", url, "--json").stdout)
    assert shown["status"] == "interrupted"
    assert all(t["status"] in ("ok", "interrupted") for t in shown["trials"])
    again = json.loads(cli("resume", "a", "-n", "1", "--store", url, "--json").stdout)
    assert again["trials"] == sum(t["status"] == "ok" for t in shown["trials"]) + 1


def test_a_second_signal_at_the_very_end_is_no_traceback(monkeypatch):
    """It may come while the handlers of before are put back, when no command is there any more to handle it."""
    from tunewright.cli import app

    def ended(argv):
        real = signal.signal

        def set_handler(number, handler):
            monkeypatch.setattr(signal, "signal", real)
            raise KeyboardInterrupt

        monkeypatch.setattr(signal, "signal", set_handler)
        return 130

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(app, "_exit_code", ended)
    assert app.main(["list"]) == 130
    assert signal.getsignal(signal.SIGTERM) is before


def test_two_runs_of_one_session_at_once(cli, tmp_path, url):
    process = start(tmp_path, url)
    try:
        assert "is being run by process" in cli("resume", "a", "--store", url, code=1).stderr
    finally:
        process.terminate()
        process.communicate(timeout=120)


def test_a_closed_pipe_is_no_traceback(tmp_path, url, cli, table):
    cli("tune", table, "-t", "random", "-n", "20", "--store", url, "--name", "a")
    done = subprocess.run(
        f"{Path(sys.executable).with_name('tunewright')} export a --store {url} | head -1",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr


def test_help_names_what_there_is(cli):
    from tunewright.agents import tuning
    from tunewright.agents.placement import training
    from tunewright.envs.parallelism import clusters, emit
    from tunewright.envs.scheduling import names
    from tunewright.envs.scheduling.cluster import serverless
    from tunewright.envs.scheduling.cluster import simulate as cluster
    from tunewright.envs.scheduling.serving import policies as serving
    from tunewright.envs.scheduling.spark import simulate as spark
    from tunewright.knowledge import cli as traces
    from tunewright.knowledge.synthetic import KINDS

    assert names.SERVING == tuple(serving.POLICIES) and names.SPARK == tuple(spark.POLICIES)
    assert names.CLUSTER == tuple(cluster.POLICIES) and names.SERVERLESS == serverless.POLICIES
    assert f"synthetic:KIND ({', '.join(KINDS)})" in traces.TRACES
    shown = {
        words: " ".join(cli(*words.split(), "--help").stdout.replace("│", " ").split())
        for words in ("plan train", "plan serve", "simulate spark", "train placement", "train tuner")
    }
    assert f"({', '.join(clusters.presets())})" in shown["plan train"].replace("- ", "-")
    for name in emit.TRAIN:
        assert name in shown["plan train"]
    for name in emit.SERVE:
        assert name in shown["plan serve"]
    assert "critical-path or uwfq." in shown["simulate spark"]
    assert "dqn, ppo or a2c" in shown["train placement"] and training.ALGORITHMS == ("dqn", "ppo", "a2c")
    assert "ppo, sac or td3" in shown["train tuner"] and tuning.ALGORITHMS == ("ppo", "sac", "td3")


def test_each_target_and_tuner_says_what_it_is(cli):
    for kind in ("targets", "tuners"):
        rows = json.loads(cli(kind, "--json").stdout)
        texts = [row["description"] for row in rows]
        assert len(set(texts)) == len(texts) > 10
        for text in texts:
            assert text.endswith(".") and not text.startswith("The target"), text
        told = {row["name"]: row["description"] for row in rows}
    lists = {row["name"]: row["description"] for row in json.loads(cli("targets", "--json").stdout)}
    assert "engines, parallel degrees, batch limits" in lists["serveplan"] != lists["trainplan"]
    assert "Random search" in told["random"]
    for name in ("serveplan", "lustre", "sqlite"):
        assert json.loads(cli("show", name, "--json").stdout)["description"] == lists[name]
        assert lists[name][:40] in cli("show", name).stdout


@pytest.mark.parametrize(
    "words, said",
    [
        ("tune", "error: missing argument 'target'; see 'tunewright tune --help'"),
        ("tune sqlite --trials abc", "error: invalid value for '--trials'"),
        ("list x", "see 'tunewright list --help'"),
        ("compare bogus", "error: no such command 'bogus'; see 'tunewright compare --help'"),
        ("tun", "error: no such command 'tun'. Did you mean 'tune', 'tuners'? See 'tunewright --help'"),
        ("--bogus", "error: no such option: --bogus; see 'tunewright --help'"),
    ],
)
def test_a_command_line_that_cannot_be_read_is_one_line(words, said, capsys):
    from tunewright.cli import app

    assert app.main(words.split()) == 2
    printed = capsys.readouterr()
    assert said in printed.err and printed.err.count("\n") == 1 and printed.out == ""


def test_a_directory_that_is_gone_is_said(tmp_path, monkeypatch, capsys):
    from tunewright.cli import app

    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert app.main(["tune", "sqlite", "-n", "2", "--store", f"sqlite:///{tmp_path / 's.db'}"]) == 1
    monkeypatch.chdir(tmp_path)
    said = capsys.readouterr().err
    assert said.strip().endswith("error: the current directory is gone; change to one that is there")
