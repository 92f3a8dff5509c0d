"""The load generator: what it reads from recorded bytes, when it sends, what it makes of the times."""

from __future__ import annotations

import asyncio
import io
import json
import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from streamload.answer import read_answer
from streamload.arrivals import Arrivals
from streamload.ask import Ask, Target
from streamload.client import request_bytes
from streamload.connection import Connection, Recording
from streamload.fleet import Load, deal
from streamload.prompts import words
from streamload.sharegpt import first_turns, objects
from streamload.workload import Prefixes, Style, conversations, made_up, parse_lengths, with_disconnects

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def frames(texts: Sequence[str], line_end: str = "\n", usage: int | None = None) -> list[bytes]:
    """A completion stream's events."""
    chunks: list[dict[str, object]] = [
        {"id": "a", "choices": [{"index": 0, "text": text}], "usage": None} for text in texts
    ]
    chunks.append(
        {"id": "a", "choices": [{"index": 0, "text": "", "finish_reason": "length"}], "usage": None}
    )
    if usage is not None:
        chunks.append({"id": "a", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": usage}})
    data = [*(json.dumps(chunk) for chunk in chunks), "[DONE]"]
    return [f": hello{line_end * 2}".encode(), *(f"data: {d}{line_end * 2}".encode() for d in data)]


def chunked(pieces: Sequence[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def split_recording(data: bytes, *cuts: int) -> Recording:
    """`data` read in pieces, at 1 s, 2 s, ..."""
    edges = [0, *cuts, len(data)]
    reads = [data[a:b] for a, b in zip(edges, edges[1:], strict=False) if b > a]
    return Recording(reads, [1.0 + i for i in range(len(reads))], "complete")


class StandInTransport(asyncio.Transport):
    """Takes what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


async def record(reads: Sequence[bytes], cut_after: int | None = None, close: bool = False) -> Recording:
    """What a connection makes of these reads; fails if it goes on waiting after the last."""
    connection = Connection()
    connection.connection_made(StandInTransport())
    task = asyncio.create_task(connection.exchange(b"", cut_after, 60))
    await asyncio.sleep(0)
    for read in reads:
        assert not task.done()
        connection.data_received(read)
    if close:
        connection.connection_lost(None)
    return await asyncio.wait_for(task, 60)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("together", [False, True])
def test_answer_is_the_same_at_every_split(line_end: str, together: bool) -> None:
    events = frames(["one ", 'tw"o\n', "thr\u00e9e"], line_end, usage=3)
    data = HEAD + chunked([b"".join(events)] if together else events)
    ends = [data.index(event) + len(event) for event in events[1:4]]
    for cut in range(1, len(data)):
        answer = read_answer(split_recording(data, cut))
        assert (answer.outcome, answer.text) == ("ok", 'one tw"o\nthr\u00e9e')
        assert (answer.num_tokens, answer.num_prompt_tokens, answer.num_ids) == (3, 3, 1)
        assert answer.event_s.tolist() == [1.0 if end <= cut else 2.0 for end in ends]


def test_connection_sees_the_end_at_every_split() -> None:
    data = HEAD + chunked(frames(["a", "b"]))

    async def every_split() -> None:
        for cut in range(1, len(data)):
            assert (await record([data[:cut], data[cut:]])).end == "complete"
        assert (await record([data[i : i + 1] for i in range(len(data))])).end == "complete"

    asyncio.run(every_split())


def test_connection_ends() -> None:
    refusal = b"HTTP/1.1 503 X\r\ncontent-length: 36\r\n\r\n" + b'{"error":{"code":"server_overloaded"}}'
    refusal = refusal.replace(b"36", b"%d" % len(b'{"error":{"code":"server_overloaded"}}'))
    whole = HEAD + chunked(frames(["a"]))

    async def ends() -> list[str]:
        recordings = [
            await record([refusal[:20], refusal[20:60], refusal[60:]]),
            await record([whole[:-5]], close=True),
            await record([HEAD, whole[len(HEAD) : -5]], cut_after=2),
            await record([], close=True),
        ]
        return [read_answer(recording).outcome for recording in recordings]

    assert asyncio.run(ends()) == ["HTTP 503 server_overloaded", "closed", "cut", "closed"]


def test_answer_names_what_went_wrong() -> None:
    error = b'data: {"error":{"code":"engine_dead","message":"x"}}\n\n'
    streams = {
        "error event engine_dead": [*frames(["a"])[:2], error, b"data: [DONE]\n\n"],
        "no [DONE]": frames(["a"])[:-1],
        "a chunk that is no JSON": [b"data: {\n\n", *frames(["a"])],
    }
    for outcome, pieces in streams.items():
        assert read_answer(split_recording(HEAD + chunked(pieces))).outcome == outcome


def test_chat_text_counts_and_role_does_not() -> None:
    deltas: list[dict[str, str]] = [{"role": "assistant", "content": ""}, {"content": "hi"}, {}]
    pieces = [f"data: {json.dumps({'id': 'c', 'choices': [{'delta': d}]})}\n\n".encode() for d in deltas]
    answer = read_answer(split_recording(HEAD + chunked([*pieces, b"data: [DONE]\n\n"])))
    assert (answer.text, len(answer.event_s), answer.num_tokens) == ("hi", 1, None)


def test_request_holds_key_and_length() -> None:
    sent = request_bytes(Target("http://localhost:1/base", "/v1/x", "k"), Ask(b"{}", 0, 1))
    assert sent.startswith(b"POST /base/v1/x HTTP/1.1\r\nHost: localhost:1\r\nAuthorization: Bearer k\r\n")
    assert sent.endswith(b"Content-Length: 2\r\n\r\n{}")


@pytest.mark.parametrize("text", ["poisson:50", "gamma:50:0.2", "gamma:50:4"])
def test_arrivals_keep_rate_and_shape(text: str) -> None:
    arrivals = Arrivals.parse(text)
    gaps = np.diff(arrivals.times(20_001, random.Random(1)))
    assert gaps.min() >= 0
    assert np.mean(gaps) == pytest.approx(1 / 50, rel=0.05)
    assert np.std(gaps) / np.mean(gaps) == pytest.approx(arrivals.shape**-0.5, rel=0.05)


def test_arrivals_at_once_and_wrong() -> None:
    assert Arrivals.parse("once").times(3, random.Random(0)) == [0, 0, 0]
    for text in ("poisson", "poisson:0", "gamma:1", "gamma:1:0", "often"):
        with pytest.raises(ValueError):
            Arrivals.parse(text)


@pytest.mark.parametrize(
    ("asks", "clients", "max_open"), [(10, 3, None), (10, 3, 7), (2, 8, None), (9, 4, 2)]
)
def test_requests_are_dealt_once(asks: int, clients: int, max_open: int | None) -> None:
    load = Load(Target("http://localhost"), [Ask(b"%d" % i, i, 1) for i in range(asks)], clients, max_open)
    shares = deal(load)
    assert sorted(ask.body for share in shares for ask in share.asks) == sorted(a.body for a in load.asks)
    assert all(share.asks and share.max_open != 0 for share in shares)
    if max_open is not None:
        assert sum(share.max_open or 0 for share in shares) == max_open


def conversations_json(count: int) -> bytes:
    entries = [
        {
            "id": str(i),
            "conversations": [
                {"from": "human", "value": f'question {i} \u00e9\u6570 ]}} \\ " ' + "x" * 30},
                {"from": "gpt", "value": f"answer {i} " + "y" * 40},
            ],
        }
        for i in range(count)
    ]
    return json.dumps(entries, indent=2, ensure_ascii=False).encode()


@pytest.mark.parametrize("chunk_bytes", [1, 7, 1 << 20])
def test_cut_off_json_gives_what_is_whole(chunk_bytes: int) -> None:
    data = conversations_json(3)
    whole = json.loads(data)
    first_end = data.index(b"\n  },") + 4
    for cut in range(1, len(data), 1 if chunk_bytes > 1 else 29):
        found = list(objects(io.BytesIO(data[:cut]), chunk_bytes))
        assert found == whole[: len(found)]
        assert bool(found) == (cut >= first_end)
    assert list(objects(io.BytesIO(data), chunk_bytes)) == whole


def test_conversations_become_requests() -> None:
    asks = conversations(first_turns(io.BytesIO(conversations_json(5)[:-20])), 4, Style("m"))
    assert [json.loads(ask.body)["prompt"][:10] for ask in asks] == [f"question {i}" for i in range(4)]
    assert all(json.loads(ask.body)["max_tokens"] == ask.num_tokens == 12 for ask in asks)
    with pytest.raises(ValueError, match="asked for 6"):
        conversations(first_turns(io.BytesIO(conversations_json(5))), 6, Style("m"))
    with pytest.raises(ValueError, match="JSON array"):
        list(objects(io.BytesIO(b"{}")))


def test_lengths_and_prefixes() -> None:
    rng = random.Random(0)
    assert parse_lengths("7:9", 2, rng) == [(7, 9)] * 2
    assert all(10 <= a <= 20 and 1 <= b <= 3 for a, b in parse_lengths("10-20:1-3", 50, rng))
    assert parse_lengths("sharegpt", 2000, rng)[:1000] == parse_lengths("sharegpt", 1000, rng)
    with pytest.raises(ValueError, match="lengths must be"):
        parse_lengths("7", 1, rng)
    asks = made_up([(40, 5)] * 20, words(), Style("m", chat=True), rng, Prefixes(30, 2))
    prompts = [json.loads(ask.body)["messages"][0]["content"] for ask in asks]
    assert len({prompt[:100] for prompt in prompts}) == 2
    assert len(set(prompts)) == 20


def test_disconnects_hit_their_share() -> None:
    asks = with_disconnects([Ask(b"", 0, 50)] * 2000, 0.25, random.Random(0))
    cuts = [ask.cut_after for ask in asks if ask.cut_after is not None]
    assert len(cuts) == pytest.approx(500, abs=80)
    assert min(cuts) >= 1 and max(cuts) <= 50


def test_due_times_survive_dealing() -> None:
    asks = [replace(Ask(b"", 0, 1), due_s=float(i)) for i in range(6)]
    assert [ask.due_s for ask in deal(Load(Target(""), asks, 2))[1].asks] == [1, 3, 5]
