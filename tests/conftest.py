import fcntl
import gc
import io
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# before any of them is loaded: two workers on two cores, where further threads of BLAS and OpenMP only wait
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

# containers often set it; then every process that a test starts, a thousand in all, compiles our sources anew
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

import hypothesis
import pytest
from endpoint import Endpoint

from tunewright.store.store import Store

# shared machines stall now and then; an example's time says nothing about its correctness
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")


def pytest_configure(config):
    """Make the lock between workers, whose name they inherit, and a directory for each one's temporary files.

    What a killed program leaves there goes with the run, and no worker can take away what another's needs.
    """
    if not hasattr(config, "workerinput"):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # tmp_path stays, to be looked at
        os.environ["TUNEWRIGHT_TEST_LOCK"] = tempfile.mkdtemp(prefix="tunewright-tests-")
        os.chmod(os.environ["TUNEWRIGHT_TEST_LOCK"], 0o711)  # servers run under another account
    worker = getattr(config, "workerinput", {}).get("workerid", "main")
    temporary = Path(os.environ["TUNEWRIGHT_TEST_LOCK"], worker)
    temporary.mkdir()
    temporary.chmod(0o1777)
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    # a run in the background may ignore them, and what it starts would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop("TUNEWRIGHT_TEST_LOCK"), ignore_errors=True)


#: files that take longest, by CPU time: they begin first, so that the workers end together. The first compiles every
#: kernel where none is compiled yet; those that need kernels come after the others, when it is through with that
LONGEST = (
    "test_env_copies.py", "test_postgres.py", "test_users_things.py", "test_docs.py", "test_agent_files.py", "test_torch_train.py",
    "test_planted_text.py", "test_lustre.py", "test_plugins.py", "test_compare_bundles.py", "test_command.py", "test_gluster.py",
    "test_services.py", "test_cli.py", "test_session.py", "test_changes.py", "test_edited_stores.py", "test_secrets.py", "test_compare.py",
    "test_changes_processes.py", "test_questions.py", "test_tuners.py", "test_bounded_reading.py", "test_spark_sim.py", "test_simulate.py",
    "test_placement.py", "test_cluster_sim.py", "test_report.py",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """Put the longest files first; within a file the order stays."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outside the time limit: waiting for others is no fault of a test
def pytest_runtest_protocol(item):
    """A test that is marked ``alone`` waits until the other workers' tests are over, and they wait for it."""
    folder = Path(os.environ["TUNEWRIGHT_TEST_LOCK"])
    alone = item.get_closest_marker("alone") is not None
    with (folder / "turn").open("a") as turn, (folder / "running").open("a") as running:
        fcntl.flock(turn, fcntl.LOCK_EX)  # who waits for the others here lets nobody pass
        fcntl.flock(running, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(turn, fcntl.LOCK_UN)
        return (yield)


@pytest.fixture(autouse=True, scope="session")
def _own_home(tmp_path_factory):
    """Sessions, locks and work files of the tests never touch the user's."""
    home = tmp_path_factory.mktemp("home")
    before = os.environ.get("TUNEWRIGHT_HOME")
    os.environ["TUNEWRIGHT_HOME"] = str(home)
    os.environ.pop("TUNEWRIGHT_STORE", None)
    yield home
    if before is None:
        del os.environ["TUNEWRIGHT_HOME"]
    else:
        os.environ["TUNEWRIGHT_HOME"] = before


_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _home_of_this_test(_own_home, monkeypatch):
    """What one test's session leaves behind is not another's, though many are called 'a'."""
    home = _own_home / str(next(_numbers))  # mktemp would look at thousands of folders for the next number
    home.mkdir()
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(home))


@pytest.fixture(autouse=True, scope="session")
def _migrations_read_once():
    """Optuna compiles the scripts of its migrations for each store that is opened, and three times for a new one."""
    from alembic.script import ScriptDirectory

    read, known = ScriptDirectory.from_config, {}

    def once(config):
        location = config.get_main_option("script_location")
        if location not in known:
            known[location] = read(config)
        return known[location]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScriptDirectory, "from_config", once)
        yield


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


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a command line wrote, and its exit code."""

    stdout: str
    stderr: str
    returncode: int


@contextmanager
def _changed(cwd, environment):
    """The folder and the environment of one command line; both are put back."""
    before, folder = dict(os.environ), os.getcwd()
    try:
        os.environ.update(environment)
        os.chdir(cwd or folder)
        yield
    finally:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(before)


def _checked(ran, words, code):
    assert code in (ran.returncode, None), f"{words}: exit code {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
    return ran


@pytest.fixture
def cli(monkeypatch):
    """Run a command line in this process, as a user's shell would; checks the exit code, unless ``code`` is None.

    A test of signals, of the terminal or of what happens at a process's end takes ``cli_process``.
    """
    from tunewright.cli import main

    def run(*words, code=0, cwd=None, env=()):
        streams = {name: io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for name in ("stdout", "stderr")}
        with monkeypatch.context() as patch, _changed(cwd, {"COLUMNS": "140", **dict(env)}):
            for name, stream in streams.items():
                patch.setattr(sys, name, stream)
            patch.setattr(sys, "stdin", io.StringIO())
            gc.freeze()  # what other tests left would complain here when it is collected
            try:
                returncode = main([str(word) for word in words])
            finally:
                gc.unfreeze()
        written = {}
        for name, stream in streams.items():
            stream.flush()
            written[name] = stream.buffer.getvalue().decode()
        return _checked(Ran(**written, returncode=returncode), words, code)

    return run


@pytest.fixture
def cli_process():
    """Run the installed command line as a process of its own; checks the exit code."""

    def run(*words, code=0, cwd=None, env=(), timeout=300):
        program = str(Path(sys.executable).with_name("tunewright"))
        ran = subprocess.run(
            [program, *map(str, words)], capture_output=True, text=True, cwd=cwd, timeout=timeout,
            env={**os.environ, "COLUMNS": "140", **dict(env)},
        )  # fmt: skip
        return _checked(ran, words, code)

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
