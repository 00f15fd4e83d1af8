"""The direction of imports, what the package lists, and what start-up loads."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
ORDER = ("tunewright", "knowledge", "envs", "agents", "tuners")
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


def test_every_subpackage_is_listed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {"tunewright"}
    for folder in ORDER:
        for init in (ROOT / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT).parts
            found.add(".".join(parts if parts[0] == "tunewright" else ("tunewright", *parts)))
    assert set(listed["packages"]) == found
    assert set(listed["package-dir"]) == {"tunewright", *(f"tunewright.{w}" for w in ORDER[1:])}


def test_every_module_has_a_package():
    for folder in ORDER:
        for path in (ROOT / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), path


def test_help_imports_nothing_heavy():
    code = "import sys, tunewright.cli; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert HEAVY & {name.split(".")[0] for name in loaded} == set()


def test_only_the_command_line_prints():
    for folder in ORDER:
        for path in (ROOT / folder).rglob("*.py"):
            if path.name in ("cli.py", "commands.py"):
                continue
            calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
            assert not any(isinstance(c.func, ast.Name) and c.func.id == "print" for c in calls), path
