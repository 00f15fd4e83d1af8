"""The loop: ask, check, write down, measure, tell; then verify the winner and say what was shown."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import cloudpickle
import numpy as np

from tunewright.errors import ConfigError, TargetError, TunerError, TunewrightError, unknown
from tunewright.measuring import isolation, protocol
from tunewright.measuring.executors import adopted, first_done
from tunewright.measuring.interrupts import orderly, uninterrupted
from tunewright.measuring.protocol import Baseline, Evaluation
from tunewright.plugins import make_tuner, open_target, reopen
from tunewright.sessions import workfolder
from tunewright.sessions.changes import Owner, changing, left_behind, restoring
from tunewright.sessions.guards import guarded
from tunewright.sessions.locks import holding
from tunewright.sessions.verdict import SEEDS, Verdict, conclude
from tunewright.sessions.watcher import Watcher
from tunewright.space import Config, Space
from tunewright.space.facts import machine_facts, versions
from tunewright.store.paths import home
from tunewright.store.plan import Plan
from tunewright.store.secrets import public_plan, public_spec, reopened, restored
from tunewright.store.store import Store
from tunewright.target import BaseTarget, Budget, Metric, with_requirements
from tunewright.tuner import MAX_ASKS, History, Problem, Refusal, Suggestion, Trial, Tuner, best_trial, untried

_DEFAULT_TRIES = 3  # how often the default may be cut off by a dying session before we give up
_LIMIT_FLOOR_S, _LIMIT_FACTOR = 20.0, 5.0  # a candidate may take this many times the default's run time


class _Inline(Executor):
    """Runs a job where it is submitted; Ctrl-C comes through."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def _evaluate(job: Any, runs: isolation.Runs | None = None) -> Evaluation:
    """Evaluate one trial; runs on any executor's worker, in another process from pickled bytes and without ``runs``."""
    target, workload, budget, arguments = cloudpickle.loads(job) if isinstance(job, bytes) else job

    def run(config: Config, seed: int) -> Any:
        return isolation.measure_once(target, config, workload=workload, seed=seed, budget=budget, runs=runs)

    return protocol.evaluate(run, **arguments)


