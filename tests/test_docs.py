"""Examples in docstrings and in the documentation run."""

import doctest
import importlib
import pkgutil
import re
import shlex
from pathlib import Path

import pytest
import tunewright.agents
import tunewright.envs
import tunewright.knowledge
import tunewright.tuners

import tunewright

ROOT = Path(__file__).parents[1]


def modules():
    for package in (tunewright, tunewright.envs, tunewright.agents, tunewright.knowledge, tunewright.tuners):
        yield package.__name__
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            yield found.name


@pytest.mark.parametrize("name", sorted(set(modules())))
def test_docstring_examples(name):
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    failed, _ = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert failed == 0


def blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)


def test_readme_python_examples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in blocks("python"):
        exec(compile(text, "README.md", "exec"), {"__name__": "readme"})


def test_readme_toml_examples_are_legal(tmp_path, cli):
    for number, text in enumerate(blocks("toml")):
        path = tmp_path / f"{number}.toml"
        path.write_text(text)
        cli("check", path)


def test_readme_names_only_real_commands_and_options(cli):
    known = {}
    for text in blocks("sh"):
        for line in text.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] != ["tunewright"] or len(words) < 2 or words[1].startswith("-"):
                continue
            if words[1] not in known:
                known[words[1]] = cli(words[1], "--help").stdout
            for word in words[2:]:
                if word.startswith("--"):
                    assert word in known[words[1]], f"README: {line}"


def test_readme_links_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        if not link.startswith("http"):
            assert (ROOT / link).exists(), link
