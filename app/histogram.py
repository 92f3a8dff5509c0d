"""A distribution with a name, and how Prometheus sees one. Knows not what is counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily, Metric

from ..scheduler.distribution import Distribution


class Histogram(Distribution):
    """A named distribution. alias: what vLLM calls it after `vllm:`; empty if it has no such number."""

    def __init__(self, name: str, help: str, bounds: Sequence[float], alias: str = "") -> None:
        super().__init__(tuple(bounds))
        self.name = name
        self.help = help
        self.alias = alias

    def state(self) -> tuple[list[int], float]:
        """(count per bucket, sum of all values)."""
        return self.counts.copy(), self.total

    def family(self, name: str, labels: dict[str, str]) -> Metric:
        """This histogram under `name`."""
        return histogram_family(name, self.help, tuple(labels), [(tuple(labels.values()), self)])


def histogram_family(
    name: str, help: str, labels: Sequence[str], members: Iterable[tuple[Sequence[str], Distribution]]
) -> Metric:
    """Distributions as one family. members: (values of `labels`, distribution)."""
    family = HistogramMetricFamily(name, help, labels=labels)
    for values, distribution in members:
        bounds = [*(f"{bound:g}" for bound in distribution.bounds), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(distribution.counts)), strict=True))
        family.add_metric(values, buckets, distribution.total)
    return family
