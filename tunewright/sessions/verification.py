"""The winner of a session measured afresh against the default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from tunewright.errors import TargetError, VerificationError
from tunewright.measuring import estimates, protocol
from tunewright.measuring.feasibility import TRIES, Standing
from tunewright.measuring.intervals import Look, rank_at
from tunewright.measuring.plausibility import Doubt
from tunewright.measuring.protocol import Comparison
from tunewright.sessions import bounds, doubts
from tunewright.sessions.measurer import Measurer
from tunewright.sessions.setup import VERIFICATION_SEEDS, Setup
from tunewright.sessions.trials import Trials
from tunewright.sessions.verdict import Verdict, reliability, sentence
from tunewright.sessions.watcher import View, Watcher
from tunewright.space import Config
from tunewright.tuner import Trial, pareto

_TRIES = 3  # winners that may fail when they are measured again
_FRONT = 5  # members of a Pareto set that are verified


class Verification:
    """Measures the winner of a session afresh. It keeps nothing between two calls of :meth:`conclude`."""

    def __init__(self, setup: Setup, trials: Trials, measurer: Measurer, *, watcher: Watcher, session: View) -> None:
        self._setup, self._trials, self._measurer = setup, trials, measurer
        self._watcher, self._session = watcher, session
        self._seed = setup.seed + VERIFICATION_SEEDS
        self._fresh_doubts: dict[int, Doubt] = {}

    def conclude(self) -> Verdict:
        """Verify the winner; one that fails now, or is not shown to keep its bounds, gives way to the next.

        Raises:
            TargetError: no configuration met the constraints.
            VerificationError: the best configurations all failed when they were measured again.
        """
        self._trials.put_doubted_aside()
        failed, doubted, passed = 0, 0, list[Verdict]()
        while failed < _TRIES and doubted + len(passed) < TRIES:
            best = bounds.contender(self._setup, self._trials.believed, [v.runs for v in passed])
            if best is None:
                break
            try:
                verdict = self._of(best, len(passed))
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
            return self._finished(self._of(default, 0), passed)
        if passed:
            nearest = min(passed, key=lambda v: bounds.missed(v.of_winner, self._setup.metrics))
            return self._finished(nearest, passed)
        if failed:
            raise VerificationError("the three best configurations all failed when they were measured again")
        if doubted:
            raise VerificationError("the best configurations gave values that are not believed; see 'tunewright show'")
        raise TargetError("no configuration met the constraints, not even the default; see 'tunewright show'")

    def _finished(self, verdict: Verdict, passed: Sequence[Verdict]) -> Verdict:
        """Put into a verdict what was passed over for it, and its settings."""
        over = [bounds.passed_over(v.number, v.config, v.of_winner) for v in passed if v.number != verdict.number]
        if verdict.number == 0 and (over or self._fresh_doubts):
            said = verdict.sentence.replace("nothing that was tried", "nothing that could be recommended")
            verdict = replace(verdict, sentence=said)
        doubted = doubts.told(self._setup.metrics, {**self._trials.doubted, **self._fresh_doubts})
        said = " ".join([verdict.sentence, bounds.gave_way(over), *doubted.values()]).replace("  ", " ").strip()
        settings = self._setup.target.render(verdict.config)
        return replace(verdict, sentence=said, passed_over=over, settings=settings, doubted=doubted)

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
        candidate = bounds.standings(setup.metrics, runs, "candidate", interval)
        return candidate, bounds.of_the_default(setup, self._trials.decided, runs)

    def _looks(self, tried: int) -> tuple[Look, ...]:
        """Return when a verification is looked at, after so many that did not show that bounds are kept."""
        setup = self._setup
        if setup.target.exact:
            return protocol.ONE_RUN
        return estimates.looks(setup.estimate, setup.level.name, setup.level.looks, tried)

    def _of(self, best: Trial, tried: int = 0) -> Verdict:
        setup = self._setup
        compared: Mapping[str, Comparison]
        runs: list[dict[str, Any]]
        if setup.space.key(best.config) == setup.space.key(setup.space.default):
            same = Comparison(kind="ratio", value=1.0, low=1.0, high=1.0, pairs=0, improved=False)
            compared, runs, unreliable = {o.name: same for o in setup.objectives}, [], False
            said = "No improvement was shown: nothing that was tried beat the default configuration."
            candidate, default = list[Standing](), bounds.of_the_default(setup, self._trials.decided)
        else:
            compared, runs = self._compare(best.config, "the winner against the default", tried=tried)
            said = sentence(compared[setup.objectives[0].name], setup.objectives[0], setup.estimate.words)
            unreliable, told = reliability(protocol.failures(runs))
            said = told if unreliable else f"{said} {told}".strip()
            candidate, default = self._standings(runs, tried)
        better = compared[setup.objectives[0].name].improved and not unreliable
        if candidate or default:
            better, said = bounds.judgement(said, candidate, default, better, reliable=not unreliable)
        return Verdict(
            number=best.number,
            config=best.config,
            changes=setup.space.changes(best.config),
            metrics=best.metrics,
            comparisons=compared,
            improved=better,
            runs=runs,
            sentence=said,
            constraints=[*candidate, *default],
            estimate=setup.estimate.name,
            weaker=self._weaker(best),
            pareto=self._front(best, compared),
        )

    def _compare(
        self, config: Config, what: str, *, brief: bool = False, tried: int = 0
    ) -> tuple[dict[str, Comparison], list[dict[str, Any]]]:
        """Measure a configuration and the default in turn.

        Args:
            config: the configuration.
            what: is being compared, for the watcher.
            brief: with the fewest pairs that carry an interval.
            tried: how many configurations were not shown to keep their bounds before.

        Raises:
            VerificationError: one of them failed.
        """
        setup = self._setup
        level = replace(setup.level, looks=self._looks(tried))
        if brief:
            level = level.brief()
        compared, runs = protocol.verify(
            self._measurer.once,
            config,
            setup.space.default,
            setup.objectives,
            level,
            self._seed,
            lambda done, of: self._watcher.verifying(self._session, done, of, what),
            bounded=() if brief else setup.bounded,
            estimate=setup.estimate,
        )
        return {name: self._point(c) for name, c in compared.items()}, runs

    def _weaker(self, best: Trial) -> list[dict[str, Any]]:
        """Measure the winner and its variants with weaker guarantees in turn; for information only.

        Never on a live system: its users would have the weaker guarantee for the while, and a kill would leave it.
        """
        setup = self._setup
        if setup.plan.allow or len(setup.objectives) > 1 or setup.target.live:
            return []
        options, objective = setup.target.weaker(best.config), setup.objectives[0]
        rounds = 1 if setup.target.exact else setup.level.verify_least
        values: dict[int, list[float]] = {i: [] for i in range(-1, len(options))}  # -1 is the winner
        for number in range(rounds if options else 0):
            self._watcher.verifying(self._session, number, rounds, "what weaker guarantees would give")
            for i in list(values):
                config = best.config if i < 0 else options[i].config
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
