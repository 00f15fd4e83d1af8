"""Whether an applied configuration still gives its gain: measured again from time to time.

A look is a small verification: candidate and what was there before in pairs, each pair in an order drawn by lot, with
an interval for the ratio. Looks may go on for ever, so the k-th may miss the truth with 6 / (pi k)^2 of 5 %; these
shares add up to 5 %, and a watch raises one false alarm in at most 5 of 100 cases, however long it lasts.

Where pairs would restart a server in service for every run, the candidate alone is measured, against the stored runs of
the verification. Then what changed since in the load or the machine counts as well, which is said.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, cast

from tunewright.errors import ConfigError, TargetError, VerificationError
from tunewright.measuring import protocol
from tunewright.measuring.interrupts import orderly, uninterrupted
from tunewright.measuring.intervals import looks_within, median_interval, rank_of
from tunewright.measuring.protocol import Comparison
from tunewright.measuring.runs import values_of
from tunewright.plugins import reopen
from tunewright.sessions.changes import Journal, Say, silent
from tunewright.sessions.measurer import Measurer
from tunewright.sessions.recovery import protected, stored_plan
from tunewright.sessions.service import rollback_session
from tunewright.sessions.setup import SEEDS, VERIFICATION_SEEDS, Setup, set_up
from tunewright.sessions.trials import Trials
from tunewright.space import Config
from tunewright.store.export import changes_of
from tunewright.store.files import finite
from tunewright.store.store import Store
from tunewright.target import BaseTarget, Metric
from tunewright.tuner import Tuner

_MISS = 0.05  # of all looks together
_BASELINE_MISS = 0.025  # of that, where stored runs are compared with: spent once, since all looks share them
_FIRST_SEED = VERIFICATION_SEEDS // 2  # of the first look's runs, away from those of trials and verification
_SEEDS_OF_A_LOOK = 1000
_RUNS_MORE = 2  # runs of a look at the candidate alone, beyond the fewest that an interval needs
ALARMS = ("gone", "worse", "failed")


def miss_of(number: int, all_looks: float = _MISS) -> float:
    """Return with which probability the interval of a look may miss the truth.

    >>> 0.049 < sum(miss_of(k) for k in range(1, 1000)) < 0.05
    True
    """
    return all_looks * 6 / (math.pi * number) ** 2


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look found.

    Attributes:
        number: from 1.
        at: seconds since 1970.
        how: ``pairs`` or ``baseline``.
        state: ``holds`` (the interval lies above no gain), ``gone`` (it does not, and lies below half of the verified
            gain), ``worse`` (below no gain), ``open`` (undecided) or ``failed``.
        compared: candidate against what was there before; None where it failed.
        miss: with which probability the interval may miss the truth.
        sentence: for people.
        rolled_back: whether the configuration was taken back.
    """

    number: int
    at: float
    how: str
    state: str
    compared: Comparison | None
    miss: float
    sentence: str
    rolled_back: bool = False

    def document(self) -> dict[str, Any]:
        """Return it JSON-able."""
        c = self.compared
        values = {"kind": c.kind, "value": c.value, "low": c.low, "high": c.high, "pairs": c.pairs} if c else {}
        document = {
            "look": self.number, "at": self.at, "time": datetime.fromtimestamp(self.at, UTC).isoformat("T", "seconds"),
            "how": self.how, "state": self.state, **values, "miss": self.miss, "sentence": self.sentence,
            "rolled_back": self.rolled_back,
        }  # fmt: skip
        return cast(dict[str, Any], finite(document))


