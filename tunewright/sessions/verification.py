"""The winner of a session measured afresh against the default."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from tunewright.errors import DefaultFailsError, TargetError, VerificationError
from tunewright.measuring import estimates, protocol
from tunewright.measuring.feasibility import TRIES, Standing
from tunewright.measuring.intervals import Look, further, rank_at
from tunewright.measuring.plausibility import Doubt
from tunewright.measuring.protocol import Comparison
from tunewright.measuring.runs import failures
from tunewright.sessions import bounds, doubts, reduction
from tunewright.sessions.measurer import Measurer
from tunewright.sessions.setup import VERIFICATION_SEEDS, Setup
from tunewright.sessions.tails import tails
from tunewright.sessions.trials import Trials
from tunewright.sessions.verdict import Verdict, medians, reliability, sentence
from tunewright.sessions.watcher import View, Watcher
from tunewright.space import Config
from tunewright.tuner import Trial, pareto

_TRIES = 3  # winners that may fail when they are measured again
_NOTHING = "No improvement was shown: nothing that was tried beat the default configuration."
_FRONT = 5  # members of a Pareto set that are verified


class Verification:
    """Measures the winner of a session afresh. It keeps nothing between two calls of :meth:`conclude`."""

    def __init__(self, setup: Setup, trials: Trials, measurer: Measurer, *, watcher: Watcher, session: View) -> None:
        self._setup, self._trials, self._measurer = setup, trials, measurer
        self._watcher, self._session = watcher, session
        self._seed = setup.seed + VERIFICATION_SEEDS
        self._fresh_doubts: dict[int, Doubt] = {}

    def conclude(self, keep: Callable[[Verdict], None], *, explain: bool = False) -> Verdict:
        """Verify the winner, take back what it does not need, and see what the rest gives.

        A winner that fails when measured again, or is not shown to keep its bounds, gives way to the next.

        Args:
            keep: is given the winner's verdict as soon as it stands; what follows can be interrupted.
            explain: see what each change gives even if none is taken back.

        Raises:
            TargetError: no configuration met the constraints.
            VerificationError: the best configurations all failed when they were measured again.
        """
        plan = self._setup.plan
        verdict = self._winner()
        keep(verdict)
        if verdict.improved and len(self._setup.objectives) == 1:
            if not plan.keep_all:
                verdict = self._reduced(verdict)
            if explain or not plan.keep_all:
                verdict = replace(verdict, steps=self._steps(verdict))
        return replace(verdict, weaker=self._weaker(verdict))

    def _winner(self) -> Verdict:
        failed, doubted, passed = 0, 0, list[Verdict]()
        while failed < _TRIES and doubted + len(passed) < TRIES:
            best = bounds.contender(self._setup, self._trials.believed, [v.runs for v in passed])
            if best is None:
                break
            try:
                verdict = self._of(best, len(passed))
            except DefaultFailsError:  # whatever is measured beside it
                raise
            except VerificationError as error:
                self._trials.retract(replace(best, status="failed", reason=str(error)))
                failed += 1
                continue
            if self._doubts(best, verdict):
                doubted += 1
                continue
            if best.step == 0 or all(it.standing == "met" for it in verdict.of_winner):
                return self._finished(verdict, passed)
            self._pass_over(best, verdict)
            passed.append(verdict)
        default, runs = self._trials.default, [run for v in passed for run in v.runs]
        if (passed or doubted) and default and not bounds.broken(self._setup, self._trials.decided, runs):
            return self._finished(self._of(default), passed)
        if passed:
            nearest = min(passed, key=lambda v: bounds.missed(v.of_winner, self._setup.metrics))
            return self._finished(nearest, passed)
        if failed:
            raise VerificationError("the three best configurations all failed when they were measured again")
        if doubted:
            raise VerificationError("the best configurations gave values that are not believed; see 'tunewright show'")
        raise TargetError("no configuration met the constraints, not even the default; see 'tunewright show'")

    def _finished(self, verdict: Verdict, passed: Sequence[Verdict]) -> Verdict:
        """Put into a verdict what was passed over for it, and the Pareto set."""
        over = [bounds.passed_over(v.number, v.config, v.of_winner) for v in passed if v.number != verdict.number]
        if verdict.number == 0 and (over or self._fresh_doubts):
            said = verdict.sentence.replace("nothing that was tried", "nothing that could be recommended")
            verdict = replace(verdict, sentence=said)
        doubted = doubts.told(self._setup.metrics, {**self._trials.doubted, **self._fresh_doubts})
        said = _joined(verdict.sentence, bounds.gave_way(over), *doubted.values())
        best = next(t for t in self._trials.decided if t.number == verdict.number)
        front = self._front(best, verdict.comparisons)
        return replace(verdict, sentence=said, passed_over=over, doubted=doubted, pareto=front)

    def _doubts(self, best: Trial, verdict: Verdict) -> bool:
        """Put a trial aside whose fresh runs are not believed, and say whether they are not."""
        doubt = doubts.doubt_of_fresh_runs(self._setup, verdict.runs)
        if doubt is not None:
            self._fresh_doubts[best.number] = doubt
            self._trials.set_aside(best, {doubt.metric: abs(doubt.value) or 1.0}, f"not believed: {doubt.words}")
        return doubt is not None

    def _pass_over(self, best: Trial, verdict: Verdict) -> None:
        """Write down that a trial is not shown to keep its bounds."""
        told = verdict.of_winner
        self._trials.set_aside(best, bounds.misses(told, self._setup.metrics), bounds.refusal(told))

    def _standings(self, runs: Sequence[Mapping[str, Any]], tried: int) -> tuple[list[Standing], list[Standing]]:
        """Return how winner and default stand to each bound, by the runs of a verification.

        Args:
            runs: of the verification.
            tried: how many configurations were not shown to keep their bounds before.
        """
        setup = self._setup
        pairs = sum(r["of"] == "candidate" and r["status"] == "ok" for r in runs)
        interval = estimates.side(setup.estimate, rank_at(self._looks(tried), pairs))
        candidate = bounds.standings(setup.metrics, runs, "candidate", interval) if runs else []
        return candidate, bounds.of_the_default(setup, self._trials.decided, runs)

    def _looks(self, tried: int) -> tuple[Look, ...]:
        """Return when a verification is looked at, after so many that did not show that bounds are kept."""
        setup = self._setup
        if setup.target.exact:
            return protocol.ONE_RUN
        tried = tried if setup.bounded else 0
        return estimates.looks(setup.estimate, setup.level.name, setup.level.looks, tried)

    def _of(self, best: Trial, tried: int = 0) -> Verdict:
        """Measure a trial's configuration afresh, after so many that were not shown to keep their bounds."""
        setup = self._setup
        if setup.space.key(best.config) == setup.space.key(setup.space.default):
            same = Comparison(kind="ratio", value=1.0, low=1.0, high=1.0, pairs=0, improved=False)
            return self._verdict(best, best.config, {o.name: same for o in setup.objectives}, [], 0)
        compared, runs = self._compare(best.config, "the winner against the default", tried=tried)
        return self._verdict(best, best.config, compared, runs, tried)

    def _verdict(
        self, best: Trial, config: Config, compared: Mapping[str, Comparison], runs: list[dict[str, Any]], tried: int
    ) -> Verdict:
        """Judge a configuration by its fresh runs; without any it is the default."""
        setup, first = self._setup, self._setup.objectives[0]
        unreliable, told = reliability(failures(runs))
        said = sentence(compared[first.name], first, setup.estimate.words) if runs else _NOTHING
        said = told if unreliable else f"{said} {told}".strip()
        better = compared[first.name].improved and not unreliable
        candidate, default = self._standings(runs, tried)
        if candidate or default:
            better, said = bounds.judgement(said, candidate, default, better, reliable=not unreliable)
        pairs = sum(r["of"] == "candidate" and r["status"] == "ok" for r in runs)
        said = _joined(said, tails(setup.metrics, setup.objectives, runs, rank_at(self._looks(tried), pairs)))
        return Verdict(
            number=best.number,
            config=config,
            changes=setup.space.changes(config),
            metrics=best.metrics if config == best.config else medians(runs, setup.metrics),
            comparisons=compared,
            improved=better,
            runs=runs,
            sentence=said,
            settings=setup.target.render(config),
            constraints=[*candidate, *default],
            estimate=setup.estimate.name,
        )

    def _reduced(self, verdict: Verdict) -> Verdict:
        """Take back what a verified winner does not need; what is left is verified afresh, or the winner stays."""
        setup, space = self._setup, self._setup.space
        if len(verdict.changes) < 2:
            return verdict
        pruned = reduction.reduce(setup, self._trials, self._measurer, verdict.config, verdict.runs, self._tell)
        record = reduction.recorded(pruned, verdict.config, verdict.comparisons, verdict.runs)
        config = space.fill({n: verdict.config[n] for n in pruned.names})
        if space.key(config) == space.key(verdict.config):
            return replace(verdict, pruned=record)
        best = next(t for t in self._trials.decided if t.number == verdict.number)
        with suppress(VerificationError):
            tried = len(verdict.passed_over) + 1
            compared, runs = self._compare(
                config, "what is left of the winner against the default", tried=tried, afresh=1
            )
            smaller = self._verdict(best, config, compared, runs, tried)
            if smaller.improved and doubts.doubt_of_fresh_runs(setup, runs) is None:
                back = len(verdict.changes) - len(smaller.changes)
                told = (
                    f"{back} of the {len(verdict.changes)} changes tried together did not matter and"
                    f" {'was' if back == 1 else 'were'} taken back."
                )
                said = _joined(smaller.sentence, told, bounds.gave_way(verdict.passed_over), *verdict.doubted.values())
                return replace(
                    smaller, sentence=said, pruned=record, passed_over=verdict.passed_over, doubted=verdict.doubted
                )  # fmt: skip
        return replace(verdict, pruned={**record, "together": True})

    def _steps(self, verdict: Verdict) -> list[dict[str, Any]]:
        """Measure what each change of a verified configuration gives."""
        setup, removals = self._setup, (verdict.pruned or {}).get("removals", ())
        if len(verdict.changes) < 2:
            return []
        order = reduction.strongest_first(setup.space, verdict.config, removals, reduction.measured_of(self._trials))
        return [asdict(s) for s in reduction.staircase(setup, self._measurer, verdict.config, order, self._tell)]

    def _tell(self, done: int, of: int, what: str) -> None:
        self._watcher.verifying(self._session, done, of, what)

    def _compare(
        self, config: Config, what: str, *, brief: bool = False, tried: int = 0, afresh: int = 0
    ) -> tuple[dict[str, Comparison], list[dict[str, Any]]]:
        """Measure a configuration and the default in turn.

        Args:
            config: the configuration.
            what: is being compared, for the watcher.
            brief: with the fewest pairs that carry an interval.
            tried: how many configurations were not shown to keep their bounds before.
            afresh: how many verifications of this session were seen before; their seeds are not used again.

        Raises:
            VerificationError: one of them failed.
        """
        setup = self._setup
        level = replace(setup.level, looks=self._looks(tried))
        # at `fast`, what is left of a winner would often be lost because six pairs show such a gain only with luck
        goes_on = bool(afresh) and setup.estimate.name == "pairs" and not (setup.bounded or setup.target.exact)
        if brief:
            level = level.brief()
        compared, runs = protocol.verify(
            self._measurer.once,
            config,
            setup.space.default,
            setup.objectives,
            level,
            self._seed + afresh * reduction.SEEDS,
            lambda done, of: self._tell(done, of, what),
            bounded=() if brief else setup.bounded,
            estimate=setup.estimate,
            more=further(level.looks) if goes_on else (),
        )
        return {name: self._point(c) for name, c in compared.items()}, runs

    def _weaker(self, verdict: Verdict) -> list[dict[str, Any]]:
        """Measure the winner and its variants with weaker guarantees in turn; for information only.

        Never on a live system: its users would have the weaker guarantee for the while, and a kill would leave it.
        """
        setup = self._setup
        if setup.plan.allow or len(setup.objectives) > 1 or setup.target.live or setup.plan.careful:
            return []
        options, objective = setup.target.weaker(verdict.config), setup.objectives[0]
        rounds = 1 if setup.target.exact else setup.level.verify_least
        values: dict[int, list[float]] = {i: [] for i in range(-1, len(options))}  # -1 is the winner
        for number in range(rounds if options else 0):
            self._watcher.verifying(self._session, number, rounds, "what weaker guarantees would give")
            for i in list(values):
                config = verdict.config if i < 0 else options[i].config
                measured = self._measurer.once(config, self._seed + number)
                if measured.ok:
                    values[i].append(measured.values[objective.name])
                elif i < 0:
                    return []
                else:
                    del values[i]
        rows = []
        for i in [i for i in values if i >= 0]:
            pairs = list(zip(values[i], values[-1], strict=True))
            compared = self._point(protocol.compare_pairs(objective, pairs))
            row = {"config": options[i].config, "loses": options[i].loses}
            rows.append({**row, "ratio": compared.value, "low": compared.low, "high": compared.high})
        return rows

    def _point(self, compared: Comparison) -> Comparison:
        """For exact targets one run tells all: the interval is a point."""
        if not self._setup.target.exact:
            return compared
        better = compared.value > (1 if compared.kind == "ratio" else 0)
        return replace(compared, low=compared.value, high=compared.value, improved=better)

    def _front(self, best: Trial, compared: Mapping[str, Comparison]) -> list[dict[str, Any]]:
        """Verify the Pareto set: a few members, spread over the first objective."""
        objectives = self._setup.objectives
        if len(objectives) < 2:
            return []
        front = sorted(pareto(self._trials.decided, objectives), key=lambda t: t.scores[objectives[0].name])
        spread = np.linspace(0, len(front) - 1, min(len(front), _FRONT))
        chosen = {front[round(i)].number for i in spread} | {best.number}
        rows = []
        for trial in front:
            row: dict[str, Any] = {
                "number": trial.number,
                "config": trial.config,
                "metrics": trial.metrics,
                "comparisons": None,
            }
            if trial.number == best.number:
                row["comparisons"] = {n: asdict(c) for n, c in compared.items()}
            elif trial.number in chosen:
                with suppress(VerificationError):
                    again, runs = self._compare(trial.config, "the Pareto set against the default", brief=True)
                    row["unsure"] = bounds.refusal(self._standings(runs, 0)[0])
                    row["comparisons"] = {n: asdict(c) for n, c in again.items()}
            rows.append(row)
        return rows


def _joined(*sentences: str) -> str:
    return " ".join(filter(None, sentences))
