"""An engine as a program: what its ``--help`` says, and which defaults it takes for a model."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tunewright.envs.scheduling.vllm.flags import Flag, read_help
from tunewright.errors import ConfigError
from tunewright.store.files import printable
from tunewright.store.outputs import write_text
from tunewright.store.paths import home

_HELP_S, _RESOLVE_S = 300.0, 600.0  # importing an engine takes tens of seconds on a busy machine
_MODULE = "vllm.entrypoints.openai.api_server"  # vLLM as a module: builds of other names have no console script
# what vLLM makes of its options for a model, run by its own Python, since only it can say; paths change with versions
_RESOLVE = """
import json, sys
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.usage.usage_lib import UsageContext
try:
    from vllm.utils.argparse_utils import FlexibleArgumentParser
except ImportError:
    from vllm.utils import FlexibleArgumentParser
args, _ = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser()).parse_known_args(sys.argv[1:])
config = AsyncEngineArgs.from_cli_args(args).create_engine_config(UsageContext.OPENAI_API_SERVER)
names = ("scheduler_config", "cache_config", "model_config", "parallel_config")
parts = [getattr(config, name, None) for name in names]
found = {}
for name in vars(args):
    for part in parts:
        value = getattr(part, name, None)
        if isinstance(value, (bool, int, float, str)):
            found[name.replace("_", "-")] = value
            break
print("\\nresolved=" + json.dumps(found))
"""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A program that serves a model.

    Attributes:
        kind: ``vllm`` or ``sglang``.
        words: its command line, without host and port.
        python: the Python that it runs in; "" where it is not known.
    """

    kind: str
    words: tuple[str, ...]
    python: str = ""

    @property
    def fixed(self) -> set[str]:
        """Names of the options that the command line gives already."""
        return {word.split("=")[0].removeprefix("--").removeprefix("no-") for word in self.words if word[:2] == "--"}

    @property
    def program(self) -> tuple[str, ...]:
        """The command line up to its first option."""
        first = next(
            (n for n, word in enumerate(self.words) if n and word[:1] == "-" and word != "-m"), len(self.words)
        )
        return self.words[:first]

    @property
    def options(self) -> tuple[str, ...]:
        """The rest."""
        return self.words[len(self.program) :]


def engine_of(*, serve: str, python: str, model: str) -> Engine:
    """Return the engine that a user describes.

    Args:
        serve: the command that starts it, such as ``vllm serve MODEL``; "" for vLLM as a module.
        python: of the environment in which vLLM is installed, for ``serve`` = "".
        model: directory or name.

    Raises:
        ConfigError: nothing was said, or the program is not there.
    """
    if serve:
        try:
            words = shlex.split(serve)
        except ValueError as error:
            raise ConfigError(f"--serve {serve!r}: {error}") from None
        if not words:
            raise ConfigError("--serve is empty; write it as 'vllm serve MODEL'")
        kind = "sglang" if "sglang" in serve else "vllm"
        if model and model not in words:
            flag = "--model-path" if kind == "sglang" else "--model"
            words += [model] if words[-1:] == ["serve"] else [flag, model]
        where = words[0]
    else:
        where = python or shutil.which("python3") or "python3"
        if not model:
            raise ConfigError(
                "say what is served: --model DIR with --python ENV/bin/python, or --serve 'vllm serve MODEL ...'"
            )
        words, kind = [where, "-m", _MODULE, "--model", model], "vllm"
    found = shutil.which(where)
    if found is None:
        raise ConfigError(
            f"there is no program {where}; give --python ENV/bin/python of the environment that has vLLM,"
            " or --serve 'COMMAND ...'"
        )
    return Engine(kind=kind, words=(found, *words[1:]), python=_python_of(Path(found)))


def _python_of(program: Path) -> str:
    """Return the Python of a program: itself, or that of a script's first line; "" for none."""
    if program.name.startswith("python"):
        return str(program)
    try:
        with program.open("rb") as file:
            first = file.readline(300).decode(errors="replace").strip()
    except OSError:
        return ""
    words = first.removeprefix("#!").split()
    return words[0] if first.startswith("#!") and "python" in first and os.access(words[0], os.X_OK) else ""


