"""The rules of the playbook: parameters known by their names, workloads by their traits, and the value to try.

Rules are general; none names a target or a table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tunewright.knowledge.quantities import scale
from tunewright.space.parameters import Choice, Int, Param, Value

Wish = Callable[[Param, Mapping[str, Any], float], Value | None]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule of the playbook.

    Attributes:
        pattern: searched in the parameter's name.
        wish: (parameter, scope, strength) to a value, or None where it does not apply.
        because: the reason, shown to the user.
        needs: traits of which the workload must have one; none means any workload.
        both: traits that it must have, all of them.
        never: traits that rule it out.
        sure: whether it seldom hurts.
    """

    pattern: str
    wish: Wish
    because: str
    needs: frozenset[str] = frozenset()
    never: frozenset[str] = frozenset()
    sure: bool = False
    both: frozenset[str] = frozenset()


def _raised(factor: float) -> Wish:
    """So many times the default, more if bolder; within the range."""

    def wish(param: Param, scope: Mapping[str, Any], strength: float) -> Value | None:
        if isinstance(param, Choice):
            return _last(param)
        low, _ = param.bounds(scope)
        base = float(param.default) if param.default not in param.special and param.default else max(low, 1.0)
        return within(param, base * factor**strength, scope)

    return wish


def within(param: Any, value: float, scope: Mapping[str, Any]) -> Value:
    """Return a number as the parameter takes it: within its bounds, an integer on its grid."""
    low, high = param.bounds(scope)
    inside = min(max(value, low), high)
    if isinstance(param, Int):
        return int(low + param.step * ((math.floor(inside) - low) // param.step))
    return float(inside)


def _last(param: Choice) -> Value | None:
    """The last of several numbers; None for choices that are none."""
    numbers = all(isinstance(c, int | float) and not isinstance(c, bool) for c in param.choices)
    return param.choices[-1] if numbers else None


def _quarter(param: Param, scope: Mapping[str, Any], strength: float) -> Value | None:
    """A quarter of the default, of several numbers the nearest to it."""
    if not isinstance(param, Choice):
        return _raised(0.25)(param, scope, 1.0)
    if _last(param) is None:
        return None
    wanted = float(param.default) / 4
    if wanted <= 0:
        return None  # of a default that means "none" or "automatic" there is no quarter
    return min(param.choices, key=lambda c: abs(math.log(float(c) / wanted)) if float(c) > 0 else math.inf)


def _memory(share: float) -> Wish:
    """A share of the memory, doubled if bolder, in whatever unit the parameter has."""

    def wish(param: Param, scope: Mapping[str, Any], strength: float) -> Value | None:
        if isinstance(param, Choice):
            return _last(param)
        unit = scale(param.unit)
        if unit is None or unit[0] != "bytes":
            return _raised(8)(param, scope, strength)
        ram = float(scope.get("RAM_BYTES", 2**34))
        return within(param, share * strength * ram / unit[1], scope)

    return wish


def _per_session(param: Param, scope: Mapping[str, Any], strength: float) -> Value | None:
    """A hundredth of the memory, or less where all connections and parallel workers would take too much at once.

    Each may have a sort and a hash of its own, a hash of PostgreSQL ``hash_mem_multiplier`` times as much (sections
    "work_mem" and "hash_mem_multiplier" of its manual, whose default is 2). Half of the memory is left to all of these:
    the shared cache has a fifth (twice that, bolder), the kernel the rest.
    """
    sessions = float(scope.get("connections", scope.get("clients", scope.get("threads", 1))))
    processes = sessions + float(scope.get("CPU_COUNT", 4))
    share = 0.5 / processes / (1 + max(float(scope.get("hash_mem_multiplier", 2)), 1))
    return _memory(min(0.01 * strength, share))(param, scope, 1.0)


def _one_of(*values: Any) -> Wish:
    """The first of the values that the parameter knows, however it is spelt."""

    def wish(param: Param, scope: Mapping[str, Any], strength: float) -> Value | None:
        if not isinstance(param, Choice):
            return next((v for v in values if not isinstance(v, str | bool) and param.problem(v, scope) is None), None)
        known = {str(c).lower(): c for c in param.choices}
        return next((known[str(v).lower()] for v in values if str(v).lower() in known), None)

    return wish


def _transfer(param: Param, scope: Mapping[str, Any], strength: float) -> Value | None:
    """As large as one request of the workload, at least 1 MiB."""
    size = float(scope.get("_transfer_bytes", 4 * 2**20))
    return None if isinstance(param, Choice) else within(param, max(size, 2**20) * (1 if strength <= 1 else 4), scope)


def _cores(param: Param, scope: Mapping[str, Any], strength: float) -> Value | None:
    if isinstance(param, Choice):
        return _last(param)
    return within(param, float(scope.get("CPU_COUNT", 4)) * strength, scope)


def _beside_clients(param: Param, scope: Mapping[str, Any], strength: float) -> Value | None:
    """None if the clients fill the cores, else one worker a core."""
    idle = float(scope.get("CPU_COUNT", 4)) - float(scope.get("clients", 1))
    return 0 if idle <= 0 and param.problem(0, scope) is None else _cores(param, scope, strength)


def _with_idle_cores(wish: Wish) -> Wish:
    """Apply a wish only where the clients leave cores idle."""

    def when(param: Param, scope: Mapping[str, Any], strength: float) -> Value | None:
        idle = float(scope.get("CPU_COUNT", 4)) > float(scope.get("clients", 1))
        return wish(param, scope, strength) if idle else None

    return when


_SEQ, _WRITE, _READ = frozenset({"sequential", "large"}), frozenset({"writes"}), frozenset({"reads"})

#: the first rule that fits a parameter decides
RULES = (
    Rule(pattern=r"journal_?mode", wish=_one_of("WAL"), needs=_WRITE, sure=True,
         because="a write-ahead log appends what the others rewrite in place"),
    Rule(pattern=r"fsync|synchronous|full_?page_?writes|flush_?log", wish=_one_of("off", 0, False), sure=True,
         because="not forcing data to disk is faster; taken only where the session's guarantees allow it"),
    Rule(pattern=r"locking_mode", wish=_one_of("EXCLUSIVE"),
         because="no locks to take again and again; only where allowed"),
    Rule(pattern=r"stripe_count", wish=_one_of(-1), needs=frozenset({"shared"}), never=frozenset({"metadata"}),
         sure=True, because="one large file on all targets has all their bandwidth"),
    Rule(pattern=r"stripe_count", wish=_one_of(1), needs=frozenset({"metadata"}), sure=True,
         because="small files pay for each further object"),
    Rule(pattern=r"stripe_size", wish=_transfer, needs=_SEQ,
         because="a stripe as large as a request keeps requests whole"),
    Rule(pattern=r"mod_rpcs_in_flight", wish=_raised(4), needs=frozenset({"metadata", "writes"}), sure=True,
         because="as many modifying requests in flight as there are processes"),
    Rule(pattern=r"rpcs?_in_flight|queue_depth|io_?depth|io_concurrency", wish=_raised(4), sure=True,
         because="more requests in flight hide the round trip"),
    Rule(pattern=r"pages_per_rpc|batch_size|max_batched", wish=_raised(4), needs=_SEQ | _WRITE, sure=True,
         because="larger requests pay their fixed cost less often"),
    Rule(pattern=r"max_dirty|dirty_(mb|bytes|ratio)", wish=_raised(4), needs=_WRITE,
         because="more room for writes that have not reached the server"),
    Rule(pattern=r"stat_?ahead", wish=_raised(16), needs=frozenset({"metadata", "reads"}),
         because="attributes fetched ahead of a directory scan"),
    Rule(pattern=r"read_?ahead|prefetch", wish=_raised(4), needs=_SEQ, because="sequential reads are fetched ahead"),
    Rule(pattern=r"max_wal_size|checkpoint_(timeout|segments)|log_file_size", wish=_raised(8), needs=_WRITE,
         sure=True, because="fewer checkpoints"),
    Rule(pattern=r"autocheckpoint", wish=_raised(8), needs=_WRITE,
         because="fewer checkpoints, but a longer log to look through"),
    Rule(pattern=r"wal_buffers|log_buffer", wish=_raised(4), needs=_WRITE,
         because="writes of the log in larger pieces"),
    Rule(pattern=r"checkpoint_completion", wish=_one_of(0.9), needs=_WRITE,
         because="checkpoints spread over their interval"),
    Rule(pattern=r"shared_?buffers|buffer_pool|block_cache(?!_)|(?<!effective_)cache_?size(?!_)", wish=_memory(0.2),
         sure=True, because="a cache that holds the working set"),
    Rule(pattern=r"effective_cache", wish=_memory(0.6), because="the planner should know that the data fits in memory"),
    Rule(pattern=r"mmap_size", wish=_memory(0.1), because="reads through memory mapping need no copy"),
    Rule(pattern=r"work_?mem|sort_(buffer|memory)|temp_?buffers", wish=_per_session,
         because="sorts and hashes in memory, also where all connections have some at once"),
    Rule(pattern=r"temp_?store", wish=_one_of("MEMORY"), because="temporary tables in memory"),
    Rule(pattern=r"write_?buffer|memtable_(size|budget)", wish=_raised(2), needs=_WRITE, sure=True,
         because="larger memory tables are flushed and merged less often"),
    Rule(pattern=r"random_page_cost", wish=_one_of(1.1),
         because="random reads of cached or flash data cost hardly more"),
    Rule(pattern=r"parallel_workers_per_gather", wish=_beside_clients, sure=True,
         because="workers for one query only where its clients leave cores idle"),
    Rule(pattern=r"max_subcompactions|threads|workers|background_jobs", wish=_cores,
         sure=True, because="one worker a core"),
    Rule(pattern=r"parallel_(setup|tuple)_cost|min_parallel", wish=_with_idle_cores(_raised(0.25)),
         needs=frozenset({"sorts"}), because="parallel plans sooner"),
    Rule(pattern=r"spouts?$|splitt?ers?|counters?$|bolts?$|executors?$|max_spout|parallelism", wish=_raised(8),
         because="more parallel workers and more in flight"),
    Rule(pattern=r"bloom", wish=_one_of(10, 10.0, True), needs=_READ,
         because="filters save reads of files without the key"),
    Rule(pattern=r"\bjit\b", wish=_one_of("off", False), needs=frozenset({"small"}),
         because="short queries do not repay compiling"),
    Rule(pattern=r"track_?(activities|counts|functions|io)|stats?_level|statistics|log_statement",
         wish=_one_of("off", 0, False),
         because="statistics that nobody reads cost time"),
    Rule(pattern=r"page_size|block_size", wish=_quarter, both=frozenset({"small", "writes"}),
         never=frozenset({"reads", "replay"}), sure=True,
         because="each small write rewrites a whole page, so smaller pages are less to write"),
    Rule(pattern=r"page_size|block_size", wish=_raised(4), needs=frozenset({"sorts", "sequential"}),
         never=frozenset({"random", "small"}),
         because="larger blocks for scans; a small write would rewrite a whole one"),
    Rule(pattern=r"compress", wish=_one_of("none", "no", "off"), needs=frozenset({"small"}),
         because="no time for compressing"),
)  # fmt: skip
