"""Texts of programs, files and models: they are shown, and neither a terminal nor a page acts on them."""

import json
import os
import pty
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.cli.terminal import screen
from tunewright.report.report import render_report
from tunewright.report.words import clean
from tunewright.sessions.session import Session
from tunewright.store.export import export
from tunewright.store.plan import Plan
from tunewright.target import Measurement, Metric
from tunewright.testing import Sphere

ATTACK = "\x1b]0;pwned\x07\x1b[2J\x1b]52;c;cm0=\x1b\\\x9b31m\u202egnp.exe\u2066\x7f\r\x08[red]marked[/red] [/nope]"
STEERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


@given(st.text())
def test_nothing_that_steers_is_left_and_nothing_else_is_lost(text):
    shown = clean(text)
    assert not STEERS.search(shown)
    assert clean(shown) == shown
    if not STEERS.search(text):
        assert shown == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[1;31merror\x1b[0m: bad", "error: bad"),
        ("a\r\nb\tc\n", "a\nb\tc\n"),
        ("\x1b]8;;http://a\x1b\\here\x1b]8;;\x1b\\", "here"),
        ("\x1b]0;never ends", "]0;never ends"),
        ("\x1b\x1b[2J\x1b[", "["),
        ("größer 漢字 ±", "größer 漢字 ±"),
        ("file\udcff", "file�"),
    ],
)
def test_what_is_left_of_a_text(text, shown):
    assert clean(text) == shown


def test_a_console_keeps_its_own_colours_and_takes_no_markup(monkeypatch, capsys):
    from rich.live import Live
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    console = screen()
    table = Table("one", ATTACK, title=Text(ATTACK))
    table.add_row(ATTACK, Text(ATTACK))
    with Live(table, console=console, refresh_per_second=1):
        console.print(ATTACK)
        console.print(Text(ATTACK), soft_wrap=True)
        console.print(Panel(Text(ATTACK)))
        console.print(":smile: [bold]as it is[/bold]", style="red")
    said = capsys.readouterr().out
    assert not STEERS.search(said)
    assert ":smile: [bold]as it is[/bold]" in said and "[red]marked[/red]" in said
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    console = screen()
    with console.capture() as caught:
        console.print(ATTACK, style="red")
    coloured = caught.get()
    assert coloured.startswith("\x1b[31m"), "colours of its own, and only these"
    assert not STEERS.search(re.sub(r"\x1b\[[0-9;]*m", "", coloured))


BENCH = r"""
import sys
sys.stdout.write("\x1b]0;pwned\x07\x1b[2J[/nope]\u202e\x9b31mspeed: 3\n")
sys.stderr.write("\x1b]0;pwned\x07\x1b[2J[red]gone[/nope]\u202e\x9b31m it broke\n")
sys.exit(3 if int(sys.argv[1]) > 2 else 0)
"""
TARGET = r"""
[target]
name = "mine\u001b[2J"
about = "\u001b]0;pwned\u0007 [/about] \u202e"
command = ["{python}", "bench.py", "{n}"]
limit = 20

[[parameter]]
name = "n"
type = "int"
low = 1
high = 4
default = DEFAULT
unit = "[/unit]\u001b[2J"
doc = "\u001b]0;pwned\u0007[/doc]"

[[metric]]
name = "speed"
direction = "max"
regex = 'speed: ([0-9.]+)'
unit = "[/s]\u009b31m"
doc = "\u001b[2J[/doc]"
"""


@pytest.fixture
def evil(tmp_path):
    (tmp_path / "bench.py").write_text(BENCH)

    def write(default=2):
        path = tmp_path / "evil.toml"
        text = TARGET.replace("{python}", sys.executable).replace("DEFAULT", str(default))
        path.write_text(text)
        return path

    return write


def shown(done):
    for text in (done.stdout, done.stderr):
        assert not STEERS.search(text), repr(text)
        assert "Traceback" not in text
    return done.stdout + done.stderr


def test_a_failing_benchmark_does_not_steer_the_terminal(cli, evil):
    said = shown(cli("check", evil(3), code=1))
    assert "it broke" in said and "[red]gone[/nope]" in said


