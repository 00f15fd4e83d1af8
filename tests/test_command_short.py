"""Parameters in short, values that stand for texts, flags, and what a good run looks like."""

import json
import math
import string
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.envs.command import open_target
from tunewright.envs.command_file import load_description
from tunewright.envs.command_metrics import read_prometheus
from tunewright.envs.command_places import Omitted, Several, arguments, expanded, fill
from tunewright.envs.command_run import argument_list, names_of
from tunewright.envs.command_success import Tolerance, compare
from tunewright.errors import ConfigError, TargetError, TunewrightError
from tunewright.measuring.isolation import measure_once
from tunewright.space import Choice, Int, Real
from tunewright.target import Budget

TARGET = """
[target]
name = "short"
command = ["echo", "{n}", WORDS]
[[metric]]
name = "n"
direction = "max"
regex = '(\\d+)'
"""


@pytest.fixture
def described(tmp_path):
    def write(parameters="", words="", extra="", head=""):
        path = tmp_path / "short.toml"
        path.write_text(head + TARGET.replace(", WORDS", f", {words}" if words else "") + extra + parameters)
        return path

    return write


def command_of(path, **config):
    about = load_description(path)
    names = names_of(about, about.space.fill(config), rundir="RUN", workdir="WORK", seed="1", workload="w")
    return argument_list(about, about.command, names)


CSV = """name, type, low, high, default, unit, restart, choices, log, doc
# a comment
n, int, 1, 1e3, 4, MB, true, , true, "how much, at most"
share, , 0, 1.5, 0.5, , , , , as a real
most, int, 1, RAM_MB / 2, 8, , reload, , ,
mode, , , , fast, , , slow | fast, ,
level, choice, , , 3, , , 1|3|9, ,
flush, , , , true, , , true|false, ,
"""
SHORT = """[parameters]
n = { low = 1, high = 1000, default = 4, unit = "MB", restart = true, log = true, doc = "how much, at most" }
share = { type = "real", low = 0, high = 1.5, default = 0.5, doc = "as a real" }
most = { low = 1, high = "RAM_MB / 2", default = 8, restart = "reload" }
mode = { choices = ["slow", "fast"], default = "fast" }
level = { choices = [1, 3, 9], default = 3 }
flush = { choices = [true, false], default = true }
"""


@pytest.mark.parametrize("form", ["text", "file", "table"])
def test_a_table_and_csv_say_the_same(form, described, tmp_path):
    if form == "file":
        (tmp_path / "params.csv").write_text(CSV)
    head = {"text": f'parameters = """\n{CSV}"""\n', "file": 'parameters = "params.csv"\n', "table": ""}[form]
    words = '"{share} {most} {mode} {level} {flush}"'
    space = load_description(described(SHORT if form == "table" else "", words, head=head)).space
    n = Int(name="n", low=1, high=1000, default=4, unit="MB", restart="restart", log=True, doc="how much, at most")
    expected = [
        n,
        Real(name="share", low=0, high=1.5, default=0.5, doc="as a real"),
        Int(name="most", low=1, high="RAM_MB / 2", default=8, restart="reload"),
        Choice(name="mode", choices=("slow", "fast"), default="fast"),
        Choice(name="level", choices=(1, 3, 9), default=3),
        Choice(name="flush", choices=(True, False), default=True),
    ]
    assert list(space.params.values()) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name, low\nn, 1", "columns name and default are needed"),
        ("name, default, lo\nn, 1, 2", "no column named 'lo'"),
        ("name, low, high, default\nn, 1, 2, 1, 5", "line 2: 5 fields where the header has 4"),
        ("name, low, high, default\nn, 5, 2, 1", "not a range"),
        ("name, low, high, default, log\nn, 1, 2, 1, often", "line 2: log must be true or false"),
        ("name, low, high, default\nn, 1, 2, 1\nn, 1, 2, 1", "two parameters have this name"),
        ("name, name, default\nn, n, 1", "appears twice"),
        ("name, low, high, default\nseed, 1, 2, 1", "are taken"),
        ('name, low, high, default\n"n, 1, 2, 1', "not CSV|line of its own"),
        ("name, default\nn, 1", "type must be int, real or choice"),
        ("nothere.csv", "nothere.csv"),
    ],
)
def test_every_mistake_in_csv_is_explained(text, words, described):
    with pytest.raises(ConfigError, match=words) as caught:
        load_description(described(head=f'parameters = """{text}"""\n' if "\n" in text else f'parameters = "{text}"\n'))
    assert "\n" not in str(caught.value)


