"""Tiers on real directories that serve requests in order, one worker a tier.

The same order as in the simulator holds: each tier serves what is asked of it first come, first served, background
moves among it. What a move has read is written on the other tier when that tier comes to it; until then the page is
read where it was.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence

from tunewright.envs.storage.hybrid.pagestore import PAYLOAD, PageStore, TierFile, TierPlace, undelayed
from tunewright.errors import TargetError

Done = Callable[[], None]


def payload(page: int, version: int) -> bytes:
    """Content that belongs to one version of a page, so that a read can be checked."""
    mark = page.to_bytes(8, "little") + version.to_bytes(8, "little")
    return (mark * (PAYLOAD // 16 + 1))[:PAYLOAD]


class RealTiers:
    """A page store with a worker a tier.

    Args:
        places: the tiers, fastest first.
        pages: pages of the trace; all are written to the last tier first.
        capacities: pages each tier holds.
    """

    def __init__(
        self,
        places: Sequence[TierPlace],
        pages: Sequence[int],
        capacities: Sequence[int],
    ) -> None:
        files = []
        try:
            for place, room in zip(places, capacities, strict=True):
                files.append(TierFile(place, room))
        except BaseException:
            for file in files:
                file.remove()
            raise
        self.store = PageStore(files)
        self.last = len(files) - 1
        self.fault: BaseException | None = None
        with undelayed(files[self.last]):
            for begin in range(0, len(pages), 256):
                some = list(pages[begin : begin + 256])
                self.store.write(some, [payload(p, 1) for p in some], self.last)
        self._queues: list[queue.SimpleQueue[Callable[[], None] | None]] = [queue.SimpleQueue() for _ in files]
        self.service_s = [0.0] * len(files)  # time the workers have spent
        self._open = 0
        self._idle = threading.Condition()
        self._threads = [threading.Thread(target=self._work, args=(t,), daemon=True) for t in range(len(files))]
        for thread in self._threads:
            thread.start()

    def _work(self, tier: int) -> None:
        jobs = self._queues[tier]
        while (job := jobs.get()) is not None:
            begun = time.perf_counter()
            try:
                job()
                self.service_s[tier] += time.perf_counter() - begun
            except BaseException as error:  # told to the driver, which raises it
                self.fault = self.fault or error
            with self._idle:
                self._open -= 1
                if self._open == 0:
                    self._idle.notify_all()

    def _give(self, tier: int, job: Callable[[], None]) -> None:
        with self._idle:
            self._open += 1
        self._queues[tier].put(job)

    def read(self, pages: Sequence[int], done: Done, keep: dict[int, tuple[int, bytes]] | None = None) -> None:
        """Read pages, each tier its own side by side; ``done`` is called when the last has come.

        Every page's content is checked. ``keep`` is filled with versions and payloads.
        """
        tiers: dict[int, list[int]] = {}
        with self.store.lock:
            for page in pages:
                tiers.setdefault(self.store.where[page][0], []).append(page)
        left = [len(tiers)]

        def job(tier: int, some: list[int]) -> None:
            held = self.store.read(some, tier)
            for page, (version, content) in zip(some, held, strict=True):
                if content != payload(page, version):
                    raise TargetError(f"page {page}, version {version}, holds another page's content")
            if keep is not None:
                keep.update(zip(some, held, strict=True))
            with self._idle:
                left[0] -= 1
                last = left[0] == 0
            if last:
                done()

        for tier, some in tiers.items():
            self._give(tier, lambda tier=tier, some=some: job(tier, some))  # type: ignore[misc]

    def write(self, pages: Sequence[int], tier: int, done: Done) -> None:
        """Write new versions of pages to a tier."""

        def job() -> None:
            with self.store.lock:
                versions = [self.store.version[p] + 1 for p in pages]
            self.store.write(pages, [payload(p, v) for p, v in zip(pages, versions, strict=True)], tier)
            done()

        self._give(tier, job)

    def copy(self, pages: Sequence[int], contents: dict[int, tuple[int, bytes]], tier: int) -> None:
        """Write pages that have been read to a tier."""
        self._give(tier, lambda: self.store.store_copy(pages, [contents[p] for p in pages], tier))

    def move(self, pages: Sequence[int], target: int) -> None:
        """Migrate pages in the background: read where they are, then write on ``target``."""
        held: dict[int, tuple[int, bytes]] = {}
        self.read(pages, lambda: self.copy(pages, held, target), held)

    def drain(self, timeout: float = 300.0) -> None:
        """Wait until nothing is left to do; raises what a worker met."""
        with self._idle:
            if not self._idle.wait_for(lambda: self._open == 0, timeout):
                raise TargetError(f"the tiers are not done with their work after {timeout:g} s")
        if self.fault is not None:
            raise self.fault

    def close(self) -> None:
        """Stop the workers and delete the files."""
        for jobs in self._queues:
            jobs.put(None)
        for thread in self._threads:
            thread.join(30)
        self.store.remove()


def wait_until(due: float) -> None:
    """Sleep until a moment of ``time.perf_counter``; the system wakes us a little late."""
    while (left := due - time.perf_counter()) > 0:
        time.sleep(left)
