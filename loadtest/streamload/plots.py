"""Plots of one run or of two beside each other, as SVG text. Figures come from measure.py."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from .measure import OK, gaps_s, ttft_s
from .streams import Floats, Streams

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = ("#1f6fb4", "#d1495b", "#3a7d44", "#8f6bb3")
_SIZE_INCHES = (7.2, 3.1)
_MAX_POINTS = 2000
_NUM_BINS = 120

Runs = Mapping[str, Streams]


def all_plots(runs: Runs) -> dict[str, str]:
    """Heading -> SVG, in the order of reading."""
    plots: dict[str, Callable[[Axes, Runs], None]] = {
        "Time to first token": _ttft,
        "Inter-token latency": _itl,
        "Output over time": _timeline,
        "Inter-token latency over time": _itl_over_time,
    }
    return {heading: _svg(draw, runs) for heading, draw in plots.items()}


def _svg(draw: Callable[[Axes, Runs], None], runs: Runs) -> str:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams |= {"svg.hashsalt": "octavo", "svg.fonttype": "none", "font.family": "sans-serif"}
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=_SIZE_INCHES, layout="constrained")
    draw(axes, runs)
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("{x:g}" if axis is axes.yaxis else "")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    text = written.getvalue()
    return text[text.index("<svg") :]


def _well(streams: Streams) -> Streams:
    return streams.where((streams.outcome == OK) & (streams.num_events > 0))


def _groups(runs: Runs) -> dict[str, Streams]:
    """By label: each group of each run, named only as far as there are several."""
    parts = {}
    for run, streams in runs.items():
        names = np.unique(streams.group).tolist()
        for name in names:
            label = " ".join([run] * (len(runs) > 1) + [name] * (len(names) > 1)) or "all"
            parts[label] = streams.where(streams.group == name)
    return parts


def _cdf(axes: Axes, values: Floats, label: str, color: str) -> None:
    if len(values) < 2:
        for value in values:  # a curve through one point would be invisible
            axes.axvline(value * 1e3, label=label, color=color)
        return
    shares = np.linspace(0, 1, min(len(values), _MAX_POINTS))
    axes.plot(np.quantile(values, shares) * 1e3, shares, label=label, color=color)


def _ttft(axes: Axes, runs: Runs) -> None:
    for (label, streams), color in zip(_groups(runs).items(), _COLORS * 9, strict=False):
        _cdf(axes, ttft_s(_well(streams)), label, color)
    axes.set(xlabel="ms", ylabel="share of requests")


def _itl(axes: Axes, runs: Runs) -> None:
    for (label, streams), color in zip(_groups(runs).items(), _COLORS * 9, strict=False):
        _cdf(axes, np.maximum(gaps_s(_well(streams))[0], 1e-5), label, color)
    axes.set(xlabel="ms", ylabel="share of gaps", xscale="log")


def _bins(runs: Runs) -> Floats:
    ends = [streams.event_s.max() for streams in runs.values() if len(streams.event_s)]
    return np.linspace(0, max([1e-3, *ends]), _NUM_BINS + 1)


def _timeline(axes: Axes, runs: Runs) -> None:
    edges = _bins(runs)
    for (run, streams), color in zip(runs.items(), _COLORS * 9, strict=False):
        counts, _ = np.histogram(streams.event_s, edges)
        axes.plot(
            edges[:-1], counts / np.diff(edges), color=color, label=run if len(runs) > 1 else "events/s"
        )
    axes.set(xlabel="s", ylabel="events per second", ylim=(0, None))
    beside = axes.twinx()
    for (_, streams), color in zip(runs.items(), _COLORS * 9, strict=False):
        began = streams.begin_s[streams.num_events > 0]
        ended = streams.event_s[streams.starts[1:][streams.num_events > 0] - 1]
        opened = np.searchsorted(np.sort(began), edges) - np.searchsorted(np.sort(ended), edges)
        beside.plot(edges, opened, color=color, alpha=0.35, linestyle="--")
    beside.set(ylabel="open streams (dashed)", ylim=(0, None))


def _itl_over_time(axes: Axes, runs: Runs) -> None:
    edges = _bins(runs)
    for (run, streams), color in zip(runs.items(), _COLORS * 9, strict=False):
        gaps, at = gaps_s(_well(streams))
        place = np.digitize(at, edges) - 1
        for share, style in ((50, "-"), (99, "--"), (100, ":")):
            line = [
                np.percentile(gaps[place == i], share) * 1e3 if (place == i).any() else np.nan
                for i in range(_NUM_BINS)
            ]
            name = "worst" if share == 100 else f"p{share}"
            axes.plot(edges[:-1], line, style, color=color, label=f"{run} {name}" if len(runs) > 1 else name)
        _mark_injections(axes, streams)
    axes.set(xlabel="s", ylabel="ms", yscale="log")


def _mark_injections(axes: Axes, streams: Streams) -> None:
    injected = streams.where((streams.group == "long") & (streams.num_events > 0))
    for begin_s, first_s in zip(injected.begin_s, injected.begin_s + ttft_s(injected), strict=True):
        axes.axvspan(begin_s, first_s, color="#e0a030", alpha=0.25, label="long prompt")
