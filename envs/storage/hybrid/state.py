"""The state of simulated storage systems as records: a page, a request, a system.

A batch of n systems is one array of ``SIM`` records, shape (n,), next to their page tables, shape (n, pages); see
``world.World``, which owns both. Times are in microseconds, "per page" is microseconds a page.
"""

from __future__ import annotations

import numpy as np

TIERS = 4
QUEUE = 64

#: one page of one system; request numbers are -1 where it never happened
PAGE = np.dtype(
    [
        ("address", "i8"),  # page number on the disk it comes from
        ("seat", "i8"),  # its place in its tier's LRU queue; the last tier keeps none
        ("last", "i4"),  # request that last touched it
        ("spare", "i4"),  # keeps a record at half a cache line
        ("moved", "i4"),  # request at which it last changed its tier
        ("count", "u2"),  # touches so far, at most 65535
        ("tier", "u1"),
        ("hot", "u1"),  # 0: expected not to be needed again
    ]
)

#: one request of a trace
REQUEST = np.dtype([("time_us", "f8"), ("first", "i4"), ("count", "i4"), ("write", "i4"), ("spare", "i4")])

#: a page that changed its tier, and in which operation (its number modulo 65536)
MOVE = np.dtype([("page", "i4"), ("source", "u1"), ("target", "u1"), ("operation", "u2")])

#: a place of a tier's LRU queue: the page that took it last
SEAT = np.dtype([("page", "i4")])

#: one tier's device; all systems of a batch share it
DEVICE = np.dtype(
    [
        ("disk", "i8"),  # 1: moving head; 0: solid state
        ("read_us", "f8"),  # latency of a read without its transfer; of a disk: controller overhead
        ("write_us", "f8"),  # latency of a write; of a disk: extra settling of a write
        ("read_page", "f8"),  # transfer per page
        ("write_page", "f8"),
        ("read_gap", "f8"),  # least time between two reads: one over the IOPS that internal parallelism allows
        ("write_gap", "f8"),
        ("read_hold", "f8"),  # part of the latency in which the device cannot take another operation
        ("write_hold", "f8"),
        ("buffer", "f8"),  # write buffer, pages
        ("drain", "f8"),  # pages the buffer empties in a microsecond; 0: no buffer is modelled
        ("gc_pages", "f8"),  # garbage collection after so many pages written
        ("gc_us", "f8"),  # and how long it holds the device
        ("seek_min", "f8"),  # track to track
        ("seek_span", "f8"),  # more for a stroke over the whole disk; grows with the root of the distance
        ("revolution", "f8"),
        ("track", "f8"),  # pages a revolution
        ("span", "f8"),  # pages of the whole disk
    ]
)
_DOING = [
    ("busy", "f8"),  # when the device can take its next operation
    ("fill", "f8"),  # pages in the write buffer at ``filled_at``
    ("filled_at", "f8"),
    ("written", "f8"),  # pages written since the last garbage collection
    ("position", "f8"),  # page behind the head
    ("capacity", "i8"),  # pages
    ("used", "i8"),
    ("queue_at", "i8"),  # address of the LRU queue: a ring of ``SEAT``
    ("mask", "i8"),  # its length less one; a power of two
    ("oldest", "i8"),  # first seat that may be taken
    ("newest", "i8"),  # seat behind the most recent page's
]

#: one system. The first fields are addresses of its arrays, set by ``World``
SIM = np.dtype(
    [
        ("request_at", "i8"),
        ("page_at", "i8"),
        ("device_at", "i8"),
        ("journal_at", "i8"),  # where pages that change their tier are written down; 0: nowhere
        ("journal_room", "i8"),
        ("journaled", "i8"),
        ("operation", "i8"),  # number of background operations so far: pages with one number moved together
        ("requests", "i8"),
        ("pages", "i8"),
        ("tiers", "i8"),
        ("closed", "i8"),  # 1: a request arrives when the one before is done; 0: by the trace's clock
        # mechanisms
        ("extent", "i8"),  # pages that are evicted and fetched together; 1: single pages
        ("gate", "f8"),  # no promotion while a slower device has more than this backlog
        ("idle", "f8"),  # a system is idle when nothing was asked of it for so long
        ("reserve", "f8"),  # share of each tier that idle time keeps free
        ("queue_limit", "i8"),  # pages that may wait to be migrated
        # the clock and what has happened
        ("scale", "f8"),  # arrival times are multiplied by this
        ("now", "f8"),
        ("clock", "i8"),  # next request
        ("stop", "i8"),  # request at which an episode ends
        ("spent", "f8"),  # evictions that the last request caused
        ("queue_head", "i8"),
        ("queued", "i8"),
        ("evicted", "i8"),  # pages
        ("promoted", "i8"),
        ("fetched", "i8"),
        ("migrated", "i8"),
        ("gated", "i8"),  # promotions that the gate refused
        ("hits", "i8"),  # pages served by tier 0
        ("served", "i8"),  # pages served
        *((name, kind, (TIERS,)) for name, kind in _DOING),
        ("recent", "f8"),  # running mean of latency over fastest, of the environments' migration reward
        ("bins", "u1", (8,)),  # what an agent sees, see ``features``
        ("queue", "i8", (QUEUE, 2)),  # ring of (page, target)
    ],
    align=True,
)
COUNTERS = ("evicted", "promoted", "fetched", "migrated", "gated", "hits", "served")
