"""What database servers share: a private one is ended for sure, and a user's is restarted by the user's command."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from tunewright.errors import TargetError
from tunewright.measuring import hooks


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
