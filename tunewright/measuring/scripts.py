"""Scripts that start worker processes: each worker imports the script again, so its top level must be guarded."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import FrameType

from tunewright.errors import ConfigError


class UnguardedScriptError(ConfigError, SystemExit):
    """A script would start itself again in each of its workers; uncaught, it ends the script with its sentence."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = message  # what the interpreter prints instead of a traceback


def require_main_guard(call: str) -> None:
    """See that workers, which import the script that is running, would not run the calling line again.

    Args:
        call: what the script called, for the message.

    Raises:
        UnguardedScriptError: the line is not below ``if __name__ == "__main__":``.
    """
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not (frame.f_globals is vars(main) and frame.f_code.co_name == "<module>"):
        frame = frame.f_back
    if not file or frame is None:  # a notebook, a prompt, or python -c: workers import nothing of it
        return
    try:
        module = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    before = [statement for statement in module.body if statement.lineno <= frame.f_lineno]
    if any(isinstance(s, ast.If) and "__name__" in ast.dump(s.test) for s in before):
        return
    raise UnguardedScriptError(
        f"{file}, line {frame.f_lineno}: {call} starts worker processes, and each of them imports this script and would"
        ' run it again. Put what the script does below a line  if __name__ == "__main__":'
    )
