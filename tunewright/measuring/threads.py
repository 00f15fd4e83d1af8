"""One thread for tuners and workers: the matrices of a tuner are small, and further threads only wait for each other.

Only this process is limited, while a tuner thinks or a worker plays; what is measured runs in processes of its own, and
keeps the threads that it would have. Whoever wants more says so with ``OMP_NUM_THREADS``, which is then left to rule.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

#: variables by which users say how many threads they want
ASKED = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit BLAS, OpenMP and torch to one thread, unless a variable asks for another number; undone at the end.

    Without threadpoolctl (it comes with the extras ``rl`` and ``compare``) only torch is limited.
    """
    if any(os.environ.get(name) for name in ASKED):
        yield
        return
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else 1
    if torch is not None and before > 1:
        torch.set_num_threads(1)
    controller = _controller(len(sys.modules))
    try:
        if controller is None:
            yield
        else:
            with controller.limit(limits=1):
                yield
    finally:
        if torch is not None and before > 1:
            torch.set_num_threads(before)


@lru_cache(maxsize=1)
def _controller(modules: int) -> Any:
    """Return threadpoolctl's view of the libraries that are loaded; looked for again where modules came since."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    return ThreadpoolController()