def flags_of(engine: Engine) -> dict[str, Flag]:
    """Return the options that an engine's own ``--help`` explains; kept for the next time.

    Raises:
        ConfigError: it prints none.
    """
    program = engine.program
    if _MODULE not in engine.words:  # a subcommand such as serve, without the model
        program = program[:2] if engine.kind == "vllm" else program
    text = _kept(engine, "help", program, lambda: _help(program))
    flags = read_help(text)
    if len(flags) < 5:
        raise ConfigError(f"{shlex.join(program)} --help explains no options: {printable(text.strip()[-200:], 200)}")
    return flags


def _help(program: Sequence[str]) -> str:
    said = ""
    for asked in ("--help=all", "--help"):  # vLLM's short help names groups only
        code, said, why = _run([*program, asked], _HELP_S)
        if code == 0 and len(read_help(said)) >= 5:
            return said
        said = said if code == 0 else why
    raise ConfigError(f"{shlex.join([*program, '--help'])} failed: {_last(said)}")


def defaults_of(engine: Engine) -> dict[str, Any]:
    """Return the values that vLLM resolves for its options with this command line; none for other engines.

    Raises:
        ConfigError: vLLM refuses the command line; its own sentence is told.
    """
    if engine.kind != "vllm" or not engine.python:
        return {}
    asked = [word for word in engine.options if word != "-m"]
    positional = engine.program[2:] if _MODULE not in engine.words else ()
    words = [*(["--model", positional[0]] if positional else []), *asked]

    def ask() -> str:
        code, said, why = _run([engine.python, "-c", _RESOLVE, *words], _RESOLVE_S)
        line = next((row for row in reversed(said.splitlines()) if row.startswith("resolved=")), "")
        if "No module named 'vllm" in why:  # a wrapper, or another engine with vLLM's options
            return "{}"
        if code or not line:
            raise ConfigError(f"vLLM refuses {shlex.join(words)}: {_last(why or said)}")
        return line.removeprefix("resolved=")

    found = json.loads(_kept(engine, "defaults", words, ask))
    return found if isinstance(found, dict) else {}


def _run(words: Sequence[str], limit_s: float) -> tuple[int, str, str]:
    # a column count as large as this keeps argparse from breaking names
    env = {**os.environ, "COLUMNS": "120", "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1")}
    try:
        done = subprocess.run(
            words, capture_output=True, stdin=subprocess.DEVNULL, env=env, timeout=limit_s, text=True, errors="replace"
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return 1, "", f"it took more than {limit_s:g} s"
    except OSError as error:
        return 1, "", error.strerror or str(error)
    return done.returncode, done.stdout, done.stderr


def _last(text: str) -> str:
    """Return what an engine said last: the error's own line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line or "error:" in line]
    return printable((errors or lines or ["it said nothing"])[-1], 300)


def _kept(engine: Engine, what: str, words: Sequence[str], ask: Callable[[], str]) -> str:
    """Return an answer of an engine's, kept between calls as long as program, packages and words are the same."""
    packages = Path(engine.python).resolve().parent.parent / "lib" if engine.python else Path()
    sites = [*Path(engine.python).parent.parent.glob("lib/python*/site-packages")] if engine.python else []
    stamps = [p.stat().st_mtime_ns for p in (Path(engine.words[0]), packages, *sites) if p.exists()]
    configs = [p.stat().st_mtime_ns for word in words if (p := Path(word, "config.json")).is_file()]
    key = hashlib.sha256(json.dumps([what, list(words), stamps, configs]).encode()).hexdigest()[:24]
    path = home() / "engines" / f"{key}.txt"
    with suppress(OSError):
        return path.read_text(encoding="utf-8")
    text = ask()
    with suppress(OSError, ConfigError):  # then it is asked again next time
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    return text


@cache
def knobs() -> tuple[Mapping[str, Any], ...]:
    """Return what is known of the options of engines, see ``engines.toml``."""
    return tuple(tomllib.loads(Path(__file__).with_name("engines.toml").read_text(encoding="utf-8"))["knob"])
