"""A batch of simulated storage systems that replay one trace: its arrays, and how they are set up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tunewright.envs.linked import Linked
from tunewright.envs.storage.hybrid.devices import Devices
from tunewright.envs.storage.hybrid.state import COUNTERS, DEVICE, MOVE, PAGE, QUEUE, REQUEST, SEAT, SIM
from tunewright.errors import ConfigError
from tunewright.knowledge.blocktrace import PagedTrace


@dataclass(frozen=True, kw_only=True)
class Mechanisms:
    """What a storage system does beside the policy's choice; the defaults are the plainest.

    Attributes:
        extent: pages (of aligned runs) that are evicted, and may be fetched, together.
        gate_us: no promotion while a slower device has more than this backlog.
        reserve: share of each tier that idle time keeps free.
        idle_us: idle time begins when all devices have been idle for so long.
        queue: pages that may wait to be migrated in idle time.
    """

    extent: int = 1
    gate_us: float = math.inf
    reserve: float = 0.0
    idle_us: float = 100.0
    queue: int = 10

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not (self.extent >= 1 and self.gate_us >= 0 and 0 <= self.reserve < 1 and self.idle_us >= 0):
            raise ConfigError(f"extent >= 1, gate_us >= 0, 0 <= reserve < 1 and idle_us >= 0 are needed, not {self}")
        if not 0 <= self.queue <= QUEUE:
            raise ConfigError(f"the migration queue holds 0 to {QUEUE} pages, not {self.queue}")


PLAIN = Mechanisms()
#: extent eviction, backlog gating, idle-time free reserve
FULL = Mechanisms(extent=64, gate_us=0.0, reserve=0.05)


class World(Linked):
    """A batch of ``n`` systems; ``sims`` are the records that the kernel works on.

    Args:
        paged: the trace, in pages.
        devices: the tiers.
        fast: capacity of the first tier as a share of the footprint.
        n: systems.
        mechanisms: beside the policy.
        scale: factor on the trace's inter-arrival times.
        closed: each request arrives when the one before is done; the trace's times are not used.
        all_fast: everything lies in the first tier, which holds it all (the floor that others are compared with).
    """

    def __init__(
        self,
        paged: PagedTrace,
        devices: Devices,
        *,
        fast: float = 0.10,
        n: int = 1,
        mechanisms: Mechanisms = PLAIN,
        scale: float = 1.0,
        closed: bool = False,
        all_fast: bool = False,
    ) -> None:
        if not 0 < fast <= 1:
            raise ConfigError(f"the fast tier's share of the footprint must be in (0, 1], not {fast}")
        if not 0 < scale < math.inf:
            raise ConfigError(f"the factor on arrival times must be positive, not {scale}")
        self.paged, self.devices, self.mechanisms = paged, devices, mechanisms
        total = len(paged.address)
        self.requests = np.zeros(len(paged.first), REQUEST)
        self.requests["time_us"] = paged.trace.time_us
        self.requests["first"], self.requests["count"] = paged.first, paged.count
        self.requests["write"] = paged.trace.write
        self.pages = np.zeros((n, total), PAGE)
        self.sims = np.zeros(n, SIM)
        tiers = len(devices.tiers)
        self.capacities = devices.capacities(paged.footprint, fast)
        if all_fast:
            self.capacities[0] = total
        self.tiers = np.zeros(tiers, DEVICE)
        self.start = 0 if all_fast else tiers - 1
        fields: dict[str, Any] = {
            "requests": len(self.requests),
            "stop": len(self.requests),
            "pages": total,
            "tiers": tiers,
            "closed": closed,
            "extent": mechanisms.extent,
            "gate": mechanisms.gate_us,
            "idle": mechanisms.idle_us,
            "reserve": mechanisms.reserve,
            "queue_limit": mechanisms.queue,
            "scale": scale,
        }
        for name, value in fields.items():
            self.sims[name] = value
        for tier, device in enumerate(devices.tiers):
            for name, value in device.kernel_fields().items():
                self.tiers[name][tier] = value
        self.sims["capacity"][:, :tiers] = self.capacities
        self._queues = [np.zeros((n, self._seats(tier)), SEAT) for tier in range(tiers - 1)]
        for tier, queue in enumerate(self._queues):
            self.sims["mask"][:, tier] = queue.shape[1] - 1
        self.journal = np.zeros(0, MOVE)
        self._link()
        self.reset()

    def _link(self) -> None:
        sims, systems = self.sims, np.arange(len(self.sims))
        sims["request_at"], sims["device_at"] = self.requests.ctypes.data, self.tiers.ctypes.data
        sims["page_at"] = self.pages.ctypes.data + systems * self.pages.strides[0]
        for tier, queue in enumerate(self._queues):
            sims["queue_at"][:, tier] = queue.ctypes.data + systems * queue.strides[0]
        sims["journal_at"] = sims["journal_room"] = 0
        if len(self.journal):
            sims["journal_at"][0], sims["journal_room"][0] = self.journal.ctypes.data, len(self.journal)

    def keep_journal(self, room: int) -> None:
        """Have the first system write pages that change their tier into ``journal``, which has so many places."""
        self.journal = np.zeros(room, MOVE)
        self._link()

    def _seats(self, tier: int) -> int:
        """Length of a tier's LRU queue: twice the pages that may be on it at once, and at least a power of two."""
        total, listed = len(self.paged.address), self.capacities[:-1]
        most = max(listed) // 8 + int(self.paged.count.max(initial=1)) + 64 * len(self.capacities)
        return 1 << (2 * min(total, self.capacities[tier] + most) - 1).bit_length()

    def __len__(self) -> int:
        """Number of systems."""
        return len(self.sims)

    def reset(self, which: npt.NDArray[Any] | slice = slice(None)) -> None:
        """Put systems back to the start of the trace, all pages on the tier they start on."""
        fresh = np.zeros((), PAGE)
        for name in ("seat", "last", "moved"):
            fresh[name] = -1
        fresh["tier"] = self.start
        self.pages[which] = fresh
        self.pages["address"][which] = self.paged.address
        listed = self.start < len(self.devices.tiers) - 1  # the last tier keeps no list
        total = len(self.paged.address)
        if listed:  # the first page is the most recent
            self.pages["seat"][which] = np.arange(total)[::-1]
            self._queues[self.start]["page"][which, :total] = np.arange(total)[::-1]
        sims = self.sims[which]
        for name in ("now", "clock", "spent", "recent", "queue_head", "queued", *COUNTERS):
            sims[name] = 0
        for name in ("busy", "fill", "filled_at", "written", "position", "used"):
            sims[name][:] = 0
        sims["used"][:, self.start] = total
        sims["oldest"][:] = sims["newest"][:] = 0
        if listed:
            sims["newest"][:, self.start] = total
        self.sims[which] = sims
