import os
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest
from endpoint import Endpoint

from tunewright.store.store import Store

# shared machines stall now and then; an example's time says nothing about its correctness
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")


@pytest.fixture(autouse=True, scope="session")
def _own_home(tmp_path_factory):
    """Sessions, locks and work files of the tests never touch the user's."""
    home = tmp_path_factory.mktemp("home")
    before = os.environ.get("TUNEWRIGHT_HOME")
    os.environ["TUNEWRIGHT_HOME"] = str(home)
    os.environ.pop("TUNEWRIGHT_STORE", None)
    yield
    if before is None:
        del os.environ["TUNEWRIGHT_HOME"]
    else:
        os.environ["TUNEWRIGHT_HOME"] = before


@pytest.fixture(autouse=True)
def _home_of_this_test(_own_home, tmp_path_factory, monkeypatch):
    """What one test's session leaves behind is not another's, though many are called 'a'."""
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def store(tmp_path):
    opened = Store(f"sqlite:///{tmp_path / 's.db'}")
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def data() -> Path:
    """The project's data directory; tests that need it are marked ``data``."""
    here = Path(os.environ.get("TUNEWRIGHT_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not here.is_dir():
        pytest.skip(f"needs the project's data directory (not at {here}; set TUNEWRIGHT_DATA)")
    return here


@pytest.fixture
def cli():
    """Run the installed command line; checks the exit code."""

    def run(*words, code=0, cwd=None, timeout=300):
        command = [str(Path(sys.executable).with_name("tunewright")), *map(str, words)]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=cwd, timeout=timeout, env={**os.environ, "COLUMNS": "140"}
        )
        assert done.returncode == code, f"{words}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture
def endpoint():
    made = []

    def make(*script):
        made.append(Endpoint(script))
        return made[-1]

    yield make
    for one in made:
        one.server.shutdown()
        one.server.server_close()
