"""MariaDB or MySQL: a server of our own from the distribution's binaries, or any server by its address.

With the binaries (Debian: ``apt-get install mariadb-server sysbench``) every run starts a fresh copy of prepared data
with the candidate's settings, on a Unix socket in a private folder, and removes it afterwards. With an address
(``mariadb://user@host/database`` or the environment variable ``TUNEWRIGHT_MARIADB_DSN``) settings are changed
with SET GLOBAL and put back at the end, also after a crash. Settings that need a restart are tuned there only with the
options ``restart``, a command that restarts the server, and ``config``, an option file of ours that it reads. The
address's password is not stored: a session that goes on takes it from MYSQL_PWD, or the address given again.

Durability levels: 3 committed transactions survive a power cut; 2 innodb_flush_log_at_trx_commit = 2: a power cut may
lose the last second, a crash of the server nothing; 1 innodb_flush_log_at_trx_commit = 0: both may lose it; 0
innodb_doublewrite off, or an innodb_flush_method that leaves out syncs: a power cut may corrupt tables. Where the
server keeps a binary log, ``binlog_durability`` is the share of commits after which it is synced: 1 / sync_binlog.
"""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunewright.envs.loads.sysbench import METRICS
from tunewright.envs.storage import (
    accounts,
    mariadb_foreign,
    mariadb_load,
    mariadb_params,
    mariadb_preflight,
    mariadb_server,
    servers,
)
from tunewright.envs.storage.mariadb_dsn import Address, Statements, chosen, connected, read_address
from tunewright.envs.storage.mariadb_foreign import Way
from tunewright.envs.storage.mariadb_foreign import revive as revive  # called before a target is opened anew
from tunewright.envs.storage.mariadb_load import BENCH, OWN, WORKLOADS, Work
from tunewright.envs.storage.mariadb_lock import Guard
from tunewright.envs.storage.mariadb_options import OPTIONS, number, yes
from tunewright.envs.storage.mariadb_options import work as work_of
from tunewright.errors import ConfigError, TargetError, missing_extra
from tunewright.plugins import split_spec
from tunewright.space import Config, Value
from tunewright.space.facts import machine_facts
from tunewright.store.dsn import read_dsn
from tunewright.store.trees import remove_tree
from tunewright.target import BaseTarget, Budget, Measurement, Metric, Preflight, Weaker, check_options

NEEDS = {"pymysql": "mariadb"}
_NO_BINLOG = ("sync_binlog", "binlog_")


def open_target(argument: str, options: Mapping[str, str]) -> MariaDBTarget:
    """Entry point: the argument is an address; without one a server of our own is used."""
    check_options("mariadb", options, OPTIONS)
    try:
        import pymysql  # noqa: F401
    except ImportError:
        raise missing_extra("pymysql", "mariadb", "target 'mariadb'") from None
    dsn, address = chosen(argument or options.get("dsn") or "", os.environ.get("TUNEWRIGHT_MARIADB_DSN", ""))
    if ("config" in options) != ("restart" in options):
        raise ConfigError("restart and config belong together: -O restart=COMMAND -O config=FILE")
    named = options.get("parameters", "core")
    names = mariadb_params.NAMES if named == "core" else tuple(n.strip() for n in named.split(","))
    target = MariaDBTarget(
        dsn=dsn,
        work=work_of(options),
        restart=shlex.split(options.get("restart", "")),
        config=os.path.abspath(os.path.expanduser(options["config"])) if "config" in options else "",
        names=names,
        keep=yes(options, "keep"),
        memory_mb=number(options, "memory_mb", 0, int),
    )
    target.address = address
    return target


