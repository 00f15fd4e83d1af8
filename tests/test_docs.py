"""Examples in docstrings and in the documentation run."""

import doctest
import importlib
import pkgutil
import re
import shlex
from pathlib import Path

import pytest

import tunewright
import tunewright.agents
import tunewright.envs
import tunewright.knowledge
import tunewright.tuners
from tunewright.plugins import TARGETS, installed, options_of, split_spec

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


PAGES = (
    "README.md", "docs/hybrid.md", "docs/reader.md", "docs/lustre.md", "docs/gluster.md", "docs/parallelism.md",
    "docs/comparing.md", "docs/guides/add_target.md", "docs/guides/add_tuner.md", "docs/guides/add_command.md",
)  # fmt: skip


def blocks(kind, page="README.md"):
    return re.findall(rf"```{kind}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)


@pytest.mark.parametrize("page", PAGES)
def test_python_examples(tmp_path, monkeypatch, page):
    monkeypatch.chdir(tmp_path)
    for text in blocks("python", page):
        exec(compile(text, page, "exec"), {"__name__": "documented"})


def test_readme_toml_examples_are_legal(tmp_path, cli):
    for number, text in enumerate(blocks("toml")):
        path = tmp_path / f"{number}.toml"
        path.write_text(text)
        cli("check", path)


def test_device_examples_are_legal(tmp_path):
    from tunewright.envs.storage.hybrid.devices import load_devices

    for number, text in enumerate(blocks("toml", "docs/hybrid.md")):
        path = tmp_path / f"{number}.toml"
        path.write_text(text)
        assert len(load_devices(str(path)).tiers) >= 2


@pytest.mark.parametrize("page", PAGES)
def test_only_real_commands_and_options_are_named(cli, page):
    known = {}
    for text in blocks("sh", page):
        for line in text.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] != ["tunewright"] or len(words) < 2 or words[1].startswith("-"):
                continue
            command = tuple(
                words[1:3] if words[1] in ("train", "rules", "plan", "simulate", "calibrate") else words[1:2]
            )
            if command not in known:
                known[command] = cli(*command, "--help").stdout
            for word in words[2:]:
                if word.startswith("--"):
                    tuned = words[1] == "tune" and word not in known[command]
                    mine = options_of(words[2]) if tuned else {}
                    assert word in known[command] or word[2:] in mine, f"{page}: {line}"


@pytest.mark.parametrize("page", PAGES)
def test_links_exist(page):
    for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        if not link.startswith("http"):
            assert (ROOT / page).parent.joinpath(link).exists(), link


@pytest.mark.parametrize("part", ["postgres", "mariadb", "redis", "nginx", "gcc"])
def test_a_guide_has_a_session_that_the_benchmark_can_run(part, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import guides

    files, command = guides.session(part)
    target = command[2]
    assert split_spec(target)[0] in installed(TARGETS)
    scripts = [word.partition("=")[2] for word in command if word.startswith("load=")]
    named = {part.rpartition("@")[0] for word in scripts for part in word.split(",")}
    assert named <= files.keys() and (not target.endswith(".toml") or target in files)
    if target in files:  # the page has the recipe as it is
        assert files[target] == (ROOT / "envs" / "recipes" / target).read_text(encoding="utf-8")
    assert guides.QUOTE.search((ROOT / "docs" / "guides" / f"{part}.md").read_text(encoding="utf-8"))
