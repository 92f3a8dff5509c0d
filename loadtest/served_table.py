"""octavo under the loads of the table 'Served': starts it with random weights, runs, prints the table.

    python loadtest/served_table.py --preset qwen --model tests/data/models/qwen2.5-1.5b --json served.json
    python loadtest/served_table.py --preset llama --model tests/data/models/llama-3.1-8b --loads rate long
    python loadtest/served_table.py --scale small --loads 256
    python loadtest/served_table.py --scale wide

Flags for the server follow `--`, as in `-- --frontends 8`. The columns beside ours are for one H100 80 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from load import by_group, first_model
from streamload.ask import Target
from streamload.file_limit import SPARE_FILES
from streamload.fleet import Load, Run, run
from streamload.measure import Figures, Objectives
from streamload.model_dir import write_model
from streamload.octavo_server import OctavoServer, octavo_server
from streamload.presets import PRESETS, Goal, Preset, PresetLoad
from streamload.products import allowed
from streamload.prompts import MakePrompt, counted_words, token_ids
from streamload.report import latency_table, page, remarks, run_sections, text_table, totals
from streamload.verify import FAULTS, verify
from streamload.workload import Style, made_up, with_texts_kept

_SETTLE_S = 5.0
"""After the start: a server with a GPU captures most of its graphs when it has nothing else to do."""
_HEADING = ["load", "figure", "octavo", "vLLM", "must", "aim", ""]
_SHARE_OF_OWN = Goal("share of what octavo's own products allow", lambda groups: None)
_NOT_AS_UNSTREAMED = Goal("tokens lost or moved (of texts compared)", lambda groups: None, must=0, aim=0)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=["qwen", "llama"], default="qwen")
    parser.add_argument(
        "--scale", choices=["full", "small", "wide"], default="full", help="small, wide: two CPU cores"
    )
    parser.add_argument("--model", type=Path, help="directory with a config.json; small and wide make theirs")
    parser.add_argument("--url", help="load this server instead of starting one; serves the same model")
    parser.add_argument("--loads", nargs="+", help="which to run, by the names in streamload/presets.py")
    parser.add_argument("--warm", action="store_true", help="keep the caches of compiled kernels")
    parser.add_argument("--token-ids", action="store_true", help="prompts as token ids instead of text")
    parser.add_argument("--chat", action="store_true", help="chat completions instead of completions")
    parser.add_argument("--verify", type=int, default=16, help="answers of each load to ask again unstreamed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--html", type=Path)
    parser.add_argument("--log", type=Path, default=Path(tempfile.gettempdir()) / "octavo-served.log")
    parser.add_argument("flags", nargs="*", metavar="-- FLAG", help="for `octavo serve`")
    return parser.parse_args()


class Table:
    """Rows as they are measured."""

    def __init__(self) -> None:
        self.rows: list[list[str]] = [_HEADING]
        self.results: list[dict[str, Any]] = []

    def add(self, title: str, goal: Goal, value: float | None) -> None:
        """A row, with a verdict if there is something to reach."""
        verdict = _verdict(goal, value)
        shown = [_shown(value), goal.vllm, _shown(goal.must), _shown(goal.aim), verdict]
        self.rows.append([title, goal.name, *shown])
        limits = {"vllm": goal.vllm, "must": goal.must, "aim": goal.aim}
        self.results.append(
            {"load": title, "figure": goal.name, "octavo": value, **limits, "verdict": verdict}
        )


def _verdict(goal: Goal, value: float | None) -> str:
    if goal.must is None:
        return ""
    if value is None:
        return "MISSING"
    sign = -1 if goal.less else 1
    if sign * value < sign * goal.must:
        return "BELOW"
    return "must" if goal.aim is None or sign * value < sign * goal.aim else "aim"


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


class Bench:
    """A server under the loads of a preset; keeps figures, and the page's sections."""

    def __init__(self, options: argparse.Namespace, url: str, make: MakePrompt) -> None:
        self._options = options
        path = "/v1/chat/completions" if options.chat else "/v1/completions"
        self._target = Target(url, path, os.environ.get("OPENAI_API_KEY"))
        self._style = Style(first_model(self._target), chat=options.chat)
        self._make = make
        self.results: dict[str, Any] = {}
        self.sections: list[tuple[str, str]] = []

    def warm_up(self) -> None:
        """A few short answers, so that nothing is done for the first time under the clock."""
        asks = made_up([(32, 16)] * 32, self._make, self._style, random.Random("warm-up"))
        run(Load(self._target, asks, max_open=16))
        if self._options.scale == "full":
            time.sleep(_SETTLE_S)

    def measure(self, name: str, wanted: PresetLoad, table: Table) -> int:
        """One load: its rows, then all that is known of it. Gives the number of streams sent at once."""
        rng = random.Random(f"{self._options.seed} {name}")
        asks = with_texts_kept(wanted.build(self._make, self._style, rng), self._options.verify, rng)
        load = Load(self._target, asks, wanted.clients, wanted.max_open)
        seen = run(load)
        groups = by_group(seen, Objectives())
        compared = self._verified(load, seen)
        for goal in wanted.goals:
            table.add(wanted.title, goal, goal.value(groups))
        moved = sum(count for kind, count in compared.items() if kind in FAULTS)
        table.add(wanted.title, _NOT_AS_UNSTREAMED, float(moved) if compared else None)
        busy = max(seen.cpu_s) / max(seen.wall_s, 1e-9)
        self._tell(wanted.title, groups, compared, busy)
        rows = [_HEADING, *(row for row in table.rows if row[0] == wanted.title)]
        print(text_table(rows), file=sys.stderr, flush=True)
        figures = {group: figure.as_json() for group, figure in groups.items()}
        self.results[name] = {"groups": figures, "verified": compared, "busiest_client": busy}
        if self._options.html:
            self.sections += [
                (f"{wanted.title}: {heading}", text)
                for heading, text in run_sections({wanted.title: seen.streams}, groups)
            ]
        return wanted.max_open or sum(ask.due_s == 0 for ask in asks)

    def _verified(self, load: Load, seen: Run) -> dict[str, int]:
        asked = {ask.body: ask for ask in load.asks}
        return verify(self._target, [(asked[body], text) for body, text in seen.streams.texts.items()])

    def _tell(self, title: str, groups: Mapping[str, Figures], compared: dict[str, int], busy: float) -> None:
        print(f"\n{title}: the busiest client used {busy:.0%} of a core", file=sys.stderr)
        print(text_table(latency_table(groups)), file=sys.stderr)
        for figure in groups.values():
            print("\n".join([*totals(figure), *remarks(figure)]), file=sys.stderr)
        shown = ", ".join(f"{count} {kind}" for kind, count in compared.items())
        print(f"asked again unstreamed: {shown or 'none'}", file=sys.stderr)


