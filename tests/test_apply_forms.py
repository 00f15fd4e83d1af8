"""What ``apply --as`` writes, and what ``apply`` says is not live yet."""

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tunewright.cli.sessions import reading
from tunewright.errors import ConfigError, UnknownNameError
from tunewright.plugins import open_target
from tunewright.sessions import forms
from tunewright.sessions.session import Session
from tunewright.store.plan import Plan
from tunewright.target import Measurement
from tunewright.testing import Sphere

SERVED = """
[target]
name = "app"
command = ["./serve", "--cache={cache}", "--fraction", "100% of $HOME", "a \\"quoted\\" word"]
[target.env]
APP_CACHE = "{cache} MB"
[[parameter]]
name = "cache"
type = "int"
low = 1
high = 900
default = 1
restart = "restart"
[[parameter]]
name = "mode"
type = "choice"
choices = ["plain", "fast"]
default = "plain"
[[metric]]
name = "v"
direction = "max"
regex = 'v: ([0-9.]+)'
[[file]]
path = "app.conf"
content = '''
# {% templated %} {{ not }}
cache = {cache}
mode = {mode}
'''
"""
BEST = {"cache": 64, "mode": "fast"}


@pytest.fixture
def app(tmp_path):
    (tmp_path / "serve").write_text("#!/bin/sh\necho v: 1\n")
    (tmp_path / "serve").chmod(0o755)
    (tmp_path / "app.conf").write_text("cache = 1\nmode = plain\n# mine\n")
    path = tmp_path / "app.toml"
    path.write_text(SERVED)
    return path


@pytest.fixture
def session(app):
    """A session of the app with a verdict, none of whose runs started the program."""
    target = open_target(str(app), {})
    target.isolated = False
    target.measure = lambda config, **_: Measurement(values={"v": float(config["cache"])})
    target.exact = True
    with reading(None) as store:
        its = Session.create(Plan(target=str(app), tuner="random", trust="fast"), "s", store, target=target)
        its.run(trials=4)
    return app


def test_each_form_of_a_program_can_be_used(app):
    target = open_target(str(app), {})
    texts = forms.forms(target, BEST, BEST)
    assert texts["conf.d"].splitlines()[1:] == ["cache = 64", "mode = fast"]
    assert texts["env"] == "APP_CACHE='64 MB'\n"
    [task] = yaml.safe_load(texts["ansible"])
    copy = task["ansible.builtin.copy"]
    assert copy["dest"] == str(app.parent / "app.conf") and copy["backup"] is True
    assert copy["content"].removeprefix("{% raw %}").removesuffix("{% endraw %}") == texts["conf.d"]
    unit = texts["systemd"].splitlines()
    assert unit[:3] == ["[Service]", 'Environment="APP_CACHE=64 MB"', "ExecStart="]
    assert unit[3] == 'ExecStart=./serve --cache=64 --fraction "100%% of $$HOME" "a \\"quoted\\" word"'


@pytest.mark.parametrize(
    ("recipe", "changed", "text"),
    [
        ("redis", {"hz": 50, "io-threads": 2}, "io-threads 2\nhz 50\n"),
        ("redis-live", {"hz": 50}, "hz 50\n"),
        ("nginx", {"worker_processes": 2, "open_file_cache": "on"},
         "worker_processes 2;\nopen_file_cache max=1000 inactive=60s;\n"),
        ("haproxy", {"nbthread": "two"}, "nbthread 2\n"),
    ],
)  # fmt: skip
def test_a_services_lines_are_in_the_systems_own_form(recipe, changed, text):
    target = open_target(f"recipe:{recipe}")
    assert forms.form(target, "conf.d", target.space.fill(changed), changed) == text


def test_where_no_file_is_described_conf_d_says_so():
    target = open_target("recipe:memcached")
    with pytest.raises(ConfigError, match="no form 'conf.d', since its parameters stand in no one configuration file"):
        forms.form(target, "conf.d", target.space.fill({"threads": 2}), {"threads": 2})


@pytest.mark.skipif(shutil.which("patch") is None, reason="needs patch")
def test_the_diff_is_a_patch_that_makes_the_file(app):
    text = forms.form(open_target(str(app), {}), "diff", BEST, BEST)
    assert "-cache = 1\n" in text and "+cache = 64\n" in text and "-# mine\n" in text
    subprocess.run(["patch", "-s", str(app.parent / "app.conf")], input=text, text=True, check=True)
    assert (app.parent / "app.conf").read_text() == open_target(str(app), {}).files(BEST)[app.parent / "app.conf"]


