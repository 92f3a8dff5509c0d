"""The studies of simulate.py as one picture. Knows names of figures, not how they came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Rows = Sequence[Mapping[str, Any]]


def draw(results: Mapping[str, Rows], path: Path) -> None:
    """Write a picture with a panel for each study that was run."""
    from matplotlib.figure import Figure

    panels = [(study, results[study]) for study in ("pool", "chunks", "replicas") if study in results]
    figure = Figure(figsize=(6 * len(panels), 4.5))
    axes = figure.subplots(1, len(panels), squeeze=False)
    for axis, (study, rows) in zip(axes[0], panels, strict=True):
        {"pool": _pool, "chunks": _chunks, "replicas": _replicas}[study](axis, rows)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _pool(axis: Any, rows: Rows) -> None:
    blocks = [row["pool_blocks"] * 16 / 1000 for row in rows]
    axis.semilogx(
        blocks, [100 * row["hit_rate"] for row in rows], "o-", color="tab:blue", label="prefix hits"
    )
    axis.set_xticks(blocks, [f"{thousands:,.0f}" for thousands in blocks])
    axis.minorticks_off()
    axis.set(xlabel="KV pool, thousand tokens", ylabel="prompt tokens found in the cache, %", ylim=(0, 100))
    axis.set_title("Pool size: prefix hits (blue), TTFT p99 (red)")
    other = axis.twinx()
    other.semilogy(blocks, [1000 * row["ttft_p99_s"] for row in rows], "s--", color="tab:red")
    other.yaxis.set_major_formatter("{x:,.0f}")
    other.set_ylabel("TTFT p99, ms", color="tab:red")


def _chunks(axis: Any, rows: Rows) -> None:
    names = [row["name"] for row in rows]
    waits = [1000 * row["itl_p999_s"] for row in rows]
    colours = ["tab:red" if name.endswith("step") else "tab:blue" for name in names]
    axis.barh(names, waits, color=colours)
    for index, row in enumerate(rows):
        axis.text(waits[index], index, f" TTFT p99 {row['ttft_p99_s']:.2f} s", va="center", fontsize=8)
    axis.invert_yaxis()
    axis.set(xlabel="ITL p99.9, ms", xscale="log", xlim=(10, 5 * max(waits)))
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.set_title("Chunks: fixed (red) or by a target (blue)")


def _replicas(axis: Any, rows: Rows) -> None:
    for aware, style, colour in ((True, "o-", "tab:blue"), (False, "s--", "tab:red")):
        chosen = [r for r in rows if r["num_replicas"] == 1 or r["name"].endswith("aware") == aware]
        axis.plot(
            [row["num_replicas"] for row in chosen],
            [100 * row["hit_rate"] for row in chosen],
            style,
            color=colour,
            label="cache-aware" if aware else "in turn",
        )
    axis.set_xticks(sorted({row["num_replicas"] for row in rows}))
    axis.set(xlabel="replicas", ylabel="prompt tokens found in the cache, %", ylim=(0, 100))
    axis.set_title("Routing")
    axis.legend()
