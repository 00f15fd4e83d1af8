"""The loop: ask, check, write down, measure, tell."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import cloudpickle

from tunewright.errors import TargetError, TunerError, TunerFailedError, TunewrightError
from tunewright.measuring import isolation, protocol
from tunewright.measuring.executors import first_done
from tunewright.measuring.protocol import Evaluation
from tunewright.measuring.threads import one_thread
from tunewright.sessions.careful import Careful
from tunewright.sessions.machine import MachineWatch
from tunewright.sessions.measurer import Measurer
from tunewright.sessions.setup import TRIAL_SEEDS, Setup
from tunewright.sessions.trials import Trials
from tunewright.sessions.watcher import View, Watcher
from tunewright.space import Config
from tunewright.tuner import History, Refusal, Suggestion, Trial, Tuner, completed, untried


class Inline(Executor):
    """Runs a job where it is submitted; Ctrl-C comes through."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run it now."""
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def _evaluate(job: Any, runs: isolation.Runs | None = None) -> Evaluation:
    """Evaluate one trial; runs on any executor's worker, in another process from pickled bytes and without ``runs``."""
    target, workload, budget, caution, arguments = cloudpickle.loads(job) if isinstance(job, bytes) else job

    def run(config: Config, seed: int) -> Any:
        limited = caution if config != arguments["default"] else None
        given = limited.budget(budget) if limited else budget
        measured = isolation.measure_once(target, config, workload=workload, seed=seed, budget=given, runs=runs)
        if limited:
            limited.after(target, measured)
        return measured

    return protocol.evaluate(run, **arguments)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When no further trial begins.

    Attributes:
        total: once so many are decided; None for no limit.
        minutes: after this time; but one is always decided. None for no limit.
        patience: after this many trials without a gain beyond noise; None for no limit.
    """

    total: int | None = None
    minutes: float | None = None
    patience: int | None = None


class Loop:
    """Decides trials. Everything here happens on one thread; an executor's workers see the job alone.

    Attributes:
        pending: trials that are being measured, with the time at which they began.
        ended: why the tuner proposes nothing more; "" where it goes on.
        machine: watches whether the machine changes.
        careful: keeps candidates within careful mode's limits.
    """

    def __init__(
        self,
        setup: Setup,
        trials: Trials,
        measurer: Measurer,
        tuner: Tuner,
        machine: MachineWatch,
        *,
        executor: Executor,
        workers: int,
        watcher: Watcher,
        session: View,
    ) -> None:
        self.pending: dict[Future[Evaluation], tuple[Trial, float]] = {}
        self.ended, self.machine, self.careful = "", machine, Careful(setup, trials)
        self._setup, self._trials, self._measurer, self._tuner = setup, trials, measurer, completed(tuner)
        self._executor, self._workers = executor, workers
        self._watcher, self._session = watcher, session
        self._tuner_s = 0.0  # the tuner's own time since the last trial began

    def run(self, limits: Limits, given: Sequence[Trial] | None = None) -> None:
        """Decide trials until a limit is reached: those that the tuner proposes, or those given.

        Raises:
            TunerError: the tuner proposes nothing, not even a first configuration, or never worked.
            TargetError: the default configuration cannot be measured, or the executor takes no more work.
        """
        left = None if given is None else list(given)
        deadline = math.inf if limits.minutes is None else time.monotonic() + 60 * limits.minutes
        exhausted = False
        try:
            while True:
                while not exhausted and self._may_begin(limits, deadline):
                    try:
                        trial = self._propose(limits.total) if left is None else left.pop(0)
                    except TunerError as error:
                        if not self._trials.decided or isinstance(error, TunerFailedError):
                            raise
                        exhausted, self.ended = True, str(error)
                        self._watcher.exhausted(self._session, self.ended)
                        break
                    self._begin(trial)
                if not self.pending:
                    self._trials.put_doubted_aside()
                    return
                for future in first_done(self.pending, self._executor):
                    trial, begun = self.pending.pop(future)
                    self._finish(trial, _outcome(future), time.monotonic() - begun)
        except BaseException:  # Ctrl-C above all
            self._stop()
            raise

    def explain(self) -> None:
        """Decide the best configuration without each of its changes, where that was not tried."""
        best = self._trials.best
        if best is not None:
            left = self._one_change_less(best)
            self._watcher.explaining(self._session, len(left))
            self.run(Limits(total=len(self._trials.decided) + len(left)), left)

    def notes(self) -> dict[str, Any]:
        """Return what the tuner notes beside its suggestions."""
        return self._tuner.notes()

    def _may_begin(self, limits: Limits, deadline: float) -> bool:
        decided = self._trials.decided
        return (
            len(self.pending) < (self._workers if self._trials.default else 1)
            and (limits.total is None or len(decided) + len(self.pending) < limits.total)
            and (time.monotonic() < deadline or not decided)
            and not self._trials.stalled(limits.patience)
        )

    # -- proposing --------------------------------------------------------------------------------

    def _propose(self, total: int | None) -> Trial:
        setup, decided = self._setup, self._trials.decided
        running = [trial for trial, _ in self.pending.values()]
        step = len(decided) + len(running)
        if step == 0:
            return _new(setup.space.default, "the default configuration, the yardstick", step)
        tried = {self._trials.key(t): t for t in [*decided, *running]}
        repeats = setup.plan.repeats or self._tuner.repeats
        refused: list[Refusal] = []
        while len(refused) < self._tuner.asks:
            history = History(
                trials=tuple(self._trials.as_told(t) for t in decided),
                step=step,
                refused=tuple(refused),
                running=tuple(t.config for t in running),
                remaining=None if total is None else total - step,
                machine=self.machine.sentences,
            )
            suggestion = self.careful.within(self._ask(history), history)
            reason = "; ".join(setup.space.problems(suggestion.config))
            if reason:
                self._reject(suggestion, reason, step, len(refused))
            elif (before := tried.get(setup.space.key(suggestion.config))) is not None and not repeats:
                reason = f"measured already, as trial {before.number}"
            else:
                return _new(dict(suggestion.config), suggestion.why, step, len(refused))
            refused.append(Refusal(config=suggestion.config, reason=reason))
        near = self._trials.best or decided[0]
        history = History(step=step, refused=tuple(refused))
        if self.careful.on:
            config = self.careful.untried(tried, near.config, history)
        else:
            config = untried(setup.space, set(tried), near.config, setup.problem.rng(history))
        why = f"{setup.plan.tuner} proposed nothing new in {len(refused)} attempts; an untried neighbour instead"
        return _new(config, why, step, len(refused))

    def _one_change_less(self, best: Trial) -> list[Trial]:
        space, decided = self._setup.space, self._trials.decided
        tried = {self._trials.key(t) for t in decided}
        trials = []
        for name, value in space.changes(best.config).items():
            config = space.fill({n: v for n, v in best.config.items() if n != name})
            if config != space.default and space.key(config) not in tried and not space.problems(config):
                trials.append(_new(config, f"the best without {name} = {value}, to see what it gives", len(decided)))
        return trials

    def _ask(self, history: History) -> Suggestion:
        begun = time.perf_counter()
        with one_thread():
            suggestion = self._tuner.ask(history)
        self._tuner_s += time.perf_counter() - begun
        return suggestion

    def _reject(self, suggestion: Suggestion, reason: str, step: int, attempt: int) -> None:
        trial = self._trials.start(_new(dict(suggestion.config), suggestion.why, step, attempt))
        trial = replace(trial, status="rejected", reason=reason)
        self._trials.finish(trial)
        self._watcher.ended(self._session, trial)

    # -- measuring --------------------------------------------------------------------------------

    def _begin(self, trial: Trial) -> None:
        setup = self._setup
        step = len(self._trials.decided) + len(self.pending)
        trial, self._tuner_s = replace(trial, step=step, asked_s=round(self._tuner_s, 6)), 0.0
        trial = self._trials.start(trial)
        self._watcher.began(self._session, trial)
        arguments = {
            "config": trial.config,
            "default": setup.space.default,
            "metrics": setup.metrics,
            "objective": setup.objectives[0],
            "level": setup.level,
            "baseline": self._trials.baseline(),
            "seed": setup.seed + TRIAL_SEEDS * trial.step,
            "exact": setup.target.exact,
        }
        begun = time.monotonic()
        caution = self.careful.caution()
        job: Any = (setup.target, setup.plan.workload, self._measurer.budget(), caution, arguments)
        runs: tuple[isolation.Runs, ...] = (self._measurer.runs,)
        if not isinstance(self._executor, (Inline, ThreadPoolExecutor)):
            job, runs = cloudpickle.dumps(job), ()
        try:
            future = self._executor.submit(_evaluate, job, *runs)
        except TunewrightError:
            raise
        except Exception as error:  # a broken or closed pool, a scheduler that is gone
            if isinstance(self._executor, Inline):  # it ran the trial itself
                raise
            raise TargetError(
                f"the executor takes no more work ({error}); resume the session with a new one"
            ) from error
        self.pending[future] = (trial, begun)

    def _finish(self, trial: Trial, result: Evaluation, seconds: float) -> None:
        if result.status == "rejected":
            # it was tried: it counts, and the tuner learns of it, or it would be proposed for ever
            result = replace(result, status="failed", reason=f"refused by the system: {result.reason}")
        done = replace(
            trial,
            status=result.status,
            reason=result.reason,
            metrics=result.metrics,
            scores=result.scores,
            ratio=result.ratio,
            runs=result.runs,
            seconds=round(seconds, 6),
            violations={
                m.name: m.violation(result.metrics[m.name])
                for m in self._setup.metrics
                if m.constrained and result.metrics
            },
        )
        self._trials.finish(done)
        begun = time.perf_counter()
        with one_thread():
            self._tuner.tell(self._trials.as_told(done))
        self._tuner_s += time.perf_counter() - begun
        self._watcher.ended(self._session, self._trials.as_told(done))
        for text in self.machine.look():
            self._watcher.told(self._session, text)
        if done.step == 0 and not done.ok:
            raise TargetError(
                f"the default configuration cannot be measured, so there is nothing to compare with: "
                f"{done.status}: {done.reason}"
            )

    def _stop(self) -> None:
        """End what is being measured; those trials are measured again on resume."""
        self._measurer.runs.stop()
        for future in self.pending:
            future.cancel()
        for trial in [t for t in self._trials.all if t.status == "running"]:
            stopped = replace(trial, status="interrupted", reason="stopped by the user; it is measured again on resume")
            with suppress(Exception):  # the store may be what failed
                self._trials.finish(stopped)
            self._watcher.ended(self._session, stopped)


def _new(config: Config, why: str, step: int, attempt: int = 0) -> Trial:
    """Return a trial that the store has not numbered yet."""
    return Trial(number=-1, config=config, status="running", why=why, step=step, attempt=attempt)


def _outcome(future: Future[Evaluation]) -> Evaluation:
    """Return the evaluation; a worker that was lost with it makes the trial a failed one."""
    try:
        return future.result()
    except TunewrightError:
        raise
    except Exception as error:
        return Evaluation(status="failed", reason=f"its worker was lost: {type(error).__name__}: {error}")