def test_a_diff_of_a_file_that_is_not_there_and_of_one_without_a_last_line_feed(tmp_path):
    old = tmp_path / "old"
    old.write_text("a\nb")
    text = forms.diff({old: "a\nc\n", tmp_path / "new": "x\n"})
    assert "-b\n\\ No newline at end of file\n+c\n" in text and f"--- /dev/null\n+++ {tmp_path / 'new'}" in text
    assert forms.diff({old: "a\nb"}) == "# no file would change\n"


SERVICE = SERVED.replace(
    'command = ["./serve", "--cache={cache}", "--fraction", "100% of $HOME", "a \\"quoted\\" word"]', ""
).replace(
    "[[file]]",
    """
[service]
start = ["./serve", "--cache={cache}", "--port={port}"]
load = ["./serve"]
keep = true
RELOAD
[[file]]""",
)


@pytest.mark.parametrize(
    ("reload", "changed", "listed"),
    [
        ("", {"mode": "fast"}, "mode (restart). Restart"),
        ('reload = "SIGHUP"', {"mode": "fast"}, "mode (reload). Reload"),
        ('reload = "SIGHUP"', BEST, "cache (restart), mode (reload). Restart"),
        ('reload = "SIGHUP"\nrestart_for = ["mode"]', {"mode": "fast"}, "mode (restart). Restart"),
    ],
)
def test_values_in_files_of_a_service_are_not_live_before_it_reads_them(reload, changed, listed, app):
    app.write_text(SERVICE.replace("RELOAD", reload))
    [told] = open_target(str(app), {}).still_to_do(BEST, changed)
    assert f"not live yet: {listed}" in told and "a service_apply command" in told
    app.write_text(f'{app.read_text()}\n[hooks]\nservice_apply = ["true"]\nservice_rollback = ["true"]\n')
    assert open_target(str(app), {}).still_to_do(BEST, changed) == ()


def test_the_drop_in_of_a_service_starts_the_server(app):
    app.write_text(SERVICE.replace("RELOAD", ""))
    texts = forms.forms(open_target(str(app), {}), BEST, BEST)
    assert texts["systemd"].splitlines()[-1] == "ExecStart=./serve --cache=64 --port=PORT"


def test_forms_that_a_target_has_not_are_named(app, tmp_path):
    target = open_target(str(app), {})
    with pytest.raises(ConfigError, match="no form 'sql'; there are: conf.d, systemd, ansible, diff, env"):
        forms.form(target, "sql", BEST, BEST)
    with pytest.raises(UnknownNameError, match="systemd"):
        forms.form(target, "sytemd", BEST, BEST)
    sphere = Sphere()
    plain = forms.forms(sphere, sphere.space.default, {"a.b": 0.25, "on": True})
    assert plain["conf.d"] == "a.b = 0.25\non = true\n" and plain["env"] == "A_B=0.25\nON=true\n"
    assert "systemd" not in plain and "sql" not in plain


def test_sqlite_has_pragmas():
    target = open_target("sqlite", {})
    config = {**target.space.default, "journal_mode": "WAL"}
    text = forms.form(target, "sql", target.space.fill(config), {"journal_mode": "WAL"}, ["from\na test"])
    assert text.startswith("-- from a test\nPRAGMA page_size") and "PRAGMA journal_mode = WAL;" in text
    assert "PRAGMAs" in target.still_to_do(config, {"cache_size": 9})[0]
    assert target.still_to_do(config, {"page_size": 512}) == ()


def test_sql_of_servers():
    said = forms.alter_system({"work_mem": "64MB", "My.x": "it's"}, restart=True)
    assert said.splitlines() == [
        "ALTER SYSTEM SET work_mem = '64MB';", "ALTER SYSTEM SET \"My.x\" = 'it''s';", "SELECT pg_reload_conf();",
        "-- some of these need a restart of the server",
    ]  # fmt: skip
    assert forms.set_global({"a": "12", "b": "ON"}).splitlines() == ["SET GLOBAL a = 12;", "SET GLOBAL b = 'ON';"]
    tasks = yaml.safe_load(forms.ansible_tasks("community.postgresql.postgresql_set", {"a": "1", "b": "x: {{y}}"}))
    assert [t["community.postgresql.postgresql_set"]["name"] for t in tasks] == ["a", "b"]
    assert tasks[1]["community.postgresql.postgresql_set"]["value"] == "{% raw %}x: {{y}}{% endraw %}"