VALUES = """[parameters]
n = { low = 1, high = 8, default = 2 }
fast = { values = { on = "-ffast-math", off = "" }, default = "off" }
par = { values = { on = "-j{n} -o{rundir}/x", off = "" }, default = "off" }
deep = { values = { on = "<{par}>", off = "none" }, default = "on" }
opt = { type = "flags", flags = ["-funroll-loops", "-fno-plt"], default = ["-fno-plt"] }
"""


def test_values_stand_for_texts_and_empty_ones_leave_the_argument_out(described):
    path = described(VALUES, '"{fast}", "a={fast}", "{par}", "{deep}", "{opt}", "O {opt}"')
    assert command_of(path) == ["echo", "2", "<>", "-fno-plt", "O -fno-plt"]
    on = command_of(path, fast="on", par="on", n=3, **{"funroll-loops": "on"})
    assert on[2:5] == ["-ffast-math", "a=-ffast-math", "-j3 -oRUN/x"]
    assert on[5:] == ["<-j3 -oRUN/x>", "-funroll-loops", "-fno-plt", "O -funroll-loops -fno-plt"]
    assert command_of(path, **{"fno-plt": "off"})[2:] == ["<>", "O "]


def test_an_empty_choice_of_an_old_file_stays_an_argument(described):
    path = described("[parameters]\nn = { choices = ['', 'x'], default = '' }\n")
    assert command_of(path) == ["echo", ""]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('n = { values = { a = "{m}" }, default = "a" }', "n: values: no placeholder named 'm'"),
        ('n = { values = { a = "{m}" }, default = "a" }\nm = { values = { a = "{n}" }, default = "a" }', "in a circle"),
        ('n = { choices = ["a"], values = { b = "" }, default = "a" }', "values: no choice named 'b'"),
        ('n = { values = { a = 1 }, default = "a" }', "every entry of values must be a text"),
        ('n = 4', "must be a table such as"),
        ('n = { type = "flags", flags = [] }', "flags must be a list of texts"),
        ('n = { type = "flags", flags = ["-a", "--a"] }', "same but for their dashes"),
        ('n = { type = "flags", flags = ["-a"], default = ["-b"] }', "no flag named '-b'"),
        ('n = { low = 1, high = 2, default = 1, restart = "often" }', "restart must be"),
        ('only = ["a"]', "'like' names, and it is missing"),
        ('like = "params.json"', "must be 'read:FILE.json'"),
    ],
)  # fmt: skip
def test_every_mistake_in_short_tables_is_explained(table, words, described):
    with pytest.raises(TunewrightError, match=words) as caught:
        load_description(described(f"[parameters]\n{table}\n"))
    assert "\n" not in str(caught.value) and "short.toml" in str(caught.value)


def entry(name, type="integer", default=8, low=1, high=64, restart="restart"):
    return {
        "name": name, "type": type, "default": default, "unit": "MB", "definition": f"what {name} is",
        "range": {"low": low, "high": high}, "restart": restart, "special": {"0": "off"},
    }  # fmt: skip


def test_parameters_like_those_that_were_read(described, tmp_path):
    docs = [entry("n"), entry("cache", restart="reload"), entry("danger"), entry("path", type="string", default="x")]
    (tmp_path / "params.json").write_text(json.dumps({"system": "s", "parameters": docs}))
    path = described(
        '[parameters]\nlike = "read:params.json"\nnever = ["danger"]\nown = { low = 1, high = 2, default = 1 }\n',
        '"{cache} {own}"',
    )
    params = load_description(path).space.params
    assert list(params) == ["n", "cache", "own"]
    assert (params["n"].restart, params["cache"].restart, params["n"].default, params["n"].high) == (
        "restart",
        "reload",
        8,
        64,
    )
    path = described('[parameters]\nlike = "read:params.json"\nonly = ["n"]\n')
    assert list(load_description(path).space.params) == ["n"]
    for table, words in (
        ('only = ["m"]', "no parameter in params.json named 'm'"),
        ('only = ["n", "path"]', "path cannot be taken from params.json: a parameter of type string is not tuned"),
    ):
        with pytest.raises(TunewrightError, match=words):
            load_description(described(f'[parameters]\nlike = "read:params.json"\n{table}\n'))


def test_a_line_for_each_parameter_in_a_file(described):
    extra = "[[file]]\npath = '{rundir}/c'\ncontent = 'first 1'\neach = 'set {name} = {value};'\n"
    target = open_target(
        str(
            described(
                "[parameters]\nn = { low = 1, high = 8, default = 2 }\nm = { low = 1, high = 2, default = 1, when = 'n > 4' }\n",
                extra=extra,
            )
        ),
        {},
    )
    assert "first 1\nset n = 2;" in target.render({"n": 2}) and "set m" not in target.render({"n": 2})
    assert "set n = 5;\nset m = 2;" in target.render({"n": 5, "m": 2})


