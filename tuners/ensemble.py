"""The tuner ``ensemble``: Gaussian processes drawn from their posterior, and heard together.

Few trials cannot tell which parameters matter, nor whether they act each for itself or together, and the best single
fit is a guess. So lengths, amplitudes and noise are drawn by Markov chains, and the expected improvements under all
draws are averaged. Choices were made on the tables that benchmarks/tables_split.toml calls development and seen alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from tunewright.tuner import Suggestion, Trial
from tunewright.tuners.additive import FAR, AdditiveGPTuner
from tunewright.tuners.gaussian import NOISE, Array, half_ranks, log_expected_improvement, matern

#: standard deviations of the log-normal priors of the length that all parameters share, whose mean is half the log of
#: their number, of each parameter's own factor on it, and of both amplitudes, whose mean is 1
LENGTH_STD, OWN_STD, AMPLITUDE_STD = 0.8, 0.4, 1.0
DRAWS, CHAINS, STEPS, HEARD = 256, 32, 12, 8  # draws of the prior; chains, their steps, and how many are used
STRIDES = (0.1, 0.6)  # of the chains, as shares of the prior
JITTER = 1e-6


class EnsembleTuner(AdditiveGPTuner):
    """Gaussian processes drawn from their posterior, averaged; no options. One objective, any number of bounds."""

    label: ClassVar[str] = "ensemble"
    whole: ClassVar[int] = 5_000  # a draw costs less than a fit: more candidates are looked at

    def explore(self, known: Sequence[Trial], tried: set[str], rng: np.random.Generator) -> Suggestion:
        """Propose what lies at a middling distance from all that is known.

        The farthest configuration, with nearly every parameter at another end, was among the worst where effects add up
        or where parameters must fit each other, and taught little.
        """
        if any(not t.ok for t in known):
            return super().explore(known, tried, rng)
        chosen = rng.choice(len(self.pool), min(FAR, len(self.pool)), replace=False)
        seen = self.encoder.rows([dict(t.config) for t in known] or [self.problem.space.default])
        distance = self.encoder.distances(self.rows[chosen], seen).sum(axis=0).min(axis=1)
        for k in np.argsort(np.abs(distance - np.median(distance)), kind="stable"):
            if self.keys[chosen[k]] not in tried:
                why = f"{self.label}: some way from all that was tried"
                return Suggestion(config=self.pool[chosen[k]], why=why)
        return super().explore(known, tried, rng)

    def improvement(
        self, seen: Array, values: Array, rows: Array, feasible: np.ndarray, *, ranks: bool, rng: np.random.Generator
    ) -> tuple[Array, str]:
        """Return the log of the expected improvement, averaged over the processes; and what it was of."""
        from scipy.special import logsumexp

        if not feasible.any():
            return np.zeros(len(rows)), "the chance of meeting every bound"
        among = Points(self.encoder.distances(seen, seen))
        cross = Points(self.encoder.distances(rows, seen).astype(np.float32))
        goal = half_ranks(values)
        goal = (goal - goal.mean()) / (goal.std() or 1.0)
        theta = draw(among, goal, rng)
        best = float(goal[feasible].min())
        scores = [log_expected_improvement(mean, std, best) for mean, std in predict(theta, among, goal, cross)]
        share = np.mean(1 / (1 + np.exp(theta[:, -3] - theta[:, -2])))
        why = f"expected improvement under {len(scores)} processes, {share:.0%} additive"
        return np.asarray(logsumexp(np.array(scores), axis=0)), why


class Points:
    """What the kernel needs of the distances between two sets of points, shape (parameters, a, b)."""

    def __init__(self, distance: Array) -> None:
        self.shape = distance.shape[1:]
        self.squares = (distance * distance).reshape(len(distance), -1)
        self.effects = matern(distance).mean(axis=0)

    def covariance(self, theta: Array) -> Array:
        """Return the covariance without noise for each row of parameters, shape (processes, a, b).

        A row holds the logs of the lengths, of the joint and of the additive part's amplitude, and of the noise.
        """
        theta = theta.astype(self.squares.dtype)
        joint = matern(np.sqrt(np.exp(-2 * theta[:, :-3]) @ self.squares)).reshape(-1, *self.shape)
        amplitudes = np.exp(theta[:, -3:-1, None, None])
        return np.asarray(amplitudes[:, 0] * joint + amplitudes[:, 1] * self.effects)


def _solve(theta: Array, among: Points, goal: Array) -> tuple[Array, Array, Array]:
    """Return log likelihoods (processes,), lower Cholesky factors, and the goal solved by them (processes, n)."""
    count = len(goal)
    noise = np.exp(theta[:, -1]) + JITTER
    factor = np.linalg.cholesky(among.covariance(theta) + noise[:, None, None] * np.eye(count))
    solved = np.linalg.solve(factor, np.broadcast_to(goal[:, None], (len(theta), count, 1)))[:, :, 0]
    likelihood = -0.5 * (solved * solved).sum(axis=1) - np.log(np.einsum("pii->pi", factor)).sum(axis=1)
    return likelihood, factor, solved


def draw(among: Points, goal: Array, rng: np.random.Generator) -> Array:
    """Draw the kernel's parameters from their posterior.

    Draws of the prior, taken by their likelihood, are moved by the preconditioned Crank-Nicolson walk, which keeps the
    prior; Cotter et al., MCMC Methods for Functions (2013), section 4.2.

    Args:
        among: distances among the n trials.
        goal: their values, standardised, (n,).
        rng: what is random.

    Returns:
        ``HEARD`` rows as in ``covariance``.
    """
    count = len(among.squares)
    spread = np.diag([OWN_STD] * count + [AMPLITUDE_STD, AMPLITUDE_STD, NOISE[1]])
    spread = np.vstack([spread, [LENGTH_STD] * count + [0.0] * 3])
    centre = np.array([0.5 * np.log(count)] * count + [0.0, 0.0, NOISE[0]])
    place = rng.normal(size=(DRAWS, len(spread)))
    likelihood = _solve(centre + place @ spread, among, goal)[0]
    chance = np.exp(likelihood - likelihood.max())
    taken = rng.choice(DRAWS, CHAINS, p=chance / chance.sum())
    place, likelihood = place[taken], likelihood[taken]
    stride = np.linspace(*STRIDES, CHAINS)[:, None]
    for _ in range(STEPS):
        rng.shuffle(stride)
        moved = np.sqrt(1 - stride**2) * place + stride * rng.normal(size=place.shape)
        other = _solve(centre + moved @ spread, among, goal)[0]
        accepted = np.log(rng.random(CHAINS)) < other - likelihood
        place = np.where(accepted[:, None], moved, place)
        likelihood = np.where(accepted, other, likelihood)
    return np.asarray(centre + place[rng.choice(CHAINS, HEARD, replace=False)] @ spread)


def predict(theta: Array, among: Points, goal: Array, cross: Points) -> list[tuple[Array, Array]]:
    """Return mean and standard deviation (without noise) of each process at other points.

    Args:
        theta: rows as in ``covariance``, (processes, parameters + 3).
        among: distances among the n trials.
        goal: their values, standardised, (n,).
        cross: distances from the other points to the trials.
    """
    _, factor, solved = _solve(theta, among, goal)
    variances = np.exp(theta[:, -3]) + np.exp(theta[:, -2])
    found = []
    for k, covariance in enumerate(cross.covariance(theta)):
        whitened = (covariance @ np.linalg.inv(factor[k]).T.astype(covariance.dtype)).astype(np.float64)
        variance = variances[k] - (whitened * whitened).sum(axis=1)
        found.append((whitened @ solved[k], np.sqrt(np.maximum(variance, JITTER))))
    return found
