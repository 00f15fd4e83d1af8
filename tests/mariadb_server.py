"""A private MariaDB server of the tests: somebody else's, reached by its address, with settings of its own."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from tunewright.envs.storage import accounts, mariadb_server
from tunewright.envs.storage.mariadb_dsn import connected, read_address
from tunewright.errors import TargetError

PASSWORD = "s3 cr@t/it's"
ENCODED = "s3%20cr%40t%2Fit%27s"


def unavailable():
    """Why no server can be made here; "" where one can."""
    try:
        for program in ("mariadbd", "mariadb-install-db", "mariadb", "mariadb-dump", "sysbench"):
            mariadb_server.program(program)
        import pymysql  # noqa: F401
    except (TargetError, ImportError) as error:
        return str(error)
    return ""


class Theirs:
    """A server with an option file, a password, a binary log and a command that restarts it; a context manager."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="tw-maria-", dir="/var/tmp"))
        self.folder.chmod(0o711)
        self.data, self.socket = self.folder / "data", self.folder / "run" / "s.sock"
        self.socket.parent.mkdir()
        accounts.hand_over(self.socket.parent)
        self.config = self.folder / "conf.d"
        self.config.mkdir()
        (self.config / "10-theirs.cnf").write_text("[mysqld]\njoin_buffer_size = 512K\n")
        (self.folder / "my.cnf").write_text(
            f"[mysqld]\nlog_bin = bin\ninnodb_log_file_size = 16M\n!includedir {self.config}\n"
        )
        mariadb_server.make_data(self.data)
        self.script = self.folder / "restart.py"
        user = accounts.as_user()
        words = [mariadb_server.program("mariadbd"), f"--defaults-file={self.folder}/my.cnf", f"--datadir={self.data}",
                 f"--socket={self.socket}", f"--pid-file={self.pid_file}", "--skip-networking"]  # fmt: skip
        self.script.write_text(
            "import os, pathlib, subprocess, sys, time\nimport pymysql\n"
            f"pid, words = pathlib.Path({str(self.pid_file)!r}), {words!r}\n"
            "if pid.exists():\n"
            "    number = int(pid.read_text())\n"
            "    try: os.kill(number, 15)\n"
            "    except ProcessLookupError: pid.unlink()  # it was killed\n"
            "    while pid.exists(): time.sleep(0.05)\n"
            f"log = open({str(self.folder / 'log')!r}, 'ab')\n"
            "# a service manager has an environment of its own: what calls this leaves no mark on the server\n"
            f"server = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd='/', env={{'PATH': os.defpath}}, start_new_session=True, **{user!r})\n"
            "while server.poll() is None:\n"
            "    try:\n"
            f"        pymysql.connect(user='nobody', unix_socket={str(self.socket)!r}).close()\n"
            "    except pymysql.OperationalError as error:\n"
            "        if error.args[0] in (1045, 1698): sys.exit(0)\n"
            "    time.sleep(0.05)\n"
            "sys.exit('the server ended')\n"
        )

    @property
    def pid_file(self):
        return self.folder / "run" / "pid"

    @property
    def root(self):
        return read_address(f"mariadb://root@localhost/?socket={self.socket}")

    def address(self, database=""):
        """The address of the user ``me``, with the password."""
        return f"mariadb://me:{ENCODED}@localhost/{database}?socket={self.socket}"

    @property
    def restart_command(self):
        import sys

        return f"{sys.executable} {self.script}"

    def restart(self):
        subprocess.run(self.restart_command.split(), check=True, timeout=120)

    def ask(self, text, *values):
        with connected(self.root) as ask:
            return ask(text, *values)

    def variables(self):
        """All global variables but those that writing to the server moves."""
        rows = self.ask(
            "SELECT VARIABLE_NAME, GLOBAL_VALUE FROM information_schema.SYSTEM_VARIABLES WHERE GLOBAL_VALUE IS NOT NULL"
        )
        return {name: value for name, value in rows if not name.startswith("GTID_") and name != "TIMESTAMP"}

    def databases(self):
        return {row[0] for row in self.ask("SHOW DATABASES")}

    def __enter__(self):
        try:
            self.restart()
            self.ask("CREATE USER me@localhost IDENTIFIED BY %s", PASSWORD)
            self.ask("GRANT ALL ON *.* TO me@localhost")
            self.ask("SET GLOBAL lock_wait_timeout = 77")  # by hand, in no file
            self.ask("SET GLOBAL sort_buffer_size = 3145728")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc):
        if self.pid_file.exists():
            number = int(self.pid_file.read_text())
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGTERM)
            end = time.monotonic() + 60
            while self.pid_file.exists() and psutil.pid_exists(number) and time.monotonic() < end:
                time.sleep(0.05)
        shutil.rmtree(self.folder)
