"""Runs as people read them: a table in the terminal, and a page of HTML with plots in it."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence

from .measure import CUT, OK, Figures, Percentiles
from .plots import all_plots
from .streams import Streams

Table = Sequence[Sequence[str]]
"""Rows of cells; the first row is the heading."""

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 60em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 } h1 { font-size: 1.4em } h2 { font-size: 1.1em }
td, th { padding: .15em .9em .15em 0; text-align: right; border-bottom: 1px solid #ddd; font-weight: 400 }
td:first-child, th:first-child { text-align: left } th { color: #777 } svg { max-width: 100%; height: auto }
pre { background: #f6f6f6; padding: .7em; white-space: pre-wrap } .bad { color: #b3261e }
"""


def latency_table(figures: Mapping[str, Figures]) -> Table:
    """Percentiles in milliseconds, a row for each kind of latency of each group."""
    rows: list[list[str]] = [["ms", "p50", "p90", "p99", "max", "mean"]]
    for name, figure in figures.items():
        label = f" {name}" if len(figures) > 1 else ""
        kinds = {"TTFT": figure.ttft_ms, "TPOT": figure.tpot_ms, "ITL": figure.itl_ms, "E2E": figure.e2e_ms}
        rows += [[kind + label, *_cells(values)] for kind, values in kinds.items()]
    return rows


def _cells(values: Percentiles) -> list[str]:
    shown = (values.p50, values.p90, values.p99, values.max, values.mean)
    return ["-" if value is None else f"{value:,.1f}" if value < 1000 else f"{value:,.0f}" for value in shown]


def totals(figures: Figures) -> list[str]:
    """Sentences on throughput, and on all that went wrong."""
    d = figures.delivery
    lines = [
        f"{figures.requests} requests: " + ", ".join(f"{n} {kind}" for kind, n in figures.outcomes.items()),
        f"{figures.output_tokens:,} tokens in {figures.duration_s:.2f} s: {figures.output_tok_s:,.0f} tok/s, "
        f"{figures.events_s:,.0f} events/s, {figures.requests_s:.2f} requests/s, "
        f"of them within objectives {figures.goodput_s:.2f}/s",
        f"in one burst: {d.burst_events:,} events ({d.burst_share:.1%}) of {d.burst_streams} streams; "
        f"{figures.events_per_read:.2f} events per read",
    ]
    return lines + [f"WRONG: {problem}" for problem in problems(figures)]


def problems(figures: Figures) -> list[str]:
    """What must not happen, or cannot be judged; empty if all is well."""
    d = figures.delivery
    failed = sum(count for kind, count in figures.outcomes.items() if kind not in (OK, CUT))
    found = {
        "requests failed": failed,
        "answers are not of the forced length": d.wrong_length,
        "answers brought more events than tokens": d.more_events_than_tokens,
        "streams hold chunks of another": d.mixed,
        "answers came without usage, so that nothing is known of lost tokens": d.without_usage,
    }
    return [f"{count} {what}" for what, count in found.items() if count]


def remarks(figures: Figures) -> list[str]:
    """What is no fault, but should be known."""
    lines = []
    if figures.delivery.merged_or_lost:
        lines.append(
            f"{figures.delivery.merged_or_lost:,} tokens came without an event of their own (merged)"
        )
    if (figures.late_ms.p99 or 0) > 5:
        lines.append(
            f"the client itself was late: p99 {figures.late_ms.p99:.1f} ms, max {figures.late_ms.max:.1f}"
        )
    return lines


def text_table(table: Table) -> str:
    """For a terminal."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]

    def line(row: Sequence[str]) -> str:
        first, *rest = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join([first, *rest])

    return "\n".join(map(line, table))


def page(title: str, about: str, sections: Sequence[tuple[str, str]]) -> str:
    """A whole page.   sections: headings and HTML."""
    body = "".join(f"<h2>{html.escape(heading)}</h2>\n{content}\n" for heading, content in sections)
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style>\n<h1>{html.escape(title)}</h1>\n<pre>{html.escape(about)}</pre>\n{body}</html>\n"
    )


def html_table(table: Table) -> str:
    head, *rows = table
    lines = ["".join(f"<th>{html.escape(cell)}</th>" for cell in head)]
    lines += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def run_sections(runs: Mapping[str, Streams], figures: Mapping[str, Figures]) -> Iterator[tuple[str, str]]:
    """The sections that show these runs.   figures: by group, or by run if there are two."""
    yield "Latencies", html_table(latency_table(figures))
    for name, figure in figures.items():
        wrong = problems(figure)
        lines = [*totals(figure)[:3], *remarks(figure)]
        text = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
        text += "".join(f'<p class="bad">{html.escape(line)}</p>' for line in wrong)
        yield ("Totals" if len(figures) == 1 else f"Totals: {name}"), text
    yield from all_plots(runs).items()
