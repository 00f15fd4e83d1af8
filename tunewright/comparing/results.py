"""What figures and pages need of a tournament that was run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pandas as pd


class Results(Protocol):
    """A tournament that was run, as :class:`~tunewright.comparing.bundle.Bundle` has it.

    Attributes:
        folder: its directory.
        config: what was run, and where.
        games, trials, targets: frames, one row each.
    """

    folder: Path
    config: Mapping[str, Any]
    games: pd.DataFrame
    trials: pd.DataFrame
    targets: pd.DataFrame

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """Every table by name; see :mod:`tunewright.comparing.standings`."""
        ...

    @property
    def leaderboard(self) -> pd.DataFrame:
        """The tuners, best first."""
        ...
