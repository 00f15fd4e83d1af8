"""What is published is the tree: its dependencies, and the contents of wheel and source distribution."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: folders and files of the checkout that are neither published nor copied to build from
LEFT_OUT = {".git", ".github", ".cache", ".gitignore", "build", "dist", "site", "__pycache__", ".venv", ".hypothesis"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def files(folder):
    """Files below a folder, through the links of the wings, by their names relative to it."""
    for where, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [f for f in folders if f not in LEFT_OUT and not f.endswith((".egg-info", "_cache"))]
        for name in names:
            if name not in LEFT_OUT and not name.endswith((".pyc", ".nbi", ".nbc")):
                yield Path(where, name).relative_to(folder).as_posix()


def normal(name):
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!;~]", name, maxsplit=1)[0]).lower()


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


def test_every_import_is_a_declared_dependency():
    declared = {normal(d) for d in PROJECT["dependencies"]}
    declared |= {normal(d) for extra in PROJECT["optional-dependencies"].values() for d in extra}
    owners = packages_distributions()
    used = {}
    for name in files(ROOT / "tunewright"):
        if name.endswith(".py"):
            for module in imports(ROOT / "tunewright" / name):
                used.setdefault(module, name)
    missing = {
        module: name
        for module, name in used.items()
        if module not in sys.stdlib_module_names
        and module != "tunewright"
        and not declared & ({normal(d) for d in owners.get(module, [])} or {normal(module)})
    }
    assert missing == {}


def test_published_dependencies_are_ranges_and_what_was_tested_is_pinned():
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
    )
    pinned = {normal(name) for name in pins}
    for name in [*PROJECT["dependencies"], *(d for e in PROJECT["optional-dependencies"].values() for d in e)]:
        assert "==" not in name.split(";")[0], f"{name}: exact versions stand in constraints.txt"
    assert {"torch", "numpy", "optuna", "gymnasium"} <= pinned


def test_the_lowest_versions_that_are_tested_are_those_allowed():
    lowest = dict(line.split("==") for line in (ROOT / "lowest.txt").read_text().splitlines() if "==" in line)
    bounds = {normal(d): re.search(r">=([\d.]+)", d)[1] for d in PROJECT["dependencies"]}
    assert set(lowest) == {"numpy", "gymnasium", "optuna"}
    for name, version in lowest.items():
        assert f"{version}.".startswith(f"{bounds[name]}."), f"{name} {version} is tested, {bounds[name]} allowed"


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Build the source distribution, a wheel from it, and a wheel from the tree; return the three."""
    pytest.importorskip("build", reason="needs the extra: pip install 'tunewright[test]'")
    folder = tmp_path_factory.mktemp("packaging")
    skipped = shutil.ignore_patterns(*LEFT_OUT, "*.egg-info", "*_cache", "*.pyc")
    shutil.copytree(ROOT, folder / "tree", symlinks=True, ignore=skipped)
    for how, out in (((), "both"), (("--wheel",), "direct")):
        words = [sys.executable, "-m", "build", "--no-isolation", *how, "--outdir", folder / out, folder / "tree"]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    (source,) = (folder / "both").glob("*.tar.gz")
    (wheel,) = (folder / "both").glob("*.whl")
    (direct,) = (folder / "direct").glob("*.whl")
    return source, wheel, direct


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {i.filename: archive.read(i) for i in archive.infolist() if not i.is_dir()}


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(distributions):
    _, wheel, direct = distributions
    held = {n for n in contents(wheel) if not n.startswith("tunewright-")}
    assert held == {f"tunewright/{name}" for name in files(ROOT / "tunewright")}
    of_source, of_tree = contents(wheel), contents(direct)
    assert of_source.keys() == of_tree.keys()
    assert {n for n in of_source if of_source[n] != of_tree[n] and not n.endswith("RECORD")} == set()


@pytest.mark.slow
def test_the_description_on_a_package_index_has_no_dead_links(distributions):
    documents = contents(distributions[1])
    (metadata,) = (text for name, text in documents.items() if name.endswith(".dist-info/METADATA"))
    description = message_from_bytes(metadata).get_payload()
    assert "# tunewright" in description and "](docs/" not in description
    assert re.findall(r"\]\((?!https?:)[^)]*\)", description) == []


@pytest.mark.slow
def test_the_source_distribution_holds_the_tree(distributions):
    with tarfile.open(distributions[0]) as archive:
        held = {m.name.split("/", 1)[1] for m in archive.getmembers() if m.isfile()}
    held = {n for n in held if not n.startswith("tunewright.egg-info/")} - {"PKG-INFO", "setup.cfg"}
    wings = ("envs/", "agents/", "tuners/", "knowledge/")  # there they lie in the package, where the links point from
    assert held == {name for name in files(ROOT) if not name.startswith(wings)}


@pytest.mark.slow
def test_the_wheel_works_where_it_is_installed(distributions, tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    install = [python, "-m", "pip", "install", "-q", "--no-index", "--no-deps", distributions[1]]
    subprocess.run(install, check=True, capture_output=True)
    # the dependencies are those of this environment; the .pth file of an editable install must not come with them
    own = [p for p in map(Path, sys.path) if p.name == "site-packages"] or [Path(sysconfig.get_path("purelib"))]
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip())
    (site / "dependencies.pth").write_text("".join(f"{p}\n" for p in own))
    where = subprocess.run(
        [python, "-c", "import tunewright.agents, tunewright.tuners; print(tunewright.__file__, tunewright.agents.__file__)"],
        check=True, capture_output=True, text=True, cwd=tmp_path,
    ).stdout.split()  # fmt: skip
    assert all(Path(p).is_relative_to(site) for p in where)
    (tmp_path / "t.csv").write_text("a,time-\n1,3\n2,2\n3,1\n")
    words = ["tune", "table:t.csv", "--tuner", "grid", "--trials", "3", "--store", "sqlite:///s.db", "--json"]
    done = subprocess.run([python.with_name("tunewright"), *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"trials": 3' in done.stdout
