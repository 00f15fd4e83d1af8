"""What database servers share: a private one is ended for sure, and a user's is restarted by the user's command."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from tunewright.errors import TargetError
from tunewright.measuring import hooks
from tunewright.space import Choice, Param, Value
from tunewright.target import BaseTarget


def end(process: subprocess.Popen[bytes], number: int, limit_s: float) -> None:
    """Ask a server of our own to shut down, and kill it where it does not.

    Args:
        process: the server; it may have ended.
        number: of the signal that asks it.
        limit_s: that it is given.
    """
    if process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run_restart(command: Sequence[str]) -> None:
    """Run the user's command that restarts a server.

    Raises:
        TargetError: it fails, or takes too long.
    """
    done = hooks.run(command)
    if done.code is None:
        raise TargetError(f"the restart command took more than {hooks.LIMIT_S:.0f} s and was ended{done.where}")
    if done.code:
        lines = done.output.strip().splitlines()
        raise TargetError(f"the restart command exited with code {done.code}: {lines[-1] if lines else ''}{done.where}")


def kept_by_guarantees(target: BaseTarget) -> dict[str, str]:
    """Return the parameters that stay as they are, since any other value weakens a guarantee; with its name."""
    today = dict(target.space.default)
    least = target.guarantees(today)
    kept = {}
    for name in target.guarantee_names():
        if name not in today:
            continue
        others = [value for value in _some_values(target.space.params[name]) if value != today[name]]
        levels = [target.guarantees({**today, name: value}) for value in others]
        weaker = [next((g for g, level in least.items() if found.get(g, level) < level), "") for found in levels]
        if weaker and all(weaker):
            kept[name] = weaker[0]
    return kept


def _some_values(param: Param) -> list[Value]:
    """Return all values of a choice, and of a number its special values, its bounds and those beside its default."""
    if isinstance(param, Choice):
        return list(param.choices)
    low, high = param.bounds({})
    beside = (param.default - 1, param.default + 1)
    return [low, high, *param.special, *(value for value in beside if low <= value <= high)]


def kept_words(kept: Mapping[str, str]) -> list[str]:
    """Say which parameters stay as they are, and what would change that; nothing where there are none."""
    return [
        f"Not changed unless you say --allow {guarantee}: {', '.join(n for n, of in kept.items() if of == guarantee)}."
        for guarantee in dict.fromkeys(kept.values())
    ]
