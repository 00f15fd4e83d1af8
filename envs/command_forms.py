"""A described program's configuration in the forms that operations use, and what is left to do after ``apply``."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from tunewright.envs.command_file import Description
from tunewright.envs.command_places import PLACE, Names, fill
from tunewright.sessions.forms import environment_file, systemd_environment, systemd_exec


def command_forms(
    description: Description,
    template: Sequence[str],
    words: Sequence[str],
    environment: Mapping[str, str],
    names: Collection[str],
) -> dict[str, str]:
    """Return ``env`` and ``systemd`` for a description whose command or environment names parameters; else neither.

    Args:
        description: what the TOML file says.
        template: its command; of a service, the one that starts the server.
        words: the same, filled in.
        environment: its environment, filled in.
        names: of the parameters.
    """
    places = [f"{{{name}}}" for name in names]
    variables = {k: environment[k] for k, text in description.env.items() if any(p in text for p in places)}
    in_command = any(p in word for p in places for word in template)
    forms = {"env": environment_file(variables) if variables else "", "systemd": ""}
    parts = [*systemd_environment(variables)]
    if in_command:
        line = ["/bin/sh", "-c", *words] if description.shell and len(words) == 1 else list(words)
        parts += systemd_exec(line)
    if parts:
        forms["systemd"] = "\n".join(["[Service]", *parts]) + "\n"
    if not variables and not in_command:
        del forms["env"]  # the files hold all: plain variables may help whoever builds them
    return forms


def file_lines(description: Description, names: Names, changed: Collection[str]) -> str:
    """Return the lines of the configuration files that give new values, as the system reads them; "" for none.

    Args:
        description: what the TOML file says.
        names: values of placeholders.
        changed: names of parameters with a new value.
    """
    lists = description.parameters.flags
    wanted = {*changed, *(name for name, flags in lists.items() if not flags.keys().isdisjoint(changed))}
    parts: dict[str, list[str]] = {}
    for file in description.files:
        for line in file.text.splitlines():
            text = None if wanted.isdisjoint(PLACE.findall(line)) else fill(line, names)
            if text is not None:
                parts.setdefault(Path(file.path).name, []).append(text.strip())
    if len(parts) < 2:
        return "".join(f"{line}\n" for lines in parts.values() for line in lines)
    return "\n".join("\n".join([f"# in {name}:", *lines, ""]) for name, lines in parts.items())


def costs(description: Description, names: Collection[str]) -> dict[str, str]:
    """Return what it costs to bring a new value into service, of those parameters that do not take it while they run.

    A server that is described reads its files when it is started, or when it is told to, whatever its parameters say.

    Args:
        description: what the TOML file says.
        names: of parameters.
    """
    its = description.service
    found: dict[str, str] = {}
    for name in names:
        cost = description.space.params[name].restart
        if cost == "none" and its is not None:
            again = its.restart_for is None or name in its.restart_for or its.reload is None
            cost = "restart" if again else "reload"
        if cost != "none":
            found[name] = cost
    return found


def not_live(description: Description, costly: Mapping[str, str]) -> str:
    """Say that values are written and not in service, and how they come there.

    Args:
        description: what the TOML file says.
        costly: what a new value of each parameter costs: ``reload``, ``restart`` or ``rebuild``.
    """
    needs = [n for n in ("rebuild", "restart", "reload") if n in costly.values()]
    hook = "a service_apply" if description.service is not None and description.service.start else "an apply"
    listed = ", ".join(f"{name} ({cost})" for name, cost in costly.items())
    return (
        f"Written, but not live yet: {listed}. {re.sub('^.', lambda m: m[0].upper(), needs[0])} what reads the files, "
        f"or give {description.path.name} {hook} command under [hooks] that does it, and apply again."
    )
