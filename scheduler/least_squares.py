"""A linear model that follows measurements one by one. Knows not what it measures; pure Python, no arrays.

Least squares over errors relative to the measured value, older measurements weighing exponentially less,
pulled gently towards where the weights have been on average. The normal equations are kept and solved when
somebody asks: the recursive form, which keeps the inverse, is cheaper by little and runs away numerically
where some direction is not excited for long (thousands of decode steps without a prompt).
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import mul

_USUAL_ERROR = 0.1
"""Relative error to expect before any was seen, and the least that is ever taken for usual."""
_OUTLIER = 3.0
"""Usual errors beyond which a measurement is taken for one that is just as far off: a pause is no trend."""
_STALE = 7
"""Measurements that may wait for the next solution."""
_ANCHOR = 1 / 100
"""How fast the point that weights are pulled to follows them, for each solution."""


class LeastSquares:
    """y = sum of weights[i] * x[i], no weight negative. An update takes 3 us, a solution 10.

    weights: what is believed at the start.   deviations: how wrong each may be.
    memory: measurements after which one counts 1/e.
    """

    __slots__ = ("_anchor", "_error", "_keep", "_left", "_pull", "_right", "_seen", "_solved", "_weights")

    def __init__(self, weights: Sequence[float], deviations: Sequence[float], memory: float) -> None:
        self._anchor = list(weights)
        self._weights = list(weights)
        self._seen = self._solved = 0  # measurements, and how many of them `_weights` know of
        self._pull = [_USUAL_ERROR**2 / deviation**2 for deviation in deviations]
        self._keep = 1 - 1 / memory
        self._error = _USUAL_ERROR
        self._left = [[0.0] * (i + 1) for i in range(len(weights))]  # lower half of sum of x x' / y^2
        self._right = [0.0] * len(weights)  # sum of x y / y^2

    @property
    def weights(self) -> Sequence[float]:
        """What fits the measurements best, but for the last few: the more there are, the less one changes."""
        if self._seen - self._solved > min(self._seen >> 5, _STALE):
            self._weights = self._solve()
            self._anchor = [a + _ANCHOR * (w - a) for a, w in zip(self._anchor, self._weights, strict=True)]
            self._solved = self._seen
        return self._weights

    def predict(self, x: Sequence[float]) -> float:
        """The expected y."""
        return float(sum(map(mul, self.weights, x)))

    def update(self, x: Sequence[float], y: float) -> None:
        """Learn from one measurement; y > 0. What is usual is judged by the weights last asked for."""
        expected = sum(map(mul, self._weights, x))
        if expected > 0:
            factor = 1 + _OUTLIER * self._error
            error = min(max(y / expected, expected / y) - 1, 2 * factor)
            self._error += 0.05 * (max(_USUAL_ERROR, error) - self._error)
            y = min(max(y, expected / factor), expected * factor)
        keep, right = self._keep, self._right
        scaled = [value / y for value in x]
        for i, (row, value) in enumerate(zip(self._left, scaled, strict=True)):
            right[i] = right[i] * keep + value
            for j in range(i + 1):
                row[j] = row[j] * keep + value * scaled[j]
        self._seen += 1

    def _solve(self) -> list[float]:
        """The least squares with no weight negative: the most negative is put to 0 until there is none."""
        free = list(range(len(self._right)))
        while True:
            found = self._solve_for(free)
            least = min(found, default=0.0)
            if least >= 0:
                weights = [0.0] * len(self._right)
                for i, weight in zip(free, found, strict=True):
                    weights[i] = weight
                return weights
            del free[found.index(least)]

    def _solve_for(self, free: Sequence[int]) -> list[float]:
        """Cholesky's decomposition of the rows and columns in `free`; the others' weights are 0."""
        lower: list[list[float]] = []
        half: list[float] = []
        for i in free:
            row: list[float] = []
            for above, j in zip(lower, free, strict=False):
                row.append((self._left[i][j] - sum(map(mul, row, above))) / above[-1])
            pull = self._pull[i]
            row.append((self._left[i][i] + pull - sum(map(mul, row, row))) ** 0.5)
            lower.append(row)
            value = self._right[i] + pull * self._anchor[i]
            half.append((value - sum(map(mul, row, half))) / row[-1])
        found = [0.0] * len(half)
        for k in range(len(half) - 1, -1, -1):
            rest = sum(lower[m][k] * found[m] for m in range(k + 1, len(half)))
            found[k] = (half[k] - rest) / lower[k][k]
        return found
