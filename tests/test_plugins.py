"""Third-party targets and tuners, found through entry points like our own."""

import json
import subprocess
import sys

import pytest

MODULE = """
from tunewright import BaseTarget, Int, Measurement, Metric, Space
from tunewright.tuner import BaseTuner, Suggestion

class Theirs(BaseTarget):
    '''Their target.'''
    name = "theirs"
    space = Space([Int(name="n", low=1, high=9, default=1)])
    metrics = (Metric(name="speed", direction="max"),)

    def measure(self, config, *, workload, seed, budget):
        return Measurement(values={"speed": config["n"]})

def open_target(argument, options):
    return Theirs()

class Upward(BaseTuner):
    '''Counts upward.'''
    def ask(self, history):
        return Suggestion(config={"n": min(history.step + 1, 9)}, why="one more")
"""


@pytest.fixture
def plugin(tmp_path):
    """A distribution on the module path, as pip would lay it out."""
    site = tmp_path / "site"
    info = site / "theirs-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "theirs.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[tunewright.targets]\ntheirs = theirs:open_target\nbroken = no_such_module:open_target\n[tunewright.tuners]\nupward = theirs:Upward\n"
    )
    return site


def run(plugin, *words):
    code = f"import sys; sys.path.insert(0, {str(plugin)!r}); sys.argv[0] = 'tunewright'; import sys; from tunewright.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_plugins_target_and_tuner_work_like_our_own(plugin, tmp_path):
    listed = {row["name"]: row for row in run(plugin, "targets", "--json")}
    assert listed["theirs"]["available"]
    assert not listed["broken"]["available"], "a broken plugin must not break the others"
    found = run(
        plugin,
        "tune",
        "theirs",
        "-t",
        "upward",
        "-n",
        "9",
        "--trust",
        "fast",
        "--store",
        f"sqlite:///{tmp_path}/s.db",
        "--json",
    )
    assert found["best"]["config"] == {"n": 9}
    assert found["ratio"] == pytest.approx(9)
    assert found["trials"] == 9


def test_a_plugin_passes_the_contract_suites(plugin, monkeypatch):
    monkeypatch.syspath_prepend(str(plugin))
    import theirs

    from tunewright.testing import check_target

    check_target(theirs.Theirs())
