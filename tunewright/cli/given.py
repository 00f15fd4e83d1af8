"""What a user gave: options of a target on the command line, and how a session was told to run before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from tunewright.store.store import Store


def target_options(context: typer.Context, target: str) -> dict[str, Any]:
    """Read what is left on the command line as options of the target: ``--NAME VALUE`` or ``--NAME=VALUE``.

    Raises:
        UnknownNameError: neither the command nor the target has such an option.
        ConfigError: a value is missing, or something stands alone.
    """
    from tunewright.errors import ConfigError, unknown
    from tunewright.plugins import options_of

    left, options = list(context.args), {}
    known = options_of(target) if left else {}
    ours = [name.lstrip("-") for p in context.command.params for name in p.opts if name.startswith("--")]
    while left:
        text = left.pop(0)
        name, equals, value = text.partition("=")
        if not name.startswith("--"):
            raise ConfigError(f"what is {text!r}? A command takes one target, and options as --NAME VALUE")
        name = name[2:].replace("-", "_")
        if name not in known:
            raise unknown(
                "option", f"--{name.replace('_', '-')}", sorted({f"--{n.replace('_', '-')}" for n in (*ours, *known)})
            )
        if not equals:
            if not left or left[0].startswith("--"):
                raise ConfigError(f"--{name} needs a value: {known[name]}")
            value = left.pop(0)
        options[name] = value
    return options


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How a session was last told to run, as far as it matters for going on; ``trials`` are those that are left."""

    trials: int | None = 10
    minutes: float | None = None
    patience: int | None = None
    explain: bool = False
    keep: bool = False
    workers: int = 1
    executor: str = ""

    @classmethod
    def of(cls, store: Store | None, name: str) -> Asked:
        """Read it from a store; the usual where nothing was stored."""
        if store is None or name not in store.names():
            return cls()
        kinds: dict[str, Any] = {
            "trials": int, "minutes": (int, float), "patience": int, "explain": bool, "keep": bool, "workers": int,
            "executor": str,
        }  # fmt: skip
        stored = store.session(name).get("asked")
        given = {k: v for k, v in dict(stored or {}).items() if isinstance(v, kinds.get(k, ()))}
        if "trials" in given:
            left = given["trials"] - sum(t.decided for t in store.trials(name))
            given["trials"] = left if left > 0 else given["trials"]
        elif "minutes" in given:
            given["trials"] = None
        return cls(**given)
