"""A Gaussian process for small budgets: additive plus joint kernel, ranks and raw values in turn.

The design was found in a study on measured tables: what made most of the difference to common Bayesian optimisation
there was to waste no random start-up trials, and a kernel that can learn each parameter's own effect. Needs SciPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.space import Config, Space
from tunewright.space.parameters import Choice

Array = NDArray[np.float64]

#: standard deviations of the log-normal priors of the length that all parameters share, whose mean is half the log of
#: their number, and of each parameter's own departure from it; one with two values has but one distance, from which few
#: trials cannot tell a length apart from chance
LENGTH_STD, OWN_STD, BINARY_STD = 1.0, 0.3, 0.02
#: means and standard deviations of the log-normal priors of both amplitudes, and of the noise's variance
AMPLITUDE = (np.log(0.7), 1.0)
NOISE = (-5.0, 1.5)
WIDE = 50.0  # a range that spans more than this is seen on a logarithmic scale
JITTER = 1e-8
_ROOT5 = np.sqrt(5.0)


class Encoder:
    """Configurations as rows of numbers in which distance means something.

    Binary and ordered choices are their place in [0, 1]; other choices, and special values beside a range, are one-hot
    over the root of two, so that two different ones are at distance 1; numbers are in [0, 1], logarithmic if the
    parameter says so or its range spans more than fifty times its low end.

    Args:
        space: the space.

    Attributes:
        own_std: standard deviation of the prior of each parameter's own factor on the length, (parameters,).
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self.groups: list[slice] = []
        two = [isinstance(p, Choice) and len(p.choices) <= 2 for p in space.params.values()]
        self.own_std = np.where(two, BINARY_STD, OWN_STD)
        begin = 0
        for param in space.params.values():
            width = self._width(param)
            self.groups.append(slice(begin, begin + width))
            begin += width
        self.width = begin

    @staticmethod
    def _width(param: Any) -> int:
        if isinstance(param, Choice):
            return 1 if param.ordered or len(param.choices) <= 2 else len(param.choices)
        return 1 + len(param.special) + 1 if param.special else 1

    def rows(self, configs: Sequence[Config]) -> Array:
        """Return the rows, float64, shape (configs, width)."""
        made = np.zeros((len(configs), self.width))
        for row, config in zip(made, configs, strict=True):
            scope = self.space.scope(config)
            for group, (name, param) in zip(self.groups, self.space.params.items(), strict=True):
                row[group] = self._one(param, config[name], scope) if name in config else 0.5
        return made

    def _one(self, param: Any, value: Any, scope: Any) -> Any:
        if isinstance(param, Choice):
            index = int(param.encode(value, scope) * len(param.choices))
            if self._width(param) == 1:
                return index / max(len(param.choices) - 1, 1)
            return np.eye(len(param.choices))[index] / np.sqrt(2)
        low, high = param.bounds(scope)
        if value in param.special or high <= low:
            place = 0.5
        elif param.log and low > 0:
            place = np.log(max(value, low) / low) / np.log(high / low)
        elif low >= 0 and high > WIDE * max(low, 1.0):
            place = (np.log1p(value) - np.log1p(low)) / (np.log1p(high) - np.log1p(low))
        else:
            place = (value - low) / (high - low)
        if not param.special:
            return place
        kinds = [None, *param.special]
        return np.concatenate(
            [[place], np.eye(len(kinds))[kinds.index(value if value in param.special else None)] / np.sqrt(2)]
        )

    def distances(self, a: Array, b: Array) -> Array:
        """Return the distance by parameter, shape (parameters, len(a), len(b))."""
        return np.stack([np.sqrt(((a[:, None, g] - b[None, :, g]) ** 2).sum(axis=2)) for g in self.groups])


def _matern(r: Array) -> Array:
    """Matern kernel with smoothness 5/2."""
    return np.asarray((1 + _ROOT5 * r + 5 / 3 * r * r) * np.exp(-_ROOT5 * r))


def _slope(r: Array) -> Array:
    """Minus the derivative of the Matern kernel by r, over r."""
    return np.asarray(5 / 3 * (1 + _ROOT5 * r) * np.exp(-_ROOT5 * r))


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A fitted process.

    Attributes:
        theta: logs of the shared length, of each parameter's factor on it, of both amplitudes, and of the noise.
        rows: what it was fitted on, (n, width).
        factor: lower Cholesky factor of the covariance, (n, n).
        weights: covariance^-1 (values - mean), (n,).
        mean, std: of the values.
    """

    theta: Array
    rows: Array
    factor: Array
    weights: Array
    mean: float
    std: float

    def predict(self, encoder: Encoder, rows: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation (without noise) in the unit of the values, both (len(rows),)."""
        from scipy.linalg import solve_triangular

        cross, _, _ = _kernel(self.theta, encoder.distances(rows, self.rows))
        mean = cross @ self.weights
        solved = solve_triangular(self.factor, cross.T, lower=True)
        variance = np.exp(self.theta[-3]) + np.exp(self.theta[-2]) - (solved * solved).sum(axis=0)
        return self.mean + self.std * mean, self.std * np.sqrt(np.maximum(variance, 1e-12))


def _kernel(theta: Array, distance: Array) -> tuple[Array, Array, Array]:
    """Return the covariance without noise, and the scaled distances by parameter and jointly."""
    scaled = distance * np.exp(-theta[0] - theta[1:-3])[:, None, None]
    joint = np.sqrt((scaled * scaled).sum(axis=0))
    covariance = np.exp(theta[-3]) * _matern(scaled).mean(axis=0) + np.exp(theta[-2]) * _matern(joint)
    return np.asarray(covariance), scaled, joint


