"""Where trials and games run: threads of this machine, or the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from tunewright.errors import ConfigError, missing_extra

_WAIT_S = 20  # for a scheduler to answer


@contextmanager
def opened(spec: str, workers: int | None = None, *, threads: bool = False) -> Iterator[Executor | None]:
    """Open an executor, and close what was started for it.

    Args:
        spec: "" for none; ``dask`` for a cluster of processes on this machine, bound to loopback; ``dask:ADDRESS`` for
            a scheduler that somebody else keeps, such as one started through dask-jobqueue.
        workers: of the cluster on this machine; None for one a core.
        threads: without a spec and with several workers, give threads (each trial runs in processes of its own).

    Raises:
        ConfigError: no such executor, or the scheduler does not answer.
        MissingExtraError: Dask is not installed.
    """
    if not spec:
        if not threads or (workers or 1) == 1:
            yield None
            return
        with ThreadPoolExecutor(workers) as pool:
            yield pool
        return
    kind, _, address = spec.partition(":")
    if kind != "dask":
        raise ConfigError(
            f"--executor is dask, or dask:ADDRESS of a scheduler such as dask:tcp://head:8786; not {spec!r}"
        )
    with _dask(address, workers) as client:
        yield client.get_executor()


@contextmanager
def _dask(address: str, workers: int | None) -> Iterator[Any]:
    try:
        import distributed as module
    except ImportError:
        raise missing_extra("distributed", "cluster", "--executor dask") from None
    distributed: Any = module  # it has no types
    if address:
        try:
            client = distributed.Client(address, timeout=_WAIT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ConfigError(f"no Dask scheduler answers at {address!r}: {error or type(error).__name__}") from None
        try:
            yield client
        finally:
            client.close()
        return
    cluster = distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, processes=True
    )
    try:
        with distributed.Client(cluster, set_as_default=False) as client:
            yield client
    finally:
        cluster.close()
