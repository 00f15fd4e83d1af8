"""The playbook: what an engineer who has read the manual would try first, as plain rules, without a model.

Each rule recognises parameters by their names, and workloads by their names and descriptions, and gives a value with
its reason. A value that the session's guards forbid is never proposed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunewright.agents.llm.playbook_rules import RULES, within
from tunewright.errors import ConfigError
from tunewright.knowledge import rules as learned
from tunewright.knowledge.evidence import Observations
from tunewright.knowledge.logs import observe
from tunewright.knowledge.parameters import ParameterDoc
from tunewright.knowledge.rulefiles import RuleBook
from tunewright.knowledge.workload import FEATURES, traits
from tunewright.space import Config, Space
from tunewright.space.parameters import Choice, Value
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
    return learned.fitting(RuleBook(folder).rules, problem.target, seen, problem.space)


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
    observations = observe(path)
    if observations is None:
        raise ConfigError(f"{path} is no log that 'tunewright trace' reads as observations")
    return observations


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
        self,
        space: Space,
        about: str,
        facts: Mapping[str, Any] | None = None,
        metric: Metric | None = None,
        rules: Sequence[learned.Rule] = (),
        docs: Sequence[ParameterDoc] = (),
    ) -> None:
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
        advice = []
        for name, param in self.space.params.items():
            known = next((r for r in self.rules if r.parameter == name and r.value != param.default), None)
            if known is not None and not self._refuted(known, name, known.value):
                advice.append(self._learned(known))
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
                    advice.append(Advice(name=name, value=value, because=rule.because, sure=rule.sure))
                break
        return advice

    def _learned(self, rule: learned.Rule) -> Advice:
        """Return a learned rule as advice, with what was set beside it where a constraint binds both."""
        bound = {n for c in self.space.constraints if rule.parameter in c.names for n in c.names}
        along = {n: v for n, v in rule.evidence[0].beside.items() if n in bound and n in self.space.params}
        because = f"learned: {rule.sentence}"
        return Advice(name=rule.parameter, value=rule.value, because=because, sure=True, along=along)

    def _refuted(self, adviser: learned.Rule | None, name: str, value: Value) -> bool:
        """Whether a learned rule that promises more than ``adviser`` says that the default is better than a value."""
        default = self.space.params[name].default
        for rule in self.rules:
            if rule is adviser:
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
        # from the best so far: take back what is doubtful one by one, then steps of advised parameters, then others
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
            return [within(param, float(param.bounds(self.scope)[1]), self.scope)]
        base = max(float(value), 1e-9)
        moved = [v for v in (within(param, base * f, self.scope) for f in (4.0, 0.25)) if v != value]
        return [*moved, *(v for v in param.special if v != param.default)]

    def importance(self, name: str) -> float:
        """Return how much the manual makes of a parameter, 0 to 1; 0 without a manual."""
        return self.docs[name].importance if name in self.docs else 0.0
