import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tunewright.envs.command import CommandTarget, open_target
from tunewright.envs.command_places import fill
from tunewright.errors import ConfigError
from tunewright.measuring.isolation import measure_once
from tunewright.sessions.session import Session
from tunewright.store.plan import Plan
from tunewright.target import Budget
from tunewright.testing import check_target

BENCH = """
import json, sys, pathlib
n, mode = int(sys.argv[1]), sys.argv[2]
print("speed:", n * 10, "ops/s")
print(json.dumps({"results": [{"mem": n}], "mode": mode}))
"""
BASE = """
[target]
name = "mine"
command = ["{python}", "bench.py", "{n}", "{mode}"]
limit = 20

[[parameter]]
name = "n"
type = "int"
low = 1
high = 10
default = 2

[[parameter]]
name = "mode"
type = "choice"
choices = ["slow", "quick"]
default = "slow"

[[metric]]
name = "speed"
direction = "max"
regex = 'speed: ([0-9.]+)'

[[metric]]
name = "mem"
direction = "min"
json = "results.0.mem"
at_most = 8
"""


@pytest.fixture
def toml(tmp_path):
    (tmp_path / "bench.py").write_text(BENCH)

    def write(text=BASE, bench=None, **replace):
        if bench is not None:
            (tmp_path / "bench.py").write_text(bench)
        path = tmp_path / "my.toml"
        path.write_text(text.replace("{python}", sys.executable))
        return str(path)

    return write


def once(path, tmp_path, *, isolated=False, **config):
    target = open_target(path, {})
    target.isolated = isolated  # without a process for each run where a test is not about these
    return measure_once(
        target, target.space.fill(config), workload=next(iter(target.workloads)), seed=1,
        budget=Budget(workdir=tmp_path, seconds=target.limit_seconds or 20),
    )  # fmt: skip


def test_contract(toml):
    check_target(open_target(toml(), {}), others=2)


def test_metrics_by_regex_and_json(toml, tmp_path):
    for isolated in (True, False):
        assert once(toml(), tmp_path, isolated=isolated, n=3).values == {"speed": 30, "mem": 3}


RESULT = """
import pathlib, sys
file = pathlib.Path("res.txt")
if len(sys.argv) > 3:
    how = sys.argv[3]
    if how == "same":
        file.write_text(file.read_text())
    elif how == "other":
        file.write_text("speed: 7\\n")
    elif how == "renamed":
        pathlib.Path("new.txt").write_text("speed: 8\\n")
        pathlib.Path("new.txt").replace(file)
print('{"results": [{"mem": 1}]}')
"""


@pytest.mark.parametrize(("how", "speed"), [("same", 99), ("other", 7), ("renamed", 8), ("nothing", None)])
def test_a_result_file_of_an_earlier_run_is_no_measurement(how, speed, toml, tmp_path):
    (tmp_path / "res.txt").write_text("speed: 99\n")
    text = BASE.replace('"{mode}"]', f'"{{mode}}", "{how}"]').replace("regex =", 'source = "res.txt"\nregex =')
    if speed is not None:
        assert once(toml(text, bench=RESULT), tmp_path).values["speed"] == speed
        return
    reason = once(toml(text, bench=RESULT), tmp_path).reason
    assert "did not write" in reason and "res.txt" in reason and "\n" not in reason


def test_a_file_of_the_kernels_needs_no_writing(toml, tmp_path):
    text = BASE.replace("regex = 'speed: ([0-9.]+)'", "source = '/proc/meminfo'\nregex = 'MemTotal: +([0-9]+)'")
    assert once(toml(text), tmp_path).values["speed"] > 0


def test_a_decimal_comma_fails_the_run(toml, tmp_path):
    bench = "print('speed: 0,523'); print('{\"results\": [{\"mem\": 1}]}')"
    text = BASE.replace("([0-9.]+)", "([0-9.,]+)")
    assert "'0,523' is not a number" in once(toml(text, bench=bench), tmp_path).reason


def test_starter_file_works_as_it_is(tmp_path, cli):
    path = tmp_path / "my.toml"
    cli("init", path)
    found = json.loads(cli("check", path, "--json").stdout)
    assert found["noise"]["ratio"] == 0
    assert found["runs"][0]["values"]["throughput"] > 0


def test_starter_file_of_a_server_works_as_it_is(tmp_path, cli):
    path = tmp_path / "my.toml"
    cli("init", "--service", path)
    found = json.loads(cli("check", path, "--json").stdout)
    assert found["runs"][0]["values"]["throughput"] > 0
    for option in ("[service]", "[[guarantee]]", "[success]", "keep = true", "prometheus"):
        assert option in path.read_text()


