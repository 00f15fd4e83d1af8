"""Every error a user can meet, in one tree.

A message says what went wrong, where, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TunewrightError(Exception):
    """Base of all errors this package raises on purpose."""


class SpaceError(TunewrightError):
    """A parameter space, or an expression in it, is not well formed."""


class ConfigError(TunewrightError):
    """A configuration, option or file given by the user is wrong."""


class UnknownNameError(TunewrightError):
    """No target, tuner, workload, metric or session has this name."""


class MissingExtraError(TunewrightError):
    """An optional package is not installed."""


class TargetError(TunewrightError):
    """A target cannot be prepared, measured or restored."""


class RejectedConfigError(TargetError):
    """The system refused this configuration; the message is its reason."""


class VerificationError(TargetError):
    """A configuration failed when it was measured again to verify it."""


class DefaultFailsError(VerificationError):
    """The default failed too often beside it: that is no fault of the configuration, and no other would fare better."""


class StoreError(TunewrightError):
    """The session store cannot be opened, read or written."""


class HeldError(StoreError):
    """Another process runs this session."""


class TunerError(TunewrightError):
    """A tuner cannot work on this space or cannot propose anything more."""


class TunerFailedError(TunerError):
    """A tuner never worked, such as a model whose endpoint cannot be reached: there is no result of it to speak of."""


_MOST_NAMES = 40  # that a message lists


def unknown(kind: str, name: str, known: Iterable[str], *, plural: str | None = None) -> UnknownNameError:
    """Build the error for an unknown name, with the nearest match and what there is.

    >>> str(unknown("target", "rocksbd", ["ann", "rocksdb"], plural="Installed"))
    "no target named 'rocksbd'. Did you mean 'rocksdb'? Installed: ann, rocksdb."
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    rest = len(names) - _MOST_NAMES
    shown = names if rest <= 0 else [*names[:_MOST_NAMES], f"and {rest:,} more"]
    listed = ", ".join(shown) if names else "none"
    return UnknownNameError(f"no {kind} named {name!r}.{hint} {plural or 'Known'}: {listed}.")


def missing_extra(package: str, extra: str, what: str) -> MissingExtraError:
    """Build the error for an optional package that is not installed.

    >>> print(missing_extra("faiss", "ann", "target 'ann'"))
    target 'ann' needs the package 'faiss', which is not installed. Install it with: pip install 'tunewright[ann]'
    """
    return MissingExtraError(
        f"{what} needs the package {package!r}, which is not installed. "
        f"Install it with: pip install 'tunewright[{extra}]'"
    )