def main() -> None:
    options = parse_arguments()
    preset = PRESETS[options.preset if options.scale == "full" else options.scale]
    if options.scale == "full" and options.model is None:
        raise SystemExit("--model must name a directory with a config.json")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / (options.model.name if options.model else "tiny")
        folder.mkdir()
        config = write_model(folder, options.model, preset.vocab_size)
        make = (
            token_ids(config["vocab_size"]) if options.token_ids else counted_words(folder / "tokenizer.json")
        )
        flags = [*preset.flags, *options.flags]
        serving = (
            nullcontext(OctavoServer(options.url, float("nan"), -1, ()))
            if options.url
            else octavo_server(folder, flags, options.log, cold=not options.warm)
        )
        with serving as server:
            table = _run(options, preset, server, make, config)
    sys.exit(any(row["verdict"] in ("BELOW", "MISSING") for row in table.results))


def _run(
    options: argparse.Namespace,
    preset: Preset,
    server: OctavoServer,
    make: MakePrompt,
    config: Mapping[str, Any],
) -> Table:
    table, bench = Table(), Bench(options, server.url, make)
    if server.command:
        table.add("start", preset.ready, server.ready_s)
    bench.warm_up()
    for name in options.loads or preset.loads:
        before = None if preset.share is None else allowed(config, preset.rows)
        num_streams = bench.measure(name, preset.loads[name], table)
        if before is not None and preset.share is not None:
            best = before.best(allowed(config, preset.rows))
            print(f"products and argmax alone: {best.library:,.0f} tokens/s", file=sys.stderr)
            print(f"octavo's own, fused with the argmax: {best.own:,.0f} tokens/s", file=sys.stderr)
            (all_figures,) = bench.results[name]["groups"].values()
            title, events_s = preset.loads[name].title, all_figures["events_s"]
            table.add(title, preset.share, events_s / best.library)
            table.add(title, _SHARE_OF_OWN, events_s / best.own)
        if 0 <= server.max_files < num_streams + SPARE_FILES:
            refused = f"{num_streams} streams, but the server may open {server.max_files} files (ulimit -n)"
            print(refused, file=sys.stderr)
        _save(options, server, table, bench)  # after every load: a later one may not end
    print(text_table(table.rows))
    return table


def _save(options: argparse.Namespace, server: OctavoServer, table: Table, bench: Bench) -> None:
    if options.json:
        told = {"command": list(server.command), "cores": os.cpu_count(), "ready_s": server.ready_s}
        results = {"rows": table.results, "loads": bench.results, **told}
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    if options.html:
        about = f"{text_table(table.rows)}\n\n{' '.join(server.command) or options.url}"
        options.html.write_text(page("octavo, served", about, bench.sections))


if __name__ == "__main__":
    main()