def test_tune_finds_the_best_under_the_constraint(toml, store):
    path = toml(BASE.replace("high = 10", "high = 4").replace("at_most = 8", "at_most = 3"))
    session = Session.create(Plan(target=path, tuner="grid", tuner_options={"points": 4}, trust="fast"), "a", store)
    session.run(trials=8, verify=False)
    assert session.best.config["n"] == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('name = "mine"', "name = "), r"my.toml is not valid TOML: .*line 3"),
        (("limit = 20", "limt = 20"), "no key named 'limt'. Did you mean 'limit'"),
        (("low = 1", 'low = "RAM_MB +"'), "cannot read the expression"),
        (("low = 1", "low = 11"), "not a range"),
        (("default = 2", "default = 22"), "outside 1 to 10"),
        (("default = 2", 'default = "two"'), "default must be a whole number"),
        (('type = "int"', 'type = "integer"'), "type must be int, real or choice"),
        (('default = "slow"', 'default = "medium"'), "not one of"),
        (('"{n}"', '"{m}"'), "no placeholder named 'm'"),
        (("regex = 'speed: ([0-9.]+)'", "regex = 'speed: ([0-9.]+'"), "the regex .* is wrong"),
        (("regex = 'speed: ([0-9.]+)'", "regex = 'speed'"), "needs a group"),
        (("regex = 'speed: ([0-9.]+)'", ""), "exactly one of regex, json and wall_time"),
        (('direction = "max"', 'direction = "up"'), "direction must be min or max"),
        (('["{python}", "bench.py"', '["no-such-program-here"'), "no program 'no-such-program-here'"),
        (('command = ["{python}", "bench.py", "{n}", "{mode}"]', 'command = "bench {n}"'), "shell = true"),
        (("limit = 20", "limit = -1"), "above 0"),
        (("limit = 20", 'cwd = "nowhere"'), "not a directory"),
        (("limit = 20", 'constraints = ["n > 5"]'), "default configuration is not legal"),
        (("[[metric]]", "[[metrics]]"), "Did you mean 'metric'"),
    ],
)
def test_every_mistake_in_the_file_is_explained(toml, change, words):
    with pytest.raises(ConfigError, match=words) as caught:
        open_target(toml(BASE.replace(*change)), {})
    assert "my.toml" in str(caught.value)


def test_missing_file():
    with pytest.raises(ConfigError, match="tunewright init"):
        open_target("nowhere.toml", {})


@pytest.mark.parametrize(
    ("bench", "words"),
    [
        ("import sys; print('boom', file=sys.stderr); sys.exit(4)", "exited with code 4; it last said: boom"),
        ("print('speed: fast')", "nothing in stdout matches"),
        ("print('speed: 1')", "not JSON"),
        ("print('speed: 1'); print('{\"results\": []}')", "nothing at 'results.0.mem'"),
        ('print(\'speed: 1\'); print(\'{"results": [{"mem": "x"}]}\')', "not a number"),
        ("print('speed: 1'); print('{\"results\": [{\"mem\": NaN}]}')", "not a finite number"),
        ("import os; os.abort()", "SIGABRT"),
    ],
)
def test_every_way_to_fail_has_a_reason(toml, tmp_path, bench, words):
    found = once(toml(bench=bench), tmp_path)
    assert found.status == "failed"
    assert words in found.reason


def test_success_conditions(toml, tmp_path):
    extra = '\n[success]\nexit_codes = [0, 3]\ncontains = "speed"\nforbids = "WARN"\n'
    assert once(toml(BASE + extra, bench=BENCH + "\nsys.exit(3)"), tmp_path).ok
    assert "contains 'WARN'" in once(toml(BASE + extra, bench=BENCH + "\nprint('WARN')"), tmp_path).reason


def test_a_hanging_benchmark_is_killed(toml, tmp_path):
    path = toml(BASE.replace("limit = 20", "limit = 1"), bench="import time; time.sleep(60)")
    found = once(path, tmp_path, isolated=True)
    assert found.status == "timed out"


def test_no_shell_unless_asked(toml, tmp_path):
    text = BASE.replace('choices = ["slow", "quick"]', 'choices = ["slow", "; touch owned; $(touch owned)"]')
    found = once(toml(text), tmp_path, mode="; touch owned; $(touch owned)")
    assert found.ok
    assert not (tmp_path / "owned").exists()
    shell = BASE.replace('["{python}", "bench.py", "{n}", "{mode}"]', '"{python} bench.py {n} {mode} | cat"').replace(
        "limit = 20", "shell = true"
    )
    assert once(toml(shell), tmp_path, n=4).values["speed"] == 40


