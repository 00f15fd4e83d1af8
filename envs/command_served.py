"""Runs of a command target with a server of its own: started or kept, loaded, stopped."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tunewright.envs import service
from tunewright.envs import service_process as processes
from tunewright.envs.command_file import Description
from tunewright.envs.command_places import Names
from tunewright.envs.command_run import instance, run_hook
from tunewright.envs.service_file import PLACES, needed
from tunewright.envs.service_instance import Instance
from tunewright.errors import TargetError
from tunewright.space import Config
from tunewright.store.trees import remove_tree
from tunewright.target import Measurement

NamesOf = Callable[[Path, Mapping[str, str]], dict[str, str | None]]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where runs with a server take place.

    Attributes:
        runs: folder of the runs' folders.
        data: folder that is kept for the session.
        names: the values of placeholders, given a run's folder and ports.
        write: writes the configuration files, given these values.
    """

    runs: Path
    data: Path
    names: NamesOf
    write: Callable[[Names], None]


def served(
    about: Description, config: Config, place: Place, load: Callable[[Names, Instance], Measurement]
) -> tuple[Measurement, list[str]]:
    """Run a load on a server with a configuration.

    Args:
        about: the description; its server is started here.
        config: what the server is to have.
        place: where.
        load: what is measured.

    Returns:
        What the load came to, and mount points that its folder could not be removed for.
    """
    its = about.service
    assert its is not None
    found = service.kept(place.runs) if its.keep else None
    if not about.parallel:
        service.end_left(place.runs, found[0] if found else None)
    server, mounted = None, list[str]()
    if found is not None:
        folder, state = found
        server = instance(about, folder, place.names(folder, state["ports"]))
        what = needed(its, about.space, state["config"], config, applied="apply" in about.hooks)
        server.note(busy=True, runner=os.getpid(), config=dict(config))
        if what == "restart":
            server = None
            mounted += _stopped(instance(about, folder, place.names(folder, state["ports"])))
    done = False
    try:
        if server is None:
            server = _started(about, config, place)
        else:
            place.write(server.names)
            if what == "reload":
                service.reload(server)
        for hook in ("reset", "apply"):
            run_hook(about, hook, server.names)
        if "warmup" in its.commands:
            server.command("warmup", its.commands["warmup"], its.limits["warmup_limit"])
        measurement = load(server.names, server)
        done = measurement.ok and its.keep
        if done:
            server.note(busy=False)
    except BaseException:
        if server is not None:
            service.kill(server.folder)
            mounted += remove_tree(server.folder)
        raise
    return measurement, mounted if done else [*mounted, *_stopped(server)]


def _stopped(server: Instance) -> list[str]:
    try:
        service.stop(server.folder)
    finally:
        left = remove_tree(server.folder)
    return left


def _started(about: Description, config: Config, place: Place) -> Instance:
    """Start a server in a folder of its own, with the data and the files that it begins with."""
    folder = Path(tempfile.mkdtemp(dir=place.runs, prefix="run-"))
    try:
        numbers = map(str, processes.free_ports(3))
        ports = dict(zip([name for name in PLACES if name.startswith("port")], numbers, strict=True))
        server = instance(about, folder, place.names(folder, ports))
        its, seed = server.service, _seed(place)
        if its.data is not None and seed.is_dir():
            copy_data(server, seed, Path(server.text(its.data)))
        if "restore" in its.commands:
            server.command("restore", its.commands["restore"], its.limits["restore_limit"])
        place.write(server.names)
        service.start(server, config, ports)
    except BaseException:
        remove_tree(folder)
        raise
    return server


def _seed(place: Place) -> Path:
    """Return where the data is that each start begins with."""
    return place.data / "seed"


def copy_data(server: Instance, source: Path, to: Path) -> None:
    """Copy a folder with owners and times; as clones where the file system can."""
    words = ["cp", "-a", "--reflink=auto", "-T", str(source), str(to)]
    server.command("copy of the data", words, server.service.limits["restore_limit"])
    os.sync()  # what is written back later would be charged to the run


def prepared(about: Description, place: Place) -> None:
    """Make what all runs share: prepare, then fill through a server with the default's settings; keep its data.

    Raises:
        TargetError: one of the commands failed.
    """
    its = about.service
    assert its is not None
    if not its.commands.keys() & {"prepare", "fill"}:
        return
    folder = Path(tempfile.mkdtemp(dir=place.runs, prefix="run-"))
    ports = dict(zip(PLACES[:3], map(str, processes.free_ports(3)), strict=True))
    server = instance(about, folder, place.names(folder, ports))
    try:
        if "prepare" in its.commands:
            server.command("prepare", its.commands["prepare"], its.limits["prepare_limit"])
        if "fill" in its.commands:
            place.write(server.names)
            service.start(server, about.space.default, ports)
            try:
                server.command("fill", its.commands["fill"], its.limits["fill_limit"])
            except TargetError as error:
                raise TargetError(f"{error}{processes.tail(server.logs)}") from None
            service.stop(server.folder)
        if its.data is not None and Path(server.text(its.data)).is_dir():
            copy_data(server, Path(server.text(its.data)), _seed(place))
    finally:
        service.kill(folder)
        remove_tree(folder)
