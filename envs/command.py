"""Any program, described by a TOML file: parameters, command line, files, hooks, metrics."""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tunewright.envs.command_file import Description, load_description, read_json_path, read_number
from tunewright.envs.command_guarantees import weaker
from tunewright.envs.machine.live import Machine
from tunewright.envs.machine.target import MachineTarget
from tunewright.errors import ConfigError, TargetError, unknown
from tunewright.measuring import hooks
from tunewright.sessions import originals, workfolder
from tunewright.sessions.locks import file_keys
from tunewright.space import Config
from tunewright.space.expressions import parse
from tunewright.store.trees import remove_tree
from tunewright.target import BaseTarget, Budget, Measurement, Weaker

_OUTPUT_LIMIT = 16 * 2**20  # bytes of output that are searched for metrics
_STREAMS = ("stdout", "stderr")
_RUNS = "runs"  # folder below the work directory, one folder a run in it
_TICK_NS = 20_000_000  # two writes of a file within a tick of the kernel's clock bear the same time
_KERNELS = ("/proc/", "/sys/")  # where files are never written: each reading asks the kernel
_PLACE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.\-]*)\}")


def open_target(argument: str, options: Mapping[str, str]) -> CommandTarget | MachineTarget:
    """Entry point: the argument is the path of the TOML file."""
    if not argument:
        raise ConfigError(
            "say which file: command:FILE.toml, or just FILE.toml; 'tunewright init FILE.toml' writes one"
        )
    for name in options:
        raise unknown("option of target command", name, [])
    target = CommandTarget(load_description(Path(argument)))
    keys = target.description.machine
    return MachineTarget(target, keys, Machine()) if keys else target