FILES = """
[[file]]
path = "server.conf"
content = '''
threads = {n}
cache = { "json": "braces stay" }
quick = {only_quick}
'''

[[parameter]]
name = "only_quick"
type = "int"
low = 1
high = 5
default = 3
when = "mode == 'quick'"

[hooks]
reset = ["sh", "-c", "echo reset >> hooks.log"]
apply = ["sh", "-c", "echo apply >> hooks.log"]
rollback = ["sh", "-c", "echo rollback >> hooks.log"]
"""
READS = """
import json
text = open("server.conf").read()
n = int(text.split("threads = ")[1].split()[0])
print("speed:", n * 10); print(json.dumps({"results": [{"mem": n}], "quick": "quick =" in text}))
"""


def test_files_are_written_and_put_back(toml, tmp_path, store):
    conf = tmp_path / "server.conf"
    conf.write_text("my own settings\n")
    conf.chmod(0o640)
    path = toml(BASE + FILES, bench=READS)
    session = Session.create(Plan(target=path, tuner="random", trust="fast"), "a", store)
    session.run(trials=3)
    assert conf.read_text() == "my own settings\n"
    assert conf.stat().st_mode & 0o777 == 0o640
    log = (tmp_path / "hooks.log").read_text().split()
    assert log[:2] == ["reset", "apply"]
    assert log[-1] == "rollback"


def test_a_file_that_did_not_exist_is_removed(toml, tmp_path, store):
    session = Session.create(Plan(target=toml(BASE + FILES, bench=READS), tuner="random", trust="fast"), "a", store)
    session.run(trials=2, verify=False)
    assert not (tmp_path / "server.conf").exists()


def test_inactive_parameters_take_their_lines_with_them(toml, tmp_path):
    target = open_target(toml(BASE + FILES, bench=READS), {})
    assert "quick" not in target.render(target.space.default).split("# server.conf")[1]
    assert "quick = 3" in target.render(target.space.fill({"mode": "quick"}))
    assert '{ "json": "braces stay" }' in target.render(target.space.default)


@pytest.mark.slow
def test_apply_and_rollback(toml, tmp_path, store, cli):
    conf = tmp_path / "server.conf"
    conf.write_text("my own settings\n")
    path = toml(BASE + FILES, bench=READS)
    with Session.create(Plan(target=path, tuner="grid", trust="fast"), "a", store) as session:
        session.run(trials=8)
    cli("apply", "a", "--store", store.url)
    assert "threads = 7" in conf.read_text()
    again = cli("apply", "a", "--store", store.url, code=1)
    assert "applied already" in again.stderr
    cli("rollback", "a", "--store", store.url)
    assert conf.read_text() == "my own settings\n"
    assert "nothing to roll back" in cli("rollback", "a", "--store", store.url, code=1).stderr


def test_a_failing_apply_command_fails_the_trial_and_names_it(toml, tmp_path):
    text = BASE + FILES.replace("echo apply >> hooks.log", "echo no such service >&2; exit 5")
    assert "the apply command exited with code 5; it last said: no such service" in once(toml(text), tmp_path).reason


def test_the_users_file_is_restored_after_kill_9(toml, tmp_path, store):
    conf = tmp_path / "server.conf"
    conf.write_text("my own settings\n")
    path = toml(BASE + FILES, bench=READS + "\nimport time; time.sleep(0.5)")
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("tunewright")), "tune", path, "--store", store.url, "--name", "a", "-n", "50"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    import time

    end = time.monotonic() + 120
    while conf.read_text() == "my own settings\n" and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(process.pid, 9)
    process.wait()
    time.sleep(0.5)
    assert conf.read_text() != "my own settings\n"
    from tunewright.sessions.service import rollback_session

    assert "put back" in rollback_session(store, "a", spec=None)["message"]
    assert conf.read_text() == "my own settings\n"


def test_fill():
    assert fill("{a}{b}", {"a": "1", "b": "2"}) == "12"
    assert fill("{unknown} {a}", {"a": "1"}) == "{unknown} 1"
    assert fill("--x={a}", {"a": None}) is None


def test_facts_hold_no_environment(toml):
    target = open_target(toml(BASE.replace("limit = 20", 'env = { TOKEN = "s3cret" }')), {})
    assert isinstance(target, CommandTarget)
    assert "s3cret" not in json.dumps(target.facts)
    assert Path(target.facts["file"]).name == "my.toml"


def test_the_program_gets_the_users_environment_and_no_input(toml, tmp_path):
    bench = "import os, sys, json\nassert 'PYTHONPATH' not in os.environ or os.environ['PYTHONPATH'] == OUTER\nassert sys.stdin.read() == ''\n"
    outer = f"OUTER = {os.environ.get('PYTHONPATH')!r}\n"
    found = once(toml(bench=outer + bench + BENCH), tmp_path)
    assert found.ok, found.reason


