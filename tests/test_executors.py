"""Executors without a cluster: what a lost scheduler, a lost result and a cancelled call become."""

import asyncio
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import pytest

from tunewright.errors import TargetError
from tunewright.measuring import executors


class There:
    """Stands for a Dask future."""

    def __init__(self, outcome=None):
        self.outcome, self.cancelled, self.called = outcome, False, None

    def add_done_callback(self, call):
        self.called = call

    def result(self, timeout):
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    def cancel(self):
        self.cancelled = True
        raise RuntimeError("the client is closed")


class Client:
    """Stands for a Dask client."""

    def __init__(self):
        self.status, self.given = "running", []

    def submit(self, fn, *args, pure, **kwargs):
        assert not pure, "equal calls are calls of their own"
        self.given.append(There())
        return self.given[-1]


def test_a_result_an_error_and_what_is_no_exception_are_handed_over():
    client = Client()
    pool = executors.DaskExecutor(client)
    for outcome, raised in (
        (3, None),
        (ValueError("x"), ValueError),
        (asyncio.CancelledError("gone"), ConnectionError),
    ):
        future = pool.submit(sum, [1, 2])
        there = client.given[-1]
        there.outcome = outcome
        there.called(there)
        assert future.done()
        if raised is None:
            assert future.result() == 3
        else:
            assert isinstance(future.exception(), raised)


def test_a_cancelled_call_is_cancelled_there_too_and_may_still_end():
    client = Client()
    future = executors.DaskExecutor(client).submit(sum, [1, 2])
    there = client.given[-1]
    assert future.cancel() and there.cancelled
    there.called(there)
    with pytest.raises(CancelledError):
        future.result()


def test_a_lost_scheduler_ends_the_wait(monkeypatch):
    monkeypatch.setattr(executors, "_LOOK_S", 0.05)
    client = Client()
    pool = executors.DaskExecutor(client)
    pending = {pool.submit(sum, [1, 2])}
    client.status = "closed"
    with pytest.raises(TargetError, match="scheduler is gone"):
        executors.first_done(pending, pool)
    with pytest.raises(TargetError, match="scheduler is gone"):
        pool.submit(sum, [1])


def test_what_came_before_the_loss_is_still_handed_over(monkeypatch):
    monkeypatch.setattr(executors, "_LOOK_S", 0.05)
    client = Client()
    pool = executors.DaskExecutor(client)
    pending = {pool.submit(sum, [1, 2]), pool.submit(sum, [3])}
    client.given[0].outcome = 3
    client.given[0].called(client.given[0])
    client.status = "closed"
    assert [f.result() for f in executors.first_done(pending, pool)] == [3]


def test_other_executors_are_used_as_they_are():
    assert executors.adopted(None) is None
    with ThreadPoolExecutor(1) as pool:
        assert executors.adopted(pool) is pool
        done = executors.first_done({pool.submit(sum, [1, 2]), Future()}, pool)
        assert [f.result() for f in done] == [3]
