"""Further worlds of the kill scenes: SQLite, RocksDB and a PostgreSQL server by DSN."""

import os
import sqlite3
import time
import zlib
from itertools import count
from pathlib import Path
from random import Random

import pg_cluster
from kill_worlds import AppliedFiles, Daemon, Files, World
from users_world import give_away, plant, tree


class SQLite(World):
    """Tuning SQLite in a directory that holds the user's files."""

    name = "sqlite"
    life_s, most_s = 28.0, 7.0
    next_commands = {"rollback": 20, "resume": 1, "new": 1}
    work_folders = ("data",)
    words = ("sqlite", "-O", "rows=200")

    def furnish(self, rng: Random) -> None:
        (self.folder / "data").mkdir()
        plant(self.folder / "data")

    def spec(self) -> list[str]:
        return [*self.words, "--dir", "data"]

    def events(self) -> dict[str, object]:
        known = {p.split("/")[1] for p in self.before if p.startswith("data/")}
        return {"files of ours": lambda: bool({p.name for p in (self.folder / "data").iterdir()} - known)}


class RocksDB(SQLite):
    """Likewise RocksDB."""

    name = "rocksdb"
    words = ("rocksdb", "-O", "rows=1000")

    @staticmethod
    def unavailable() -> str:
        try:
            import rocksdict  # noqa: F401
        except ImportError:
            return "rocksdict is not installed"
        return ""


class AppliedSQLite(World):
    """Applying to a user's database."""

    name = "sqlite-apply"
    life_s = 1.2
    applies = True
    next_commands = {"rollback": 3, "apply": 2}

    def furnish(self, rng: Random) -> None:
        database = self.folder / "app.db"
        self.pragmas = {
            "page_size": rng.choice([1024, 4096]),
            "auto_vacuum": rng.choice([0, 2]),
            "journal_mode": rng.choice(["delete", "wal"]),
        }
        db = sqlite3.connect(database, isolation_level=None)
        for name, value in self.pragmas.items():
            db.execute(f"PRAGMA {name} = {value}")
        db.execute("CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT)")
        db.execute("BEGIN")
        db.executemany("INSERT INTO customer VALUES (?, ?)", ((i, f"customer {i} " * 12) for i in range(15_000)))
        db.execute("COMMIT")
        db.close()
        database.chmod(0o640)
        give_away(database)
        self.to = "app.db"
        if rng.random() < 0.3:
            (self.folder / "link.db").symlink_to("app.db")
            self.to = "link.db"
        plant(self.folder)
        self.head = database.read_bytes()[16:20]
        self.fabricate("sqlite", {"rows": "200"}, {"page_size": 8192, "auto_vacuum": "FULL", "journal_mode": "WAL"})

    def spec(self) -> list[str]:
        return ["sqlite"]

    def apply_words(self) -> list[str]:
        return ["--to", self.to, "--trial", "0", "--force"]

    def changed(self) -> bool:
        if (self.folder / "app.db-journal").exists():
            return True
        with open(self.folder / "app.db", "rb") as file:
            return file.read(20)[16:20] != self.head

    def state(self) -> dict[str, object]:
        whole = tree(self.folder)
        for name in ("app.db-wal", "app.db-shm"):  # they belong to a log that is in use
            whole.pop(name, None)
        if "app.db" not in whole:
            return whole
        whole["app.db"].pop("bytes")  # what the database says counts
        try:
            db = sqlite3.connect(self.folder / "app.db", isolation_level=None, timeout=10)
            try:
                whole["integrity"] = db.execute("PRAGMA integrity_check").fetchone()[0]
                rows = db.execute("SELECT id, name FROM customer ORDER BY id").fetchall()
                whole["rows"] = f"{len(rows)} rows, checksum {zlib.crc32(repr(rows).encode())}"
                for name in self.pragmas:
                    whole[f"PRAGMA {name}"] = db.execute(f"PRAGMA {name}").fetchone()[0]
            finally:
                db.close()
        except sqlite3.Error as error:
            whole["integrity"] = f"error: {error}"
        return whole


# -- PostgreSQL --------------------------------------------------------------------------------------------


class Postgres(World):
    """A server by DSN with a restart command."""

    name = "postgres"
    life_s = 18.0
    most_s = 14.0
    grace_s = 15.0
    next_commands = {"rollback": 8, "resume": 1, "new": 1}
    tuned = ("work_mem", "shared_buffers", "random_page_cost")
    unavailable = staticmethod(pg_cluster.unavailable)
    numbers = count(1)

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.cluster: pg_cluster.Cluster | None = None

    def furnish(self, rng: Random) -> None:
        if self.cluster is None:
            self.cluster = pg_cluster.Cluster(f"tw{os.getpid()}n{next(self.numbers)}")
            self.cluster.__enter__()
        self.cluster.reset()
        self.text = self.cluster.auto_conf.read_text()

    def options(self) -> dict[str, str]:
        assert self.cluster is not None
        names = ",".join(self.tuned)
        return {"restart": self.cluster.restart, "parameters": names, "scale": "1", "clients": "1", "aim": "1.5"}

    def spec(self) -> list[str]:
        assert self.cluster is not None
        words = [f"postgres:{self.cluster.dsn}"]
        for name, value in self.options().items():
            words += ["-O", f"{name}={value}"]
        return words

    def changed(self) -> bool:
        assert self.cluster is not None
        return self.cluster.auto_conf.read_text() != self.text

    def events(self) -> dict[str, object]:
        assert self.cluster is not None
        return {"changed": self.changed, "restarting": self.cluster.down}

    def state(self) -> dict[str, object]:
        assert self.cluster is not None
        return self.cluster.settings(self.tuned)

    def close(self) -> None:
        if self.cluster is not None:
            self.cluster.__exit__()


class AppliedPostgres(Postgres):
    """Applying to such a server, with a setting that needs a restart."""

    name = "postgres-apply"
    life_s = 4.0
    applies = True
    next_commands = {"rollback": 3, "apply": 1}

    def furnish(self, rng: Random) -> None:
        super().furnish(rng)
        assert self.cluster is not None
        config = {"work_mem": 20000, "shared_buffers": 20000, "random_page_cost": 1.5}
        self.fabricate(f"postgres:{self.cluster.dsn}", self.options(), config)

    def apply_words(self) -> list[str]:
        return ["--trial", "0", "--force"]

    def half_applied(self) -> list[str]:
        end = time.monotonic() + self.grace_s
        while "up" not in str(self.state()["the server"]):
            if time.monotonic() > end:
                return ["the server is down"]
            time.sleep(0.2)
        return []


WORLDS: dict[str, type[World]] = {
    w.name: w for w in (Files, Daemon, SQLite, AppliedSQLite, RocksDB, Postgres, AppliedPostgres, AppliedFiles)
}
