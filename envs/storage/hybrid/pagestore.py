"""Pages on real directories: checksummed, never overwritten in place, and found again after a crash.

Every tier is one file of slots of 4 KiB. A slot holds one page: a header with the page's number, its version and a
checksum over all the rest, and the payload. A page is written to a free slot with a higher version before the slot of
the version before is given up; opening the store reads all slots and takes the highest valid version of each page. So a
process that is killed at any moment, in the middle of a migration too, leaves every page in its old or its new version.

On a disk the file is opened with O_DIRECT and O_DSYNC, so that a write that has returned is on the device. Memory
(tmpfs) forgets all at a power cut: a tier there is for measuring.
"""

from __future__ import annotations

import fcntl
import heapq
import mmap
import os
import stat
import struct
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tunewright.errors import ConfigError, HeldError, TargetError

PAGE = 4096
_HEADER = struct.Struct("<8sqqI")  # magic, page, version, checksum of page, version and payload
_MAGIC = b"tw-page1"
PAYLOAD = PAGE - _HEADER.size
_RUN = 256  # pages read together when a store is opened
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True, kw_only=True)
class TierPlace:
    """Where a tier's file lies.

    Attributes:
        name: the tier's name.
        directory: where its file is made.
        delay_s: added to every operation.
    """

    name: str
    directory: Path
    delay_s: float = 0.0


def parse_places(text: str) -> list[TierPlace]:
    """Read ``fast=/dev/shm/t,slow=DIR?delay=2ms``: tiers by name, fastest first.

    >>> [(p.name, str(p.directory), p.delay_s) for p in parse_places("fast=/dev/shm/t,slow=/var/tmp/s?delay=2ms")]
    [('fast', '/dev/shm/t', 0.0), ('slow', '/var/tmp/s', 0.002)]

    Raises:
        ConfigError: what is wrong, with an example.
    """
    places = []
    for part in text.split(","):
        name, equals, rest = part.strip().partition("=")
        directory, _, query = rest.partition("?")
        if not (name and equals and directory):
            raise ConfigError(f"{part!r} is no tier; write for example: fast=/dev/shm/t,slow=DIR?delay=2ms")
        places.append(TierPlace(name=name, directory=Path(directory), delay_s=_delay(query) if query else 0.0))
    if not 2 <= len(places) <= 4 or len({p.name for p in places}) < len(places):
        raise ConfigError("two to four tiers with different names are needed, fastest first")
    if len({p.directory.resolve() for p in places}) < len(places):
        raise ConfigError("each tier needs a directory of its own")
    return places


def _delay(query: str) -> float:
    key, _, value = query.partition("=")
    unit = next((u for u in ("us", "ms", "s") if value.endswith(u)), "")
    try:
        seconds = float(value.removesuffix(unit)) * _UNITS[unit]
    except (KeyError, ValueError):
        seconds = -1.0
    if key != "delay" or not 0 <= seconds <= 10:
        raise ConfigError(
            f"{query!r} is not understood; a tier's option is delay=TIME, such as delay=2ms, at most 10 s"
        )
    return seconds


def encode(page: int, version: int, payload: bytes) -> bytes:
    """Return the 4096 bytes of a slot; ``payload`` has ``PAYLOAD`` bytes."""
    if len(payload) != PAYLOAD:
        raise ConfigError(f"a page holds {PAYLOAD} bytes, not {len(payload)}")
    return _HEADER.pack(_MAGIC, page, version, _sum(page, version, payload)) + payload


def decode(slot: bytes | memoryview) -> tuple[int, int, bytes] | None:
    """Return page, version and payload of a slot, or None if it holds no valid page."""
    magic, page, version, checksum = _HEADER.unpack_from(slot)
    if magic != _MAGIC:
        return None
    payload = bytes(slot[_HEADER.size : PAGE])
    return (page, version, payload) if checksum == _sum(page, version, payload) else None


def _sum(page: int, version: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(struct.pack("<qq", page, version)))