def test_a_session_and_its_target_do_not_steer_the_terminal(cli, evil, tmp_path):
    store = ("--store", f"sqlite:///{tmp_path}/s.db")
    name = "mine[red][name]"
    path = evil()
    assert "[/unit]" in shown(cli("show", path))
    words = ("tune", path, "--tuner", "grid", "-T", "points=4", "--trust", "fast", "--name", name, *store)
    shown(cli(*(f"{w}\x1b[2J\u202e" if w == name else w for w in words), code=1))
    said = shown(cli(*words, "--trials", "4", "--seed", "1"))
    assert "it broke" in said and "[/s]" in said
    assert name in shown(cli("list", *store))
    assert "it broke" in shown(cli("show", name, *store))
    done = cli("show", name, "--json", *store)
    shown(done)
    assert json.loads(done.stdout)["name"] == name, "a machine gets the text as it is, in JSON's escapes"


def test_names_of_files_and_targets_do_not_steer_the_terminal(cli, tmp_path):
    shown(cli("trace", tmp_path / "\x1b]0;pwned\x07[/x]\u202e.csv", code=1))
    shown(cli("check", "\x1b]0;pwned\x07[/x]\u202e", code=1))
    shown(cli("show", "a\udcff\x1b[2J", "--store", f"sqlite:///{tmp_path}/s.db", code=1))
    path = tmp_path / "p\x1b[2J[red]x.csv"
    path.write_text("timestamp,lba,size,op\n0,0,4096,R\n1,8,4096,W\n")
    assert "[red]x" in shown(cli("trace", path))
    swf = tmp_path / "j\x1b[2J[red]x.swf"
    swf.write_text("1 0 10 300 8 -1 -1 8 400 -1 1 3 1 -1 1 -1 -1 -1\n2 5 10 300 8 -1 -1 8 400 -1 1 3 1 -1 1 -1 -1 -1\n")
    assert "[red]x" in shown(cli("simulate", "cluster", "--trace", swf))


def test_the_live_display_does_not_steer_the_terminal(evil, tmp_path):
    """On a terminal the console moves the cursor and colours; what it shows of others does neither."""
    words = [
        str(Path(sys.executable).with_name("tunewright")),
        "tune",
        str(evil()),
        "--tuner",
        "grid",
        "-T",
        "points=4",
    ]
    words += [
        "--trust",
        "fast",
        "--trials",
        "4",
        "--name",
        "a[red][x]",
        "--store",
        f"sqlite:///{tmp_path}/s.db",
    ]
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "400"}
    with subprocess.Popen(words, stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL, env=environment) as process:
        os.close(theirs)
        said = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:
                break
            if not part:
                break
            said += part
    os.close(ours)
    text = said.decode()
    assert process.returncode == 0, text
    assert "it broke" in text and "a[red][x]" in text
    rest = re.sub(r"\x1b\[[0-9;]*m|\x1b\[[0-9]*[A-D]|\x1b\[[0-2]?K|\x1b\[\?25[lh]|\r", "", text)
    assert not STEERS.search(rest), repr(rest)


# --- pages

HTML = "<img src=x onerror=alert(1)>\"'&"
MARKDOWN = "[x](javascript:alert(1)) ![y](http://a/b) `c` **d** $\\href{javascript:alert(1)}{e}$ ~~f~~ | g\n\n# h\n\n```\n</pre><b>"


class Evil(Sphere):
    """A target all of whose texts are hostile."""

    name = f"evil {HTML} $x^$"

    def __init__(self, **how):
        super().__init__(**how)
        self.metrics = (Metric(name=HTML, direction="min", unit=f"{HTML} $x", doc=HTML),)
        self.workloads = {f"{HTML} $x^": HTML}

    def measure(self, config, **how):
        done = super().measure(config, **how)
        if done.ok:
            return Measurement(values={HTML: done.values["loss"]})
        return Measurement(status="failed", reason=HTML + MARKDOWN)

    def render(self, config):
        return HTML + MARKDOWN