@given(st.text(st.characters(blacklist_categories=("Cs",))))
def test_yaml_reads_back_every_text(text):
    assert yaml.safe_load(forms.ansible_tasks("m", {"n": text}))[0]["m"]["value"] == forms._unrendered(text)


@given(st.dictionaries(st.from_regex(r"[A-Z_]{1,5}", fullmatch=True), st.text(st.characters(
    blacklist_categories=("Cs", "Cc")), max_size=20), max_size=3))  # fmt: skip
def test_a_shell_reads_back_every_variable(variables):
    text = forms.environment_file(variables)
    assert shlex.split(text) == [f"{k}={_unescaped(v)}" for k, v in variables.items()]


def _unescaped(value):
    """In double quotes, shlex keeps the backslash before $ and `, which a shell does not."""
    return value if "'" not in value else value.replace("$", "\\$").replace("`", "\\`")


def test_writing_a_form_changes_nothing_in_service(cli, session, tmp_path):
    before = {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    ran = cli("apply", "s", "--as", "conf.d", "-o", tmp_path / "tuned.conf")
    assert "nothing in service was changed" in ran.stdout
    assert {p: p.read_bytes() for p in before} == before
    written = (tmp_path / "tuned.conf").read_text()
    assert written.startswith("# tunewright, session s, trial") and "cache = " in written
    assert "nothing to roll back" in cli("rollback", "s", code=1).stderr


def test_a_file_is_never_written_over(cli, session, tmp_path):
    (tmp_path / "tuned.conf").write_text("mine")
    ran = cli("apply", "s", "--as", "conf.d", "-o", tmp_path / "tuned.conf", code=1)
    assert "is not written over" in ran.stderr and (tmp_path / "tuned.conf").read_text() == "mine"


def test_what_does_not_go_together_is_said(cli, session):
    assert "--as" in cli("apply", "s", "-o", "x", code=1).stderr
    assert "leave out --to" in cli("apply", "s", "--as", "env", "--to", "x", code=1).stderr
    assert "Did you mean 'systemd'" in cli("apply", "s", "--as", "sytemd", code=1).stderr


def test_a_form_on_standard_output_and_as_json(cli, session):
    [task] = yaml.safe_load(cli("apply", "s", "--as", "ansible").stdout)
    assert "ansible.builtin.copy" in task
    said = json.loads(cli("apply", "s", "--as", "systemd", "--json").stdout)
    assert said["as"] == "systemd" and "[Service]" in said["text"] and said["file"] is None


def test_what_is_not_live_yet_is_said(cli, session, tmp_path):
    ran = cli("apply", "s")
    assert "Written, but not live yet: cache (restart). Restart what reads the files" in ran.stdout
    assert "watch s" in ran.stdout and "[hooks]" in ran.stdout
    live = (tmp_path / "app.conf").read_text()
    told = json.loads(cli("rollback", "s", "--dry-run", "--json").stdout)["puts_back"]
    assert told[0].endswith("since the configuration is applied:") and str(tmp_path / "app.conf") in told[0]
    assert told[1:] == [f"{tmp_path / 'app.conf'} is written back as it was."]
    assert (tmp_path / "app.conf").read_text() == live, "nothing was changed"
    cli("rollback", "s")
    assert "nothing to roll back" in cli("rollback", "s", "--dry-run", code=1).stderr
    assert (tmp_path / "app.conf").read_text() == "cache = 1\nmode = plain\n# mine\n"
    session.write_text(SERVED + '[hooks]\napply = ["true"]\n')
    assert json.loads(cli("apply", "s", "--json").stdout)["still_to_do"] == []
    cli("rollback", "s")


def test_values_that_cost_nothing_are_live(app):
    assert open_target(str(app), {}).still_to_do(BEST, {"mode": "fast"}) == ()


def test_the_paths_of_files_are_absolute(app, monkeypatch):
    monkeypatch.chdir(app.parent)
    assert all(Path(p).is_absolute() for p in open_target("app.toml", {}).files(BEST))