@pytest.mark.parametrize(
    "choices", ['["slow", 5, true, ["b"]]', '["slow", {b = 1}]', '["slow", nan]', '["slow", -inf]', '["slow", 1, 1.0]', '["slow", 1979-05-27]',
                '["slow", 9223372036854775808]', '["slow", "slow"]', "[]", f'["slow", {"9" * 4000}]', f'["slow", {[[1] * 99] * 99}]'],
)  # fmt: skip
def test_choices_are_texts_finite_numbers_or_booleans(toml, choices):
    with pytest.raises(ConfigError, match=r"my.toml, parameter mode: .*choice") as caught:
        open_target(toml(BASE.replace('["slow", "quick"]', choices)), {})
    assert len(str(caught.value)) < 600
    open_target(toml(BASE.replace('["slow", "quick"]', '["slow", 5, 1.5, true, 1, false, "true"]')), {})


@pytest.mark.parametrize("kind", ["int", "real"])
@pytest.mark.parametrize(
    "change",
    [("low = 1", "low = -1e308"), ("high = 10", "high = 1e308"), ("high = 10", "high = inf"), ("low = 1", "low = nan"), ("high = 10", f"high = {'9' * 400}"),
     ("high = 10", "high = '1e308 * 10'"), ("low = 1", "low = '0 - 1e308'"), ("default = 2", f"default = {'9' * 400}"),
     ("default = 2", "default = 2\nspecial = {inf = 'all'}"), ("default = 2", "default = 2\nspecial = {nan = 'all'}")],
)  # fmt: skip
def test_ranges_in_which_no_tuner_can_search_are_refused(toml, kind, change):
    text = BASE.replace('type = "int"', f'type = "{kind}"').replace(*change)
    with pytest.raises(ConfigError, match=r"my.toml.*\bn\b") as caught:
        open_target(toml(text), {})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_spaces_written_in_python_refuse_the_same():
    from tunewright.errors import SpaceError
    from tunewright.space import Choice, Int, Real

    for make in (
        lambda: Choice(name="c", choices=("a", ("b",)), default="a"),
        lambda: Choice(name="c", choices=("a", float("nan")), default="a"),
        lambda: Choice(name="c", choices=("a", None), default="a"),
        lambda: Real(name="c", low=-1e308, high=1e308, default=3),
        lambda: Int(name="c", low=0, high=2**70, default=3),
        lambda: Real(name="c", low="0", high="1", default=float("nan")),
        lambda: Real(name="c", low=0, high="1e100 * 1e100", default=3).bounds({}),
    ):
        with pytest.raises(SpaceError, match="^c: "):
            make()


def test_a_range_as_wide_as_may_be_can_be_searched(toml, store):
    from tunewright.space import Real, Space
    from tunewright.target import Measurement
    from tunewright.testing import Sphere

    class Wide(Sphere):
        def measure(self, config, **how):
            return Measurement(values={"loss": 1 + abs(config["x0"]) / 1e150})

    target = Wide(1)
    target.space = Space([Real(name="x0", low=-1e150, high=1e150, default=3)])
    session = Session.create(Plan(target="sphere", tuner="tpe", trust="fast"), "a", store, target=target)
    session.run(trials=20, verify=False)
    assert len(session.decided) == 20


def test_an_unknown_placeholder_among_thousands_of_parameters_lists_a_few(toml):
    more = "".join(f'[[parameter]]\nname = "p{i}"\ntype = "int"\nlow = 0\nhigh = 9\ndefault = 1\n' for i in range(3000))
    with pytest.raises(ConfigError, match=r"no placeholder named 'm'.* and 2,\d+ more\.") as caught:
        open_target(toml(BASE.replace('"{n}"', '"{m}"') + more), {})
    assert len(str(caught.value)) < 1000


def test_a_parameter_without_a_name_is_called_by_its_number(toml):
    with pytest.raises(
        ConfigError, match=r"my.toml, parameter number 1: every parameter needs a name, and one has none$"
    ):
        open_target(toml(BASE.replace('name = "n"', 'name = ""')), {})


def test_without_a_rollback_command_apply_runs_again_with_the_default(toml, tmp_path, store):
    hooks = '\n[hooks]\napply = ["sh", "-c", "echo {n} > live"]\n'
    path = toml(BASE.replace("at_most = 8", "") + hooks)
    told = open_target(path, {}).preflight(workload="default", workdir=tmp_path)
    assert any("once more with the default's values at the end" in line for line in told.changes)
    with Session.create(Plan(target=path, tuner="random", trust="fast"), "a", store) as session:
        session.run(trials=3, verify=False)
        assert any(t.config["n"] != 2 for t in session.decided)
    assert (tmp_path / "live").read_text() == "2\n"