class Session:
    """One tuning session in a store.

    Use :meth:`create` or :meth:`resume`, then :meth:`run`.

    Example:
        >>> import tempfile
        >>> from tunewright.testing import Sphere
        >>> folder = tempfile.mkdtemp()
        >>> with Session.create(Plan(target="sphere", tuner="random"), "a", Store(f"sqlite:///{folder}/s.db"),
        ...                     target=Sphere()) as session:
        ...     verdict = session.run(trials=5)
        >>> len(session.decided)
        5
    """

    def __init__(
        self,
        plan: Plan,
        name: str,
        store: Store,
        target: BaseTarget,
        *,
        executor: Executor | None = None,
        workers: int = 1,
        watcher: Watcher | None = None,
        make: Callable[[Problem], Tuner] | None = None,
        trust_file: bool = False,
    ) -> None:
        self.plan, self.name, self.store, self.target = plan, name, store, target
        self.workers, self.watcher = max(workers, 1), watcher or Watcher()
        if self.workers > 1 and not target.parallel_safe:
            raise ConfigError(
                f"target {target.name!r} cannot be measured in parallel: runs would disturb each other; "
                "leave out --workers"
            )
        self.executor: Executor = adopted(executor) or _Inline()
        self.metrics: list[Metric] = with_requirements(target.metrics, plan.require)
        self.objectives: list[Metric] = [self._metric(o) for o in plan.objectives] or [self.metrics[0]]
        if plan.workload and plan.workload not in target.workloads:
            raise unknown(f"workload of {target.name}", plan.workload, target.workloads)
        self.workload = plan.workload or next(iter(target.workloads))
        self.level = protocol.trust(plan.trust)
        self.space: Space = guarded(target, allow=plan.allow, never=plan.never)
        self.problem = Problem(
            space=self.space,
            metrics=self.metrics,
            objectives=[o.name for o in self.objectives],
            seed=plan.seed,
            options=plan.tuner_options,
            facts={**machine_facts(), **target.facts},
            workload=self.workload,
            about=target.workloads[self.workload],
            workloads=tuple(target.workloads),
            target=target.name,
            log=home() / "logs" / f"{workfolder.file_name(name)}.jsonl",
            trust_file=trust_file,
        )
        self.tuner_spec, self.tuner = (plan.tuner, make(self.problem)) if make else make_tuner(plan.tuner, self.problem)
        self.all: list[Trial] = []
        self._keys: dict[int, str] = {}  # of trials by number: one step must not cost the whole history again
        self.prepared: dict[str, Any] = {}
        self.runs = isolation.Runs()
        self.started = time.monotonic()

    def _metric(self, name: str) -> Metric:
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise unknown(f"metric of {self.target.name}", name, [m.name for m in self.metrics])

    # -- opening ----------------------------------------------------------------------------------

    @classmethod
    def create(cls, plan: Plan, name: str, store: Store, *, target: BaseTarget | None = None, **how: Any) -> Session:
        """Start a new session.

        Args:
            plan: what to do.
            name: unique in the store.
            store: where it is kept.
            target: an open target; None to open ``plan.target``.
            **how: ``executor``, ``workers``, ``watcher``, ``make``, which makes the tuner where it is no spec, and
                ``trust_file``, which lets the tuner open a file that can run code; it is not stored.
        """
        if target is None:
            try:
                target = open_target(plan.target, plan.options)
            except TargetError as error:
                raise TargetError(f"{error}{left_behind(plan.target)}") from None
        session = cls(plan, name, store, target, **how)
        session.plan = replace(
            plan, tuner=session.tuner_spec, workload=session.workload, objectives=tuple(session.problem.objectives)
        )
        extra = getattr(target, "packages", ())
        with holding(target.changes(), f"session {name!r}"):
            pass  # refused before the name is taken, where somebody else changes the same thing
        store.create(
            name,
            session.problem.directions,
            {
                "plan": public_plan(asdict(session.plan), target),
                "facts": session.problem.facts,
                "versions": versions(*extra),
                "objectives": session.problem.objectives,
                "metrics": [asdict(m) for m in session.metrics],
                "default": session.space.default,
                "status": "new",
                "about": session.problem.about,
                "cwd": os.getcwd(),
            },
        )
        return session

    @classmethod
    def resume(
        cls,
        name: str,
        store: Store,
        *,
        target: BaseTarget | None = None,
        spec: str | None = None,
        options: Mapping[str, str] | None = None,
        tuner_options: Mapping[str, str] | None = None,
        **how: Any,
    ) -> Session:
        """Open a stored session and replay its trials into the tuner.

        Args:
            name: its name.
            store: where it is kept.
            target: an open target; None to open the stored spec.
            spec: target spec to use instead of the stored one, such as a DSN whose password was not stored.
            options: target options to use instead of stored ones, such as secrets, which were not stored.
            tuner_options: tuner options likewise.
            **how: ``executor``, ``workers``, ``watcher``, ``trust_file``.
        """
        record = store.session(name)
        stored: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record["plan"].items()}
        stored["never"] = restored(name, stored["never"])
        stored["tuner_options"] = reopened(name, stored["tuner_options"], tuner_options or {}, "--tuner-option")
        if target is None:
            target = reopen(name, record, spec, options)
        session = cls(Plan(**stored), name, store, target, **how)
        session.prepared = dict(record.get("prepared") or {})
        return session

    @classmethod
    def probe(
        cls,
        plan: Plan,
        target: BaseTarget,
        *,
        make: Callable[[Problem], Tuner] | None = None,
        trust_file: bool = False,
    ) -> None:
        """Build everything that a session of this plan needs, and store nothing.

        Raises:
            TunewrightError: such a session cannot work, with the reason.
        """
        cls(plan, "probe", cast(Store, None), target, make=make, trust_file=trust_file)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.store.close()

    # -- state ------------------------------------------------------------------------------------

    @property
    def decided(self) -> list[Trial]:
        """Trials that count: measured, or tried and failed."""
        return [t for t in self.all if t.decided]

    @property
    def best(self) -> Trial | None:
        """The best feasible trial by the first objective."""
        return best_trial(self.decided, self.objectives[0])

    @property
    def default_trial(self) -> Trial | None:
        """The trial of the default configuration."""
        return next((t for t in self.all if t.step == 0 and t.ok), None)

    def _workplace(self) -> tuple[Path, str]:
        base = Path(self.plan.workdir).absolute() if self.plan.workdir else home() / "work"
        digest = hashlib.sha256(f"{self.store.public_url}\n{self.name}".encode(errors="surrogatepass")).hexdigest()[:8]
        return base, f"{workfolder.file_name(self.name)}-{digest}"

    def _workdir(self) -> Path:
        """The session's own folder, below the user's directory where one was given."""
        return workfolder.private(*self._workplace(), session=self.name)

    def _owner(self) -> Owner:
        plan = public_plan(asdict(self.plan), self.target)
        return Owner(
            what=f"session {self.name!r}",
            store=self.store.public_url,
            name=self.name,
            target=plan["target"],
            options=plan["options"],
        )

    def budget(self) -> Budget:
        """Limits of one run; from the default's run time where the user gave none."""
        limit = self.plan.limit_s or self.target.limit_seconds
        default = self.default_trial
        if limit is None and default is not None:
            slowest = max((float(r["seconds"]) for r in default.runs), default=0.0)
            limit = max(_LIMIT_FLOOR_S, _LIMIT_FACTOR * slowest)
        memory = int(self.plan.memory_mb * 2**20) if self.plan.memory_mb else self.target.memory_bytes
        return Budget(workdir=self._workdir(), seconds=limit or 600.0, memory_bytes=memory, prepared=self.prepared)

    def noise(self) -> float:
        """Standard deviation of the log of the objective between runs of the default, robustly."""
        name, runs = self.objectives[0].name, []
        for trial in self.decided:
            of = "candidate" if trial.step == 0 else "default"
            runs += [
                math.log(r["values"][name])
                for r in trial.runs
                if r["of"] == of and r.get("values", {}).get(name, 0) > 0
            ]
        if len(runs) < 2:
            return 0.0
        return float(1.4826 * np.median(np.abs(np.array(runs) - np.median(runs)))) or float(np.std(runs))

    def _baseline(self) -> Baseline | None:
        default, best = self.default_trial, self.best
        if default is None:
            return None
        gain = math.log(best.ratio) if best and best.ratio and best.ratio > 0 else 0.0
        return Baseline(values=default.metrics, noise=self.noise(), best=gain)

    # -- running ----------------------------------------------------------------------------------

    def run(
        self,
        *,
        trials: int | None = None,
        total: int | None = None,
        minutes: float | None = None,
        patience: int | None = None,
        explain: bool = False,
        verify: bool = True,
    ) -> Verdict | None:
        """Run more trials, then verify the winner.

        Args:
            trials: how many more configurations to decide; None for no limit (then give ``minutes``).
            total: how many to decide in all, those of earlier runs included; instead of ``trials``.
            minutes: start no trial after this time.
            patience: stop after this many trials without a gain beyond noise.
            explain: then take back each change of the best configuration, one at a time, to see what it gives; these
                trials come on top.
            verify: measure the winner afresh against the default.

        Returns:
            The verdict, or None without verification.

        Raises:
            TargetError: the default configuration cannot be measured.
            KeyboardInterrupt: after everything was put back; the session can be resumed.
        """
        if trials is None and total is None and minutes is None:
            raise ConfigError("say how long to tune: a number of trials or of minutes")
        with self.store.lock(self.name), orderly():
            self.started = time.monotonic()
            self._recover()
            status = "interrupted"
            try:
                workdir = self._workdir()
                self.store.update(self.name, status="running")
                with changing(self.target, self._owner(), self._say) as (hold, journal):
                    self._restore_old_snapshot()
                    with restoring(self.target, self._owner(), hold, journal, workdir, self._say):
                        self.runs = isolation.Runs(hold.fds, journal.folder)
                        self._prepare()
                        self._loop(len(self.decided) + trials if trials is not None else total, minutes, patience)
                        if explain and self.best is not None:
                            left = list(self._without(self.best))
                            self.watcher.explaining(self, len(left))
                            self._loop(len(self.decided) + len(left), None, None, left)
                        verdict = conclude(self) if verify else None
                status = "done"
                return verdict
            finally:
                with uninterrupted():
                    workfolder.release(*self._workplace())
                    self._keep_notes()
                    seconds = self._spent + time.monotonic() - self.started
                    self.store.update(self.name, status=status, ended=self.ended, seconds=seconds)

    def _say(self, text: str) -> None:
        self.watcher.told(self, text)

    def _keep_notes(self) -> None:
        """Store what the tuner notes beside its suggestions, such as what a model cost; lists go on over resumes."""
        notes: dict[str, Any] = getattr(self.tuner, "notes", dict)()
        if notes:
            held = self.store.session(self.name).get("notes") or {}
            joined = {k: [*held.get(k, []), *v] if isinstance(v, list) else v for k, v in notes.items()}
            self.store.update(self.name, notes={**held, **joined})
            if spent := cost(notes.get("spent") or {}):
                self.store.annotate(self.name, "cost", spent)

    @property
    def seconds(self) -> float:
        """Wall time spent on this session so far, earlier runs included."""
        return self._spent + time.monotonic() - self.started

    _spent: float = 0.0

    def _recover(self) -> None:
        """Read the stored trials; one left running took its session down, and is told as failed."""
        record = self.store.session(self.name)
        self._spent = float(record.get("seconds") or 0.0)
        self.all = self.store.trials(self.name)
        for i, trial in enumerate(self.all):
            if trial.status == "running":
                reason = "the session ended while this was being measured"
                # an orderly stop is not the configuration's fault; and the default has to work, so that it
                # was cut off is not held against it at once
                orderly = record.get("status") != "running"
                status: Any = "interrupted" if orderly or trial.step == 0 else "failed"
                self.all[i] = replace(trial, status=status, reason=reason)
                self.store.finish(self.name, self.all[i], self.problem.objectives)
        cut = sum(t.step == 0 and t.status == "interrupted" and t.reason.startswith("the session") for t in self.all)
        if cut >= _DEFAULT_TRIES and self.default_trial is None:
            raise TargetError(
                f"the session died {cut} times while the default configuration was measured; "
                f"run 'tunewright check {public_spec(self.plan.target)}' to see why"
            )
        if not self.tuner_fed:
            for trial in self.decided:
                self.tuner.tell(trial)
            self.tuner_fed = True

    tuner_fed: bool = False
    _tuner_s: float = 0.0  # the tuner's own time since the last trial began
    ended: str = ""  # why the tuner proposes nothing more

    def _restore_old_snapshot(self) -> None:
        """Put back what a session of a version that kept its snapshots in the store was killed with."""
        snapshot = self.store.session(self.name).get("snapshot")
        if snapshot is not None:
            self.target.restore(snapshot)
            # all is as it was: what the next snapshot is written over must not be restored from again
            self.store.update(self.name, snapshot=None)

    def _prepare(self) -> None:
        self.watcher.preparing(self)
        budget = replace(self.budget(), seconds=max(self.budget().seconds, 600.0))
        self.prepared = isolation.call_isolated(
            self.target, "prepare", workload=self.workload, seed=self.plan.seed, budget=budget, runs=self.runs
        )
        self.store.update(self.name, prepared=self.prepared)

    def _loop(
        self, total: int | None, minutes: float | None, patience: int | None, given: list[Trial] | None = None
    ) -> None:
        """Decide trials until ``total`` are: those that the tuner proposes, or those given."""
        deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
        pending: dict[Future[Evaluation], tuple[Trial, float]] = {}
        exhausted = False
        try:
            while True:
                while (
                    not exhausted
                    and len(pending) < (self.workers if self.default_trial else 1)
                    and (total is None or len(self.decided) + len(pending) < total)
                    and (time.monotonic() < deadline or not self.decided)
                    and not self._stalled(patience)
                ):
                    try:
                        running = [t for t, _ in pending.values()]
                        trial = self._propose(running, total) if given is None else given.pop(0)
                        trial = replace(trial, step=len(self.decided) + len(running))
                    except TunerError as error:
                        if not self.decided:
                            raise
                        exhausted, self.ended = True, str(error)
                        self.watcher.exhausted(self, self.ended)
                        break
                    trial, self._tuner_s = replace(trial, asked_s=round(self._tuner_s, 6)), 0.0
                    self._submit(trial, pending)
                if not pending:
                    return
                for future in first_done(pending, self.executor):
                    trial, begun = pending.pop(future)
                    self._finish(trial, _outcome(future), time.monotonic() - begun)
        except BaseException:  # Ctrl-C above all
            self.runs.stop()
            for future in pending:
                future.cancel()
            for trial in [t for t in self.all if t.status == "running"]:
                self._interrupt(trial)
            raise

    def _without(self, best: Trial) -> Iterator[Trial]:
        """Yield the best configuration without each of its changes, where that was not tried."""
        default, tried = self.space.default, {self._key(t) for t in self.decided}
        for name, value in self.space.changes(best.config).items():
            config = self.space.fill({n: v for n, v in best.config.items() if n != name})
            if config == default or self.space.key(config) in tried or self.space.problems(config):
                continue
            why = f"the best without {name} = {value}, to see what it gives"
            yield Trial(number=-1, config=config, status="running", why=why, step=len(self.decided))

    def _submit(self, trial: Trial, pending: dict[Future[Evaluation], tuple[Trial, float]]) -> None:
        trial = self.store.start(self.name, trial, self.space)
        self.all.append(trial)
        self.watcher.began(self, trial)
        arguments = {
            "config": trial.config,
            "default": self.space.default,
            "metrics": self.metrics,
            "objective": self.objectives[0],
            "level": self.level,
            "baseline": self._baseline(),
            "seed": self.plan.seed * SEEDS + 1000 * trial.step,
            "exact": self.target.exact,
        }
        begun = time.monotonic()
        job: Any = (self.target, self.workload, self.budget(), arguments)
        runs: tuple[isolation.Runs, ...] = (self.runs,)
        if not isinstance(self.executor, (_Inline, ThreadPoolExecutor)):
            job, runs = cloudpickle.dumps(job), ()
        try:
            future = self.executor.submit(_evaluate, job, *runs)
        except TunewrightError:
            raise
        except Exception as error:  # a broken or closed pool, a scheduler that is gone
            if isinstance(self.executor, _Inline):  # it ran the trial itself
                raise
            raise TargetError(
                f"the executor takes no more work ({error}); resume the session with a new one"
            ) from error
        pending[future] = (trial, begun)

    def _interrupt(self, trial: Trial) -> None:
        stopped = replace(trial, status="interrupted", reason="stopped by the user; it is measured again on resume")
        self.replace(stopped)
        with suppress(Exception):  # the store may be what failed
            self.store.finish(self.name, stopped, self.problem.objectives)
        self.watcher.ended(self, stopped)

    def replace(self, trial: Trial) -> None:
        """Put a trial in the place of the one with its number."""
        self.all = [trial if t.number == trial.number else t for t in self.all]

    def _finish(self, trial: Trial, result: Evaluation, seconds: float) -> None:
        if result.status == "rejected":
            # it was tried: it counts, and the tuner learns of it, or it would be proposed for ever
            result = replace(result, status="failed", reason=f"refused by the system: {result.reason}")
        violations = {
            m.name: m.violation(result.metrics[m.name]) for m in self.metrics if m.constrained and result.metrics
        }
        done = replace(
            trial,
            status=result.status,
            reason=result.reason,
            metrics=result.metrics,
            scores=result.scores,
            ratio=result.ratio,
            runs=result.runs,
            seconds=round(seconds, 6),
            violations=violations,
        )
        self.replace(done)
        self.store.finish(self.name, done, self.problem.objectives)
        begun = time.perf_counter()
        self.tuner.tell(done)
        self._tuner_s += time.perf_counter() - begun
        self.watcher.ended(self, done)
        if done.step == 0 and not done.ok:
            raise TargetError(
                f"the default configuration cannot be measured, so there is nothing to compare with: "
                f"{done.status}: {done.reason}"
            )

    def _propose(self, running: Sequence[Trial], total: int | None) -> Trial:
        decided = self.decided
        step = len(decided) + len(running)
        if step == 0:
            return Trial(
                number=-1,
                config=self.space.default,
                status="running",
                why="the default configuration, the yardstick",
                step=0,
            )
        tried = {self._key(t): t for t in [*decided, *running]}
        repeats = self.plan.repeats or getattr(self.tuner, "repeats", False)
        refused: list[Refusal] = []
        suggestion: Suggestion | None = None
        while len(refused) < getattr(self.tuner, "asks", MAX_ASKS):
            remaining = None if total is None else total - step
            history = History(
                trials=tuple(decided),
                step=step,
                refused=tuple(refused),
                running=tuple(t.config for t in running),
                remaining=remaining,
            )
            begun = time.perf_counter()
            suggestion = self.tuner.ask(history)
            self._tuner_s += time.perf_counter() - begun
            problems = self.space.problems(suggestion.config)
            if problems:
                self._reject(suggestion, "; ".join(problems), step, len(refused))
                refused.append(Refusal(config=suggestion.config, reason="; ".join(problems)))
                continue
            before = tried.get(self.space.key(suggestion.config))
            if before is not None and not repeats:
                refused.append(Refusal(config=suggestion.config, reason=f"measured already, as trial {before.number}"))
                continue
            return Trial(
                number=-1,
                config=dict(suggestion.config),
                status="running",
                why=suggestion.why,
                step=step,
                attempt=len(refused),
            )
        near = self.best or decided[0]
        rng = self.problem.rng(History(step=step, refused=tuple(refused)))
        config = untried(self.space, set(tried), near.config, rng)
        why = f"{self.tuner_spec} proposed nothing new in {len(refused)} attempts; an untried neighbour instead"
        return Trial(number=-1, config=config, status="running", why=why, step=step, attempt=len(refused))

    def _key(self, trial: Trial) -> str:
        if trial.number not in self._keys:
            self._keys[trial.number] = self.space.key(trial.config)
        return self._keys[trial.number]

    def _reject(self, suggestion: Suggestion, reason: str, step: int, attempt: int) -> None:
        trial = Trial(
            number=-1,
            config=dict(suggestion.config),
            status="running",
            why=suggestion.why,
            step=step,
            attempt=attempt,
        )
        trial = replace(self.store.start(self.name, trial, self.space), status="rejected", reason=reason)
        self.store.finish(self.name, trial, self.problem.objectives)
        self.all.append(trial)
        self.watcher.ended(self, trial)

    def _stalled(self, patience: int | None) -> bool:
        decided = self.decided
        if patience is None or len(decided) <= patience or len(self.objectives) > 1:
            return False
        metric, margin = self.objectives[0], max(0.01, self.noise())
        now, before = best_trial(decided, metric), best_trial(decided[:-patience], metric)
        if now is None or before is None:
            return now is None and before is None
        a, b = now.scores[metric.name], before.scores[metric.name]
        return not metric.better(a, b) or abs(a - b) <= margin * abs(b)


def _outcome(future: Future[Evaluation]) -> Evaluation:
    """Return the evaluation; a worker that was lost with it makes the trial a failed one."""
    try:
        return future.result()
    except TunewrightError:
        raise
    except Exception as error:
        return Evaluation(status="failed", reason=f"its worker was lost: {type(error).__name__}: {error}")


def cost(spent: Mapping[str, float]) -> str:
    """Return what a model cost in words; "" if it was not asked.

    >>> cost({"calls": 4, "tokens_in": 5000, "tokens_out": 521, "money": 0.012})
    '4 calls, 5,521 tokens, 0.0120 $'
    """
    if not spent.get("calls"):
        return ""
    tokens = int(spent.get("tokens_in", 0) + spent.get("tokens_out", 0))
    return f"{spent['calls']:.0f} calls, {tokens:,} tokens, {spent.get('money', 0):.4f} $"
