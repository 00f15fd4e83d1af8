"""Rules learned from sessions: what one parameter's value gave, in which kind of workload, on what evidence.

A rule compares two values of one parameter, all else equal; nothing is concluded from trials that differ in more. Its
context are features of the workload, never names of applications. Their files are in ``rulefiles``.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any

from tunewright.knowledge.workload import likeness, traits
from tunewright.measuring.runs import values_of
from tunewright.plugins import split_spec
from tunewright.space import Space
from tunewright.space.parameters import Value
from tunewright.space.space import single_change

STATUSES = ("active", "alternative", "retired")
LEAST = 0.01  # a smaller effect is none
LIKE = 0.5  # least likeness of contexts for a rule to be used


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Two trials of one session that differ in one parameter.

    Attributes:
        session: its name.
        better, worse: numbers of the trials.
        effect: the better one's objective over the worse one's, above 1.
        noise: standard error of the effect's logarithm.
        runs: runs behind it.
        date: of the session, ISO 8601.
        beside: what else differed from the default, in both.
    """

    session: str
    better: int
    worse: int
    effect: float
    noise: float
    runs: int = 0
    date: str = ""
    beside: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One learned rule.

    Attributes:
        system: name of the target.
        parameter: as the target names it.
        value, instead_of: ``value`` was better than ``instead_of``.
        context: features of the workload, from ``workload.FEATURES``.
        evidence: what it rests on.
        status: one of ``STATUSES``.
        reason: why it has that status.
        words: the rule in a sentence.
        quote: of the manual, if it was given one.
    """

    system: str
    parameter: str
    value: Value
    instead_of: Value
    context: frozenset[str]
    evidence: tuple[Evidence, ...]
    status: str = "active"
    reason: str = ""
    words: str = ""
    quote: str = ""

    @property
    def id(self) -> str:
        """Short name, the same for the same claim in the same context."""
        said = json.dumps([self.system, self.parameter, self.value, self.instead_of, sorted(self.context)])
        return f"{re.sub(r'[^a-z0-9]+', '-', self.parameter.lower())}-{hashlib.sha256(said.encode()).hexdigest()[:6]}"

    @property
    def pooled(self) -> tuple[float, float]:
        """Logarithm of the effect over all evidence, weighted by its precision, and its standard error."""
        weights = [1.0 / max(e.noise, LEAST) ** 2 for e in self.evidence]
        mean = sum(w * math.log(e.effect) for w, e in zip(weights, self.evidence, strict=True)) / sum(weights)
        return mean, 1.0 / math.sqrt(sum(weights))

    @property
    def interval(self) -> tuple[float, float, float]:
        """Effect and its 95 % interval, as ratios."""
        mean, error = self.pooled
        return math.exp(mean), math.exp(mean - 1.96 * error), math.exp(mean + 1.96 * error)

    @property
    def sentence(self) -> str:
        """The rule for people."""
        effect, low, high = self.interval
        where = ", ".join(sorted(self.context)) or "any workload"
        return self.words or (
            f"{self.parameter} = {self.value} rather than {self.instead_of} for {where}:"
            f" {effect:.2f}x ({low:.2f} to {high:.2f})"
        )


# -- evidence in sessions ---------------------------------------------------------------------------


def from_session(document: Mapping[str, Any], about: str = "", quotes: Mapping[str, str] | None = None) -> list[Rule]:
    """Return what a session shows about single parameters.

    Args:
        document: an exported session.
        about: what is known of its workload, in words: name, description, facts of a trace.
        quotes: parameter to a sentence of the manual.

    Returns:
        One rule for each pair of measured trials that differ in one parameter by more than their noise.
    """
    name = document["objectives"][0]
    sign = 1.0 if next(m for m in document["metrics"] if m["name"] == name)["direction"] == "max" else -1.0
    good = [
        t for t in document["trials"] if t["status"] == "ok" and all((v or 0) <= 0 for v in t["violations"].values())
    ]
    good = [_verified(t, document, name, sign) for t in good if (t["scores"].get(name) or 0) > 0]
    spread = _spread(document, name)
    pairs = [(a, b, single_change(a["config"], b["config"])) for a, b in itertools.combinations(good, 2)]
    pairs = [p for p in pairs if p[2]]
    # of many comparisons some are large by chance (Bonferroni)
    sure = NormalDist().inv_cdf(1 - 0.025 / max(len(pairs), 1))
    rules = []
    for a, b, parameter in pairs:
        effect = sign * math.log(a["scores"][name] / b["scores"][name])
        better, worse = (a, b) if effect > 0 else (b, a)
        error = spread * math.sqrt(
            sum(1.0 / max(_runs(t, who, name), 1) for t in (a, b) for who in ("candidate", "default"))
        )
        if abs(effect) <= max(sure * error, LEAST):
            continue
        proof = Evidence(
            session=document["name"], better=better["number"], worse=worse["number"], effect=math.exp(abs(effect)),
            noise=error, runs=sum(_runs(t, "candidate", name) for t in (a, b)),
            date=str(document.get("created", ""))[:19],
            beside={n: v for n, v in better["config"].items() if n != parameter and document["default"].get(n) != v},
        )  # fmt: skip
        rules.append(
            Rule(
                system=split_spec(str(document["plan"]["target"]))[0], parameter=parameter,
                value=better["config"][parameter], instead_of=worse["config"][parameter],
                context=traits(about or document["plan"]["workload"]) - {"replay"}, evidence=(proof,),
                quote=(quotes or {}).get(parameter, ""),
            )
        )  # fmt: skip
    return rules


def _verified(trial: dict[str, Any], document: Mapping[str, Any], name: str, sign: float) -> dict[str, Any]:
    """Return a trial; the winner with what its fresh runs gave, because the best of many trials was also lucky."""
    verdict = document.get("verdict")
    default = next((t["scores"][name] for t in document["trials"] if t["step"] == 0 and t["status"] == "ok"), None)
    if not verdict or trial["number"] != verdict["number"] or default is None:
        return trial
    whole = verdict.get("pruned") or verdict  # what was recommended may be less than the trial
    compared = whole["comparisons"][name]
    if compared["kind"] != "ratio":
        return trial
    return {**trial, "scores": {name: default * compared["value"] ** sign}, "runs": whole["runs"]}


def _runs(trial: Mapping[str, Any], of: str, name: str) -> int:
    return len(values_of(trial["runs"], of, name))


def _spread(document: Mapping[str, Any], name: str) -> float:
    """Standard deviation of the log of the objective between runs of one configuration, pooled over the session."""
    squares, freedom = 0.0, 0
    for trial in document["trials"]:
        for of in ("candidate", "default"):
            logs = [math.log(value) for value in values_of(trial["runs"], of, name) if value > 0]
            if len(logs) > 1:
                mean = sum(logs) / len(logs)
                squares += sum((v - mean) ** 2 for v in logs)
                freedom += len(logs) - 1
    return math.sqrt(squares / freedom) if freedom else 0.0


# -- putting rules together -------------------------------------------------------------------------


def merge(known: Iterable[Rule], new: Iterable[Rule]) -> tuple[list[Rule], list[str]]:
    """Add rules to known ones.

    The same claim gains evidence. Opposite claims in one context retire each other. Claims that differ only in how far
    to go stay as alternatives, until the evidence for one of them excludes the other.

    Returns:
        All rules, and what was done, in words.
    """
    rules, done = list(known), []
    for rule in new:
        same = next((k for k, r in enumerate(rules) if r.id == rule.id), None)
        if same is not None:
            fresh = [e for e in rule.evidence if e not in rules[same].evidence]
            if fresh:
                rules[same] = replace(rules[same], evidence=(*rules[same].evidence, *fresh))
                done.append(f"{rule.id}: more evidence")
        else:
            rules.append(rule)
            done.append(f"{rule.id}: new: {rule.sentence}")
    rules = [r if _by_hand(r) else replace(r, status="active", reason="") for r in rules]
    groups: dict[tuple[Any, ...], list[int]] = {}
    for k, rule in enumerate(rules):
        if not _by_hand(rule):
            groups.setdefault((rule.system, rule.parameter, rule.context), []).append(k)
    for members in groups.values():
        for i, j in itertools.combinations(members, 2):
            if _contradict(rules[i], rules[j]):
                for k, other in ((i, j), (j, i)):
                    reason = f"contradicts {rules[other].id} in the same context"
                    if rules[k].status != "retired":
                        done.append(f"{rules[k].id}: retired: {reason}")
                    rules[k] = replace(rules[k], status="retired", reason=reason)
        left = [k for k in members if rules[k].status != "retired"]
        mild = [(i, j) for i, j in itertools.permutations(left, 2) if _differ_mildly(rules[i], rules[j])]
        beaten = {i: j for i, j in mild if rules[i].interval[2] < rules[j].interval[1]}
        for i, j in beaten.items():
            rules[i] = replace(rules[i], status="retired", reason=f"{rules[j].id} is better by more than noise")
            done.append(f"{rules[i].id}: retired: {rules[i].reason}")
        for i, j in mild:
            if i not in beaten and j not in beaten:
                rules[i] = replace(rules[i], status="alternative", reason=f"mild difference to {rules[j].id}")
    return rules, done


def _by_hand(rule: Rule) -> bool:
    return rule.status == "retired" and rule.reason.startswith("by hand")


def _up(rule: Rule) -> bool | None:
    """Whether a rule raises a number; None for what is none."""
    if any(isinstance(v, bool | str) for v in (rule.value, rule.instead_of)):
        return None
    return float(rule.value) > float(rule.instead_of)


def _contradict(a: Rule, b: Rule) -> bool:
    """Whether two rules cannot both hold: the same values the other way round, or steps against each other."""
    if a.value == b.instead_of and a.instead_of == b.value:
        return True
    if _up(a) is None or _up(b) is None or _up(a) == _up(b):
        return False
    (low_a, high_a), (low_b, high_b) = (sorted((_scaled(r.value), _scaled(r.instead_of))) for r in (a, b))
    shared = min(high_a, high_b) - max(low_a, low_b)
    return shared > 0.5 * min(high_a - low_a, high_b - low_b)


def _differ_mildly(a: Rule, b: Rule) -> bool:
    """Whether two rules say the same thing and differ in how far to go."""
    return a.value != b.value and a.instead_of == b.instead_of and _up(a) == _up(b)


def _scaled(value: Value) -> float:
    return math.copysign(math.log1p(abs(float(value))), float(value))


def fitting(rules: Iterable[Rule], system: str, seen: frozenset[str], space: Space) -> list[Rule]:
    """Return the rules in use for a workload, those first that promise most: likeness of context times effect.

    A retired rule, a value that is not legal, and a context that is less alike than ``LIKE`` are left out.
    """
    ranked = []
    for rule in rules:
        if rule.status == "retired" or rule.system != system or rule.parameter not in space.params:
            continue
        legal = space.params[rule.parameter].problem(rule.value, space.scope(space.default)) is None
        alike = likeness(rule.context, seen)
        if legal and alike >= LIKE:
            ranked.append((alike * rule.pooled[0], rule))
    return [rule for _, rule in sorted(ranked, key=lambda r: (-r[0], r[1].id))]


def speaks_against(rule: Rule, value: Value) -> bool:
    """Whether a rule says that a value is worse than its own: what it was compared with, or a number beyond that."""
    if value == rule.instead_of:
        return True
    if _up(rule) is None or isinstance(value, bool | str):
        return False
    return float(value) < float(rule.instead_of) if _up(rule) else float(value) > float(rule.instead_of)
