"""A MariaDB or MySQL server of the user's: who it is, who changes it, its settings, and bringing it up again.

Dynamic variables are changed with SET GLOBAL. Those that need a restart are written into an option file of ours, which
the server must read, and the user's command restarts it. Before each change the values are noted beside the snapshot,
so that what somebody else set meanwhile can be told from what we set.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.envs.storage import postgres_foreign, servers
from tunewright.envs.storage.mariadb_dsn import (
    Address,
    Statements,
    connect,
    connected,
    password_hint,
    read_address,
    refused,
    said,
)
from tunewright.envs.storage.mariadb_params import same
from tunewright.errors import ConfigError, TargetError
from tunewright.sessions import originals

_COMING_UP_S, _RESTART_S, _RESIZE_S = 5.0, 120.0, 60.0
_NOTE = "mariadb-values.json"
GROUP = "[mysqld]"  # of an option file; MariaDB and MySQL both read it


@dataclass(frozen=True, kw_only=True)
class Way:
    """How settings get into a server.

    Attributes:
        address: of the server.
        restart: command that restarts it; empty where it must not be.
        config: option file of ours that the server reads; empty for none.
        static: parameters that need a restart.
        folder: of the snapshot; None where nothing is noted.
        entry: what :func:`tunewright.sessions.originals.save` said of the option file.
    """

    address: Address
    restart: Sequence[str] = ()
    config: str = ""
    static: frozenset[str] = frozenset()
    folder: Path | None = None
    entry: Mapping[str, Any] | None = None


def is_mariadb(ask: Statements) -> bool:
    """Whether a server is MariaDB, and not MySQL."""
    return "mariadb" in str(ask("SELECT VERSION()")[0][0]).lower()


def identity(ask: Statements) -> str:
    """Return what tells a server from others, however it is reached."""
    if not is_mariadb(ask):
        return str(ask("SELECT @@server_uuid")[0][0])
    host, port, data = ask("SELECT @@hostname, @@port, @@datadir")[0]
    return f"{host}:{port} {data}"


# -- up and down --------------------------------------------------------------------------------------------------


def _answers(address: Address, patience_s: float) -> None:
    import pymysql

    end = time.monotonic() + patience_s
    while True:
        try:
            connect(address).close()
            return
        except pymysql.Error as error:
            if refused(error):
                raise postgres_foreign.RefusedError(
                    f"cannot connect to MariaDB: {said(error)}{password_hint(error, address)}"
                ) from None
            if time.monotonic() > end:
                raise TargetError(f"cannot connect to MariaDB: {said(error)}") from None
            time.sleep(0.2)


def restart_server(command: Sequence[str], address: Address) -> None:
    """Run the user's command that restarts a server, and wait until it answers.

    Raises:
        TargetError: the command fails, or the server does not come back.
    """
    servers.run_restart(command)
    _answers(address, _RESTART_S)


def bring_up(address: Address, restart: Sequence[str], files: Sequence[Mapping[str, Any]]) -> None:
    """Start a server that is down: first as it is, then with the option file as it was.

    Raises:
        TargetError: it stays down; the message says what to do.
    """
    try:
        _answers(address, _COMING_UP_S)
        return
    except postgres_foreign.RefusedError:  # it is up
        raise
    except TargetError as error:
        if not restart:
            raise TargetError(f"{error}: start the server") from None
    try:
        restart_server(restart, address)
    except TargetError:
        if not files:
            raise
        for entry in files:
            originals.put_back(entry)
        restart_server(restart, address)


def revive(argument: str, options: Mapping[str, str], state: Mapping[str, Any]) -> None:
    """Bring a server up that a killed session left down, so that the target can be opened.

    Args:
        argument: of the target spec.
        options: of the target.
        state: the session's snapshot.
    """
    given = argument or options.get("dsn") or os.environ.get("TUNEWRIGHT_MARIADB_DSN", "")
    server = str(state.get("server") or given)
    if given and server and read_address(given).place == read_address(server).place:  # it may have the password
        server = given
    if server and "settings" in state:
        bring_up(read_address(server), shlex.split(options.get("restart", "")), state.get("option_files", []))


# -- settings -----------------------------------------------------------------------------------------------------


def values_of(ask: Statements, names: Sequence[str]) -> dict[str, str]:
    """Return the global values of variables, as the server spells them."""
    return {name: str(ask(f"SELECT @@GLOBAL.`{name}`")[0][0]) for name in names}


def set_by_hand(ask: Statements, but: Sequence[str]) -> dict[str, str]:
    """Return the dynamic variables that somebody set with SET GLOBAL, which a restart would forget.

    Args:
        ask: runs a statement.
        but: names that are left out.
    """
    if not is_mariadb(ask):
        rows = ask(
            "SELECT LOWER(i.VARIABLE_NAME), g.VARIABLE_VALUE FROM performance_schema.variables_info i JOIN"
            " performance_schema.global_variables g USING (VARIABLE_NAME) WHERE i.VARIABLE_SOURCE = 'DYNAMIC'"
        )
    else:
        rows = ask(
            "SELECT LOWER(VARIABLE_NAME), GLOBAL_VALUE FROM information_schema.SYSTEM_VARIABLES"
            " WHERE GLOBAL_VALUE_ORIGIN = 'SQL' AND READ_ONLY = 'NO'"
        )
    return {str(name): str(value) for name, value in rows if name not in but}


def change(way: Way, settings: Mapping[str, str]) -> None:
    """Give a server settings, with a restart where one of them needs it.

    Raises:
        TargetError: the server refuses or rounds a value, or does not start under them; it is brought back then.
    """
    static = {name: value for name, value in settings.items() if name in way.static}
    dynamic = {name: value for name, value in settings.items() if name not in way.static}
    with connected(way.address) as ask:
        now = values_of(ask, list(settings))
        by_hand = set_by_hand(ask, list(settings))
    restarts = any(not same(now[name], value) for name, value in static.items())
    _note(way.folder, now, settings, restarting=restarts)
    if restarts:
        try:
            _restart_with(way, static, by_hand)
        finally:  # what the server started with, and what it rounded, is ours
            _note_again(way, settings)
    with connected(way.address) as ask:
        try:
            set_all(ask, dynamic)
        finally:
            _note(way.folder, values_of(ask, list(settings)), settings)
        _see(ask, settings)


def _note_again(way: Way, settings: Mapping[str, str]) -> None:
    """Note the values after a restart; where the server is down, the note stays that says so."""
    with suppress(TargetError), connected(way.address) as ask:
        _note(way.folder, values_of(ask, list(settings)), settings)


def set_all(ask: Statements, settings: Mapping[str, str]) -> None:
    """Set variables, as many of them as the server takes.

    One may bound another, so that what is refused at first is tried again once the others are set.

    Raises:
        TargetError: some of them are refused or rounded; the message has the first one's, all others are set.
    """
    waiting = dict(settings)
    while True:
        errors = {}
        for name, value in waiting.items():
            try:
                set_global(ask, name, value)
            except TargetError as error:
                errors[name] = error
        now = values_of(ask, list(settings))
        wrong = {name: value for name, value in settings.items() if not same(now[name], value)}
        if not wrong:
            return
        if set(wrong) >= set(waiting):  # none was mended
            first = next(iter(wrong))
            raise errors.get(first) or TargetError(f"the server made {now[first]} of {first} = {wrong[first]}")
        waiting = wrong


def set_global(ask: Statements, name: str, value: str) -> None:
    """Set one variable, if it has another value.

    Raises:
        TargetError: the server refuses it.
    """
    if same(values_of(ask, [name])[name], value):
        return
    number = value.lstrip("-").replace(".", "", 1).isdigit()
    try:
        ask(f"SET GLOBAL `{name}` = {value}") if number else ask(f"SET GLOBAL `{name}` = %s", value)
    except TargetError as error:
        raise TargetError(f"the server refuses {name} = {value}: {error}") from None
    warned = ask("SHOW WARNINGS")
    end = time.monotonic() + _RESIZE_S  # InnoDB's buffer pool takes its time to get another size
    while not same(there := values_of(ask, [name])[name], value):
        if name != "innodb_buffer_pool_size" or warned or time.monotonic() > end:
            why = f": {warned[0][-1]}" if warned else ""
            raise TargetError(f"the server made {there} of {name} = {value}{why}")
        time.sleep(0.1)


def _see(ask: Statements, settings: Mapping[str, str]) -> None:
    """See that all settings hold: one may correct another, and an option file that nobody reads changes nothing."""
    now = values_of(ask, list(settings))
    for name, value in settings.items():
        if not same(now[name], value):
            raise TargetError(
                f"the server made {now[name]} of {name} = {value}; if it never changes, see whether the server reads "
                "the option file (-O config)"
            )


def option_file(settings: Mapping[str, str]) -> str:
    """Return the text of an option file."""
    lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
    return f"# written by tunewright, which removes it when it is through\n{GROUP}\n{lines}"


def _restart_with(way: Way, static: Mapping[str, str], by_hand: Mapping[str, str]) -> None:
    path = Path(way.config)
    before = path.read_bytes() if path.is_file() else None
    originals.write(path, option_file(static).encode(), way.entry)
    try:
        restart_server(way.restart, way.address)
    except TargetError as error:
        if before is not None:
            originals.write(path, before, way.entry)
        else:
            originals.write(path, option_file({}).encode(), way.entry)
        restart_server(way.restart, way.address)
        _again(way.address, by_hand)
        raise TargetError(
            f"the server did not start under these settings and was brought back with its former ones: {error}"
        ) from None
    _again(way.address, by_hand)


def apply(way: Way, settings: Mapping[str, str]) -> None:
    """Give a server settings for good: as :func:`change` does and, where there is an option file, in it, too.

    Raises:
        TargetError: the server refuses one, or does not start under them.
    """
    change(way, settings)
    if way.config:  # dynamic ones, too, so that the next restart keeps them
        originals.write(Path(way.config), option_file(settings).encode(), way.entry)


def _again(address: Address, by_hand: Mapping[str, str]) -> None:
    """Set what somebody had set by hand, which the restart forgot."""
    with connected(address) as ask:
        set_all(ask, by_hand)


# -- written down, and put back -----------------------------------------------------------------------------------


def _note(folder: Path | None, now: Mapping[str, str], then: Mapping[str, str], *, restarting: bool = False) -> None:
    """Note, synced, the values that are there and those that come: one of the two is found after a kill.

    While the server restarts it has its own values for a moment, so that all of them are taken for ours.
    """
    if folder is None:
        return
    unfinished = folder / f"{_NOTE}.part"
    with open(unfinished, "w", encoding="utf-8") as file:
        values = {name: [now[name], then[name]] for name in then}
        json.dump({"values": values, "restarting": restarting}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, folder / _NOTE)


def save(way: Way, folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Note the values of variables, what was set by hand besides, and copy the option file."""
    with connected(way.address) as ask:
        found: dict[str, Any] = {
            "settings": values_of(ask, names),
            "by_hand": set_by_hand(ask, names) if way.restart else {},
            "identity": identity(ask),
            "folder": str(folder),
            "static": sorted(way.static & set(names)),
        }
    if way.config:
        found["option_files"] = [originals.save(Path(way.config), folder, "options.cnf")]
    return found


