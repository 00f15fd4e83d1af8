"""A configuration as operations keep it: a file for conf.d, SQL, a drop-in of systemd, tasks of Ansible, a diff.

The target says what it knows (``BaseTarget.forms`` and ``files``); the rest is made from its changed values. Writing
such a text changes nothing in service.
"""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewright.errors import ConfigError, unknown
from tunewright.space import Config, Value
from tunewright.target import BaseTarget

FORMS = {
    "conf.d": "lines of a configuration file",
    "sql": "statements that set the values (ALTER SYSTEM, SET GLOBAL, PRAGMA)",
    "systemd": "a drop-in: Environment= and ExecStart=",
    "ansible": "a list of tasks",
    "diff": "a unified diff of each configuration file against what it is today",
    "env": "NAME=value lines, as EnvironmentFile= and a shell read them",
}
_PRINTABLE = re.compile(r"[^\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # YAML 1.2, 5.1, in one line


def form(target: BaseTarget, name: str, config: Config, changed: Mapping[str, Value], about: Sequence[str] = ()) -> str:
    """Return a configuration in one form.

    Args:
        target: open.
        name: one of ``FORMS``.
        config: a legal configuration.
        changed: those of its values that are new.
        about: lines for people, put on top as comments.

    Raises:
        ConfigError: there is no such form, or not for this target; the message says which there are.
    """
    if name not in FORMS:
        raise unknown("form", name, FORMS)
    texts = forms(target, config, changed)
    if not texts.get(name):
        there = ", ".join(n for n in FORMS if texts.get(n))
        why = ", since its parameters stand in no one configuration file that is described" if name == "conf.d" else ""
        raise ConfigError(f"target {target.name!r} has no form {name!r}{why}; there are: {there or 'none'}")
    if name == "diff":
        return texts[name]  # a comment would be no part of a patch
    comment = "--" if name == "sql" else "#"
    head = [f"{comment} {' '.join(line.split())}" for line in about]
    return "\n".join([*head, texts[name]])


def forms(target: BaseTarget, config: Config, changed: Mapping[str, Value]) -> dict[str, str]:
    """Return every form that a target has, by name; arguments as for :func:`form`."""
    own, files = dict(target.forms(config, changed)), dict(target.files(config))
    lines = {name: text_of(value) for name, value in changed.items()}
    if files:
        own.setdefault("diff", diff(files))
        own.setdefault("ansible", ansible_files(files))
        if len(files) == 1:
            own.setdefault("conf.d", next(iter(files.values())))
        else:
            own.setdefault("conf.d", "")  # several files are no one text; the diff has them all
    if lines:
        own.setdefault("conf.d", "".join(f"{n} = {v}\n" for n, v in lines.items()))
        own.setdefault("env", environment_file({variable(n): v for n, v in lines.items()}))
    return own


def text_of(value: Value) -> str:
    """Return a value as configuration files have it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def variable(name: str) -> str:
    """Return a parameter's name as that of an environment variable.

    >>> variable("osc.max-dirty_mb"), variable("2fast")
    ('OSC_MAX_DIRTY_MB', '_2FAST')
    """
    safe = re.sub(r"[^A-Za-z0-9_]", "_", name).upper()
    return f"_{safe}" if safe[:1].isdigit() else safe


def environment_file(variables: Mapping[str, str]) -> str:
    """Return variables as a file that both a shell and systemd read, a value in quotes where it needs them."""
    return "".join(f"{name}={_shell_quoted(value)}\n" for name, value in variables.items())


def _shell_quoted(value: str) -> str:
    if "'" not in value:
        return shlex.quote(value) if value else "''"
    return '"' + re.sub(r'(["\\$`])', r"\\\1", value) + '"'  # systemd knows no '"'"'


def systemd_environment(variables: Mapping[str, str]) -> list[str]:
    """Return lines of a unit (systemd.exec, Environment=); ``%`` would begin a specifier."""
    return [f"Environment={_systemd_quoted(f'{name}={value}')}" for name, value in variables.items()]


def systemd_exec(words: Sequence[str]) -> list[str]:
    """Return lines that replace a unit's command (systemd.service, ExecStart=); ``$`` would begin a variable."""
    return ["ExecStart=", "ExecStart=" + " ".join(_systemd_quoted(w.replace("$", "$$")) for w in words)]


def _systemd_quoted(text: str) -> str:
    text = text.replace("%", "%%")
    if text and re.fullmatch(r"[\w@%+=:,./$-]+", text, re.ASCII):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


def sql_text(value: str) -> str:
    """Return a value as a literal of SQL; a backslash counts as itself in PostgreSQL and as an escape in MariaDB.

    >>> sql_text("it's")
    "'it''s'"
    """
    return "'" + value.replace("'", "''") + "'"


def alter_system(settings: Mapping[str, str], *, restart: bool = False) -> str:
    """Return PostgreSQL's statements.

    Args:
        settings: values by name.
        restart: one of them needs a restart of the server.
    """
    lines = [f"ALTER SYSTEM SET {_identifier(n)} = {sql_text(v)};" for n, v in settings.items()]
    after = ["SELECT pg_reload_conf();"] + (["-- some of these need a restart of the server"] if restart else [])
    return "\n".join([*lines, *after]) + "\n" if lines else ""


def set_global(settings: Mapping[str, str], *, restart: bool = False) -> str:
    """Return MariaDB's and MySQL's statements; arguments as for :func:`alter_system`.

    They hold until the server restarts: the form ``conf.d`` is for what stays.
    """
    lines = [f"SET GLOBAL {n} = {v if _is_number(v) else sql_text(v)};" for n, v in settings.items()]
    after = ["-- what cannot be set while the server runs is in the form conf.d alone"] if restart else []
    return "\n".join([*lines, *after]) + "\n" if lines or after else ""


def _identifier(name: str) -> str:
    return name if re.fullmatch(r"[a-z_][a-z0-9_.]*", name) else '"' + name.replace('"', '""') + '"'


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?\d+(\.\d+)?", text) is not None


def diff(files: Mapping[Path, str]) -> str:
    """Return one unified diff, for ``patch -p0``, of files against what they hold today.

    Raises:
        ConfigError: a file cannot be read.
    """
    parts = []
    for path, text in files.items():
        try:
            now = path.read_text(encoding="utf-8") if path.exists() else ""
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read {path}: {error}") from None
        before = str(path) if path.exists() else "/dev/null"
        for line in difflib.unified_diff(
            now.splitlines(keepends=True), text.splitlines(keepends=True), before, str(path)
        ):
            parts.append(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n")
    return "".join(parts) or "# no file would change\n"


def yaml_text(text: str) -> str:
    r"""Return a text as a scalar of YAML in double quotes, which JSON's form is but for what YAML cannot print.

    >>> yaml_text('a "b"\x7f')
    '"a \\"b\\"\\x7f"'
    """
    return _PRINTABLE.sub(_escaped, json.dumps(text, ensure_ascii=False))


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def _unrendered(text: str) -> str:
    """Keep Ansible from rendering what looks like its templates."""
    if not re.search(r"\{[{%#]", text):
        return text
    return "{% raw %}" + text.replace("{% endraw %}", "") + "{% endraw %}"


def ansible_files(files: Mapping[Path, str]) -> str:
    """Return a list of tasks that write files."""
    tasks = []
    for path, text in files.items():
        tasks.append(_task(f"Settings of {path.name}", "ansible.builtin.copy", {
            "dest": str(path), "content": _unrendered(text), "backup": True,
        }))  # fmt: skip
    return "".join(tasks)


def ansible_tasks(module: str, settings: Mapping[str, str], **more: Any) -> str:
    """Return a list of tasks that set one value each.

    Args:
        module: such as ``community.postgresql.postgresql_set``; it takes ``name`` and ``value``.
        settings: values by name.
        **more: arguments of every task.
    """
    return "".join(
        _task(f"Set {name}", module, {"name": name, "value": _unrendered(value), **more})
        for name, value in settings.items()
    )


def _task(name: str, module: str, arguments: Mapping[str, Any]) -> str:
    lines = [f"- name: {yaml_text(name)}", f"  {module}:"]
    for key, value in arguments.items():
        lines.append(f"    {key}: {yaml_text(value) if isinstance(value, str) else json.dumps(value)}")
    return "\n".join(lines) + "\n"
