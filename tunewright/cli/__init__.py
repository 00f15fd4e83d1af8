"""The command line."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; see :func:`tunewright.cli.app.main`."""
    from tunewright.cli import app

    return app.main(argv)