def looks_so_far(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the looks that a session's description holds, oldest first."""
    return list((record.get("watch") or {}).get("looks", []))


def due(record: Mapping[str, Any], every_s: float) -> float:
    """Return when the next look is due, in seconds since 1970; 0 for at once."""
    looks = looks_so_far(record)
    return float(looks[-1]["at"]) + every_s if looks else 0.0


def pairs_allowed(target: BaseTarget, changed: Config) -> bool:
    """Whether candidate and what was there before can be measured in turn without restarting what is in service."""
    params = target.space.params
    return not target.live or all(params[n].restart in ("none", "reload") for n in changed if n in params)


def look_again(
    store: Store,
    name: str,
    *,
    pairs: bool | None = None,
    auto: bool = False,
    to: str | None = None,
    spec: str | None = None,
    options: Mapping[str, str] | None = None,
    say: Say = silent,
) -> Look:
    """Measure an applied configuration again, and store what was found.

    Args:
        store: of the session.
        name: its name.
        pairs: measure in pairs with what was there before; None where that restarts nothing in service.
        auto: take the configuration back if its gain is gone.
        to: what it was applied to, where the target needs that.
        spec: target spec instead of the stored one.
        options: target options in the place of stored ones.
        say: is told what was put back.

    Raises:
        ConfigError: the session is not applied, or cannot be compared.
        HeldError: the session runs, or somebody else changes the same thing.
        TargetError: the target cannot be prepared.
    """
    options = dict(options or {})
    with store.lock(name), orderly():
        record = store.session(name)
        journal = Journal(store.public_url, name, "apply").read()
        if journal is None or journal["stage"] != "applied":
            raise ConfigError(f"session {name!r} is not applied; first run: tunewright apply {name}")
        config = _applied(record)
        target = reopen(name, record, spec, options)
        plan = stored_plan(name, record, {}, spec=spec, options=options)
        setup, _ = set_up(plan, name, target, make=lambda problem: cast(Tuner, None))
        in_pairs = pairs_allowed(target, changes_of(record, config)) if pairs is None else pairs
        trials = Trials(setup, store)
        trials.load()
        measurer = Measurer(setup, trials, store)
        measurer.prepared = dict(record.get("prepared") or {})
        number = len(looks_so_far(record)) + 1
        try:
            with protected(setup, store, measurer, say):
                measurer.prepare()
                found = _measured(setup, measurer, record, config, number, in_pairs)
        finally:
            with uninterrupted():
                if target.live:  # its rollback command may have put the default's values into service
                    target.apply(config, to)
                measurer.release()
                store.update(name, status=record.get("status", "done"))
        _keep(store, name, found)
    if auto and found.state in ALARMS:
        rollback_session(store, name, spec=spec, options=options, say=say)
        found = replace(found, rolled_back=True, sentence=f"{found.sentence} It was taken back.")
        _keep(store, name, found)
    return found


def _keep(store: Store, name: str, look: Look) -> None:
    looks = [entry for entry in looks_so_far(store.session(name)) if entry["look"] != look.number]
    store.update(name, watch={"looks": [*looks, look.document()]})


def _applied(record: Mapping[str, Any]) -> Config:
    applied, verdict = record.get("applied"), record.get("verdict")
    if applied:
        return dict(applied["config"])
    if not verdict:
        raise ConfigError("the session does not say which configuration was applied; apply it again")
    return dict(verdict["config"])


def verified(record: Mapping[str, Any], config: Config) -> Comparison | None:
    """Return what the verification said of a configuration; None where it was not verified."""
    verdict = record.get("verdict")
    if not verdict or verdict["config"] != config:
        return None
    entry = verdict["comparisons"][record["objectives"][0]]
    low, high = (entry[k] if entry[k] is not None else sign * math.inf for k, sign in (("low", -1), ("high", 1)))
    return Comparison(
        kind=entry["kind"], value=entry["value"], low=low, high=high, pairs=entry.get("pairs", 0),
        improved=entry["improved"],
    )  # fmt: skip


def _measured(
    setup: Setup, measurer: Measurer, record: Mapping[str, Any], config: Config, number: int, in_pairs: bool
) -> Look:
    objective, before = setup.objectives[0], dict(record["default"])
    for what, checked in (("what was applied", config), ("what was there before", before)):
        if problems := setup.target.space.problems(checked):
            raise ConfigError(f"{what} is not legal on this machine any more: {'; '.join(problems)}")
    seed = setup.plan.seed * SEEDS + _FIRST_SEED + number * _SEEDS_OF_A_LOOK
    how, miss = ("pairs", miss_of(number)) if in_pairs else ("baseline", miss_of(number, _MISS - _BASELINE_MISS))
    try:
        if in_pairs:
            compared = _in_pairs(setup, measurer, config, before, seed, miss)
        else:
            compared = _alone(setup, measurer, record, config, seed, miss)
    except VerificationError as error:
        return Look(
            number=number, at=time.time(), how=how, state="failed", compared=None, miss=miss,
            sentence=f"It could not be measured: {error}. {_advice(setup.name)}",
        )  # fmt: skip
    state = judged(compared, verified(record, config))
    said = sentence(state, compared, objective, how, verified(record, config), str(record.get("created", ""))[:10])
    if state in ALARMS:
        said = f"{said} {_advice(setup.name)}"
    return Look(number=number, at=time.time(), how=how, state=state, compared=compared, miss=miss, sentence=said)


def _in_pairs(setup: Setup, measurer: Measurer, config: Config, before: Config, seed: int, miss: float) -> Comparison:
    looks = protocol.ONE_RUN if setup.target.exact else looks_within([n for n, _ in setup.level.looks], miss)
    level = replace(setup.level, looks=looks)
    compared, _ = protocol.verify(measurer.once, config, before, setup.objectives[:1], level, seed)
    return compared[setup.objectives[0].name]


def _alone(
    setup: Setup, measurer: Measurer, record: Mapping[str, Any], config: Config, seed: int, miss: float
) -> Comparison:
    metric = setup.objectives[0]
    stored = values_of((record.get("verdict") or {}).get("runs", ()), "default", metric.name)
    if not stored:
        raise ConfigError("the session has no verified runs of what was there before; measure in pairs: --pairs")
    runs: list[float] = []
    failed = 0
    count = next(n for n in range(1, 200) if rank_of(n, 1 - miss)) + _RUNS_MORE
    while len(runs) < (1 if setup.target.exact else count):
        measured = measurer.once(config, seed + len(runs) + failed)
        if measured.ok:
            runs.append(measured.values[metric.name])
            continue
        failed += 1
        if failed > 3 + len(runs) // 3:
            raise VerificationError(f"the candidate failed in {failed} of {failed + len(runs)} runs: {measured.reason}")
    return against_stored(metric, runs, stored, miss)


def against_stored(metric: Metric, runs: Sequence[float], stored: Sequence[float], miss: float) -> Comparison:
    """Compare fresh runs with stored ones by the ratio of their medians.

    Its interval reaches from the worst to the best that the intervals of both medians leave open, so it misses the
    truth only if one of them does.

    Args:
        metric: its direction says what is better.
        runs: fresh values.
        stored: of what was there before.
        miss: with which probability the interval of the fresh runs may miss.
    """
    ratio = min(*runs, *stored) > 0
    fresh, old = ([math.log(v) for v in side] if ratio else list(side) for side in (runs, stored))
    value, low, high = median_interval(fresh, 1 - miss)
    before, before_low, before_high = median_interval(old, 1 - _BASELINE_MISS)
    ends = [value - before, low - before_high, high - before_low]
    if metric.direction == "min":
        ends = [-ends[0], -ends[2], -ends[1]]
    if ratio:
        ends = [math.exp(v) if v < 700 else math.inf for v in ends]
    none = 1.0 if ratio else 0.0
    return Comparison(
        kind="ratio" if ratio else "difference", value=ends[0], low=ends[1], high=ends[2],
        pairs=min(len(runs), len(stored)), improved=ends[1] > none,
    )  # fmt: skip


def judged(compared: Comparison, before: Comparison | None) -> str:
    """Return a look's state, by intervals alone.

    Args:
        compared: of the look.
        before: of the verification; None where the configuration was not verified: then only a loss is told.
    """
    none = 1.0 if compared.kind == "ratio" else 0.0
    if compared.low > none:
        return "holds"
    if compared.high < none:
        return "worse"
    if before is None or before.kind != compared.kind or before.value <= none:
        return "open"
    half = math.sqrt(before.value) if compared.kind == "ratio" else before.value / 2
    return "gone" if compared.high < half else "open"


def sentence(
    state: str, compared: Comparison, metric: Metric, how: str, before: Comparison | None, verified_on: str
) -> str:
    """Say what a look found."""
    many = "times" if compared.kind == "ratio" else metric.unit
    runs = f"{compared.pairs} fresh pairs" if how == "pairs" else "fresh runs against stored ones"
    figures = (
        f"{metric.name} is {compared.value:.2f} {many} what it was before "
        f"(interval {compared.low:.2f} to {compared.high:.2f}, {runs})"
    )
    if compared.kind != "ratio":
        figures = (
            f"{metric.name} is better by {compared.value:.4g} {many}".rstrip()
            + f" (interval {compared.low:.4g} to {compared.high:.4g}, {runs})"
        )
    elif metric.direction == "min":
        figures = figures.replace(f"{metric.name} is", f"{metric.name} is better:", 1)
    told = {
        "holds": "The gain is still there",
        "gone": "The gain is gone: not even half of what was verified is left",
        "worse": "It is worse than what was there before",
        "open": "Whether the gain is still there is not decided",
    }[state]
    gain = f"; verified were {before.value:.2f}" if before is not None and state in ("gone", "worse", "open") else ""
    since = ""
    if how == "baseline":
        since = (
            f" Those runs are of {verified_on}: a change of the load or of the machine since then counts, too; --pairs "
            "measures both, and restarts what is in service for every run."
        )
    return f"{told}: {figures}{gain}.{since}"


def _advice(name: str) -> str:
    return f"Take it back with: tunewright rollback {name}"


def check_watchable(store: Store, name: str) -> None:
    """Refuse a session that cannot be watched, before anything waits.

    Raises:
        ConfigError: it is not applied.
        TargetError: it has several objectives.
    """
    record = store.session(name)
    journal = Journal(store.public_url, name, "apply").read()
    if journal is None or journal["stage"] != "applied":
        raise ConfigError(f"session {name!r} is not applied; first run: tunewright apply {name}")
    if len(record["objectives"]) > 1:
        raise TargetError(f"session {name!r} has several objectives; 'watch' follows one")
