"""Any program or server, described by a TOML file: parameters, command line, files, hooks, metrics."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.envs import command_record, command_run, command_served, service
from tunewright.envs.command_file import Description, File, load_description
from tunewright.envs.command_forms import command_forms, costs, file_lines, not_live
from tunewright.envs.command_guarantees import weaker
from tunewright.envs.command_places import PLACE, Names, fill, filled
from tunewright.envs.command_preflight import preflight
from tunewright.envs.command_record import DATA, RUNS, Recorded
from tunewright.envs.command_run import run_hook
from tunewright.envs.command_served import Place
from tunewright.envs.service_file import PLACES
from tunewright.errors import ConfigError, TargetError, unknown
from tunewright.sessions import originals, workfolder
from tunewright.sessions.locks import file_keys
from tunewright.space import Config, Value
from tunewright.space.expressions import parse
from tunewright.store.trees import remove_tree
from tunewright.target import BaseTarget, Budget, Measurement, Preflight, Weaker

if TYPE_CHECKING:
    from tunewright.envs.machine.target import MachineTarget

_PREPARED, _REFERENCE = ".prepared", ".default-output"


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
    if not keys:
        return target
    from tunewright.envs.machine.live import Machine
    from tunewright.envs.machine.target import MachineTarget

    return MachineTarget(target, keys, Machine())


def recorded(state: Mapping[str, Any]) -> BaseTarget | None:
    """Return what puts back what a session changed whose description cannot be read; None where too little is known.

    Args:
        state: the session's snapshot or undo.
    """
    undo = state.get(command_record.KEY, None if state.get("commands") else {})  # earlier versions noted none
    return None if undo is None else Recorded(undo)


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
        self.live = bool(
            self._own_files("trials") or self._lasting_hooks() or (description.service and not self.serves)
        )
        if description.service is not None:
            self.prepare_seconds = description.service.prepare_s()
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

    def dangerous(self) -> Mapping[str, str]:
        """Return what the description calls so."""
        return self.description.dangerous

    # -- measuring --------------------------------------------------------------------------------

    def measure(self, config: Config, *, workload: str, seed: int, budget: Budget) -> Measurement:
        """Reset, write files, apply, run, and read the metrics; around it the server, where the description has one."""
        about = self.description
        runs = workfolder.private(budget.workdir, RUNS)
        if self.serves:
            place = self._place(config, workload=workload, seed=seed, workdir=budget.workdir)
            reference = self._reference(budget.workdir)
            measurement, mounted = command_served.served(
                about,
                config,
                place,
                lambda names, server: command_run.measured(about, names, reference, server, budget=budget),
            )
        else:
            rundir = tempfile.mkdtemp(dir=runs, prefix="run-")
            more = {"workload": workload, "seed": str(seed), "workdir": str(budget.workdir), "rundir": rundir}
            names = command_run.names_of(about, config, **more, **self._session_places(budget.workdir))
            try:
                measurement = self._run(names, budget)
            finally:
                mounted = remove_tree(Path(rundir))
        if mounted:
            reason = f"it left something mounted on {mounted[0]}, which was left there; let it unmount that"
            return Measurement(status="failed", reason=reason, seconds=measurement.seconds)
        return measurement

    @property
    def serves(self) -> bool:
        """Whether the description starts a server of its own."""
        return self.description.service is not None and bool(self.description.service.start)

    def waiting(self, workdir: Path) -> str:
        """Return what a load waits for now; "" where it is at work."""
        try:
            return (workfolder.path_of(workdir, RUNS) / command_run.WAITING).read_text(encoding="utf-8")
        except OSError:
            return ""

    def _run(self, names: Names, budget: Budget) -> Measurement:
        about = self.description
        run_hook(about, "reset", names)
        self._write_files(names, "trials")
        run_hook(about, "apply", names)
        server = None
        if about.service is not None:  # the user's, which runs already, and was changed by the hook
            server = command_run.instance(about, Path(names["rundir"] or ""), names)
            service.wait_ready(server)
            if "warmup" in about.service.commands:
                server.command("warmup", about.service.commands["warmup"], about.service.limits["warmup_limit"])
        return command_run.measured(about, names, self._reference(budget.workdir), server, budget=budget)

    def prepare(self, *, workload: str, seed: int, budget: Budget) -> dict[str, Any]:
        """Do what is done once a session: prepare and fill a server's data, run the default as a reference."""
        about = self.description
        config = about.space.default
        if self.serves and not (data := workfolder.path_of(budget.workdir, DATA)).joinpath(_PREPARED).is_file():
            workfolder.private(budget.workdir, RUNS)
            workfolder.remove(budget.workdir, DATA)
            workfolder.private(budget.workdir, DATA)
            command_served.prepared(about, self._place(config, workload=workload, seed=seed, workdir=budget.workdir))
            data.joinpath(_PREPARED).touch()
        if about.success.as_default and not self._reference(budget.workdir).is_file():
            first = self.measure(config, workload=workload, seed=seed, budget=budget)
            if not first.ok:
                raise TargetError(f"the default configuration cannot be measured: {first.reason}")
        return dict(budget.prepared)

    def _place(self, config: Config, *, workload: str, seed: int, workdir: Path) -> Place:
        """Return where runs with a server take place."""
        data = workfolder.path_of(workdir, DATA)

        def names(rundir: Path, ports: Mapping[str, str]) -> dict[str, str | None]:
            more = {"workload": workload, "seed": str(seed), "workdir": str(workdir), "rundir": str(rundir)}
            return command_run.names_of(self.description, config, **more, **ports, datadir=str(data))

        runs = workfolder.path_of(workdir, RUNS)
        return Place(runs=runs, data=data, names=names, write=lambda names: self._write_files(names, "trials"))

    def _session_places(self, workdir: Path) -> dict[str, str]:
        return {"datadir": str(workfolder.path_of(workdir, DATA))} if self.description.service is not None else {}

    def _reference(self, workdir: Path) -> Path:
        """Return where the default's output is kept for comparison."""
        return workfolder.path_of(workdir, RUNS) / _REFERENCE

    def processes(self, workdir: Path, runner: int) -> Collection[int]:
        """Return those of a kept server, which does not descend from the measuring process."""
        its = self.description.service
        return service.kept_processes(workfolder.path_of(workdir, RUNS), runner) if its is not None and its.keep else ()

    # -- files ------------------------------------------------------------------------------------

    def _own_files(self, use: str) -> list[tuple[Path, File]]:
        """Return the files outside the run's directory, the user's own, that are to be put back."""
        return [(self.description.cwd / f.path, f) for f in self.description.files_for(use) if not f.inside]

    def _write_files(self, names: Names, use: str) -> None:
        for file in self.description.files_for(use):
            path = self.description.cwd / (fill(file.path, names) or "")
            if file.inside:
                path.parent.mkdir(parents=True, exist_ok=True)
            originals.write(path, (filled(file.text, names) + "\n").encode(), self._saved.get(os.path.abspath(path)))

    def _lasting_hooks(self) -> list[str]:
        """Return the commands that change something beside the server that is started for the runs."""
        return [] if self.serves else [hook for hook in ("apply", "rollback") if hook in self.description.hooks]

    def changes(self, to: str | None = None) -> Sequence[str]:
        """Return the keys of the user's files, and of the description where its commands change something else."""
        about = self.description
        paths = {path for use in ("trials", "service") for path, _ in self._own_files(use)}
        keys = [key for path in sorted(paths) for key in file_keys(path)]
        if self._lasting_hooks() or "service_apply" in about.hooks:
            keys += [f"commands in {key}" for key in file_keys(about.path)]
        if about.service is not None and not (about.service.private and not about.service.keep):
            keys += [f"server of {key}" for key in file_keys(about.path)]
        return keys

    def snapshot(self, folder: Path) -> dict[str, Any]:
        """Copy the user's files, and note whether a server of the user's answers."""
        about = self.description
        own = self._own_files("trials")
        if not own and not self._lasting_hooks() and about.service is None:
            return {}
        answered = False
        if about.service is not None and not self.serves:
            names = self._service_names(self.space.default, folder)
            answered = service.answers(command_run.instance(about, folder, names))
        return {**self._saved_files(folder, own, self._restore_hook(), answered), "answered": answered}

    def _saved_files(
        self, folder: Path, own: Sequence[tuple[Path, File]], hook: str, answered: bool = False
    ) -> dict[str, Any]:
        files = [
            {**originals.save(path, folder, str(number)), "template": file.text}
            for number, (path, file) in enumerate(own)
        ]
        self._saved = {entry["path"]: entry for entry in files}
        toml = os.path.realpath(self.description.path)
        return {"files": files, "toml": toml, command_record.KEY: self._undoing(hook, answered)}

    def _undoing(self, hook: str, answered: bool = False) -> dict[str, Any]:
        """Return how what is changed is undone, as the description says it now."""
        names = self._service_names(self.space.default, Path("{workdir}"))
        return command_record.record(self.description, hook, names, answers=answered)

    def _undo_of(self, state: Mapping[str, Any], hook: str) -> Mapping[str, Any]:
        """Return how a state is undone: as it was noted, and where this is its description, as that says now."""
        mine = state.get("toml", "") in ("", os.path.realpath(self.description.path))
        now = self._undoing(hook, bool(state.get("answered"))) if mine else {}
        return {**state.get(command_record.KEY, {}), **now}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """End what is left of servers, put the user's files back and run the rollback command."""
        self._saved = {}
        if snapshot:
            command_record.put_back(snapshot, self._undo_of(snapshot, self._restore_hook()))

    def cleanup(self, workdir: Path) -> None:
        """Remove what was written for runs; what the user's program left in {workdir} stays."""
        command_record.remove_runs(workdir)
        names = {"workdir": str(workdir)}
        for file in self.description.files:
            if file.path.startswith("{workdir}/") and "{" not in file.path.removeprefix("{workdir}"):
                with suppress(OSError):
                    Path(fill(file.path, names) or "").unlink()

    def _service_names(self, config: Config, workdir: Path) -> dict[str, str | None]:
        first = next(iter(self.workloads))
        more = {"workload": first, "seed": "0", "workdir": str(workdir), "rundir": str(workdir)}
        return command_run.names_of(self.description, config, **more, **self._session_places(workdir))

    def render(self, config: Config) -> str:
        """Return the command line and the configuration files."""
        about = self.description
        more = {"workload": next(iter(self.workloads)), "seed": "0", "workdir": "WORKDIR", "rundir": "RUNDIR"}
        if about.service is not None:
            more |= {name: name.upper() for name in PLACES}
        names = command_run.names_of(about, config, **more)
        mentioning = (*about.command, *(about.service.start if about.service else ()))
        lines = [about.service.start] if about.service and about.service.start else [about.command]
        filled_in = [command_run.argument_list(about, words, names) for words in lines]
        parts = [w[0] if about.shell and len(w) == 1 else shlex.join(w) for w in filled_in]  # one text for the shell
        places = {*self.space.params, *about.parameters.flags}
        # files without parameters are the same for all configurations, and so is a command without any
        files = [file for file in about.files if not places.isdisjoint(PLACE.findall(file.text))]
        if not any(f"{{{name}}}" in word for name in places for word in mentioning):
            parts = [] if files else ["\n".join(f"{n} = {v}" for n, v in config.items())]
        return "\n\n".join([*parts, *(f"# {file.path}\n{filled(file.text, names)}" for file in files)])

    # -- in service -------------------------------------------------------------------------------

    def _apply_hook(self) -> str:
        """Return the hook that puts a configuration into service, "" for none; that of trials where it lasts."""
        if "service_apply" in self.description.hooks:
            return "service_apply"
        return "apply" if "apply" in self.description.hooks and not self.serves else ""

    @property
    def applies(self) -> bool:
        """Whether the description names files of the user's or a command that applies."""
        return bool(self._own_files("service") or self._apply_hook())

    def undo(self, folder: Path, to: str | None = None) -> dict[str, Any]:
        """Copy the user's files."""
        if not self.applies:
            raise ConfigError(
                f"{self.description.path} names neither a [[file]] of yours nor an apply command"
                f"{' for service: service_apply in [hooks]' if self.serves else ''}; "
                "use the settings shown by 'tunewright show'"
            )
        state = self._saved_files(folder, self._own_files("service"), self._rollback_hook())
        return {**state, "applied": True}

    def _restore_hook(self) -> str:
        """Return the hook that undoes what trials changed: rollback, else apply, which is given the default; or ""."""
        return next((hook for hook in ("rollback", "apply") if hook in self._lasting_hooks()), "")

    def _rollback_hook(self) -> str:
        """Return the hook that takes a configuration out of service, likewise."""
        if "service_rollback" in self.description.hooks:
            return "service_rollback"
        return self._restore_hook() or self._apply_hook()

    def apply(self, config: Config, to: str | None = None) -> None:
        """Write the configuration files for good and run the command that puts them into service."""
        names = self._service_names(config, Path(tempfile.gettempdir()))
        own = [file for _, file in self._own_files("service")]
        for file in own if self.serves else self.description.files_for("service"):
            path = self.description.cwd / (fill(file.path, names) or "")
            originals.write(path, (filled(file.text, names) + "\n").encode(), self._saved.get(os.path.abspath(path)))
        if hook := self._apply_hook():
            run_hook(self.description, hook, names)

    def files(self, config: Config) -> Mapping[Path, str]:
        """Return the user's files as ``apply`` writes them."""
        names = self._service_names(config, Path(tempfile.gettempdir()))
        return {path: filled(file.text, names) + "\n" for path, file in self._own_files("service")}

    def forms(self, config: Config, changed: Mapping[str, Value]) -> Mapping[str, str]:
        """Return the environment and a drop-in of systemd, where command or environment name parameters.

        And where no file of the user's is described, the lines of other configuration files that name them.
        """
        names = self._service_names(config, Path(tempfile.gettempdir()))
        about = self.description
        template = about.service.start if about.service is not None and self.serves else about.command
        names |= {name: name.upper() for name in PLACES} if self.serves else {}
        words, environment = command_run.argument_list(about, template, names), command_run.environment(about, names)
        found = command_forms(about, template, words, environment, {*self.space.params, *about.parameters.flags})
        return found if self._own_files("service") else {**found, "conf.d": file_lines(about, names, changed)}

    def still_to_do(self, config: Config, changed: Mapping[str, Value]) -> Sequence[str]:
        """Say which values are written and not live, where there is no apply command that would have made them so."""
        costly = costs(self.description, [n for n in changed if n in self.space.params])
        return [not_live(self.description, costly)] if costly and not self._apply_hook() else ()

    def rollback(self, undo: Mapping[str, Any]) -> None:
        """Put back what ``apply`` replaced."""
        if not undo.get("applied"):  # as earlier versions kept it
            self.restore(undo)
            return
        self._saved = {}
        command_record.put_back(undo, self._undo_of(undo, self._rollback_hook()))

    def preflight(self, *, workload: str, workdir: Path) -> Preflight:
        """Say which files are written, which commands and servers run, and what of that this user may not do."""
        return _with_server(self, preflight(self.description, self.serves, workdir), workload, workdir)


def _with_server(target: CommandTarget, said: Preflight, workload: str, workdir: Path) -> Preflight:
    """Add what is known of the server that a description names."""
    about, its = target.description, target.description.service
    if its is None:
        return said
    if not target.serves:
        names = target._service_names(about.space.default, workdir)
        if service.answers(command_run.instance(about, workdir, names)):
            return said
        return replace(said, missing=[*said.missing, "start the server that the description names: it does not answer"])
    how = "kept between runs" if its.keep else "started for each run and stopped after it"
    what = its.start[0] if len(its.start) > 1 else "the start command"
    places = target._place(about.space.default, workload=workload, seed=0, workdir=workdir).names
    server = command_run.instance(about, workdir, places(workdir, dict.fromkeys(PLACES[:3], "0")))
    taken = service.taken_by(server)
    return replace(
        said, restarts=[*said.restarts, f"A server of the session's own ({what}) is {how}."],
        missing=[*said.missing, *([taken] if taken else [])],
    )  # fmt: skip
