"""The load generator's figures: percentiles, faults, bursts, compared texts; its tokenizer; a null run."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from pad_tokenizer import pad_tokenizer
from served_table import Table
from streamload.answer import Answer
from streamload.ask import Ask
from streamload.measure import BURST_EVENTS, Objectives, Percentiles, burst_events, gaps_s, measure
from streamload.null import measure_null
from streamload.presets import PRESETS, Goal
from streamload.prompts import counted_words
from streamload.streams import Observed, Streams, collect, join
from streamload.verify import compare_texts


def observe(
    event_s: Sequence[float], begin_s: float = 0.0, asked: int | None = None, **changes: object
) -> Observed:
    answer = Answer("ok", np.array(event_s, float), len(event_s), 1, 1, max(1, len(event_s)), "")
    return Observed(Ask(b"", begin_s, asked), begin_s, 0.0, answer._replace(**changes))  # type: ignore[arg-type]


def streams_of(*observed: Observed) -> Streams:
    return collect(observed, 0, 0.0)


def test_percentiles_agree_with_the_standard_library() -> None:
    values = [random.Random(3).expovariate(1) for _ in range(1001)]
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    found = Percentiles.of(np.array(values))
    assert (found.p50, found.p90, found.p99) == pytest.approx(
        (cuts[49] * 1e3, cuts[89] * 1e3, cuts[98] * 1e3)
    )
    assert found.max == pytest.approx(max(values) * 1e3)
    assert Percentiles.of(np.empty(0)).p50 is None


def test_figures_of_known_streams() -> None:
    one = streams_of(observe([0.5, 0.7, 1.1], begin_s=0.1, asked=3), observe([2.0], begin_s=1.0, asked=1))
    other = streams_of(
        observe([3.0, 4.0], num_tokens=4, asked=4), observe([], outcome="HTTP 500", num_tokens=None)
    )
    figures = measure(join([one, other]), Objectives(ttft_ms=1500, tpot_ms=350))
    assert figures.outcomes == {"ok": 3, "HTTP 500": 1}
    assert (figures.output_tokens, figures.duration_s, figures.output_tok_s) == (8, 4.0, 2.0)
    assert figures.ttft_ms.p50 == pytest.approx(1000) and figures.ttft_ms.max == pytest.approx(3000)
    assert figures.tpot_ms.p50 == pytest.approx((300 + 1000 / 3) / 2)
    assert figures.itl_ms.max == pytest.approx(1000)
    assert figures.goodput_s == pytest.approx(2 / 4)
    assert (figures.delivery.merged_or_lost, figures.delivery.more_events_than_tokens) == (2, 0)


def test_figures_of_nothing() -> None:
    figures = measure(streams_of(observe([], outcome="connect: refused", num_tokens=None)))
    assert (figures.output_tok_s, figures.ttft_ms.p50, figures.itl_ms.p50) == (0, None, None)


def test_gaps_stay_within_streams() -> None:
    gaps, at = gaps_s(streams_of(observe([1, 2]), observe([]), observe([5, 9, 10])))
    assert (gaps.tolist(), at.tolist()) == ([1, 4, 1], [2, 9, 10])


def test_faults_of_delivery_are_counted() -> None:
    figures = measure(
        streams_of(
            observe([1, 2], asked=3),
            observe([1, 2, 3], num_tokens=2),
            observe([1], num_ids=2),
            observe([1], num_tokens=None),
        )
    )
    found = figures.delivery
    assert (found.wrong_length, found.more_events_than_tokens, found.mixed, found.without_usage) == (
        1,
        1,
        1,
        1,
    )


def test_bursts_are_found_within_a_stream() -> None:
    steady = [1 + 0.001 * i for i in range(40)]
    burst = [*(1 + 0.01 * i for i in range(20)), *(2 + 1e-5 * i for i in range(BURST_EVENTS)), 3.0]
    found = burst_events(streams_of(observe(steady), observe(burst), observe([2.0] * (BURST_EVENTS - 1))))
    assert np.flatnonzero(found).tolist() == list(range(60, 60 + BURST_EVENTS))


@pytest.mark.parametrize(
    ("streamed", "outcome"),
    [
        ("alpha beta gamma delta epsilon", "same"),
        ("alpha gamma delta epsilon", "lost"),
        ("alpha beta gamma delta", "lost"),
        ("alpha beta beta gamma delta epsilon", "doubled"),
        ("alpha gamma beta delta epsilon", "moved"),
        ("alpha beta gamma other words!!!", "diverged"),
        ("alpha beta gamma quite other words", "diverged"),
    ],
)
def test_difference_of_texts_is_named(streamed: str, outcome: str) -> None:
    assert compare_texts(streamed, "alpha beta gamma delta epsilon") == outcome


@pytest.mark.parametrize("size", [94, 500, 12_000])
def test_pad_tokenizer_shows_every_token(size: int) -> None:
    tokenizer = pad_tokenizer(size)
    texts = [tokenizer.decode([token]) for token in range(size)]
    assert len(set(texts)) == tokenizer.get_vocab_size() == size
    assert all(text.isascii() and text.isprintable() and " " not in text for text in texts)
    assert tokenizer.to_str() == pad_tokenizer(size).to_str()
    ids = tokenizer.encode("Na\u00efve \u6570\n\tx = 3;").ids
    assert tokenizer.decode(ids) == "Na?ve_?__x_=_3;"


def test_counted_words_have_the_wanted_tokens(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer = pad_tokenizer(2000)
    tokenizer.save(str(path))
    make = counted_words(path)
    for count in (1, 17, 400):
        prompt = make(count, random.Random(count))
        assert isinstance(prompt, str)
        assert abs(len(tokenizer.encode(prompt).ids) - count) <= 1


def test_null_server_gives_every_token_once() -> None:
    figures = measure_null(1, 1, 1000)
    assert figures.flat_out.whole and figures.paced.whole
    assert figures.flat_out.events == 64 * 2000
    assert figures.paced.events == 10 * 400


def test_page_shows_figures_and_plots() -> None:
    pytest.importorskip("matplotlib")
    from streamload.report import page, run_sections

    seen = streams_of(observe([0.5, 0.7, 1.1]), observe([2.0]))
    written = page("Load <test>", "a & b", list(run_sections({"A": seen}, {"all": measure(seen)})))
    assert written.count("<svg") == 4
    assert "Load &lt;test&gt;" in written and "2 requests: 2 ok" in written


@pytest.mark.parametrize(
    ("value", "less", "verdict"),
    [(9, True, "aim"), (15, True, "must"), (21, True, "BELOW"), (None, True, "MISSING"), (9, False, "BELOW")],
)
def test_table_judges_a_figure(value: float | None, less: bool, verdict: str) -> None:
    must, aim = (20, 10) if less else (10, 20)
    table = Table()
    table.add("load", Goal("figure", lambda groups: None, "30", must, aim, less), value)
    assert table.rows[-1][-1] == table.results[-1]["verdict"] == verdict


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_aims_are_beyond_musts(name: str) -> None:
    goals = [goal for load in PRESETS[name].loads.values() for goal in load.goals]
    judged = [(goal.must, goal.aim, goal.less) for goal in goals if goal.must is not None]
    assert judged
    assert all(aim is None or (aim <= must if less else aim >= must) for must, aim, less in judged)
