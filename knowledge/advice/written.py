"""Advice as a system's own configuration, as SQL, as tasks of Ansible, or as a diff of a configuration file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from tunewright.errors import ConfigError, unknown
from tunewright.knowledge.advice.advising import Advice
from tunewright.knowledge.advice.servers import lines_of
from tunewright.sessions.forms import alter_system, ansible_files, ansible_tasks, diff, set_global
from tunewright.store.files import read_text

FORMS = ("conf.d", "sql", "ansible", "diff")
_PLACES = {
    "mariadb": Path("/etc/mysql/mariadb.conf.d/90-tunewright.cnf"), "redis": Path("/etc/redis/tunewright.conf"),
}  # fmt: skip
NOT_MEASURED = "advice of tunewright from rules and facts of the machine; nothing was measured"


def written(system: str, advice: Advice, form: str, config: Path | None = None) -> str:
    """Return advice in a form that can be used.

    Args:
        system: its name, as on the command line.
        advice: what is new in it is written.
        form: one of ``FORMS``.
        config: file that ``diff`` is against.

    Raises:
        ConfigError: there is no such form for this system.
    """
    if form not in FORMS:
        raise unknown("form", form, FORMS)
    settings = {s.name: s.value for s in advice.new}
    if not settings:
        raise ConfigError("what is set now is as advised; there is nothing to write")
    if form == "diff":
        if config is None:
            raise ConfigError("a diff is against a file: give --config FILE")
        return diff({config: changed(system, read_text(config, "configuration"), settings)})
    if form == "sql" and system == "redis":
        raise ConfigError("Redis has no SQL; the forms are conf.d, ansible and diff")
    text = configuration(system, settings)
    if form == "conf.d":
        return f"# {NOT_MEASURED}\n{text}"
    restart = any(s.restart for s in advice.new)
    if form == "sql" and system == "postgres":
        return f"-- {NOT_MEASURED}\n{alter_system(settings, restart=restart)}"
    if form == "sql":
        dynamic = {s.name: _plain(s.value) for s in advice.new if not s.restart}
        return f"-- {NOT_MEASURED}\n{set_global(dynamic, restart=restart)}"
    if system == "postgres":
        return f"# {NOT_MEASURED}\n{ansible_tasks('community.postgresql.postgresql_set', settings)}"
    include = "" if system == "mariadb" else "# redis.conf has to say: include /etc/redis/tunewright.conf\n"
    return f"# {NOT_MEASURED}\n{include}{ansible_files({_PLACES[system]: text})}"


def _plain(value: str) -> str:
    """Return a size as the number that SET GLOBAL wants."""
    found = re.fullmatch(r"(\d+)([KMG])", value)
    return str(int(found[1]) * 1024 ** ("KMG".index(found[2]) + 1)) if found else value


def _line(system: str, name: str, value: str) -> str:
    if system == "postgres":
        return f"{name} = {value}" if re.fullmatch(r"[\d.]+|on|off", value) else f"{name} = '{value}'"
    return f"{name} = {value}" if system == "mariadb" else f"{name} {value}"


def configuration(system: str, settings: Mapping[str, str]) -> str:
    """Return settings as a configuration file of the system."""
    head = ["[mysqld]"] if system == "mariadb" else []
    return "\n".join([*head, *(_line(system, n, v) for n, v in settings.items())]) + "\n"


def changed(system: str, text: str, settings: Mapping[str, str]) -> str:
    """Return a configuration file with settings in it: in their own lines where they have some, else at the end."""
    lines, last = text.splitlines(), {name: number for number, name, _ in lines_of(system, text)}
    new = []
    for name, value in settings.items():
        if name in last:
            comment = re.search(r"\s+#.*$", lines[last[name]]) if system != "redis" else None
            lines[last[name]] = _line(system, name, value) + (comment[0] if comment else "")
        else:
            new.append(_line(system, name, value))
    if new and system == "mariadb":
        new = ["[mysqld]", *new]
    return "\n".join([*lines, *new]) + "\n"