class TierFile:
    """The slots of one tier; every method may be called from any thread.

    Args:
        place: directory and delay.
        slots: expected number; the file grows beyond it.
    """

    def __init__(self, place: TierPlace, slots: int) -> None:
        self.place = place
        self.path = place.directory / "pages.tunewright"
        try:
            place.directory.mkdir(parents=True, exist_ok=True)
            self._fd = self._open()
        except OSError as error:
            raise ConfigError(f"tier {place.name!r} cannot use {place.directory}: {error.strerror}") from None
        try:
            self._take_over()
        except BaseException:
            os.close(self._fd)
            raise
        self.slots = max(slots, os.fstat(self._fd).st_size // PAGE)
        self._lock = threading.Lock()
        self._free = list(range(self.slots))  # a heap: low slots first, so that pages written together lie together
        self._local = threading.local()

    def _open(self) -> int:
        # a link would lead to a file of somebody else's, and a pipe would block
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with suppress(FileExistsError):
            os.close(os.open(self.path, flags | os.O_CREAT | os.O_EXCL, 0o600))
        if not stat.S_ISREG(os.lstat(self.path).st_mode):
            raise self._foreign()
        try:
            return os.open(self.path, flags | os.O_DIRECT | os.O_DSYNC)
        except OSError:  # tmpfs of older kernels knows no direct I/O
            return os.open(self.path, flags)

    def _take_over(self) -> None:
        """Lock the file, and see that it is ours: it is empty, or a page's mark stands in one of its slots.

        Raises:
            HeldError: another run has it.
            ConfigError: it is somebody else's.
        """
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given back when the file is closed
        except OSError:
            raise HeldError(
                f"tier {self.place.name!r}: another run keeps its pages in {self.place.directory}; wait for it, or name"
                " another"
            ) from None
        about = os.fstat(self._fd)
        if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
            raise self._foreign()
        if about.st_size and not self._marked(about.st_size):
            raise self._foreign()

    def _marked(self, size: int) -> bool:
        """Whether every slot that holds anything begins as a page does; a killed run leaves holes and torn slots."""
        with open(self.path, "rb") as file:
            heads = (os.pread(file.fileno(), len(_MAGIC), begin) for begin in range(0, size, PAGE))
            held = {head for head in heads if head.strip(b"\0")}
        return held == {_MAGIC}

    def _foreign(self) -> ConfigError:
        return ConfigError(
            f"tier {self.place.name!r}: {self.path} is not a file of pages that tunewright made, and is left as it is; "
            "name another directory"
        )

    def close(self) -> None:
        """Close the file; it stays where it is."""
        os.close(self._fd)

    def remove(self) -> None:
        """Close and delete the file."""
        self.close()
        self.path.unlink(missing_ok=True)

    def take(self, count: int) -> list[int]:
        """Return free slots, now taken."""
        with self._lock:
            while len(self._free) < count:
                heapq.heappush(self._free, self.slots)
                self.slots += 1
            return [heapq.heappop(self._free) for _ in range(count)]

    def give(self, slot: int) -> None:
        """Return a slot that holds nothing that is needed any more."""
        with self._lock:
            heapq.heappush(self._free, slot)

    def claim(self, used: set[int]) -> None:
        """Say which slots hold pages, after a store has been read."""
        with self._lock:
            self._free = sorted(set(range(self.slots)) - used)

    def _buffer(self, pages: int) -> mmap.mmap:
        held: mmap.mmap | None = getattr(self._local, "buffer", None)
        if held is None or len(held) < pages * PAGE:
            held = self._local.buffer = mmap.mmap(-1, max(pages, 64) * PAGE)  # page-aligned, as direct I/O needs
        return held

    def write(self, slots: Sequence[int], blocks: Sequence[bytes]) -> None:
        """Write blocks to slots, neighbours together; durable on return (but in memory)."""
        buffer = self._buffer(len(slots))
        for i, j in _runs(slots):
            buffer[: (j - i) * PAGE] = b"".join(blocks[i:j])
            with memoryview(buffer) as whole, whole[: (j - i) * PAGE] as view:
                done = os.pwritev(self._fd, [view], slots[i] * PAGE)
            if done != (j - i) * PAGE:
                raise TargetError(
                    f"tier {self.place.name!r}: {done} of {(j - i) * PAGE} bytes written; is {self.path} full?"
                )
        self._wait()

    def read(self, slots: Sequence[int]) -> list[bytes]:
        """Read slots, neighbours together."""
        buffer, blocks = self._buffer(len(slots)), []
        for i, j in _runs(slots):
            size = (j - i) * PAGE
            with memoryview(buffer) as whole, whole[:size] as view:
                done = os.preadv(self._fd, [view], slots[i] * PAGE)
                blocks += [bytes(view[k : k + PAGE]) for k in range(0, done - done % PAGE, PAGE)]
                blocks += [bytes(PAGE)] * ((size - done + PAGE - 1) // PAGE)  # behind the end: empty
        self._wait()
        return blocks

    def _wait(self) -> None:
        if self.place.delay_s > 0:
            time.sleep(self.place.delay_s)


def _runs(slots: Sequence[int]) -> Iterable[tuple[int, int]]:
    begin = 0
    for i in range(1, len(slots) + 1):
        if i == len(slots) or slots[i] != slots[i - 1] + 1:
            yield begin, i
            begin = i


class PageStore:
    """Pages on tiers: which version lies where.

    Args:
        files: the tiers, fastest first.

    Attributes:
        where: tier and slot of each page.
        version: newest version of each page.
    """

    def __init__(self, files: Sequence[TierFile]) -> None:
        self.files = list(files)
        self.where: dict[int, tuple[int, int]] = {}
        self.version: dict[int, int] = {}
        self.lock = threading.Lock()
        self.damaged = 0

    def recover(self) -> None:
        """Read all slots; take the highest valid version of each page and free the rest."""
        used: list[set[int]] = [set() for _ in self.files]
        for tier, file in enumerate(self.files):
            size = os.path.getsize(file.path) // PAGE
            for begin in range(0, size, _RUN):
                slots = list(range(begin, min(begin + _RUN, size)))
                with undelayed(file):
                    blocks = file.read(slots)
                for slot, block in zip(slots, blocks, strict=True):
                    held = decode(block)
                    if held is None:
                        self.damaged += block[:8] == _MAGIC
                        continue
                    page, version, _ = held
                    if version > self.version.get(page, -1):
                        if page in self.where:
                            used[self.where[page][0]].discard(self.where[page][1])
                        self.where[page], self.version[page] = (tier, slot), version
                        used[tier].add(slot)
        for file, slots_used in zip(self.files, used, strict=True):
            file.claim(slots_used)

    def write(self, pages: Sequence[int], payloads: Sequence[bytes], tier: int) -> list[int]:
        """Write new versions of pages to a tier; returns the versions, durable on return."""
        with self.lock:
            versions = [self.version.get(p, 0) + 1 for p in pages]
            self.version.update(zip(pages, versions, strict=True))
        self._put(pages, versions, payloads, tier)
        return versions

    def _put(self, pages: Sequence[int], versions: Sequence[int], payloads: Sequence[bytes], tier: int) -> None:
        slots = self.files[tier].take(len(pages))
        blocks = [encode(*item) for item in zip(pages, versions, payloads, strict=True)]
        self.files[tier].write(slots, blocks)
        with self.lock:
            for page, version, slot in zip(pages, versions, slots, strict=True):
                if self.version[page] != version:  # overtaken while it was written
                    self.files[tier].give(slot)
                    continue
                if page in self.where:
                    old, place = self.where[page]
                    self.files[old].give(place)
                self.where[page] = tier, slot

    def read(self, pages: Sequence[int], tier: int) -> list[tuple[int, bytes]]:
        """Read pages that are expected on a tier (or wherever they are now); returns versions and payloads.

        Raises:
            TargetError: a page is not there or its checksum is wrong.
        """
        found: dict[int, tuple[int, bytes]] = {}
        for _ in range(100):  # a page may move while it is read
            left = [p for p in pages if p not in found]
            if not left:
                return [found[p] for p in pages]
            with self.lock:
                places = {p: self.where[p] for p in left if p in self.where}
            for t in sorted({t for t, _ in places.values()}, key=lambda t: t != tier):
                here = sorted((slot, p) for p, (at, slot) in places.items() if at == t)
                blocks = self.files[t].read([slot for slot, _ in here])
                for (_, page), block in zip(here, blocks, strict=True):
                    held = decode(block)
                    if held is not None and held[0] == page:
                        with self.lock:
                            if held[1] == self.version[page] or self.where[page] == places[page]:
                                found[page] = held[1], held[2]
        raise TargetError(f"page {next(p for p in pages if p not in found)} cannot be read with a valid checksum")

    def store_copy(self, pages: Sequence[int], contents: Sequence[tuple[int, bytes]], tier: int) -> None:
        """Second half of a migration: put versions that were read on another tier; newer ones win."""
        with self.lock:
            fresh = [i for i, p in enumerate(pages) if self.version[p] == contents[i][0] and self.where[p][0] != tier]
        if fresh:
            self._put([pages[i] for i in fresh], [contents[i][0] for i in fresh], [contents[i][1] for i in fresh], tier)

    def move(self, pages: Sequence[int], tier: int) -> None:
        """Migrate pages: read, write on the other tier, then give up the old slots."""
        with self.lock:
            sources = {self.where[p][0] for p in pages}
        for source in sources:
            self.store_copy(pages, self.read(pages, source), tier)

    def close(self) -> None:
        """Close the files; they stay."""
        for file in self.files:
            file.close()

    def remove(self) -> None:
        """Close and delete the files."""
        for file in self.files:
            file.remove()


@contextmanager
def undelayed(file: TierFile) -> Iterator[None]:
    """Leave out a tier's added delay for a while."""
    place, file.place = file.place, replace(file.place, delay_s=0.0)
    try:
        yield
    finally:
        file.place = place
