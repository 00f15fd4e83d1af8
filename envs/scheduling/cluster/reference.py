"""The cluster simulator in plain Python, node by node; tests hold the compiled one to it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tunewright.envs.scheduling.cluster.jobs import Jobs, Nodes
from tunewright.envs.scheduling.cluster.simulate import Policy, kinds_of
from tunewright.envs.scheduling.cluster.state import WHOLE

Place = list[tuple[int, list[int]]]  # nodes, and which of their GPUs


@dataclass
class Node:
    """What is free on a node."""

    cpu: int
    memory: int
    gpus: list[int]
    slots: int  # GPUs that a node of the cluster has at most

    def unused(self) -> int:
        """Free thousandths of GPUs, or of CPUs in a cluster without GPUs."""
        return sum(self.gpus) if self.slots else self.cpu

    def pick(self, gpus: int, milli: int) -> list[int] | None:
        """GPUs that a request would get."""
        if milli < WHOLE:
            fitting = [(f, g) for g, f in enumerate(self.gpus) if f >= milli]
            return [min(fitting)[1]] if fitting else None
        free = [g for g, f in enumerate(self.gpus) if f == WHOLE]
        return free[:gpus] if len(free) >= gpus else None

    def fits(self, cpu: int, memory: int, gpus: int, milli: int) -> list[int] | None:
        """GPUs that a job would get; None if it does not fit."""
        if self.cpu < cpu or self.memory < memory:
            return None
        return [] if gpus == 0 else self.pick(gpus, milli)


@dataclass
class Item:
    """A job and where it stands."""

    number: int
    submit: float
    run: float
    estimate: float
    gpus: int
    milli: int
    cpu: int
    memory: int
    left: float
    place: Place = field(default_factory=list)
    started: float = 0.0
    first_start: float = math.inf
    end: float = math.inf
    done_at: float = math.inf
    served: float = 0.0
    level: int = 0
    preempted: int = 0
    rejected: bool = False

    @property
    def expected_end(self) -> float:
        """When it is expected to end."""
        return self.end + (self.estimate - self.run)


class Reference:
    """Runs jobs; ``each`` is called after every moment, with this object: for invariants."""

    def __init__(
        self, jobs: Jobs, nodes: Nodes, policy: Policy, each: Callable[[Reference], None] | None = None
    ) -> None:
        self.p, self.each = policy, each
        self.items = [
            Item(
                k, float(jobs.submit_s[k]), float(jobs.run_s[k]), float(jobs.estimate_s[k]), int(jobs.gpus[k]),
                int(jobs.milli[k]), int(jobs.cpu[k]), int(jobs.memory[k]), float(jobs.run_s[k]),
            )
            for k in range(len(jobs))
        ]  # fmt: skip
        slots = int(nodes.gpus.max(initial=0))
        self.nodes = [
            Node(int(c), int(m), [WHOLE if g < n else 0 for g in range(slots)], slots)
            for c, m, n in zip(nodes.cpu, nodes.memory, nodes.gpus, strict=True)
        ]
        self.whole, self.slots = copy.deepcopy(self.nodes), slots
        self.most_cpu, self.most_memory = (max(int(x.max(initial=0)), 1) for x in (nodes.cpu, nodes.memory))
        self.kinds: Any = kinds_of(jobs) if policy.placement == "fragmentation" else []
        self.waiting: list[Item] = []
        self.running: list[Item] = []
        self.now, self.next_balance, self.migrations, self.preemptions = 0.0, policy.every_s, 0, 0

    # --- places

    def left(self, node: Node) -> float:
        """Free part over all resources, each as a share of the largest node's."""
        left = node.cpu / self.most_cpu + node.memory / self.most_memory
        return left + node.unused() / (WHOLE * self.slots) if self.slots else left

    def find(self, room: list[Node], j: Item) -> Place | None:
        """Where a job would go."""
        best, score = None, math.inf
        for k, node in enumerate(room):
            gpus = node.fits(j.cpu, j.memory, j.gpus, j.milli)
            if gpus is None:
                continue
            value = {
                "first": 0.0, "best": float(node.unused()), "worst": -float(node.unused()), "best-all": self.left(node),
            }.get(self.p.placement)  # fmt: skip
            if value is None:
                before = self.broken(node)
                self.put(room, j, [(k, gpus)], -1)
                value = self.broken(node) - before
                self.put(room, j, [(k, gpus)], 1)
            if value < score:
                best, score = (k, gpus), value
        if best:
            return [best]
        if j.gpus <= self.slots or j.milli < WHOLE:
            return None
        left, found = j.gpus, []
        order = sorted(range(len(room)), key=lambda k: -sum(f == WHOLE for f in room[k].gpus))
        for k in order:
            free = [g for g, f in enumerate(room[k].gpus) if f == WHOLE]
            if left == 0 or not free:
                break
            if room[k].cpu >= j.cpu and room[k].memory >= j.memory:
                found.append((k, free[:left]))
                left -= len(free[:left])
        return found if left == 0 else None

    def broken(self, node: Node) -> float:
        """Expected thousandths of free GPUs that the usual kinds of jobs cannot use."""
        lost = 0.0
        for share, gpus, milli, cpu, memory in self.kinds:
            if gpus == 0 or node.fits(int(cpu), int(memory), int(gpus), int(milli)) is None:
                lost += share * sum(node.gpus)
            else:
                for f in node.gpus:
                    if f < milli:
                        lost += share * f
        return lost

    def put(self, room: list[Node], j: Item, place: Place, sign: int) -> None:
        """Give back (1) or take (-1) a place."""
        for k, gpus in place:
            room[k].cpu += sign * j.cpu
            room[k].memory += sign * j.memory
            for g in gpus:
                room[k].gpus[g] += sign * j.milli

    def free_there(self, room: list[Node], j: Item, place: Place) -> bool:
        """Whether a very place is free."""
        return all(
            room[k].cpu >= j.cpu and room[k].memory >= j.memory and all(room[k].gpus[g] >= j.milli for g in gpus)
            for k, gpus in place
        )

    def units(self, j: Item) -> int:
        """What a job takes of the whole cluster."""
        return j.gpus * j.milli if self.slots else j.cpu

    # --- starting and ending

    def start(self, j: Item, place: Place) -> None:
        """Start a waiting job."""
        self.waiting.remove(j)
        self.put(self.nodes, j, place, -1)
        j.place, j.started = place, self.now
        j.first_start = min(j.first_start, self.now)
        j.end = self.now + (self.p.restart_s if j.preempted and j.left < j.run else 0.0) + j.left
        at = len(self.running)
        while at and self.running[at - 1].expected_end > j.expected_end:
            at -= 1
        self.running.insert(at, j)

    def stop(self, j: Item) -> None:
        """Take a running job off its nodes."""
        self.put(self.nodes, j, j.place, 1)
        self.running.remove(j)
        j.place = []

    def order(self, j: Item) -> Any:
        """Place in the queue."""
        if self.p.order == "sjf":
            return (j.estimate, j.number)
        return (j.level, j.number) if self.p.order == "las" else (j.number,)

    def enqueue(self, j: Item) -> None:
        """Put a job into the queue."""
        self.waiting.append(j)
        self.waiting.sort(key=self.order)

    # --- before their turn

    def easy(self) -> None:
        """EASY backfill."""
        head, room, shadow = self.waiting[0], copy.deepcopy(self.nodes), math.inf
        for k, j in enumerate(self.running):
            self.put(room, j, j.place, 1)
            if k + 1 < len(self.running) and self.running[k + 1].expected_end <= j.expected_end:
                continue
            place = self.find(room, head)
            if place:
                shadow = j.expected_end
                self.put(room, head, place, -1)
                break
        if shadow == math.inf:
            return
        for j in self.waiting[1 : 1 + self.p.depth]:
            place = self.find(self.nodes, j)
            if not place:
                continue
            short = self.now + j.estimate <= shadow
            if short or self.free_there(room, j, place):
                if not short:
                    self.put(room, j, place, -1)
                self.start(j, place)

    def conservative(self) -> None:
        """Conservative backfill: the earliest time for each, on what is free of the whole cluster."""
        total = sum(n.unused() for n in self.whole)
        held = [(self.now, max(j.expected_end, self.now), self.units(j)) for j in self.running]
        for j in self.waiting[: self.p.depth]:

            def free(t: float) -> int:
                return total - sum(u for a, b, u in held if a <= t < b)

            times = sorted(
                {self.now, *(b for _, b, _ in held if b >= self.now), *(a for a, _, _ in held if a >= self.now)}
            )
            for t in times:
                points = [t, *(x for x in times if t < x < t + j.estimate)]
                if all(free(x) >= self.units(j) for x in points):
                    break
            else:
                continue
            held.append((t, t + j.estimate, self.units(j)))
            place = self.find(self.nodes, j) if t <= self.now else None
            if place:
                self.start(j, place)

    # --- least attained service, balance

    def rate(self, j: Item) -> float:
        """GPU-seconds a second."""
        return max(j.gpus * j.milli / WHOLE, 1.0) if self.slots else max(j.cpu / WHOLE, 1.0)

    def level(self, served: float) -> int:
        """Queue of a job."""
        found, bound = 0, self.p.level_s
        while found < self.p.levels - 1 and served >= bound:
            found, bound = found + 1, bound * 10
        return found

    def las(self) -> None:
        """Least attained service."""
        for j in self.running:
            late = 1e-6 + 1e-15 * self.now * self.rate(j)  # what rounding of the clock may lack
            j.level = self.level(j.served + (self.now - j.started) * self.rate(j) + late)
        at = looked = 0
        while at < len(self.waiting) and looked < self.p.depth:
            j = self.waiting[at]
            place = self.find(self.nodes, j)
            if place:
                self.start(j, place)
                continue
            room, gone = copy.deepcopy(self.nodes), []
            lower = [
                r for level in range(self.p.levels - 1, j.level, -1) for r in reversed(self.running) if r.level == level
            ]
            fits = False
            for r in lower:
                self.put(room, r, r.place, 1)
                gone.append(r)
                if self.find(room, j):
                    fits = True
                    break
            if fits:
                for r in [r for r in reversed(self.running) if r in gone]:
                    r.left = min(r.end - self.now, r.run)
                    r.served += (self.now - r.started) * self.rate(r)
                    self.stop(r)
                    r.preempted += 1
                    self.preemptions += 1
                    self.enqueue(r)
                place = self.find(self.nodes, j)
                if place:
                    self.start(j, place)
                    continue
            at += 1
            looked += 1

    def load(self, k: int) -> float:
        """Used share of a node."""
        whole = self.whole[k].unused()
        return 1.0 - self.nodes[k].unused() / whole if whole else 0.0

    def rebalance(self) -> None:
        """Move one job from the fullest node to the emptiest."""
        loads = [self.load(k) for k in range(len(self.nodes))]
        full, empty = loads.index(max(loads)), loads.index(min(loads))
        gap = loads[full] - loads[empty]
        if gap <= self.p.balance:
            return
        for j in list(self.running):
            if len(j.place) > 1 or j.place[0][0] != full or j.end - self.now <= 2 * self.p.migrate_s:
                continue
            gpus = self.nodes[empty].fits(j.cpu, j.memory, j.gpus, j.milli)
            if gpus is None or self.units(j) / max(self.whole[empty].unused(), 1) >= gap:
                continue
            self.put(self.nodes, j, j.place, 1)
            j.place = [(empty, gpus)]
            self.put(self.nodes, j, j.place, -1)
            j.end += self.p.migrate_s
            self.migrations += 1
            self.running.sort(key=lambda r: r.expected_end)
            return

    # --- events

    def run(self) -> list[Item]:
        """Run everything; returns the jobs."""
        coming = 0
        while coming < len(self.items) or self.running:
            submit = self.items[coming].submit if coming < len(self.items) else math.inf
            when = min([submit, *(j.end for j in self.running)])
            if self.p.order == "las":
                for j in self.running:
                    if j.level < self.p.levels - 1:
                        bound = self.p.level_s * 10.0**j.level
                        when = min(when, j.started + max(bound - j.served, 0.0) / self.rate(j))
            balanced = self.p.every_s > 0 and len(self.nodes) > 1 and self.p.balance > 0
            if balanced and self.running:
                when = min(when, max(self.next_balance, self.now))
            self.now = max(when, self.now)
            for j in [j for j in self.running if j.end <= self.now]:
                self.stop(j)
                j.done_at, j.left = self.now, 0.0
            while coming < len(self.items) and self.items[coming].submit <= self.now:
                j = self.items[coming]
                coming += 1
                if self.find(self.whole, j):
                    self.enqueue(j)
                else:
                    j.rejected = True
            if balanced and self.now >= self.next_balance:
                self.rebalance()
                self.next_balance = self.now + self.p.every_s
            self.schedule()
            if self.each is not None:
                self.each(self)
        return self.items

    def schedule(self) -> None:
        """Start what may start."""
        if self.p.refuse:
            for j in list(self.waiting):
                place = self.find(self.nodes, j)
                if place:
                    self.start(j, place)
                else:
                    self.waiting.remove(j)
                    j.rejected = True
            return
        if self.p.order == "las":
            self.las()
            return
        if self.p.backfill == "conservative":
            self.conservative()
            return
        while self.waiting and (place := self.find(self.nodes, self.waiting[0])):
            self.start(self.waiting[0], place)
        if self.p.backfill == "easy" and len(self.waiting) > 1 and self.running:
            self.easy()


def invariants(r: Reference) -> None:
    """Raise AssertionError where a rule is broken: room, lost jobs, work that could run."""
    room = copy.deepcopy(r.whole)
    for j in r.running:
        assert j.started <= r.now < j.end, "a job runs outside its time"
        r.put(room, j, j.place, -1)
    assert room == r.nodes, "room is lost"
    for node in r.nodes:
        assert node.cpu >= 0 and node.memory >= 0 and min(node.gpus, default=0) >= 0, "a node holds more than it has"
    if r.waiting and r.p.backfill != "conservative":
        assert r.find(r.nodes, r.waiting[0]) is None, "the first of the queue could run"