class MariaDBTarget(BaseTarget):
    """MariaDB or MySQL under sysbench or the user's own SQL.

    Args:
        dsn: address of a foreign server; empty for one of our own.
        work: what is run.
        restart: command that restarts the foreign server; empty to leave restart settings alone.
        config: option file of ours that the foreign server reads.
        names: settings to tune; ``("all",)`` for all that change speed alone.
        keep: the benchmark's database stays on the foreign server.
        memory_mb: memory of the foreign server's machine; 0 for this machine's.
    """

    name = "mariadb"
    options = OPTIONS
    secret_options = ("dsn",)
    packages = ("PyMySQL",)
    manual = "https://mariadb.com/kb/en/server-system-variables/"

    def __init__(
        self,
        *,
        dsn: str = "",
        work: Work | None = None,
        restart: Sequence[str] = (),
        config: str = "",
        names: Sequence[str] = mariadb_params.NAMES,
        keep: bool = False,
        memory_mb: int = 0,
    ) -> None:
        self.dsn, self.work, self.restart, self.config = dsn, work or Work(), list(restart), config
        self.names, self.keep, self.memory_mb, self.live = tuple(names), keep, memory_mb, bool(dsn)
        self._server = read_address(dsn) if dsn else None
        if self.work.script is not None:
            self.workloads: Mapping[str, str] = {OWN: f"the statements of {self.work.script.name}"}
            if self._server is not None and not self._server.database:
                raise ConfigError("name the database that the load runs in: mariadb://USER@HOST/DATABASE")
            if self._server is None and not self.work.dump:
                raise ConfigError("a server of our own is empty: say what load runs on with -O dump=FILE")
        else:
            self.workloads = WORKLOADS
        self._folder: Path | None = None
        self._entry: Mapping[str, Any] | None = None
        self._run_database = mariadb_load.new_name()
        self._describe()

    def _describe(self) -> None:
        """Read the server's variables, and make the space of them."""
        version, rows = self._read()
        chosen_rows = mariadb_params.selected(rows, self.names)
        if self.names not in (mariadb_params.NAMES, ("all",)):  # of our own lists a version may lack some
            for name in self.names:
                if name not in chosen_rows:
                    why = "has no values to search among" if name in rows else "does not exist"
                    raise ConfigError(
                        f"on this server ({version}) the variable {name!r} {why}; see SHOW GLOBAL VARIABLES, or take "
                        "-O parameters=all"
                    )
        binlog = "log_bin" in rows and rows["log_bin"]["value"] == "ON"
        if not binlog:
            chosen_rows = [n for n in chosen_rows if not n.startswith(_NO_BINLOG)]
        static = [n for n in chosen_rows if rows[n]["read_only"] == "YES"]
        self.left = static if self.dsn and not self.restart else []
        facts = machine_facts()
        ram = self.memory_mb * 2**20 or int(facts["RAM_BYTES"])
        kept = [rows[n] for n in chosen_rows if n not in self.left]
        self.space = mariadb_params.space(kept, rows, ram, int(facts["CPU_COUNT"]))
        self._static = frozenset(n for n in static if n in self.space.params)
        # what the server has of the settings that decide what a crash loses, and are not tuned
        safety = ("innodb_doublewrite", "innodb_flush_method", "innodb_flush_log_at_trx_commit", "sync_binlog")
        self._fixed = {n: rows[n]["value"] for n in safety if n in rows and n not in self.space.params}
        self._binlog = binlog
        self.version = version
        levels = [Metric(name="durability", direction="max", unit="level", doc="3: commits survive a power cut")]
        if binlog:
            doc = "commits that sync the binary log"
            levels.append(Metric(name="binlog_durability", direction="max", unit="share", doc=doc))
        self.metrics = (*METRICS, *levels)
        self.facts = {"server": "foreign" if self.dsn else "embedded", "version": version}
        self.facts |= {name: getattr(self.work, name) for name in ("threads", "tables", "size")}
        self.facts["connections"] = int(rows["max_connections"]["value"]) if self.dsn else self.work.threads

    def _read(self) -> tuple[str, dict[str, dict[str, Any]]]:
        if self._server is not None:
            with connected(self._server.at("")) as ask:
                return _version(ask), mariadb_params.read_variables(ask, mariadb_foreign.is_mariadb(ask))
        with tempfile.TemporaryDirectory(prefix="tw-maria-", dir="/var/tmp", ignore_cleanup_errors=True) as folder:
            os.chmod(folder, 0o711)
            data = Path(folder) / "data"
            data.mkdir(mode=0o700)
            accounts.hand_over(data)
            with mariadb_server.Server(data, {}, tables=False) as server, connected(server.address) as ask:
                return _version(ask), mariadb_params.read_variables(ask, True)

    # -- guarantees -------------------------------------------------------------------------------

    def guarantee_names(self) -> tuple[str, ...]:
        """Return the parameters that decide durability."""
        names = ("innodb_flush_log_at_trx_commit", "innodb_doublewrite", "innodb_flush_method", "sync_binlog")
        return tuple(n for n in names if n in self.space.params)

    def guarantees(self, config: Config) -> dict[str, float]:
        """Return the levels of the module's docstring."""
        whole = {**self._fixed, **config}
        found = {"durability": mariadb_params.durability(whole)}
        if self._binlog:
            found["binlog_durability"] = mariadb_params.binlog_durability(whole)
        return found

    def weaker(self, config: Config) -> list[Weaker]:
        """Return the same settings with the log synced once a second."""
        name = "innodb_flush_log_at_trx_commit"
        if config.get(name) not in (1, 3):
            return []
        loses = "a power cut or a crash of the system may lose the last second of transactions (never corrupts)"
        return [Weaker(config={**config, name: 2}, loses=loses)]

    def dangerous(self) -> Mapping[str, str]:
        """Return what careful mode never tries on a server in use."""
        return mariadb_params.dangerous(self.space)

    def revert(self) -> None:
        """Set the foreign server back to today's values."""
        if self._server is not None:
            mariadb_foreign.change(self._way(), self._settings(self.space.default))

    # -- measuring --------------------------------------------------------------------------------

    def prepare(self, *, workload: str, seed: int, budget: Budget) -> dict[str, Any]:
        """Fill the tables, or see that the user's SQL may run, and calibrate the number of transactions."""
        prepared = {"template": "", "dump": self.work.dump, "events": budget.prepared.get("events")}
        if self._server is None:
            folder = mariadb_server.data_home(budget.workdir)
            data = "own" if self.work.script else f"{self.work.tables}-{self.work.size}"
            template = folder / f"template-{self.version}-{data}"
            if not template.exists():
                self._fill_own(template, seed)
            prepared["template"] = str(template)
        else:
            self._prepare_foreign(self._server, workload, seed, budget.workdir, prepared)
        if prepared["events"] is None:
            if self.work.events:
                prepared["events"] = self.work.events
            else:
                with self._served(self.space.default, prepared, workload) as address:
                    first = mariadb_load.first_events(self.work)
                    tps = mariadb_load.run(address, self.work, workload, seed, events=first, warm=False)["tps"]
                prepared["events"] = mariadb_load.calibrated(self.work, tps)
        return prepared

    def _fill_own(self, template: Path, seed: int) -> None:
        unfinished = template.with_name(f".{template.name}.{os.getpid()}")
        remove_tree(unfinished)
        mariadb_server.make_data(unfinished)
        quick = {"innodb_flush_log_at_trx_commit": "0", "innodb_log_file_size": str(mariadb_server.LOG_FILE_BYTES)}
        with mariadb_server.Server(unfinished, quick) as server:
            if self.work.script:
                mariadb_load.load_dump(server.address, "", BENCH, Path(self.work.dump))
            else:
                with connected(server.address) as ask:
                    ask(f"CREATE DATABASE `{BENCH}`")
                mariadb_load.fill(server.address.at(BENCH), self.work, seed)
        try:
            os.rename(unfinished, template)
        except OSError:  # another session was faster
            remove_tree(unfinished)

    def _prepare_foreign(
        self, server: Address, workload: str, seed: int, workdir: Path, prepared: dict[str, Any]
    ) -> None:
        if self.work.script is None:
            with connected(server.at("")) as ask:
                if not mariadb_load.has_database(ask, BENCH):
                    ask(f"CREATE DATABASE `{BENCH}`")
            if not mariadb_load.filled(server.at(BENCH), self.work):
                mariadb_load.fill(server.at(BENCH), self.work, seed)
        else:
            mariadb_load.check(server, self.work)
        if self.work.way(workload) == "dump" and not prepared["dump"]:
            path = mariadb_server.data_home(workdir) / "data.sql"
            if not path.exists():
                mariadb_load.dump(server, self._source(server), path)
            prepared["dump"] = str(path)

    def _source(self, server: Address) -> str:
        return server.database if self.work.script else BENCH

    def measure(self, config: Config, *, workload: str, seed: int, budget: Budget) -> Measurement:
        """Apply the settings and run the fixed number of transactions."""
        events = int(budget.prepared["events"])
        with self._served(config, budget.prepared, workload) as address:
            values = mariadb_load.run(address, self.work, workload, seed, events=events, warm=True, budget=budget)
        return Measurement(values={**values, **self.guarantees(config)})

    def _settings(self, config: Config) -> dict[str, str]:
        return {n: mariadb_params.text_of(self.space.params[n], v) for n, v in config.items() if n in self.space.params}

    @contextmanager
    def _served(self, config: Config, prepared: Mapping[str, Any], workload: str) -> Iterator[Address]:
        """The address of a server that runs under the configuration, with the data reset."""
        if self._server is None:
            with mariadb_server.served(Path(prepared["template"]), self._settings(config)) as address:
                yield address.at(BENCH)
            return
        server, source = self._server, self._source(self._server)
        # what a condition switches off has today's value, not that of a trial before
        whole = {name: param.default for name, param in self.space.params.items()} | dict(config)
        mariadb_foreign.change(self._way(), self._settings(whole))
        way = self.work.way(workload)
        if way == "none":
            yield server.at(source)
            return
        if way == "copy":
            mariadb_load.copy(server, source, self._run_database)
        else:
            mariadb_load.load_dump(server, source, self._run_database, Path(prepared["dump"]))
        yield server.at(self._run_database)

    # -- a foreign server -------------------------------------------------------------------------

    def _way(self) -> Way:
        assert self._server is not None
        return Way(
            address=self._server.at(""),
            restart=self.restart,
            config=self.config,
            static=self._static,
            folder=self._folder,
            entry=self._entry,
        )

    def _to(self, to: str | None) -> MariaDBTarget:
        if not to:
            return self
        work = replace(self.work, script=None, statements=())  # what is applied to may have no such database
        its = MariaDBTarget(
            dsn=split_spec(to)[1], work=work, names=self.names,
            restart=self.restart, config=self.config, memory_mb=self.memory_mb,
        )  # fmt: skip
        its._folder, its._entry = self._folder, self._entry
        return its

    def changes(self, to: str | None = None) -> Sequence[str]:
        """Return the foreign server's identity, which does not depend on how it is reached."""
        server = read_address(split_spec(to)[1]) if to else self._server
        if server is None:
            return ()
        with connected(server.at("")) as ask:
            return (f"MariaDB server {mariadb_foreign.identity(ask)}",)

    @contextmanager
    def hold(self, what: str, to: str | None = None) -> Iterator[None]:
        """Hold a lock in the foreign server, so that no session on another machine changes it either.

        Raises:
            HeldError: another session holds it; the message says which.
        """
        server = read_address(split_spec(to)[1]) if to else self._server
        if server is None:
            yield
            return
        with Guard(server.at(""), what).held():
            yield

    def preflight(self, *, workload: str, workdir: Path) -> Preflight:
        """Look, and change nothing; see :func:`tunewright.envs.storage.mariadb_preflight.look`."""
        missing = []
        for programs in (["sysbench"],) if self.work.script is None else ():
            try:
                mariadb_server.program(*programs)
            except TargetError as error:
                missing.append(f"{str(error)[0].upper()}{str(error)[1:]}.")
        if self._server is None:
            return mariadb_preflight.private(self.work, mariadb_server.data_path(workdir), missing)
        facts = mariadb_preflight.Facts(
            work=self.work,
            workload=workload,
            database=self._server.database,
            run=self._run_database if self.work.way(workload) != "none" else "",
            parameters=list(self.space.params),
            static=sorted(self._static),
            kept=servers.kept_by_guarantees(self),
            left=self.left,
            restart=self.restart,
            config=self.config,
            keep=self.keep,
        )
        with connected(self._server.at("")) as ask:
            found = mariadb_preflight.look(ask, facts)
        return replace(found, missing=[*missing, *found.missing])

    def snapshot(self, folder: Path) -> dict[str, Any]:
        """Note the values of the foreign server, copy the option file, and name the databases that are made."""
        if self._server is None:
            return {}
        databases = [self._run_database]
        if self.work.script is None and not self.keep:
            with connected(self._server.at("")) as ask:
                databases += [] if mariadb_load.has_database(ask, BENCH) else [BENCH]
        return {**self._saved(folder), "databases": databases}

    def _saved(self, folder: Path) -> dict[str, Any]:
        saved = mariadb_foreign.save(self._way(), folder, list(self.space.params))
        self._folder, self._entry = folder, next(iter(saved.get("option_files", [])), None)
        return saved

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Put the foreign server's values back, drop what was made, and bring the server up again if it is down."""
        if "settings" not in snapshot:
            return
        if self._server is None:
            raise ConfigError("say which server's settings to put back: --target 'mariadb://USER@HOST/'")
        mariadb_foreign.put_back(self._way(), snapshot)
        with connected(self._server.at("")) as ask:
            for name in snapshot.get("databases", []):
                mariadb_load.drop(ask, name)

    def cleanup(self, workdir: Path) -> None:
        """Remove our own data."""
        mariadb_server.remove_data_home(workdir)

    def render(self, config: Config) -> str:
        """Return an option file, with those settings marked that need a restart."""
        lines = []
        for name, value in self.space.changes(config).items():
            param = self.space.params[name]
            mark = "  # needs a restart" if param.restart == "restart" else ""
            lines.append(f"{name} = {mariadb_params.text_of(param, value)}{mark}")
        return "\n".join([mariadb_foreign.GROUP, *lines]) if lines else "# the server's own settings"

    def forms(self, config: Config, changed: Mapping[str, Value]) -> Mapping[str, str]:
        """Return SET GLOBAL statements, an option file, and a task of Ansible that writes it."""
        lines, mariadb = self.render(config), "mariadb" in self.version.lower()
        return mariadb_params.forms(self.space, changed, lines, mariadb=mariadb)

    def still_to_do(self, config: Config, changed: Mapping[str, Value]) -> Sequence[str]:
        """Say what needs a restart, and what a restart would forget."""
        restarts, kept = bool(self.restart), bool(self.config)
        return mariadb_params.still_to_do(self.space, changed, restarts=restarts, kept=kept)

    def undo(self, folder: Path, to: str | None = None) -> dict[str, Any]:
        """Note the foreign server's values."""
        if not to and not self.dsn:
            how = "or paste the lines into an option file, such as /etc/mysql/mariadb.conf.d/99-tuned.cnf"
            raise ConfigError(f"say which server: tunewright apply NAME --to 'mariadb://USER@HOST/'; {how}")
        its = self._to(to)
        saved = its._saved(folder)
        self._folder, self._entry = its._folder, its._entry
        return {**saved, "server": read_dsn(its.dsn).public}

    def apply(self, config: Config, to: str | None = None) -> None:
        """Set the configuration on the foreign server: with SET GLOBAL and, where there is one, in the option file."""
        its = self._to(to)
        settings = {n: v for n, v in self._settings(self.space.changes(config)).items() if n in its.space.params}
        mariadb_foreign.apply(its._way(), settings)

    def rollback(self, undo: Mapping[str, Any]) -> None:
        """Put the values back, on the server that they were applied to."""
        server = str(undo.get("server") or "")
        if server and not (self._server and self._server.place == read_address(server).place):
            self._to(server).rollback(undo)
            return
        if self._server is None:
            raise ConfigError("say which server: tunewright rollback NAME --target 'mariadb://USER@HOST/'")
        self.restore(undo)


def _version(ask: Statements) -> str:
    return str(ask("SELECT VERSION()")[0][0])