def inert(page):
    assert "<img" not in page and "<script" not in page and "<b>\n" not in page
    for svg in re.findall(r"<svg.*?</svg>", page, re.S):
        tree = ElementTree.fromstring(svg)
        assert not {e.tag.rpartition("}")[2] for e in tree.iter()} & {"img", "script", "a", "foreignObject"}
    return page


def test_a_report_shows_hostile_names_and_reasons(store):
    name = f"a{HTML}"
    with Session.create(Plan(target="evil", tuner="random"), name, store, target=Evil(fail_above=0.91)) as session:
        session.run(trials=8)
    page = inert(render_report(export(store, name)))
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


def test_pages_of_figures_show_hostile_labels(tmp_path):
    from tunewright.report import pages, svg
    from tunewright.report.timeline import Bar, write

    sections = [
        ("h" + HTML, svg.curves([(HTML, [1, 2], [3, 4])], HTML, HTML), HTML),
        (HTML, svg.bars([(HTML, 1.0, HTML)], HTML), HTML),
        (HTML, svg.stacks([(HTML, [1.0])], [HTML], HTML), HTML),
        (HTML, svg.heat([[1.0]], HTML, HTML, (HTML, HTML)), HTML),
    ]
    pages.write_figures(tmp_path / "p.html", HTML, HTML, sections)
    inert((tmp_path / "p.html").read_text())
    write(tmp_path / "t.html", HTML, [Bar(lane=HTML, start_s=0, end_s=1, who=HTML, what=HTML)], HTML)
    inert((tmp_path / "t.html").read_text())
    json.loads((tmp_path / "t.trace.json").read_text())


@pytest.mark.slow
def test_a_comparison_shows_hostile_names(tmp_path):
    import tunewright as tw

    made = tw.compare([Evil(), Sphere()], ["random", "tpe"], seeds=3, trials=6, workers=1, directory=tmp_path / "b")
    page = inert((made.folder / "report.html").read_text())
    assert "&lt;img src=x" in page


# --- the dashboard


def record(**more):
    plan = {"target": HTML, "workload": MARKDOWN, "tuner": MARKDOWN, "seed": 0, "trust": HTML}
    verdict = {"sentence": MARKDOWN + HTML, "settings": f"set {HTML}\n````\n{ATTACK}"}
    notes = {"answers": [{"reasons": {f"`{HTML}`": MARKDOWN, "x": HTML}}], "spent": {}}
    return {"plan": plan, "status": MARKDOWN, "verdict": verdict, "notes": notes, **more}


def test_a_note_is_text_whoever_wrote_it():
    pytest.importorskip("optuna_dashboard", reason="needs the extra: pip install 'tunewright[dashboard]'")
    from tunewright.report.dashboard import note

    shown = note(record())
    assert not STEERS.search(shown)
    head, fence, rest = shown.partition("`````\n")
    assert fence, "a fence is longer than any in what it holds"
    code, fence, tail = rest.partition("\n`````\n")
    assert fence and "<img src=x" in code, "the settings are shown as they are, between fences"
    for text in (head, tail):
        assert "<" not in text and ">" not in text
        for mark in ("[x]", "](", "![", "`", "$", "~~", "|", "# h"):
            for place in (m.start() for m in re.finditer(re.escape(mark), text)):
                assert text[place - 1] == "\\" or text[place] == "\\", (mark, text)
        assert not re.search(r"^\s*(#|```|\|)", text, re.M)


def test_what_a_note_becomes_in_html():
    pytest.importorskip("optuna_dashboard", reason="needs the extra: pip install 'tunewright[dashboard]'")
    markdown = pytest.importorskip("markdown_it")
    from tunewright.report.dashboard import note

    html = markdown.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(note(record()))
    tags = set(re.findall(r"</?([a-z0-9]+)", html))
    assert tags <= {"p", "strong", "ul", "li", "pre", "code"}, html
    assert "javascript:alert(1)" in re.sub(r"<[^>]*>", "", html), "it is read, and leads nowhere"