# -- placeholders, for any text ---------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b_1", "c-d", "e.f"])
TEXTS = st.text(st.sampled_from(string.ascii_letters + " {}\"'$;\\=-"), max_size=12)


@given(st.dictionaries(NAMES, st.none() | TEXTS), TEXTS, st.lists(NAMES, max_size=3))
def test_filling_never_reads_values_again_and_leaves_all_else(names, text, places):
    word = text.join(["", *(f"{{{p}}}" for p in places), ""]) if places else text
    got = fill(word, names)
    if any(names.get(p, "") is None for p in places):
        assert got is None
    assert fill(text.replace("{", "").replace("}", ""), names) == text.replace("{", "").replace("}", "")


@given(st.dictionaries(NAMES, TEXTS, min_size=1), st.data())
def test_expanding_puts_values_into_templates(names, data):
    name = data.draw(st.sampled_from(sorted(names)))
    others = [n for n in names if n != name]
    template = "".join(f"[{{{n}}}]" for n in others)
    assert expanded(names, {name: template})[name] == "".join(f"[{names[n]}]" for n in others)
    assert {n: v for n, v in expanded(names, {name: template}).items() if n != name} == {n: names[n] for n in others}


@given(st.lists(st.text(min_size=1, max_size=5), max_size=4))
def test_several_flags_become_as_many_arguments(flags):
    assert arguments(["x", "{f}"], {"f": Several(flags)}) == ["x", *flags]
    assert arguments(["x{f}"], {"f": Omitted()}) == []


@given(st.floats(-1e9, 1e9), st.floats(1e-3, 1e3), st.floats(0, 2))
def test_tolerance_is_the_wider_of_absolute_and_relative(expected, absolute, relative):
    tolerance = Tolerance(absolute=absolute, relative=relative)
    room = max(absolute, relative * abs(expected))
    for sign in (-1, 1):
        assert tolerance.holds(expected + sign * room * 0.9, expected)
        assert not tolerance.holds(expected + sign * (room * 1.1 + 1e-3), expected)
    assert tolerance.holds(math.nan, math.nan) and not tolerance.holds(expected, math.nan)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5), st.floats(0.001, 1))
def test_texts_whose_numbers_are_near_are_alike(numbers, room):
    text = "\n".join(f"x[{i}] = {v:.9f} ok" for i, v in enumerate(numbers))
    near = "\n".join(f"x[{i}] = {v + room / 2:.9f} ok" for i, v in enumerate(numbers))
    assert compare(text, text, Tolerance()) == ""
    assert compare(near, text, Tolerance(absolute=room)) == ""
    assert "line 1" in compare(near, text, Tolerance(absolute=room / 4))
    assert compare(near.replace("ok", "no"), text, Tolerance(absolute=room)) != ""
    assert "lines" in compare(text + "\nmore", text, Tolerance(absolute=room))


# -- what a good run looks like ---------------------------------------------------------------------

BENCH = """
import sys
x = float(sys.argv[1])
print("time:", x)
print("result:", [1.0, 1.0 + x / 1e6, 2.0][int(sys.argv[2])])
print('{"sum": %r}' % (1 + x / 1e3))
open(sys.argv[3], "w").write("a 1.0\\nb %f\\n" % (2 + x / 1e4))
"""
CHECKED = """
[target]
name = "checked"
command = ["{python}", "bench.py", "{x}", "{how}", "{rundir}/out.txt"]
[parameters]
x = { low = 1, high = 9, default = 1 }
how = { choices = [0, 1, 2], default = 0 }
[[metric]]
name = "time"
direction = "min"
regex = 'time: (\\S+)'
[success]
"""


def checked(tmp_path, success, *, prepare=False, **config):
    (tmp_path / "bench.py").write_text(BENCH)
    (tmp_path / "reference.txt").write_text("a 1.0\nb 2.0\n")
    path = tmp_path / "checked.toml"
    path.write_text(CHECKED.replace("{python}", sys.executable) + success.replace("{python}", sys.executable))
    target = open_target(str(path), {})
    budget = Budget(workdir=tmp_path, seconds=30)
    if prepare:
        target.prepare(workload="default", seed=0, budget=budget)
    return measure_once(target, target.space.fill(config), workload="default", seed=1, budget=budget)


