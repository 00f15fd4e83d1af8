"""The direction of imports, what the package lists, and what start-up loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ("tunewright", "knowledge", "envs", "agents", "tuners")
#: rooms of the core, from the lowest; a room imports itself and what stands before it
ROOMS = (
    ("errors",),
    ("space",),
    ("target",),
    ("tuner", "measuring"),
    ("store",),
    ("plugins", "testing"),
    ("sessions",),
    ("report",),
    ("comparing",),
    ("cli",),
)
HEAVY = {
    "torch",
    "numba",
    "stable_baselines3",
    "langchain",
    "duckdb",
    "matplotlib",
    "optuna",
    "numpy",
    "gymnasium",
    "sklearn",
    "faiss",
}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wing(module):
    parts = module.split(".")
    if parts[0] != "tunewright":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in ORDER else "tunewright"


def test_core_knowledge_envs_agents_tuners():
    wrong = []
    for here, folder in enumerate(ORDER):
        for path in (ROOT / folder).rglob("*.py"):
            for module in imported(path):
                assert module.split(".")[0] not in ORDER[1:], f"{path} imports the bare name {module}"
                there = wing(module)
                if there is not None and ORDER.index(there) > here:
                    wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert wrong == []


def test_rooms_of_the_core():
    level = {room: k for k, rooms in enumerate(ROOMS) for room in rooms}
    assert set(level) == {
        p.stem for p in (ROOT / "tunewright").iterdir() if not p.is_symlink() and p.name[0] not in "_."
    } - {"py"}
    wrong = []
    for path in (ROOT / "tunewright").rglob("*.py"):
        parts = path.relative_to(ROOT / "tunewright").with_suffix("").parts
        if parts in (("__init__",), ("__main__",)):  # give the public names, and the command line
            continue
        for module in imported(path):
            there = module.split(".")[1:2]
            if there and module.startswith("tunewright.") and there[0] in level:
                here, other = level[parts[0]], level[there[0]]
                if other > here or (other == here and there[0] != parts[0]):
                    wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert wrong == []


def modules():
    """Every module of the package by its dotted name, with the modules of the package that it imports anywhere."""
    files = {}
    for folder in ORDER:
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts if parts[0] == "tunewright" else ("tunewright", *parts)
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph = {}
    for name, path in files.items():
        needs = {m for m in imported(path) if m in files and m != name}
        packages = {m.rpartition(".")[0] for m in needs}  # named only because one of their modules is taken
        graph[name] = needs - {p for p in packages if files[p].stat().st_size < 300}
    return graph


def test_no_module_imports_itself_in_a_circle():
    """Imports within functions and those for annotations count."""
    graph = modules()
    del graph["tunewright"]  # gives the public names, within a function
    while ends := {
        name
        for name, needs in graph.items()
        if not needs & graph.keys() or not any(name in others for others in graph.values())
    }:
        for name in ends:
            del graph[name]
    assert {name: sorted(needs & graph.keys()) for name, needs in graph.items()} == {}


def test_every_module_has_a_package():
    for folder in ORDER:
        for path in (ROOT / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), path


@pytest.mark.parametrize(("words", "said"), [(["--help"], "simulate"), (["advise", "postgres"], "shared_buffers")])
def test_help_and_advice_import_nothing_heavy(words, said):
    code = f"import sys, tunewright.cli as c; c.main({words}); print(' '.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said in done.stdout
    assert HEAVY & {name.split(".")[0] for name in done.stderr.split()} == set()


def test_the_start_of_a_run_imports_little():
    """Each run of a described program is a process of its own, and most descriptions have no setting of the machine."""
    code = "import sys, tunewright.measuring.runner, tunewright.envs.command; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    left_out = {"numpy", "psutil", "cloudpickle", "tunewright.plugins", "tunewright.envs.machine.live"}
    assert left_out & set(done.stdout.split()) == set()


def test_environments_are_registered_whichever_is_imported_first():
    listed = "print(sorted(n for n in gymnasium.registry if n.startswith('tunewright/')))"
    both = [
        subprocess.run([sys.executable, "-c", f"{first}; {listed}"], capture_output=True, text=True, check=True).stdout
        for first in ("import gymnasium, tunewright.envs", "import tunewright.envs, gymnasium")
    ]
    assert both[0] == both[1] and "tunewright/Tuning-v0" in both[0]


def test_only_the_command_line_prints():
    for folder in ORDER:
        for path in (ROOT / folder).rglob("*.py"):
            if ROOT / "tunewright" / "cli" in path.parents:
                continue
            calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
            assert not any(isinstance(c.func, ast.Name) and c.func.id == "print" for c in calls), path


def test_no_file_outgrows_its_reader():
    compiled = {"agents/placement/network.py", "envs/scheduling/cluster/kernel.py", "envs/scheduling/serving/kernel.py"}
    lines = {
        path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines())
        for folder in ("tunewright", "envs", "agents", "tuners", "knowledge")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {name for name, n in lines.items() if n > 450 and not name.startswith("tunewright/envs")} <= compiled
    assert lines["tunewright/sessions/session.py"] <= 250
