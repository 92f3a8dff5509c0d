"""A linear model that follows measurements one by one. Knows not what it measures; pure Python, no arrays.

Recursive least squares with exponential forgetting (Ljung, System Identification, 2nd edition, section 11.2),
with errors relative to the measured value, and two guards:

    an outlier          counts as no more than a few times the usual error: a pause does not move the model
    what is not seen    is trusted as little as at the start, but no less: the covariance stays bounded
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import mul

_USUAL_ERROR = 0.1
"""Relative error to expect before any was seen, and the least that is ever taken for usual."""
_OUTLIER = 3.0
"""Usual errors beyond which an error is cut."""


class LeastSquares:
    """y = sum of weights[i] * x[i], with weights that are hardly ever negative.

    weights: what is believed at the start.   deviations: how wrong each may be.
    memory: measurements after which one counts 1/e.
    """

    __slots__ = ("_bounds", "_covariance", "_error", "_forgetting", "weights")

    def __init__(self, weights: Sequence[float], deviations: Sequence[float], memory: float) -> None:
        self.weights = list(weights)
        self._bounds = [deviation * deviation for deviation in deviations]
        self._covariance = [
            [bound if i == j else 0.0 for j in range(len(weights))] for i, bound in enumerate(self._bounds)
        ]
        self._forgetting = 1 / (1 - 1 / memory)
        self._error = _USUAL_ERROR

    def predict(self, x: Sequence[float]) -> float:
        """The expected y."""
        return float(sum(map(mul, self.weights, x)))

    def update(self, x: Sequence[float], y: float) -> None:
        """Learn from one measurement; y > 0."""
        covariance = self._covariance
        scaled = [value / y for value in x]
        error = 1.0 - self.predict(scaled)
        limit = _OUTLIER * self._error
        self._error += 0.05 * (max(_USUAL_ERROR, min(abs(error), 2 * limit)) - self._error)
        error = max(-limit, min(limit, error))
        gain = [sum(map(mul, row, scaled)) for row in covariance]
        total = _USUAL_ERROR * _USUAL_ERROR + sum(map(mul, gain, scaled))
        self.weights = [weight + g * error / total for weight, g in zip(self.weights, gain, strict=True)]
        forgetting = self._forgetting
        for i, g in enumerate(gain):
            share = g / total
            covariance[i] = [
                (c - share * other) * forgetting for c, other in zip(covariance[i], gain, strict=True)
            ]
        for i, bound in enumerate(self._bounds):
            if covariance[i][i] > bound:
                self._hold(i, bound)
            if self.weights[i] < 0:
                self._lift(i)

    def _hold(self, i: int, bound: float) -> None:
        """Scale a variance that has outgrown its start back; what is left is a covariance still."""
        scale = (bound / self._covariance[i][i]) ** 0.5
        self._covariance[i] = [c * scale for c in self._covariance[i]]
        for row in self._covariance:
            row[i] *= scale

    def _lift(self, i: int) -> None:
        """Put a negative weight to zero, and the others where they are likeliest then."""
        excess = self.weights[i] / self._covariance[i][i]
        self.weights = [
            weight - c * excess for weight, c in zip(self.weights, self._covariance[i], strict=True)
        ]