RESULT = r"number = { regex = 'result: (\S+)', near = 1.0"
GOOD = [
    (RESULT + " }", {}, {"how": 2}, "the result 2 is not near 1"),
    (RESULT + ", tolerance = 1e-5 }", {"how": 1}, {"how": 2}, "not near"),
    (RESULT + ", tolerance = '0.001 %' }", {"how": 1, "x": 9}, {"how": 2}, "not near"),
    ("number = { json = 'sum', near = 1.0, tolerance = 0.002 }", {}, {"x": 9}, "the result 1.009 is not near 1"),
    ("same_as = 'reference.txt'\nsource = '{rundir}/out.txt'\ntolerance = 0.0005", {"x": 3}, {"x": 9}, "line 2 is 'b 2.000900', expected 'b 2.0'"),
    ("same_as = 'default'\nmatching = '^result: .*$'", {"x": 5}, {"how": 2}, "not that of the default: line 1 is 'result: 2.0'"),
    ("""judge = ["{python}", "-c", "import sys; text = sys.stdin.read(); 'result: 1.0' in text or sys.exit('wrong result')"]""", {}, {"how": 2},
     "the judge refused the output: it exited with code 1; it last said: wrong result"),
    ("""judge = ["sh", "-c", "grep -q 'a 1' {output}"]\nsource = '{rundir}/out.txt'""", {}, None, ""),
]  # fmt: skip


@pytest.mark.parametrize(("success", "good", "bad", "words"), GOOD)
def test_a_wrong_result_is_a_failed_run(success, good, bad, words, tmp_path):
    found = checked(tmp_path, success, prepare="default" in success, **good)
    assert found.ok, found.reason
    if bad is not None:
        found = checked(tmp_path, success, **bad)
        assert found.status == "failed" and words in found.reason


@pytest.mark.parametrize(
    ("success", "words"),
    [
        ("number = { near = 1 }", "exactly one of regex and json"),
        ("number = { json = 'a' }", "'near' is missing"),
        ("tolerance = 1", "belong to same_as"),
        ("same_as = 'a.txt'", "a.txt"),
        ("same_as = 'reference.txt'\ntolerance = 'much'", "tolerance must be a number, or a share such as '0.1 %'"),
        ("same_as = 'reference.txt'\ntolerance = -1", "tolerance must be"),
        ("judge = []", "judge is empty"),
        ("judge = ['x', '{y}']", "no placeholder named 'y'"),
    ],
)
def test_every_mistake_in_success_is_explained(success, words, tmp_path):
    with pytest.raises(TunewrightError, match=words) as caught:
        checked(tmp_path, success)
    assert "\n" not in str(caught.value)


def test_the_default_as_reference_needs_the_same_output_each_time(tmp_path):
    with pytest.raises(ConfigError, match="does not depend on {seed}"):
        (tmp_path / "x.toml").write_text(
            CHECKED.replace("{how}", "{seed}").replace("{python}", sys.executable) + "same_as = 'default'\n"
        )
        load_description(tmp_path / "x.toml")


# -- Prometheus -------------------------------------------------------------------------------------

LABELS = st.dictionaries(
    st.sampled_from(["code", "to", "le"]),
    st.text(st.sampled_from(string.ascii_letters + "+. ,{}"), max_size=6),
    max_size=3,
)


def sample(labels, value):
    shown = ",".join(f'{k}="{v}"' for k, v in labels.items())
    return f"hits{{{shown}}} {value!r} 1395066363000" if labels else f"hits {value!r}"


@given(st.lists(st.tuples(LABELS, st.floats(-1e9, 1e9)), min_size=1, max_size=6), st.data())
def test_prometheus_sums_the_samples_that_have_the_labels(samples, data):
    text = "# HELP hits of it\n# TYPE hits counter\n" + "\n".join(sample(labels, value) for labels, value in samples)
    wanted = data.draw(st.sampled_from(samples))[0]
    selector = "hits{" + ",".join(f'{k}="{v}"' for k, v in wanted.items()) + "}" if wanted else "hits"
    expected = math.fsum(value for labels, value in samples if wanted.items() <= labels.items())
    assert read_prometheus("m", selector, text) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("wanted", "words"), [("misses", "no sample"), ("hits{", "is no name"), ('hits{code="9"}', "no sample")]
)
def test_prometheus_says_what_is_not_there(wanted, words):
    with pytest.raises(TargetError, match=words):
        read_prometheus("m", wanted, 'hits{code="200"} 3')


@pytest.mark.parametrize("line", ["defualt = 32", "lwo = 1, default = 32"])
def test_a_misspelt_key_is_named_even_where_it_says_the_type(tmp_path, line):
    path = tmp_path / "t.toml"
    path.write_text(
        '[target]\nname = "t"\ncommand = ["true"]\n[[metric]]\nname = "s"\nwall_time = true\n'
        f"[parameters]\nbuf = {{ low = 4, high = 256, {line} }}\n".replace(
            "low = 4, high = 256, lwo", "high = 256, lwo"
        )
    )
    with pytest.raises(ConfigError, match="Did you mean '(default|low)'"):
        open_target(str(path), {})
