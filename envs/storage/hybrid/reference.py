"""The simulator in plain Python, slow: the reference that ``kernel`` must agree with, request by request."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from typing import Any

from tunewright.envs.storage.hybrid.world import World


class Disk:
    """A device with a moving head."""

    def __init__(self, figures: dict[str, float]) -> None:
        self.f, self.busy, self.position = figures, 0.0, 0

    def submit(self, start: float, write: bool, pages: int, address: int) -> float:
        """Return when the operation is done."""
        f, begin, wait = self.f, max(start, self.busy), 0.0
        if address != self.position:
            distance = abs(address - self.position) / f["span"]
            wait = f["seek_min"] + f["seek_span"] * math.sqrt(min(distance, 1.0)) + (f["write_us"] if write else 0.0)
            turn, angle = (begin + wait) / f["revolution"], address / f["track"]
            lag = (angle - math.floor(angle)) - (turn - math.floor(turn))
            wait += (lag + 1.0 if lag < 0 else lag) * f["revolution"]
        self.position = address + pages
        self.busy = begin + f["read_us"] + wait + pages * f["read_page"]
        return self.busy


class Solid:
    """A solid-state device, with a write buffer and garbage collection if it has figures for them."""

    def __init__(self, figures: dict[str, float]) -> None:
        self.f, self.busy = figures, 0.0
        self.fill = self.filled_at = self.written = 0.0

    def submit(self, start: float, write: bool, pages: int, address: int) -> float:
        """Return when the operation is done."""
        f, begin = self.f, max(start, self.busy)
        if not write:
            transfer = pages * f["read_page"]
            self.busy = begin + max(f["read_gap"], f["read_hold"] + transfer)
            return begin + f["read_us"] + transfer
        transfer = pages * f["write_page"]
        hold = max(f["write_gap"], f["write_hold"] + transfer)
        if f["drain"] > 0:
            fill = max(0.0, self.fill - (begin - self.filled_at) * f["drain"]) + pages
            if fill > f["buffer"]:
                begin += (fill - f["buffer"]) / f["drain"]
                fill = f["buffer"]
            self.fill, self.filled_at = fill, begin
            self.written += pages
            if self.written >= f["gc_pages"]:
                self.written -= f["gc_pages"]
                hold += f["gc_us"]
        self.busy = begin + hold
        return begin + f["write_us"] + transfer


class Reference:
    """One system of a ``World``, at the start of its trace, in plain Python objects."""

    def __init__(self, world: World, index: int = 0) -> None:
        sim, self.paged, self.m = world.sims[index], world.paged, world.mechanisms
        self.scale, self.closed = float(sim["scale"]), bool(sim["closed"])
        self.devices: list[Disk | Solid] = []
        for device in world.devices.tiers:
            figures = device.kernel_fields()
            self.devices.append(Disk(figures) if device.kind == "disk" else Solid(figures))
        self.capacity = list(world.capacities)
        self.last = len(self.capacity) - 1
        self.home = [world.start] * len(self.paged.address)
        self.used = [0] * (self.last + 1)
        self.used[world.start] = len(self.paged.address)
        self.lru: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(self.last)]  # last entry: most recent
        if world.start < self.last:
            self.lru[world.start].update((p, None) for p in reversed(range(len(self.paged.address))))
        self.touched = [-1] * len(self.paged.address)
        self.moved_at, self.count = [-1] * len(self.paged.address), [0] * len(self.paged.address)
        self.hot = [False] * len(self.paged.address)
        self.queue: deque[tuple[int, int]] = deque()
        self.now, self.clock, self.spent = 0.0, 0, 0.0
        self.tally: dict[str, int] = dict.fromkeys(
            ("evicted", "promoted", "fetched", "migrated", "gated", "hits", "served"), 0
        )

    def address(self, page: int) -> int:
        """Page number on the disk."""
        return int(self.paged.address[page])

    def region(self, page: int) -> int:
        """Extent that a page belongs to."""
        return self.address(page) // self.m.extent

    def settle(self, page: int, tier: int, cold: bool = False) -> None:
        """Make ``tier`` the home of a page, as its most recent one or, if cold, as the next victim."""
        old = self.home[page]
        self.hot[page] = not cold
        if old < self.last:
            del self.lru[old][page]
        if tier < self.last:
            self.lru[tier][page] = None
            if cold:
                self.lru[tier].move_to_end(page, last=False)
        if old != tier:
            self.used[old] -= 1
            self.used[tier] += 1
            self.home[page] = tier
            self.moved_at[page] = self.clock

    def evict(self, victim: int, tier: int, pinned: range, start: float) -> float:
        """Move a victim and its neighbours of one extent to the next tier."""
        first, stop = victim, victim + 1
        if self.m.extent > 1:

            def goes(page: int) -> bool:
                return (
                    0 <= page < len(self.paged.address)
                    and self.home[page] == tier
                    and self.region(page) == self.region(victim)
                    and self.hot[page] <= self.hot[victim]
                    and page not in pinned
                )

            while goes(first - 1):
                first -= 1
            while goes(stop):
                stop += 1
        where, pages = self.address(first), stop - first
        done = self.devices[tier].submit(start, False, pages, where) - start
        done += self.devices[tier + 1].submit(start, True, pages, where)
        for page in range(first, stop):
            self.settle(page, tier + 1)
        self.tally["evicted"] += pages
        return done

    def make_room(self, tier: int, pinned: range, start: float) -> float:
        """Evict until no tier from ``tier`` on holds more than it may."""
        done = start
        for t in range(tier, self.last):
            while self.used[t] > self.capacity[t]:
                victim = next((p for p in self.lru[t] if p not in pinned), None)
                if victim is None:
                    break
                done = self.evict(victim, t, pinned, start)
        return done

    def idle_work(self) -> None:
        """Background moves, as long as all devices are idle."""
        nothing = range(0)
        while True:
            free = max(d.busy for d in self.devices) + self.m.idle_us
            if free >= self.now:
                return
            if self.queue:
                page, target = self.queue.popleft()
                source = self.home[page]
                if source != target:
                    self.devices[source].submit(free, False, 1, self.address(page))
                    self.devices[target].submit(free, True, 1, self.address(page))
                    self.settle(page, target)
                    self.tally["migrated"] += 1
                    self.make_room(target, range(page, page + 1), free)
                continue
            full = [
                t
                for t in range(self.last)
                if self.m.reserve > 0 and self.used[t] > self.capacity[t] * (1.0 - self.m.reserve) and self.lru[t]
            ]
            if not full:
                return
            self.evict(next(iter(self.lru[full[0]])), full[0], nothing, free)
            self.make_room(full[0] + 1, nothing, free)

    def enqueue(self, page: int, target: int) -> bool:
        """Ask for a page to be moved in idle time."""
        if len(self.queue) >= self.m.queue or self.home[page] == target:
            return False
        self.queue.append((page, target))
        return True

    def arrive(self) -> None:
        """Bring time to the next request."""
        if not self.closed:
            self.now = float(self.paged.trace.time_us[self.clock]) * self.scale
        if self.queue or self.m.reserve > 0:
            self.idle_work()

    def serve(self, target: int, ahead: int = 0, cold: bool = False) -> float:
        """Serve the request that has arrived; returns its latency in us."""
        first, count = int(self.paged.first[self.clock]), int(self.paged.count[self.clock])
        write, now = bool(self.paged.trace.write[self.clock]), self.now
        pages = range(first, first + count)
        if write and target < 0:
            target = self.home[first]
        while 0 <= target < self.last and self.capacity[target] < count:
            target += 1
        promote = target >= 0
        if write:
            if target == 0:
                self.tally["hits"] += count
            done = self.devices[target].submit(now, True, count, self.address(first))
        else:
            if (
                promote
                and target < self.last
                and max(d.busy - now for d in self.devices[target + 1 :]) > self.m.gate_us
            ):
                promote = False
                self.tally["gated"] += 1
            done = now
            for tier, device in enumerate(self.devices):
                here = [p for p in pages if self.home[p] == tier]
                if here:
                    done = max(done, device.submit(now, False, len(here), self.address(here[0])))
                    if tier == 0:
                        self.tally["hits"] += len(here)
        away = [p for p in pages if promote and self.home[p] != target]
        for page in pages:
            self.settle(page, target if promote else self.home[page], cold)
            self.touched[page] = self.clock
            self.count[page] = min(self.count[page] + 1, 65535)
        end = pages.stop
        if promote and not write:
            self.tally["promoted"] += len(away)
            fetched: list[int] = []
            if target < self.last and (ahead < 0 or (ahead > 0 and away)):
                least, room = 1 if away else abs(ahead) // 2, self.capacity[target] - count
                fetched = self.fetch(pages.stop, min(abs(ahead), room), least, target, now)
                end = fetched[-1] + 1 if fetched else end
            if away or fetched:
                self.devices[target].submit(now, True, len(away) + len(fetched), self.address(first))
        self.spent = 0.0
        if promote and target < self.last and self.used[target] > self.capacity[target]:
            self.spent = self.make_room(target, range(first, end), now) - now
        self.tally["served"] += count
        self.clock += 1
        if self.closed:
            self.now = done
        return done - now

    def fetch(self, page: int, ahead: int, least: int, target: int, start: float) -> list[int]:
        """Bring those of the next pages on the disk that lie on one slower tier; returns them."""
        limit = min(page + min(ahead, self.capacity[target] // 8), len(self.paged.address))
        run = [p for p in range(page, limit) if self.address(p) - self.address(page - 1) == p - page + 1]
        slower = [p for p in run if self.home[p] > target]
        if not slower or sum(self.home[p] == self.home[slower[0]] for p in slower) < least:
            return []
        source = self.home[slower[0]]
        near = [p for p in slower if self.home[p] == source]
        span = self.address(near[-1]) - self.address(near[0]) + 1
        self.devices[source].submit(start, False, span, self.address(near[0]))
        for other in near:
            self.settle(other, target)
        self.tally["fetched"] += len(near)
        return near

    def state(self) -> dict[str, Any]:
        """Return what must agree with the kernel's record."""
        return {"home": self.home, "used": self.used, "busy": [d.busy for d in self.devices], **self.tally}
