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
            fitting = [(left, gpu) for gpu, left in enumerate(self.gpus) if left >= milli]
            return [min(fitting)[1]] if fitting else None
        free = [gpu for gpu, left in enumerate(self.gpus) if left == WHOLE]
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
        names = ("submit_s", "run_s", "estimate_s", "gpus", "milli", "cpu", "memory", "run_s")
        columns = [getattr(jobs, name).tolist() for name in names]
        self.items = [Item(number, *row) for number, row in enumerate(zip(*columns, strict=True))]
        slots = int(nodes.gpus.max(initial=0))
        self.nodes = [
            Node(int(cpu), int(memory), [WHOLE if gpu < gpus else 0 for gpu in range(slots)], slots)
            for cpu, memory, gpus in zip(nodes.cpu, nodes.memory, nodes.gpus, strict=True)
        ]
        self.whole, self.slots = copy.deepcopy(self.nodes), slots
        self.most_cpu, self.most_memory = (max(int(amounts.max(initial=0)), 1) for amounts in (nodes.cpu, nodes.memory))
        self.kinds: Any = kinds_of(jobs) if policy.placement == "fragmentation" else []
        self.waiting: list[Item] = []
        self.running: list[Item] = []
        self.now, self.next_balance, self.migrations, self.preemptions = 0.0, policy.every_s, 0, 0

    # --- places

    def left(self, node: Node) -> float:
        """Free part over all resources, each as a share of the largest node's."""
        left = node.cpu / self.most_cpu + node.memory / self.most_memory
        return left + node.unused() / (WHOLE * self.slots) if self.slots else left

    def find(self, room: list[Node], job: Item) -> Place | None:
        """Where a job would go."""
        best, score = None, math.inf
        for index, node in enumerate(room):
            gpus = node.fits(job.cpu, job.memory, job.gpus, job.milli)
            if gpus is None:
                continue
            value = {
                "first": 0.0, "best": float(node.unused()), "worst": -float(node.unused()), "best-all": self.left(node),
            }.get(self.p.placement)  # fmt: skip
            if value is None:
                before = self.broken(node)
                self.put(room, job, [(index, gpus)], -1)
                value = self.broken(node) - before
                self.put(room, job, [(index, gpus)], 1)
            if value < score:
                best, score = (index, gpus), value
        if best:
            return [best]
        if job.gpus <= self.slots or job.milli < WHOLE:
            return None
        left, found = job.gpus, []
        order = sorted(range(len(room)), key=lambda index: -sum(part == WHOLE for part in room[index].gpus))
        for index in order:
            free = [gpu for gpu, part in enumerate(room[index].gpus) if part == WHOLE]
            if left == 0 or not free:
                break
            if room[index].cpu >= job.cpu and room[index].memory >= job.memory:
                found.append((index, free[:left]))
                left -= len(free[:left])
        return found if left == 0 else None

    def broken(self, node: Node) -> float:
        """Expected thousandths of free GPUs that the usual kinds of jobs cannot use."""
        lost = 0.0
        for share, gpus, milli, cpu, memory in self.kinds:
            if gpus == 0 or node.fits(int(cpu), int(memory), int(gpus), int(milli)) is None:
                lost += share * sum(node.gpus)
            else:
                for part in node.gpus:
                    if part < milli:
                        lost += share * part
        return lost

    def put(self, room: list[Node], job: Item, place: Place, sign: int) -> None:
        """Give back (1) or take (-1) a place."""
        for index, gpus in place:
            room[index].cpu += sign * job.cpu
            room[index].memory += sign * job.memory
            for gpu in gpus:
                room[index].gpus[gpu] += sign * job.milli

    def free_there(self, room: list[Node], job: Item, place: Place) -> bool:
        """Whether a very place is free."""
        return all(
            room[index].cpu >= job.cpu
            and room[index].memory >= job.memory
            and all(room[index].gpus[gpu] >= job.milli for gpu in gpus)
            for index, gpus in place
        )

    def units(self, job: Item) -> int:
        """What a job takes of the whole cluster."""
        return job.gpus * job.milli if self.slots else job.cpu

    # --- starting and ending

    def start(self, job: Item, place: Place) -> None:
        """Start a waiting job."""
        self.waiting.remove(job)
        self.put(self.nodes, job, place, -1)
        job.place, job.started = place, self.now
        job.first_start = min(job.first_start, self.now)
        job.end = self.now + (self.p.restart_s if job.preempted and job.left < job.run else 0.0) + job.left
        at = len(self.running)
        while at and self.running[at - 1].expected_end > job.expected_end:
            at -= 1
        self.running.insert(at, job)

    def stop(self, job: Item) -> None:
        """Take a running job off its nodes."""
        self.put(self.nodes, job, job.place, 1)
        self.running.remove(job)
        job.place = []

    def order(self, job: Item) -> Any:
        """Place in the queue."""
        if self.p.order == "sjf":
            return (job.estimate, job.number)
        return (job.level, job.number) if self.p.order == "las" else (job.number,)

    def enqueue(self, job: Item) -> None:
        """Put a job into the queue."""
        self.waiting.append(job)
        self.waiting.sort(key=self.order)

    # --- before their turn

    def easy(self) -> None:
        """EASY backfill."""
        head, room, shadow = self.waiting[0], copy.deepcopy(self.nodes), math.inf
        for nth, job in enumerate(self.running):
            self.put(room, job, job.place, 1)
            if nth + 1 < len(self.running) and self.running[nth + 1].expected_end <= job.expected_end:
                continue
            place = self.find(room, head)
            if place:
                shadow = job.expected_end
                self.put(room, head, place, -1)
                break
        if shadow == math.inf:
            return
        for job in self.waiting[1 : 1 + self.p.depth]:
            place = self.find(self.nodes, job)
            if not place:
                continue
            short = self.now + job.estimate <= shadow
            if short or self.free_there(room, job, place):
                if not short:
                    self.put(room, job, place, -1)
                self.start(job, place)

    def conservative(self) -> None:
        """Conservative backfill: the earliest time for each, on what is free of the whole cluster."""
        total = sum(node.unused() for node in self.whole)
        held = [(self.now, max(job.expected_end, self.now), self.units(job)) for job in self.running]
        for job in self.waiting[: self.p.depth]:

            def free(time_s: float) -> int:
                return total - sum(used for begin, end, used in held if begin <= time_s < end)

            times = sorted(
                {
                    self.now,
                    *(end for _, end, _ in held if end >= self.now),
                    *(begin for begin, _, _ in held if begin >= self.now),
                }
            )
            for time_s in times:
                points = [time_s, *(point for point in times if time_s < point < time_s + job.estimate)]
                if all(free(point) >= self.units(job) for point in points):
                    break
            else:
                continue
            held.append((time_s, time_s + job.estimate, self.units(job)))
            place = self.find(self.nodes, job) if time_s <= self.now else None
            if place:
                self.start(job, place)

    # --- least attained service, balance

    def rate(self, job: Item) -> float:
        """GPU-seconds a second."""
        return max(job.gpus * job.milli / WHOLE, 1.0) if self.slots else max(job.cpu / WHOLE, 1.0)

    def level(self, served: float) -> int:
        """Queue of a job."""
        found, bound = 0, self.p.level_s
        while found < self.p.levels - 1 and served >= bound:
            found, bound = found + 1, bound * 10
        return found

    def las(self) -> None:
        """Least attained service."""
        for job in self.running:
            late = 1e-6 + 1e-15 * self.now * self.rate(job)  # what rounding of the clock may lack
            job.level = self.level(job.served + (self.now - job.started) * self.rate(job) + late)
        at = looked = 0
        while at < len(self.waiting) and looked < self.p.depth:
            job = self.waiting[at]
            place = self.find(self.nodes, job)
            if place:
                self.start(job, place)
                continue
            room, gone = copy.deepcopy(self.nodes), []
            lower = [
                other
                for level in range(self.p.levels - 1, job.level, -1)
                for other in reversed(self.running)
                if other.level == level
            ]
            fits = False
            for other in lower:
                self.put(room, other, other.place, 1)
                gone.append(other)
                if self.find(room, job):
                    fits = True
                    break
            if fits:
                for other in [other for other in reversed(self.running) if other in gone]:
                    other.left = min(other.end - self.now, other.run)
                    other.served += (self.now - other.started) * self.rate(other)
                    self.stop(other)
                    other.preempted += 1
                    self.preemptions += 1
                    self.enqueue(other)
                place = self.find(self.nodes, job)
                if place:
                    self.start(job, place)
                    continue
            at += 1
            looked += 1

    def load(self, index: int) -> float:
        """Used share of a node."""
        whole = self.whole[index].unused()
        return 1.0 - self.nodes[index].unused() / whole if whole else 0.0

    def rebalance(self) -> None:
        """Move one job from the fullest node to the emptiest."""
        loads = [self.load(index) for index in range(len(self.nodes))]
        full, empty = loads.index(max(loads)), loads.index(min(loads))
        gap = loads[full] - loads[empty]
        if gap <= self.p.balance:
            return
        for job in list(self.running):
            if len(job.place) > 1 or job.place[0][0] != full or job.end - self.now <= 2 * self.p.migrate_s:
                continue
            gpus = self.nodes[empty].fits(job.cpu, job.memory, job.gpus, job.milli)
            if gpus is None or self.units(job) / max(self.whole[empty].unused(), 1) >= gap:
                continue
            self.put(self.nodes, job, job.place, 1)
            job.place = [(empty, gpus)]
            self.put(self.nodes, job, job.place, -1)
            job.end += self.p.migrate_s
            self.migrations += 1
            self.running.sort(key=lambda one: one.expected_end)
            return

    # --- events

    def run(self) -> list[Item]:
        """Run everything; returns the jobs."""
        coming = 0
        while coming < len(self.items) or self.running:
            submit = self.items[coming].submit if coming < len(self.items) else math.inf
            when = min([submit, *(job.end for job in self.running)])
            if self.p.order == "las":
                for job in self.running:
                    if job.level < self.p.levels - 1:
                        bound = self.p.level_s * 10.0**job.level
                        when = min(when, job.started + max(bound - job.served, 0.0) / self.rate(job))
            balanced = self.p.every_s > 0 and len(self.nodes) > 1 and self.p.balance > 0
            if balanced and self.running:
                when = min(when, max(self.next_balance, self.now))
            self.now = max(when, self.now)
            for job in [job for job in self.running if job.end <= self.now]:
                self.stop(job)
                job.done_at, job.left = self.now, 0.0
            while coming < len(self.items) and self.items[coming].submit <= self.now:
                job = self.items[coming]
                coming += 1
                if self.find(self.whole, job):
                    self.enqueue(job)
                else:
                    job.rejected = True
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
            for job in list(self.waiting):
                place = self.find(self.nodes, job)
                if place:
                    self.start(job, place)
                else:
                    self.waiting.remove(job)
                    job.rejected = True
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


def invariants(reference: Reference) -> None:
    """Raise AssertionError where a rule is broken: room, lost jobs, work that could run."""
    room = copy.deepcopy(reference.whole)
    for job in reference.running:
        assert job.started <= reference.now < job.end, "a job runs outside its time"
        reference.put(room, job, job.place, -1)
    assert room == reference.nodes, "room is lost"
    for node in reference.nodes:
        assert node.cpu >= 0 and node.memory >= 0 and min(node.gpus, default=0) >= 0, "a node holds more than it has"
    if reference.waiting and reference.p.backfill != "conservative":
        assert reference.find(reference.nodes, reference.waiting[0]) is None, "the first of the queue could run"
