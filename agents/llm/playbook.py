"""The playbook: what an engineer who has read the manual would try first, as plain rules, without a model.

Each rule recognises parameters by their names, and workloads by their names and descriptions, and gives a value with its
reason. Rules are general; none names a target or a table. A value that the session's guards forbid is never proposed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunewright.errors import ConfigError
from tunewright.knowledge import rules as learned
from tunewright.knowledge.evidence import Observations
from tunewright.knowledge.logs import observe
from tunewright.knowledge.parameters import ParameterDoc
from tunewright.knowledge.workload import FEATURES, traits
from tunewright.space import Config, Space
from tunewright.space.parameters import Choice, Int, Param, Value
from tunewright.target import Metric
from tunewright.tuner import Problem, Trial, best_trial


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One rule's answer for one parameter.

    Attributes:
        name, value: what to set.
        because: the reason.
        sure: whether it seldom hurts.
        along: values of other parameters that make room for it, where it is not legal without them.
    """

    name: str
    value: Value
    because: str
    sure: bool
    along: Mapping[str, Value] = field(default_factory=dict)


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
        return _within(param, base * factor**strength, scope)

    return wish


def _within(param: Any, value: float, scope: Mapping[str, Any]) -> Value:
    low, high = param.bounds(scope)
    held = min(max(value, low), high)
    if isinstance(param, Int):
        return int(low + param.step * ((math.floor(held) - low) // param.step))
    return float(held)


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
        from tunewright.knowledge.quantities import scale

        found = scale(param.unit)
        if found is None or found[0] != "bytes":
            return _raised(8)(param, scope, strength)
        ram = float(scope.get("RAM_BYTES", 2**34))
        return _within(param, share * strength * ram / found[1], scope)

    return wish


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
    return None if isinstance(param, Choice) else _within(param, max(size, 2**20) * (1 if strength <= 1 else 4), scope)


def _cores(param: Param, scope: Mapping[str, Any], strength: float) -> Value | None:
    if isinstance(param, Choice):
        return _last(param)
    return _within(param, float(scope.get("CPU_COUNT", 4)) * strength, scope)


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
    Rule(pattern=r"locking_mode", wish=_one_of("EXCLUSIVE"), because="no locks to take again and again; only where allowed"),
    Rule(pattern=r"stripe_count", wish=_one_of(-1), needs=frozenset({"shared"}), never=frozenset({"metadata"}), sure=True,
         because="one large file on all targets has all their bandwidth"),
    Rule(pattern=r"stripe_count", wish=_one_of(1), needs=frozenset({"metadata"}), sure=True,
         because="small files pay for each further object"),
    Rule(pattern=r"stripe_size", wish=_transfer, needs=_SEQ, because="a stripe as large as a request keeps requests whole"),
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
    Rule(pattern=r"autocheckpoint", wish=_raised(8), needs=_WRITE, because="fewer checkpoints, but a longer log to look through"),
    Rule(pattern=r"wal_buffers|log_buffer", wish=_raised(4), needs=_WRITE, because="writes of the log in larger pieces"),
    Rule(pattern=r"checkpoint_completion", wish=_one_of(0.9), needs=_WRITE, because="checkpoints spread over their interval"),
    Rule(pattern=r"shared_?buffers|buffer_pool|block_cache(?!_)|(?<!effective_)cache_?size(?!_)", wish=_memory(0.2), sure=True,
         because="a cache that holds the working set"),
    Rule(pattern=r"effective_cache", wish=_memory(0.6), because="the planner should know that the data fits in memory"),
    Rule(pattern=r"mmap_size", wish=_memory(0.1), because="reads through memory mapping need no copy"),
    Rule(pattern=r"work_?mem|sort_(buffer|memory)|temp_?buffers|hash_mem", wish=_memory(0.01),
         because="sorts and hashes in memory"),
    Rule(pattern=r"temp_?store", wish=_one_of("MEMORY"), because="temporary tables in memory"),
    Rule(pattern=r"write_?buffer|memtable_(size|budget)", wish=_raised(2), needs=_WRITE, sure=True,
         because="larger memory tables are flushed and merged less often"),
    Rule(pattern=r"random_page_cost", wish=_one_of(1.1), because="random reads of cached or flash data cost hardly more"),
    Rule(pattern=r"parallel_workers_per_gather", wish=_beside_clients, sure=True,
         because="workers for one query only where its clients leave cores idle"),
    Rule(pattern=r"max_subcompactions|threads|workers|background_jobs", wish=_cores,
         sure=True, because="one worker a core"),
    Rule(pattern=r"parallel_(setup|tuple)_cost|min_parallel", wish=_with_idle_cores(_raised(0.25)), needs=frozenset({"sorts"}),
         because="parallel plans sooner"),
    Rule(pattern=r"spouts?$|splitt?ers?|counters?$|bolts?$|executors?$|max_spout|parallelism", wish=_raised(8),
         because="more parallel workers and more in flight"),
    Rule(pattern=r"bloom", wish=_one_of(10, 10.0, True), needs=_READ, because="filters save reads of files without the key"),
    Rule(pattern=r"\bjit\b", wish=_one_of("off", False), needs=frozenset({"small"}), because="short queries do not repay compiling"),
    Rule(pattern=r"track_?(activities|counts|functions|io)|stats?_level|statistics|log_statement", wish=_one_of("off", 0, False),
         because="statistics that nobody reads cost time"),
    Rule(pattern=r"page_size|block_size", wish=_quarter, both=frozenset({"small", "writes"}), never=frozenset({"reads", "replay"}),
         sure=True, because="each small write rewrites a whole page, so smaller pages are less to write"),
    Rule(pattern=r"page_size|block_size", wish=_raised(4), needs=frozenset({"sorts", "sequential"}),
         never=frozenset({"random", "small"}), because="larger blocks for scans; a small write would rewrite a whole one"),
    Rule(pattern=r"compress", wish=_one_of("none", "no", "off"), needs=frozenset({"small"}), because="no time for compressing"),
)  # fmt: skip


def rules_for(problem: Problem) -> list[learned.Rule]:
    """Return the learned rules that fit a problem, out of the folder that the option ``rules`` names.

    Raises:
        ConfigError: there is no such folder, or a file in it cannot be read.
    """
    if "rules" not in problem.options:
        return []
    folder = Path(str(problem.options["rules"]))
    if not folder.is_dir():
        raise ConfigError(f"there is no folder of rules {folder}; 'tunewright rules merge SESSION' makes one")
    seen = traits(f"{problem.workload}: {problem.about}") - {"replay"}
    return learned.fitting(learned.RuleBook(folder).rules, problem.target, seen, problem.space)


def docs_for(problem: Problem) -> list[ParameterDoc]:
    """Return what the manuals say that the option ``manual`` names, read without a model."""
    if "manual" not in problem.options:
        return []
    from tunewright.knowledge.reading import read

    return read([p.strip() for p in str(problem.options["manual"]).split(",")])[0]


def _observed(problem: Problem) -> str:
    """Return the facts of the log that the option ``trace`` names, in words."""
    if "trace" not in problem.options:
        return ""
    return " ".join(trace_for(problem).facts)


def trace_for(problem: Problem) -> Observations:
    """Return what the log shows that the option ``trace`` names.

    Raises:
        ConfigError: it cannot be read, or is of no known kind.
    """
    path = Path(str(problem.options["trace"]))
    found = observe(path)
    if found is None:
        raise ConfigError(f"{path} is no log that 'tunewright trace' reads as observations")
    return found


class Playbook:
    """Proposals for one space and workload.

    Args:
        space: the space, guards included.
        about: the workload's name and description, and facts of a trace, in words.
        facts: of machine and target.
        metric: the objective; without one, no trial is better than the default.
        rules: learned ones that fit, the most promising first; they come before the playbook's own.
        docs: what a manual says of parameters: rules that know no parameter by its name try its definition, and the
            important ones are tried first.
    """

    def __init__(
        self, space: Space, about: str, facts: Mapping[str, Any] | None = None, metric: Metric | None = None,
        rules: Sequence[learned.Rule] = (), docs: Sequence[ParameterDoc] = (),
    ) -> None:  # fmt: skip
        self.docs = {d.name: d for d in docs if d.name in space.params}
        self.space, self.metric, self.rules = space, metric, rules
        self.seen = traits(about)
        self.scope = {**space.scope(space.default), **(facts or {})}
        size = re.search(r"\b(\d+(?:\.\d+)?) ?([km])(?:i?b)?\b", about, re.I)
        if size:
            self.scope["_transfer_bytes"] = float(size[1]) * {"k": 2**10, "m": 2**20}[size[2].lower()]

    @classmethod
    def of(cls, problem: Problem) -> Playbook:
        """Return the playbook for a tuner's problem."""
        about = f"{problem.workload}: {problem.about} {_observed(problem)}"
        metric, docs = problem.metric(problem.objectives[0]), docs_for(problem)
        return cls(problem.space, about, problem.facts, metric, rules_for(problem), docs)

    def advice(self, strength: float = 1.0, *, contested: bool = False) -> list[Advice]:
        """Return the advice for every parameter that a rule knows, where it differs from the default; learned first.

        Args:
            strength: 1 as usual, 2 bolder.
            contested: also by rules that one of the workload's traits speaks against.
        """
        found = []
        for name, param in self.space.params.items():
            known = next((r for r in self.rules if r.parameter == name and r.value != param.default), None)
            if known is not None and not self._refuted(known, name, known.value):
                found.append(self._learned(known))
            plain = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
            if name in self.docs and not any(re.search(r.pattern, plain) for r in RULES):
                plain = re.sub(r"\W+", "_", self.docs[name].definition.lower())
            for rule in RULES:
                if not re.search(rule.pattern, plain) or (rule.needs and not rule.needs & self._traits()):
                    continue
                if not rule.both <= self._traits():
                    continue
                if rule.never & self.seen and not contested:
                    continue
                value = rule.wish(param, self.scope, strength)
                if value is not None and value != param.default and not self._refuted(None, name, value):
                    found.append(Advice(name=name, value=value, because=rule.because, sure=rule.sure))
                break
        return found

    def _learned(self, rule: learned.Rule) -> Advice:
        """Return a learned rule as advice, with what was set beside it where a constraint binds both."""
        bound = {n for c in self.space.constraints if rule.parameter in c.names for n in c.names}
        along = {n: v for n, v in rule.evidence[0].beside.items() if n in bound and n in self.space.params}
        because = f"learned: {rule.sentence}"
        return Advice(name=rule.parameter, value=rule.value, because=because, sure=True, along=along)

    def _refuted(self, mine: learned.Rule | None, name: str, value: Value) -> bool:
        """Whether a learned rule that promises more than ``mine`` says that the default is better than a value."""
        default = self.space.params[name].default
        for rule in self.rules:
            if rule is mine:
                return False
            if rule.parameter == name and rule.value == default and learned.speaks_against(rule, value):
                return True
        return False

    def _traits(self) -> frozenset[str]:
        # of a workload that says nothing of itself, every rule is tried
        told = self.seen - {"replay"}
        return told or frozenset(FEATURES)

    def combine(self, base: Config, advice: Sequence[Advice]) -> tuple[Config, list[Advice]]:
        """Put values into a configuration one by one, leaving out what makes it illegal; and say which were taken.

        Of several values for one parameter, the first that is legal counts.
        """
        config = dict(base)
        taken: list[Advice] = []
        waiting = list(advice)
        for _ in range(2):  # what another value must make room for comes in at the second time
            left = []
            for item in waiting:
                if any(t.name == item.name for t in taken):
                    continue
                for more in ({}, item.along) if item.along else ({},):
                    trial = self.space.fill({**config, **more, item.name: item.value})
                    if item.name in trial and not self.space.problems(trial):
                        config = trial
                        taken.append(item)
                        break
                else:
                    left.append(item)
            waiting = left
        return config, taken

    def propose(self, trials: Sequence[Trial], tried: set[str]) -> tuple[Config, str]:
        """Return the next configuration and its reasons.

        Args:
            trials: decided ones, in order.
            tried: keys of everything measured, running or refused.
        """
        for config, why in self.proposals(trials):
            if self.space.key(config) not in tried:
                return config, why
        return self.space.default, "nothing is left in the playbook"

    def proposals(self, trials: Sequence[Trial]) -> Iterator[tuple[Config, str]]:
        """Yield configurations and reasons in the order in which they should be tried; see ``propose``."""
        default = self.space.default
        best = best_trial(trials, self.metric) if self.metric is not None else None
        base = dict(best.config) if best is not None else default
        usual = self.advice()
        yield self._said(default, usual)
        yield self._said(default, self.advice(2.0), "bolder: ")
        other = [a for a in self.advice(contested=True) if a not in usual]
        if other:
            yield self._said(base, other, "the other way round: ")
        yield self._said(default, [a for a in usual if a.sure], "only what seldom hurts: ")
        # from the best so far: take back what is doubtful, one by one; then steps of each advised parameter; then others
        names = list(dict.fromkeys(a.name for a in usual))
        sure = {a.name for a in usual if a.sure}
        doubtful = [n for n in names if n not in sure and n in default and base.get(n) != default[n]]
        back = [Advice(name=n, value=default[n], because="", sure=False) for n in doubtful]
        if len(doubtful) > 1:
            yield self.combine(base, back)[0], "the best so far without its doubtful parts"
        for undo in back:
            yield self.combine(base, [undo])[0], f"the best so far with {undo.name} as it was"
        others = sorted((n for n in self.space.params if n not in names), key=lambda n: -self.importance(n))
        for name in [*names, *others]:
            if name not in base:
                continue
            for value in self._steps(name, base[name]):
                step = Advice(name=name, value=value, because="", sure=False)
                config, taken = self.combine(base, [step])
                if taken:
                    yield config, f"one step from the best so far: {name} = {value}"

    def _said(self, base: Config, advice: Sequence[Advice], first: str = "") -> tuple[Config, str]:
        config, taken = self.combine(base, advice)
        return config, first + "; ".join(f"{a.name} = {a.value}: {a.because}" for a in taken)

    def _steps(self, name: str, value: Value) -> list[Value]:
        """Return neighbours of a value: other choices, four times as much, a quarter."""
        param = self.space.params[name]
        if isinstance(param, Choice):
            return [c for c in param.choices if c != value or isinstance(c, bool) != isinstance(value, bool)]
        if value in param.special or isinstance(value, str):
            return [_within(param, float(param.bounds(self.scope)[1]), self.scope)]
        base = max(float(value), 1e-9)
        moved = [v for v in (_within(param, base * f, self.scope) for f in (4.0, 0.25)) if v != value]
        return [*moved, *(v for v in param.special if v != param.default)]

    def importance(self, name: str) -> float:
        """Return how much the manual makes of a parameter, 0 to 1; 0 without a manual."""
        return self.docs[name].importance if name in self.docs else 0.0