class CommandTarget(BaseTarget):
    """Any program, described by a TOML file: parameters, command line, files, hooks, metrics.

    Args:
        description: what the TOML file says.
    """

    def __init__(self, description: Description) -> None:
        self.description = description
        self.name, self.space, self.metrics = description.name, description.space, description.metrics
        self.workloads = description.workloads
        self.limit_seconds, self.memory_bytes = description.limit_s, description.memory_bytes
        self.parallel_safe = description.parallel
        self.manual = description.about
        self.facts = {"file": description.path.name}
        self.live = bool(self._own_files() or self._lasting_hooks())
        self._saved: dict[str, dict[str, Any]] = {}  # the user's files, by path, while they are changed

    # -- guarantees -------------------------------------------------------------------------------

    def guarantee_names(self) -> tuple[str, ...]:
        """Return the parameters that the description's guarantees read, or that decide whether these are active."""
        named = {n for guarantee in self.description.guarantees for n in guarantee.names}
        return tuple(n for n in self.space.params if n in self._with_conditions(named))

    def _with_conditions(self, names: set[str]) -> set[str]:
        while more := {n for name in names for n in self._condition(name) if n in self.space.params} - names:
            names = names | more
        return names

    def _condition(self, name: str) -> tuple[str, ...]:
        when = self.space.params[name].when
        return parse(when).names if when else ()

    def guarantees(self, config: Config) -> dict[str, float]:
        """Return the levels that the description declares, 0 for the weakest."""
        return {g.name: g.strength(self.space, config) for g in self.description.guarantees}

    def weaker(self, config: Config) -> list[Weaker]:
        """Return the same settings with one changed, for each weaker level that the description declares."""
        return weaker(self.space, self.description.guarantees, config)

    # -- measuring --------------------------------------------------------------------------------

    def measure(self, config: Config, *, workload: str, seed: int, budget: Budget) -> Measurement:
        """Reset, write files, apply, run, and read the metrics."""
        rundir = tempfile.mkdtemp(dir=workfolder.private(budget.workdir, _RUNS), prefix="run-")
        names = self._names(config, workload=workload, seed=str(seed), workdir=str(budget.workdir), rundir=rundir)
        try:
            measurement = self._run(names)
        finally:
            mounted = remove_tree(Path(rundir))
        if mounted:
            reason = f"it left something mounted on {mounted[0]}, which was left there; let it unmount that"
            return Measurement(status="failed", reason=reason, seconds=measurement.seconds)
        return measurement

    def _run(self, names: Mapping[str, str | None]) -> Measurement:
        about = self.description
        self._hook("reset", names)
        self._write_files(names)
        self._hook("apply", names)
        outputs = {}
        before = {path: _stamp(path) for path in self._sources(names).values()}
        if any(stamp and time.time_ns() - stamp[-1] < _TICK_NS for stamp in before.values()):
            time.sleep(_TICK_NS / 1e9)
        begun = time.perf_counter()
        rundir = names["rundir"] or ""
        with open(Path(rundir, ".stdout"), "w+b") as out, open(Path(rundir, ".stderr"), "w+b") as err:
            code = self._start(about.command, names, out, err).wait()
            seconds = time.perf_counter() - begun
            for name, file in zip(_STREAMS, (out, err), strict=True):
                outputs[name] = _tail(file)
        reason = self._failure(code, outputs)
        if reason:
            return Measurement(status="failed", reason=reason, seconds=seconds)
        values = {}
        for metric in about.metrics:
            values[metric.name] = self._value(metric.name, outputs, seconds, names, before)
        return Measurement(values=values, seconds=seconds)

    def _names(self, config: Config, **more: str) -> dict[str, str | None]:
        """Values for placeholders; None for parameters that are not active."""
        names: dict[str, str | None] = dict.fromkeys(self.space.params)
        for name, value in config.items():
            names[name] = str(value).lower() if isinstance(value, bool) else str(value)
        return {**names, **more}

    def _arguments(self, words: Sequence[str], names: Mapping[str, str | None]) -> list[str]:
        return [filled for word in words if (filled := fill(word, names)) is not None]

    def _environment(self, names: Mapping[str, str | None]) -> dict[str, str]:
        return {k: fill(v, names) or "" for k, v in self.description.env.items()}

    def _start(
        self, words: Sequence[str], names: Mapping[str, str | None], out: Any, err: Any
    ) -> subprocess.Popen[bytes]:
        about = self.description
        arguments = self._arguments(words, names)
        environment = {**os.environ, **self._environment(names)}
        try:
            return subprocess.Popen(
                arguments[0] if about.shell and len(arguments) == 1 else arguments,
                shell=about.shell and len(arguments) == 1,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=about.cwd,
                env=environment,
            )
        except OSError as error:
            raise TargetError(f"cannot start {arguments[0]!r} in {about.cwd}: {error.strerror or error}") from None

    def _hook(self, hook: str, names: Mapping[str, str | None]) -> None:
        """Run a command that changes the system; what it starts lives on."""
        about = self.description
        words = about.hooks.get(hook)
        if not words:
            return
        arguments = self._arguments(words, names)
        done = hooks.run(
            arguments, cwd=str(about.cwd), env=self._environment(names), shell=about.shell and len(arguments) == 1
        )
        if done.code is None:
            raise TargetError(f"the {hook} command took more than {hooks.LIMIT_S:.0f} s and was ended{done.where}")
        if done.code != 0:
            raise TargetError(f"the {hook} command {_exit(done.code)}{_said(done.output)}{done.where}")

    def _failure(self, code: int, outputs: Mapping[str, str]) -> str:
        about = self.description
        said = _said(outputs["stderr"] or outputs["stdout"])
        if code not in about.exit_codes:
            return f"the command {_exit(code)}{said}"
        both = outputs["stdout"] + outputs["stderr"]
        if about.contains is not None and about.contains not in both:
            return f"the output does not contain {about.contains!r}{said}"
        if about.forbids is not None and about.forbids in both:
            return f"the output contains {about.forbids!r}{said}"
        return ""

    def _sources(self, names: Mapping[str, str | None]) -> dict[str, Path]:
        """Return the files that metrics are read from, by metric."""
        return {
            metric: self.description.cwd / (fill(rule.source, names) or "")
            for metric, rule in self.description.rules.items()
            if not rule.wall_time and rule.source not in _STREAMS
        }

    def _value(
        self,
        name: str,
        outputs: Mapping[str, str],
        seconds: float,
        names: Mapping[str, str | None],
        before: Mapping[Path, tuple[int, ...] | None],
    ) -> float:
        rule = self.description.rules[name]
        if rule.wall_time:
            return seconds
        if rule.source in outputs:
            text = outputs[rule.source]
        else:
            path = self._sources(names)[name]
            stamp = before[path]
            if stamp is not None and stamp == _stamp(path) and not os.path.realpath(path).startswith(_KERNELS):
                raise TargetError(
                    f"metric {name!r}: the command did not write {path} in this run; what it holds is an earlier one's"
                )
            try:
                text = path.read_text(encoding="utf-8", errors="replace")[-_OUTPUT_LIMIT:]
            except OSError as error:
                raise TargetError(f"metric {name!r}: cannot read {path}: {error.strerror}") from None
        if rule.json is not None:
            return read_json_path(name, rule.json, text)
        assert rule.regex is not None
        found = deque(rule.regex.finditer(text), maxlen=1)  # the last match: programs print totals at the end
        if not found:
            raise TargetError(f"metric {name!r}: nothing in {rule.source} matches {rule.regex.pattern!r}{_said(text)}")
        return read_number(name, found[0][1] or "")

    # -- files ------------------------------------------------------------------------------------

    def _own_files(self) -> list[Path]:
        """Files outside the run's directory: the user's own, to be put back."""
        return [self.description.cwd / f.path for f in self.description.files if not f.inside]

    def _write_files(self, names: Mapping[str, str | None]) -> None:
        for file in self.description.files:
            path = self.description.cwd / (fill(file.path, names) or "")
            originals.write(path, (_filled(file.text, names) + "\n").encode(), self._saved.get(os.path.abspath(path)))

    def _lasting_hooks(self) -> list[str]:
        return [hook for hook in ("apply", "rollback") if hook in self.description.hooks]

    def changes(self, to: str | None = None) -> Sequence[str]:
        """Return the keys of the user's files, and of the description where its commands change something else."""
        keys = [key for path in self._own_files() for key in file_keys(path)]
        if self._lasting_hooks():
            keys += [f"commands in {key}" for key in file_keys(self.description.path)]
        return keys

    def snapshot(self, folder: Path) -> dict[str, Any]:
        """Copy the user's files."""
        paths = self._own_files()
        if not paths and not self._lasting_hooks():
            return {}
        texts = [file.text for file in self.description.files if not file.inside]
        files = [
            {**originals.save(path, folder, str(number)), "template": text}
            for number, (path, text) in enumerate(zip(paths, texts, strict=True))
        ]
        self._saved = {entry["path"]: entry for entry in files}
        return {
            "files": files,
            "toml": os.path.realpath(self.description.path),
            "commands": "rollback" in self.description.hooks,
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Put the user's files back and run the rollback command."""
        self._saved = {}
        if not snapshot:
            return
        problems = []
        for entry in snapshot["files"]:
            try:
                originals.put_back(entry if "copy" in entry else _from_text(entry))
            except TargetError as error:  # the other files all the same
                problems.append(str(error))
        if snapshot.get("toml", os.path.realpath(self.description.path)) == os.path.realpath(self.description.path):
            workdir = Path(snapshot.get("workdir") or tempfile.gettempdir())
            try:
                self._hook("rollback", self._service_names(self.space.default, workdir))
            except TargetError as error:
                problems.append(str(error))
        if problems:
            raise TargetError("; ".join(problems))

    def cleanup(self, workdir: Path) -> None:
        """Remove what was written for runs; what the user's program left in {workdir} stays."""
        workfolder.remove(workdir, _RUNS)
        names = {"workdir": str(workdir)}
        for file in self.description.files:
            if file.path.startswith("{workdir}/") and "{" not in file.path.removeprefix("{workdir}"):
                with suppress(OSError):
                    Path(fill(file.path, names) or "").unlink()

    def _service_names(self, config: Config, workdir: Path) -> dict[str, str | None]:
        first = next(iter(self.workloads))
        return self._names(config, workload=first, seed="0", workdir=str(workdir), rundir=str(workdir))

    def render(self, config: Config) -> str:
        """Return the command line and the configuration files."""
        import shlex

        names = self._names(config, workload=next(iter(self.workloads)), seed="0", workdir="WORKDIR", rundir="RUNDIR")
        parts = [shlex.join(self._arguments(self.description.command, names))]
        if not self._mentioned():
            parts = ["\n".join(f"{n} = {v}" for n, v in config.items())]
        for file in self.description.files:
            parts.append(f"# {file.path}\n{_filled(file.text, names)}")
        return "\n\n".join(parts)

    def _mentioned(self) -> bool:
        return any(f"{{{name}}}" in word for name in self.space.params for word in self.description.command)

    def undo(self, folder: Path, to: str | None = None) -> dict[str, Any]:
        """Copy the user's files."""
        if not self._own_files() and "apply" not in self.description.hooks:
            raise ConfigError(
                f"{self.description.path} names neither a [[file]] of yours nor an apply command; "
                "use the settings shown by 'tunewright show'"
            )
        return self.snapshot(folder)

    def apply(self, config: Config, to: str | None = None) -> None:
        """Write the configuration files for good and run the apply command."""
        names = self._service_names(config, Path(tempfile.gettempdir()))
        self._write_files(names)
        self._hook("apply", names)

    def rollback(self, undo: Mapping[str, Any]) -> None:
        """Put back what ``apply`` replaced."""
        self.restore(undo)


def _from_text(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry for :func:`originals.put_back` of one that an earlier version kept with the file's text in it."""
    if entry["data"] is None:
        return {"path": entry["path"], "copy": None}
    handle, copy = tempfile.mkstemp(prefix="tunewright-")
    with os.fdopen(handle, "wb") as file:
        file.write(base64.b64decode(entry["data"]))
    return {"path": entry["path"], "copy": copy}


def fill(text: str, names: Mapping[str, str | None]) -> str | None:
    """Put values into ``{name}`` placeholders; None if one of them is not active.

    Braces around anything that is no known name stay as they are, so JSON and C files work.

    >>> fill('{"cache": {cache}}', {"cache": "8"}), fill("--x={x}", {"x": None})
    ('{"cache": 8}', None)
    """
    if any(names.get(name, "") is None for name in _PLACE.findall(text)):
        return None
    return _PLACE.sub(lambda match: str(names.get(match[1], match[0])), text)


def _filled(template: str, names: Mapping[str, str | None]) -> str:
    """Return a file's text, without the lines of parameters that are not active."""
    return "\n".join(filled for line in template.splitlines() if (filled := fill(line, names)) is not None)


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Return what changes whenever a file is written, with the same content too; None where there is no file."""
    try:
        about = path.stat()
    except (OSError, ValueError):
        return None
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


def _tail(file: Any) -> str:
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - _OUTPUT_LIMIT))
    return str(file.read().decode("utf-8", errors="replace"))


def _exit(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"


def _said(text: str) -> str:
    lines = text.strip().splitlines()
    return f"; it last said: {lines[-1][:300]}" if lines else "; it printed nothing"