def theirs(settings: Mapping[str, str], now: Mapping[str, str], noted: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the values that somebody else set meanwhile: neither the original ones nor those that we set.

    >>> theirs({"a": "1", "b": "2", "c": "3"}, {"a": "7", "b": "5", "c": "4"}, {"a": ["1", "7"], "b": ["2", "6"]})
    {'b': '5', 'c': '4'}
    """
    return {
        name: now[name]
        for name, value in settings.items()
        if not any(same(now[name], ours) for ours in (value, *noted.get(name, ())))
    }


def put_back(way: Way, saved: Mapping[str, Any]) -> None:
    """Put back what :func:`save` found; safe to repeat. What somebody else set meanwhile is left as it is, and said.

    Raises:
        ConfigError: it is another server.
        TargetError: something could not be put back.
    """
    files, settings = saved.get("option_files", []), dict(saved["settings"])
    bring_up(way.address, way.restart, files)
    with connected(way.address) as ask:
        if (here := identity(ask)) != saved["identity"]:
            raise ConfigError(
                f"this is not the MariaDB server that was changed (it is {here}, not {saved['identity']}); "
                "say which one is: --target 'mariadb://USER@HOST:PORT/'"
            )
        now = values_of(ask, list(settings))
    try:
        noted = json.loads((Path(saved["folder"]) / _NOTE).read_text(encoding="utf-8"))
    except FileNotFoundError:  # nothing was changed yet
        noted = {"values": {}, "restarting": False}
    left = {} if noted["restarting"] else theirs(settings, now, noted["values"])
    for entry in files:
        originals.put_back(entry)
    static = [n for n in saved["static"] if n not in left and not same(now[n], settings[n])]
    if static and way.restart:
        restart_server(way.restart, way.address)
    if (static and way.restart) or noted["restarting"]:
        _again(way.address, {**saved["by_hand"], **{n: v for n, v in left.items() if n not in saved["static"]}})
    for name, value in left.items():
        originals.notice(
            f"{name} is {value}, which is neither what it was ({settings[name]}) nor what was tried: somebody else set "
            "it meanwhile, or restarted the server, and it is left so"
        )
    ours = {name: value for name, value in settings.items() if name not in left and name not in saved["static"]}
    with connected(way.address) as ask:
        set_all(ask, ours)
