"""Where trials and games run: threads of this machine, or the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, InvalidStateError, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from tunewright.errors import ConfigError, TargetError, missing_extra
from tunewright.measuring.scripts import require_main_guard

_WAIT_S = 20  # for a scheduler to answer
_LOOK_S = 2.0  # between two looks at whether the scheduler is still there

_GONE = "the Dask scheduler is gone; resume with a new one"

T = TypeVar("T")


class DaskExecutor(Executor):
    """Runs calls on the workers of a Dask client.

    The client's own ``get_executor()`` leaves a future pending for ever where the scheduler goes while a call is being
    submitted or its result fetched, and gives equal calls one result.

    Args:
        client: a ``distributed.Client``.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    @property
    def lost(self) -> bool:
        """Whether the client has given up on its scheduler."""
        return bool(self._client.status == "closed")

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Submit a call; its future fails where its worker is lost, see `first_done` for a lost scheduler.

        Raises:
            TargetError: the scheduler is gone.
        """
        if self.lost:
            raise TargetError(_GONE)
        given: Future[T] = Future()
        there = self._client.submit(fn, *args, pure=False, **kwargs)
        there.add_done_callback(partial(_hand_over, given))
        given.add_done_callback(partial(_cancel, there))
        return given


def _hand_over(given: Future[Any], there: Any) -> None:
    result, error = None, None
    try:
        result = there.result(timeout=_WAIT_S)
    except BaseException as problem:  # of the call, of its worker, of the way back; some are no Exception
        error = problem if isinstance(problem, Exception) else ConnectionError(str(problem) or type(problem).__name__)
    with suppress(InvalidStateError):  # cancelled meanwhile
        if error is None:
            given.set_result(result)
        else:
            given.set_exception(error)


def _cancel(there: Any, given: Future[Any]) -> None:
    if given.cancelled():
        with suppress(Exception):  # the scheduler may be gone
            there.cancel()


def adopted(executor: Executor | None) -> Executor | None:
    """Return the executor to use in the place of one that a caller gave: a Dask client's becomes a `DaskExecutor`."""
    client = getattr(executor, "_client", None)
    if executor is not None and type(executor).__module__.startswith("distributed") and client is not None:
        return DaskExecutor(client)
    return executor


def first_done(pending: Collection[Future[T]], executor: Executor) -> set[Future[T]]:
    """Wait until a future is done, and return those that are.

    Raises:
        TargetError: the executor's scheduler is gone, and none of them can ever be done.
    """
    while True:
        lost = isinstance(executor, DaskExecutor) and executor.lost
        done = wait(pending, timeout=_LOOK_S, return_when=FIRST_COMPLETED).done
        if done:
            return done
        if lost:  # since before the last wait: what it still had to hand over has come
            raise TargetError(_GONE)


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
        yield DaskExecutor(client)


@contextmanager
def _dask(address: str, workers: int | None) -> Iterator[Any]:
    try:
        import distributed as module
    except ImportError:
        raise missing_extra("distributed", "cluster", "--executor dask") from None
    distributed: Any = module  # it has no types
    if not address:
        require_main_guard("a Dask cluster on this machine")
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