def fit(
    encoder: Encoder, rows: Array, values: Array, rng: np.random.Generator | None, own: Array | None = None, *,
    own_std: Array | None = None, amplitudes: tuple[float, float] = (AMPLITUDE[0], AMPLITUDE[0]),
) -> Fit:  # fmt: skip
    """Fit by the maximum of the posterior, from the prior's mean and from one random start.

    Args:
        encoder: made the rows.
        rows: shape (n, width).
        values: shape (n,).
        rng: of the second start; None for the first alone.
        own: prior mean of each parameter's own log factor on the length, (parameters,): below 0 for what is believed
            to matter.
        own_std: standard deviation of that prior, (parameters,), instead of the encoder's.
        amplitudes: prior means of the logs of the additive and of the joint part's amplitude.

    Returns:
        The better of the two.
    """
    from scipy.linalg import cho_solve
    from scipy.optimize import minimize

    count = len(encoder.groups)
    std, mean = float(values.std()) or 1.0, float(values.mean())
    goal = (values - mean) / std
    centre = np.r_[0.5 * np.log(count), np.zeros(count) if own is None else own, *amplitudes, NOISE[0]]
    spread = np.r_[LENGTH_STD, encoder.own_std if own_std is None else own_std, AMPLITUDE[1], AMPLITUDE[1], NOISE[1]]
    distance = encoder.distances(rows, rows)
    starts = [centre] if rng is None else [centre, centre + 0.7 * spread * rng.normal(0, 1, len(centre))]
    found = [
        minimize(
            _loss,
            start,
            args=(distance, goal, centre, spread),
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip(centre - 5 * spread, centre + 5 * spread, strict=True)),
        )
        for start in starts
    ]
    best = min(found, key=lambda f: float(f.fun))
    covariance, _, _ = _kernel(best.x, distance)
    factor = np.linalg.cholesky(covariance + (np.exp(best.x[-1]) + JITTER) * np.eye(len(rows)))
    weights = cho_solve((factor, True), goal)
    return Fit(theta=best.x, rows=rows, factor=factor, weights=weights, mean=mean, std=std)


def _loss(theta: Array, distance: Array, goal: Array, centre: Array, spread: Array) -> tuple[float, Array]:
    """Negative log posterior and its gradient."""
    from scipy.linalg import cho_factor, cho_solve

    count, size = len(distance), len(goal)
    covariance, scaled, joint = _kernel(theta, distance)
    additive, product, noise = np.exp(theta[-3:])
    covariance[np.diag_indices(size)] += noise + JITTER
    factor = cho_factor(covariance, lower=True)
    weights = cho_solve(factor, goal)
    off = (theta - centre) / spread
    loss = 0.5 * goal @ weights + np.log(np.diag(factor[0])).sum() + 0.5 * off @ off
    outer = np.outer(weights, weights) - cho_solve(factor, np.eye(size))
    lengths = -0.5 * np.einsum(
        "ij,kij->k", outer, scaled * scaled * (additive / count * _slope(scaled) + product * _slope(joint))
    )
    amplitudes = [additive * _matern(scaled).mean(axis=0), product * _matern(joint), noise * np.eye(size)]
    gradient = np.r_[lengths.sum(), lengths, [-0.5 * (outer * a).sum() for a in amplitudes]]
    return float(loss), gradient + off / spread


def leave_one_out(model: Fit) -> float:
    """Log density that a process gives each value when it is fitted to the others alone, summed; lengths are kept.

    Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), equations 5.10 to 5.12.
    """
    from scipy.linalg import cho_solve

    variance = 1 / np.diag(cho_solve((model.factor, True), np.eye(len(model.rows))))
    error = model.weights * variance
    return float(-0.5 * (np.log(2 * np.pi * variance) + error * error / variance).sum())


def half_ranks(values: Array) -> Array:
    """Keep the better half; replace worse values by normal scores of their ranks, at the better half's spread.

    How bad a bad configuration is says little about where the good ones are. After Song et al., The Vizier Gaussian
    Process Bandit Algorithm (2024), section 4.1.
    """
    from scipy.special import ndtri
    from scipy.stats import rankdata

    middle = float(np.median(values))
    worse = values > middle
    spread = float(np.sqrt(np.mean((values[~worse] - middle) ** 2))) or 1.0
    ranks = (rankdata(values) - 0.5) / len(values)
    return np.asarray(np.where(worse, middle + spread * ndtri(ranks), values), dtype=np.float64)


def normal_scores(values: Array) -> Array:
    """Replace values by the normal quantiles of their ranks; equal values share the mean of their ranks."""
    from scipy.special import ndtri
    from scipy.stats import rankdata

    return np.asarray(ndtri((rankdata(values) - 0.5) / len(values)))


def log_expected_improvement(mean: Array, std: Array, best: float) -> Array:
    """Log of the expected improvement below ``best``, exact also where the improvement is far out of reach."""
    from scipy.special import erfcx, log_ndtr

    z = (best - mean) / std
    near = z > -1.0
    out = np.empty_like(z)
    density = -0.5 * z * z - 0.5 * np.log(2 * np.pi)
    out[near] = np.log(np.exp(density[near]) + z[near] * np.exp(log_ndtr(z[near])))
    far = z[~near]
    ratio = np.sqrt(np.pi / 2) * erfcx(-far / np.sqrt(2))
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = np.where(far > -1e3, np.log1p(far * ratio), -2 * np.log(-far))
    out[~near] = density[~near] + inside
    return np.asarray(out + np.log(std))
