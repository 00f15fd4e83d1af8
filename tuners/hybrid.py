"""The tuner ``hybrid``: the Gaussian process of ``gp2``, started and steered by the playbook or by a language model.

What the playbook advises is tried first, if some of it seldom hurts: as it is, and its next two proposals (bolder, only
what seldom hurts, or what the workload's other traits ask for). From then on its proposals compete with the optimiser's
own by expected improvement, and the process expects more of the parameters it names. What repeats all that may have
made a trial fail is vetoed. A model, if there is one, sees the optimiser's best suggestions with what it expects of
them, and takes one, or replaces it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tunewright.agents.llm.playbook import Playbook
from tunewright.agents.llm.seat import OPTIONS, Seat, said
from tunewright.space import Config
from tunewright.space.parameters import Value
from tunewright.tuner import History, Problem, Suggestion, Trial
from tunewright.tuners.additive import AdditiveGPTuner
from tunewright.tuners.gaussian import fit

MOST = 60  # proposals of the playbook that compete in each trial
SHOWN = 5  # suggestions that a model is shown
OPENING = 3  # proposals of the playbook before the process is asked
APART = 0.15  # least distance between two of them, by the most different parameter


class HybridTuner(AdditiveGPTuner):
    """Gaussian process and playbook together, or a model in the playbook's seat; one objective, any number of bounds.

    Options: those of the playbook; with ``model`` or ``replay`` those of ``agents.llm.seat.Seat``.
    """

    known: ClassVar[tuple[str, ...]] = OPTIONS
    label: ClassVar[str] = "hybrid"
    explored = 1 + OPENING

    def __init__(self, problem: Problem, model: Any = None) -> None:
        super().__init__(problem)
        self.playbook = Playbook.of(problem)
        advice = self.playbook.advice()
        # where all of it is doubtful, the process does better by itself
        self.named = {a.name for a in advice} if any(a.sure for a in advice) else set()
        if not self.named:
            self.explored = AdditiveGPTuner.explored
        asked = model is not None or {"model", "replay"} & set(problem.options)
        self.seat = Seat(problem, model) if asked else None

    def ask(self, history: History) -> Suggestion:
        """Propose the configuration that promises most, or what the model makes of it."""
        suggestion = super().ask(history)
        known = [t for t in history.trials if t.decided]
        if self.seat is None or len([t for t in known if t.ok]) >= self.explored:
            return suggestion
        return self._asked(history, [(suggestion.config, suggestion.why)])  # the first trials come from no process

    def explore(self, known: Sequence[Trial], tried: set[str], rng: np.random.Generator) -> Suggestion:
        """Propose what the playbook advises; where it has no more, what lies far from all that is known."""
        if self.named and len(known) < self.explored:
            config, why = self.playbook.propose(known, tried)
            if self.problem.space.key(config) not in tried:
                return Suggestion(config=config, why=f"{self.label}, from the playbook: {why}")
        return super().explore(known, tried, rng)

    def candidates(
        self, good: Sequence[Trial], tried: set[str], rng: np.random.Generator
    ) -> tuple[list[Config], NDArray[np.float64]]:
        """Add the playbook's proposals to those of the optimiser."""
        pool, rows = super().candidates(good, tried, rng)
        more: dict[str, Config] = {}
        for config, _ in self.playbook.proposals(good):
            key = self.problem.space.key(config)
            if key not in tried:
                more[key] = config
            if len(more) >= MOST:
                break
        if not more:
            return pool, rows
        extra = list(more.values())
        return pool + extra, np.concatenate([rows, self.encoder.rows(extra)])

    def choose(
        self, pool: Sequence[Config], rows: NDArray[np.float64], score: NDArray[np.float64], why: str, history: History
    ) -> Suggestion:
        """Return the best candidate that nothing speaks against, or let the model choose among the best."""
        known = [t for t in history.trials if t.decided]
        order = np.argsort(-score, kind="stable")
        fine = [int(k) for k in order if not suspects(known, pool[int(k)], self.problem.space.default)] or [
            int(order[0])
        ]
        vetoed = "" if fine[0] == order[0] else "; what it promised more of repeats what failed"
        if self.seat is None:
            return Suggestion(config=pool[fine[0]], why=f"{self.label}: {why}{vetoed}")
        chosen: list[int] = []
        for k in fine:
            if all(self.encoder.distances(rows[[k]], rows[[j]]).max() > APART for j in chosen):
                chosen.append(k)
            if len(chosen) == SHOWN:
                break
        return self._asked(
            history, list(zip([pool[k] for k in chosen], self._expected(known, rows[chosen]), strict=True))
        )

    def _expected(self, known: Sequence[Trial], rows: NDArray[np.float64]) -> list[str]:
        """Say what the process expects of candidates, in the objective's unit."""
        good = [t for t in known if t.ok]
        values = np.array([t.scores[self.metric.name] for t in good])
        model = fit(
            self.encoder,
            self.encoder.rows([dict(t.config) for t in good]),
            values,
            np.random.default_rng(0),
            self.prior(),
        )
        unit = f" {self.metric.unit}" if self.metric.unit else ""
        return [
            f"expects {m:.4g}{unit}, give or take {s:.2g}"
            for m, s in zip(*model.predict(self.encoder, rows), strict=True)
        ]

    def _asked(self, history: History, suggestions: list[tuple[Config, str]]) -> Suggestion:
        assert self.seat is not None
        answer = self.seat.next_answer(history, suggestions)
        assert answer.config is not None  # with suggestions it cannot stop
        did = f"took suggestion {answer.took} of {len(suggestions)}" if answer.took else "replaced the suggestion"
        return Suggestion(config=answer.config, why=f"{self.label}: the model {did}: {said(answer)}")

    def notes(self) -> dict[str, Any]:
        """Return what the model said and cost."""
        return self.seat.notes() if self.seat is not None else {}

    def prior(self) -> NDArray[np.float64] | None:
        """Expect shorter lengths, so larger effects, of the parameters that playbook, rules or manual name."""
        weight = [1.0 if n in self.named else self.playbook.importance(n) for n in self.problem.space.params]
        return -self.encoder.own_std * np.array(weight) if any(weight) else None


def suspects(trials: Sequence[Trial], config: Config, default: Config) -> list[str]:
    """Return the parameters with which a configuration repeats all that may have made an earlier trial fail.

    A value is suspect if a failed trial had it, or one nearer to the default on the same side, and no measured trial
    went as far. Empty if no failed trial is repeated.
    """
    good = [t.config for t in trials if t.ok]
    for failed in (t.config for t in trials if t.decided and not t.ok):
        suspect = [
            n for n, v in failed.items()
            if n in default and v != default[n] and not any(_as_far(c.get(n), v, default[n]) for c in good)
        ]  # fmt: skip
        if suspect and all(_as_far(config.get(n), failed[n], default[n]) for n in suspect):
            return suspect
    return []


def _as_far(value: Value | None, other: Value, default: Value) -> bool:
    """Whether a value is at least as far from the default as another, on its side; for choices, the same."""
    if any(isinstance(v, str | bool) or v is None for v in (value, other, default)):
        return bool(value == other)
    assert value is not None
    a, b, d = float(value), float(other), float(default)
    return a >= b if b > d else a <= b
