"""Copies that share nothing: of environments, and of arrays that hold each other's addresses.

Compiled code follows addresses (see ``compiled``). A copy of such an object, by ``copy`` or ``pickle``, must not keep
those of the original: it would change the original's arrays, or read freed memory once they are gone. Here an object
says in one place how its addresses are set, for the constructor and for copies alike. Steps pay nothing for it.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Self

import numpy as np

from tunewright.errors import ConfigError


class Independent:
    """``copy.copy`` gives what ``copy.deepcopy`` gives: an object that shares nothing that a step changes."""

    def __copy__(self) -> Self:
        return copy.deepcopy(self)


class Linked(Independent):
    """An object with addresses of its own arrays; a copy has its own arrays, and the addresses of these.

    Attributes:
        derived: attributes that ``_link`` sets, such as addresses and compiled functions; copies leave them out.
    """

    derived: ClassVar[tuple[str, ...]] = ()

    def _link(self) -> None:
        """Set all addresses anew, and nothing else; called at the end of the constructor and in each copy."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in self.derived}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({name: _owned(value) for name, value in state.items()})
        self._link()


def _owned(value: Any) -> Any:
    """Return arrays in memory of their own: those of pickles may lie in a shared buffer, or one for reading alone."""
    if isinstance(value, np.ndarray):
        return value if value.flags.owndata and value.flags.writeable else np.array(value)
    return [_owned(v) for v in value] if isinstance(value, list) else value


class Packed(Independent):
    """An object that cloudpickle copies: it also takes the functions that spaces of targets keep their rules in."""

    def _state(self) -> dict[str, Any]:
        """Return the attributes that a copy begins with."""
        return dict(self.__dict__)

    def __reduce__(self) -> tuple[Any, ...]:
        import cloudpickle

        state = self._state()
        try:
            return _unpacked, (cloudpickle.dumps((type(self), state)),)
        except Exception as error:  # whatever a user's target holds: a lock, a socket, a process
            raise ConfigError(
                f"a copy of {type(self).__name__} needs a target that can be pickled, and this one cannot: {error};"
                " make a second environment instead"
            ) from None


def _unpacked(data: bytes) -> Any:
    import cloudpickle

    cls, state = cloudpickle.loads(data)
    made = cls.__new__(cls)
    made.__dict__.update(state)
    return made
