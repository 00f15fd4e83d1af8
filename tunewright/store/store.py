"""Sessions in an Optuna storage, so that optuna-dashboard and Optuna's plots open any of them.

A session is a study; its trials are the study's trials, with natural parameter values. What Optuna has no
field for lies in user attributes: ``session`` on the study, ``trial`` (written before the configuration is
applied) and ``outcome`` on each trial.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tunewright.errors import ConfigError, HeldError, StoreError, TunewrightError, missing_extra, unknown
from tunewright.measuring.interrupts import uninterrupted
from tunewright.space import Space
from tunewright.store.dsn import HOW_TO_WRITE, read_dsn
from tunewright.store.faults import DAMAGED, explain
from tunewright.store.files import finite, note_input
from tunewright.store.locking import advisory_key, take
from tunewright.store.optuna_tables import OBJECTIVES, TrialTables
from tunewright.store.paths import check_name, default_url, home
from tunewright.store.secrets import redact
from tunewright.store.stored import check_numbers, check_session, check_trial
from tunewright.tuner import Trial

_STARTING_S = 60.0  # from the making of a session to its run
SCHEMA = 1  # of the attributes this module writes
_SESSION, _TRIAL, _OUTCOME, _VERDICT = "session", "trial", "outcome", "verdict"


class Store:
    """An open store.

    Whoever opens a store closes it; a session closes it only where it is used in a ``with`` block. Threads may share
    one, and so may sessions, which each write only what they hold the lock of. Processes may not: each opens its own,
    also after a fork. A read shows all that was written before, by whomever.

    Args:
        url: SQLAlchemy URL such as ``sqlite:///sessions.db`` or ``postgresql://host/db``; None for the
            default file.

    Raises:
        StoreError: it cannot be opened: locked, corrupt, not a store, or of a newer version.
    """

    def __init__(self, url: str | None = None) -> None:
        self.url = url or default_url()
        self._ids: dict[str, int] = {}
        self._next: dict[str, int] = {}
        self._open_trials: dict[tuple[str, int], int] = {}
        with self._errors():
            self._storage = self._open()
        self._tables = TrialTables(self._storage)

    def _open(self) -> Any:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        if not self.url.startswith("sqlite:///"):
            scheme, _, rest = self.url.partition("://")
            if rest and not read_dsn(self.url).clear:  # SQLAlchemy would quote a part of the password as a port
                raise StoreError(f"cannot read the store's URL {self.public_url}; {HOW_TO_WRITE}")
            if scheme in ("postgresql", "postgres"):  # one driver for everything
                if find_spec("psycopg") is None:
                    raise missing_extra("psycopg", "cluster", "a store on PostgreSQL")
                scheme = "postgresql+psycopg"
            return optuna.storages.RDBStorage(f"{scheme}://{rest}")
        path = Path(self.url.removeprefix("sqlite:///"))
        if not path.parent.is_dir():
            raise StoreError(f"the store {path} cannot be made: the directory {path.parent} does not exist")
        import sqlalchemy

        # Write-ahead logging: readers such as a dashboard do not block the session, and a trial costs
        # two short commits. A killed process loses nothing; only a power cut could take the last trial.
        def tune(connection: Any, record: Any) -> None:
            connection.execute("PRAGMA synchronous=NORMAL")

        with open(self._lock_file(""), "a", encoding="ascii") as file:
            # two processes must not create the tables at the same time; nor change the journal, for which SQLite
            # does not wait
            fcntl.flock(file, fcntl.LOCK_EX)
            probe = sqlite3.connect(path, timeout=10)
            try:
                if probe.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                    probe.execute("PRAGMA journal_mode=WAL")
                probe.execute("SELECT count(*) FROM sqlite_master").fetchone()
            finally:
                probe.close()
            note_input(path.stat())
            storage = optuna.storages.RDBStorage(self.url, engine_kwargs={"connect_args": {"timeout": 10}})
        sqlalchemy.event.listen(storage.engine, "connect", tune)
        storage.engine.dispose()
        return storage

    @contextmanager
    def _errors(self, *, reading: bool = False) -> Iterator[None]:
        """Turn what goes wrong with the database into one line; where it is read, also what a damaged entry causes."""
        try:
            yield
        except TunewrightError:
            raise
        except Exception as error:
            module = type(error).__module__.split(".")[0]
            if module not in (
                "optuna",
                "sqlalchemy",
                "sqlite3",
                "alembic",
                "psycopg",
                "psycopg2",
            ) and not isinstance(error, (OSError, RuntimeError, ImportError, *(DAMAGED if reading else ()))):
                raise
            raise StoreError(f"the store {self.public_url} {explain(error)}") from error

    @property
    def public_url(self) -> str:
        """The URL without its password."""
        return read_dsn(self.url).public

    @property
    def optuna(self) -> Any:
        """The Optuna storage behind it, for Optuna's own tools."""
        return self._storage

    def close(self) -> None:
        """Give the database connections back."""
        with uninterrupted():  # a signal in the middle makes SQLAlchemy print what it thinks of it
            self._tables.close()

    # -- sessions ---------------------------------------------------------------------------------

    def create(self, name: str, directions: list[str], session: Mapping[str, Any]) -> dict[str, Any] | None:
        """Create a session.

        Args:
            name: unique name; one whose session never measured anything is used again.
            directions: ``min`` or ``max`` for each objective.
            session: JSON-able description, stored as it is: whoever gives it leaves secrets out of it.

        Returns:
            The description of the session whose place it takes, which never measured anything; None for a new name.

        Raises:
            ConfigError: the name is taken, or cannot be one.
            HeldError: a process is just starting the session of that name.
        """
        import optuna

        check_name(name)

        with self._errors():
            sides = {"min": optuna.study.StudyDirection.MINIMIZE, "max": optuna.study.StudyDirection.MAXIMIZE}
            replaced: dict[str, Any] | None = None
            try:
                study = self._storage.create_new_study([sides[d] for d in directions], name)
            except optuna.exceptions.DuplicatedStudyError:
                study = self._study(name)
                if not self.unborn(name):
                    with self._unused(name) as replaced:
                        self._forget(name)
                        study = self._storage.create_new_study([sides[d] for d in directions], name)
            record = {"schema": SCHEMA, "created": _now(), **session}
            self._storage.set_study_user_attr(study, _SESSION, record)
            objectives = session.get("objectives")
            if objectives:  # names of the objectives for Optuna's own plots
                self._storage.set_study_system_attr(study, OBJECTIVES, list(objectives))
        return replaced

    @contextmanager
    def _unused(self, name: str) -> Iterator[dict[str, Any]]:
        """Hold a session that never measured anything; nobody runs it, and nobody else takes its name meanwhile."""
        taken = (
            f"a session named {name!r} exists already; continue it with 'tunewright resume {name}', "
            "or choose another --name"
        )
        if not self.fruitless(name):
            raise ConfigError(taken)
        with self.lock(name):
            self._ids.pop(name, None)
            if not self.fruitless(name):  # another process was faster
                raise ConfigError(taken)
            yield self.session(name)

    def _forget(self, name: str) -> None:
        self._storage.delete_study(self._study(name))
        self._ids.pop(name, None)
        self._next.pop(name, None)
        self._open_trials = {key: number for key, number in self._open_trials.items() if key[0] != name}

    def fruitless(self, name: str) -> bool:
        """Whether a session was started and ended, or was killed, before any configuration gave a value.

        One that was made within the last minute and has not run is being started by somebody.

        Raises:
            UnknownNameError: there is no such name.
        """
        try:
            record = self.session(name)
        except StoreError:  # no session of ours, or one that this version cannot read
            return False
        with self._errors(reading=True):
            age_s = (datetime.now(UTC) - datetime.fromisoformat(record["created"])).total_seconds()
        starting = record.get("status") == "new" and age_s < _STARTING_S
        return not starting and not any(t.ok or (t.decided and t.step) for t in self.trials(name))

    def unborn(self, name: str) -> bool:
        """Whether a name is all that is left of a session that was killed while it was made; ``create`` takes it over.

        Raises:
            UnknownNameError: there is no such name.
        """
        with self._errors(reading=True):
            study = self._study(name)
            return not self._storage.get_study_user_attrs(study) and not self._storage.get_all_trials(
                study, deepcopy=False
            )

    def names(self) -> list[str]:
        """Return the names of all sessions, oldest first."""
        with self._errors(reading=True):
            return [s.study_name for s in self._storage.get_all_studies() if _SESSION in s.user_attrs]

    def _study(self, name: str) -> int:
        if name not in self._ids:
            try:
                name.encode()
            except UnicodeEncodeError:  # words of a command line may be any bytes
                raise ConfigError(f"no session has the name {name[:40]!a}: it is no UTF-8 text") from None
            try:
                self._ids[name] = int(self._storage.get_study_id_from_name(name))
            except KeyError:
                raise unknown("session", name, self.names()) from None
        return self._ids[name]

    def session(self, name: str) -> dict[str, Any]:
        """Return the description of a session, with ``verdict`` if there is one.

        Raises:
            UnknownNameError: no such session.
            StoreError: it was written by a newer tunewright, or is no session.
        """
        with self._errors(reading=True):
            attrs = self._storage.get_study_user_attrs(self._study(name))
        if _SESSION not in attrs:
            raise StoreError(f"{name!r} is an Optuna study, but not a session of tunewright")
        record = dict(attrs[_SESSION]) if isinstance(attrs[_SESSION], Mapping) else {}
        if isinstance(record.get("schema", 0), int) and record.get("schema", 0) > SCHEMA:
            raise StoreError(
                f"the session {name!r} was written by a newer tunewright (format {record['schema']}, this one "
                f"reads {SCHEMA}); upgrade with: pip install -U tunewright"
            )
        check_session(name, record, attrs.get(_VERDICT))
        return {**record, "verdict": attrs.get(_VERDICT)}

    def update(self, name: str, **changes: Any) -> None:
        """Change entries of a session's description."""
        with self._errors():
            study = self._study(name)
            record = dict(self._storage.get_study_user_attrs(study)[_SESSION])
            self._storage.set_study_user_attr(study, _SESSION, {**record, **changes})

    def annotate(self, name: str, key: str, value: str) -> None:
        """Write a line for readers of a dashboard onto a session; nothing here reads it, so it is filtered as shown."""
        with self._errors():
            self._storage.set_study_user_attr(self._study(name), key, redact(value))

    def set_verdict(self, name: str, verdict: Mapping[str, Any] | None) -> None:
        """Write the verdict of a session; numbers that JSON does not know, of what was not measured, become None."""
        with self._errors():
            self._storage.set_study_user_attr(self._study(name), _VERDICT, finite(verdict))
        self.annotate(name, "what was shown", "" if verdict is None else verdict["sentence"])

    # -- trials -----------------------------------------------------------------------------------

    def start(self, name: str, trial: Trial, space: Space) -> Trial:
        """Write a trial, before its configuration is applied; returns it with its number and start."""
        head = {k: getattr(trial, k) for k in ("config", "why", "step", "attempt", "asked_s")}
        started = datetime.now()
        attributes = {_TRIAL: head, "why": redact(trial.why)}
        with self._errors():
            study, number = self._study(name), self._next.get(name)
            number, trial_id = self._tables.start(study, number, started, attributes, trial.config, space)
            # the session's lock makes this the only writer, so the numbers run on; asking each time is slow
            self._next[name] = number + 1
            self._open_trials[name, number] = trial_id
        return replace(trial, number=number, started=started.isoformat())

    def finish(self, name: str, trial: Trial, objectives: Sequence[str]) -> None:
        """Write what came of a started trial.

        Raises:
            StoreError: it was decided already.
        """
        begun = ("number", "config", "why", "step", "attempt", "asked_s", "started")
        outcome = {k: v for k, v in asdict(trial).items() if k not in begun}
        # beside the whole, what a dashboard's reader looks for
        shown = {
            _OUTCOME: outcome, "times the default": trial.ratio, "failed because": redact(trial.reason) or None,
        }  # fmt: skip
        attributes = {k: v for k, v in finite(shown).items() if v is not None}
        values = [trial.scores[o] for o in objectives] if trial.ok else None
        with self._errors():
            trial_id = self._open_trials.pop((name, trial.number), None)
            if trial_id is None:  # started by an earlier process
                trial_id = self._tables.trial_id(self._study(name), trial.number)
            if not self._tables.finish(trial_id, datetime.now(), attributes, trial.violations, values):
                raise StoreError(f"trial {trial.number} of session {name!r} was decided already")

    def retract(self, name: str, trial: Trial) -> None:
        """Note on a finished trial that it failed when it was measured again; Optuna keeps its first value."""
        with self._errors():
            study = self._study(name)
            record = dict(self._storage.get_study_user_attrs(study)[_SESSION])
            retracted = {**record.get("retracted", {}), str(trial.number): trial.reason}
            self._storage.set_study_user_attr(study, _SESSION, {**record, "retracted": retracted})

    def set_aside(self, name: str, trials: Mapping[int, tuple[Mapping[str, float], str]]) -> None:
        """Note on finished trials that they are not to be recommended, in the place of what was noted so far.

        Args:
            name: the session's.
            trials: by number: by how much which metrics miss what is asked of them, and the reason for people.
        """
        noted = {str(n): {"violations": dict(by), "reason": why} for n, (by, why) in trials.items()}
        self.update(name, set_aside=finite(noted))

    def trials(self, name: str) -> list[Trial]:
        """Return all trials of a session in order of number, unfinished ones with status ``running``."""
        import optuna

        with self._errors(reading=True):
            frozen = self._storage.get_all_trials(self._study(name), deepcopy=False)
        self._next.pop(name, None)  # another process may have written since
        record = self.session(name)
        retracted, aside = record.get("retracted", {}), record.get("set_aside", {})
        trials = []
        check_numbers(name, [trial.number for trial in frozen])
        for trial in sorted(frozen, key=lambda t: t.number):
            if _TRIAL not in trial.user_attrs:
                continue  # added to the study by other means
            head = trial.user_attrs[_TRIAL]
            started = trial.datetime_start.isoformat() if trial.datetime_start else ""
            done = trial.state not in (optuna.trial.TrialState.RUNNING, optuna.trial.TrialState.WAITING)
            written = done and _OUTCOME in trial.user_attrs
            outcome: Any = (trial.user_attrs[_OUTCOME] or "nothing") if written else None
            check_trial(name, trial.number, head, outcome, record["objectives"])
            read = Trial(number=trial.number, started=started, **{"status": "running", **head, **(outcome or {})})
            if str(read.number) in retracted:
                read = replace(read, status="failed", reason=retracted[str(read.number)])
            elif read.ok and (noted := aside.get(str(read.number))):
                violations = {**read.violations, **noted["violations"]}
                read = replace(read, violations=violations, reason=noted["reason"])
            trials.append(read)
        return trials

    def _lock_file(self, name: str) -> Path:
        """Return the lock file of a session, or with an empty name of the store itself."""
        folder = home() / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        url = self.url
        if url.startswith("sqlite:///"):
            url = str(Path(url.removeprefix("sqlite:///")).resolve())
        digest = hashlib.sha256(f"{url}\n{name}".encode()).hexdigest()[:24]
        return folder / f"{digest}.lock"

    @contextmanager
    def _held_by_all(self, name: str) -> Iterator[None]:
        """Hold a session for all machines, where the store is a server; the lock goes with its connection."""
        engine = self._tables.engine
        if engine.dialect.name != "postgresql":
            yield
            return
        import sqlalchemy

        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            key = {"key": advisory_key(f"tunewright session {name}")}
            if not connection.execute(sqlalchemy.text("SELECT pg_try_advisory_lock(:key)"), key).scalar():
                raise HeldError(f"the session {name!r} is being run by another process; wait for it or stop it")
            try:
                yield
            finally:
                with suppress(sqlalchemy.exc.SQLAlchemyError):  # a connection that is lost has given it back
                    connection.execute(sqlalchemy.text("SELECT pg_advisory_unlock(:key)"), key)

    def held(self, name: str) -> bool:
        """Whether a process runs a session now: here, or with PostgreSQL on any machine. Asking never waits."""
        engine = self._tables.engine
        if engine.dialect.name == "postgresql":
            import sqlalchemy

            # a 64-bit key is shown as two unsigned halves
            query = (
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
                " AND (classid::bigint << 32) | objid::bigint = :key"
            )
            with self._errors(), engine.connect() as connection:
                key = {"key": advisory_key(f"tunewright session {name}")}
                return bool(connection.execute(sqlalchemy.text(query), key).scalar())
        try:
            with open(self._lock_file(name), encoding="ascii") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False  # it never ran
        except BlockingIOError:
            return True
        return False

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a session, so that no second process runs it: here, and with PostgreSQL on any machine.

        A dead holder frees it.

        Raises:
            HeldError: another process holds it.
        """
        with self._held_by_all(name), open(self._lock_file(name), "a+", encoding="ascii") as file:
            try:
                take(file)
            except OSError:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise HeldError(
                    f"the session {name!r} is being run by process {holder}; wait for it or stop it"
                ) from None
            file.seek(0)
            file.truncate()
            file.write(str(os.getpid()))
            file.flush()
            yield


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
