"""A server process with the demo model: bad input, vanishing clients, many at once; nothing left behind."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from bad_input import BAD_INPUTS, CHAT, COMPLETIONS
from http_harness import check_error
from patience import at_some_pace
from server_process import samples, serve_demo, wait_idle

GREEDY = {"temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with (
        serve_demo(tmp_path_factory.mktemp("server")) as url,
        httpx.Client(base_url=url, timeout=120, limits=httpx.Limits(max_connections=100)) as client,
    ):
        yield client


def complete(http: httpx.Client, prompt: Any, **fields: Any) -> dict[str, Any]:
    response = http.post(COMPLETIONS, json={"prompt": prompt, **GREEDY, **fields})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def streamed_text(http: httpx.Client, prompt: str, **fields: Any) -> str:
    body = {"prompt": prompt, **GREEDY, **fields, "stream": True}
    text = ""
    with http.stream("POST", COMPLETIONS, json=body) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                text += json.loads(line[6:])["choices"][0]["text"]
    assert line == "" or line == "data: [DONE]"
    return text


def test_every_bad_input_is_refused_and_nothing_is_left(http: httpx.Client) -> None:
    before = samples(http)
    for name, bad in BAD_INPUTS.items():
        response = http.post(bad.path, content=bad.body)
        assert (response.status_code, name) == (bad.status, name), response.text
        check_error(response, bad.status, bad.code, bad.param)
    after = wait_idle(http)
    refused = 'octavo_requests_total{cause="refused"}'
    generating = sum(bad.path in (CHAT, COMPLETIONS) for bad in BAD_INPUTS.values())
    assert after[refused] - before[refused] == generating
    assert after["octavo_engine_steps_total"] == before["octavo_engine_steps_total"]


def test_ten_megabytes_do_not_hold_up_others(http: httpx.Client) -> None:
    text = "long " * 2_000_000
    bodies: dict[str, list[tuple[dict[str, Any], int]]] = {
        CHAT: [({"messages": [{"role": "user", "content": text}]}, 400)],
        COMPLETIONS: [({"prompt": text}, 400), ({"prompt": [7] * 3_000_000}, 400)],
        "/tokenize": [({"prompt": text[:4_000_000]}, 200)],
        "/detokenize": [({"tokens": [-1] * 3_000_000}, 400)],
    }
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=http.base_url, timeout=60) as other:

        def check(pace: float, path: str, body: bytes, status: int) -> None:
            moments = [time.monotonic()]
            answer = pool.submit(http.post, path, content=body)
            while not answer.done():
                assert other.get("/livez").status_code == 200
                moments.append(time.monotonic())
            assert answer.result().status_code == status
            longest_s = max((after - before for before, after in pairwise(moments)), default=0.0)
            # Of a machine that is so slow that all takes long, each may take its part.
            assert longest_s < max(1.0, (moments[-1] - moments[0]) / 3), (path, longest_s)

        for path, cases in bodies.items():
            for fields, status in cases:
                body = json.dumps(fields).encode()
                at_some_pace(partial(check, path=path, body=body, status=status), paces=(1.0,) * 5)
    wait_idle(http)


def test_stream_and_whole_are_the_same_text(http: httpx.Client) -> None:
    for prompt in ("The capital of France is", "Ein Märchen: Es war einmal", "🙂🙂 are"):
        whole = complete(http, prompt, max_tokens=12)["choices"][0]
        assert whole["finish_reason"] == "length"
        assert streamed_text(http, prompt, max_tokens=12) == whole["text"]


def test_prompt_forms_agree(http: httpx.Client) -> None:
    prompt = "The capital of France is"
    ids = http.post("/tokenize", json={"prompt": prompt}).json()["tokens"]
    texts = [
        [choice["text"] for choice in complete(http, form, max_tokens=6)["choices"]]
        for form in (prompt, [prompt, prompt], ids, [ids, ids])
    ]
    assert {text for form in texts for text in form} == {texts[0][0]}
    assert [len(form) for form in texts] == [1, 2, 1, 2]
    assert "Paris" in texts[0][0]


def test_stop_strings_across_tokens(http: httpx.Client) -> None:
    prompt = "Count: one, two, three,"
    whole = complete(http, prompt, max_tokens=16)["choices"][0]["text"]
    for start in (3, 7, 11):
        stop = whole[start : start + 5]
        choice = complete(http, prompt, max_tokens=16, stop=[stop, "never there"])["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == (whole.split(stop)[0], "stop")
        assert choice["stop_reason"] == stop
        assert streamed_text(http, prompt, max_tokens=16, stop=stop) == choice["text"]
        kept = complete(http, prompt, max_tokens=16, stop=stop, include_stop_str_in_output=True)
        assert kept["choices"][0]["text"] == choice["text"] + stop
    wait_idle(http)


def test_seed_decides_whatever_else_runs(http: httpx.Client) -> None:
    def ask(seed: int) -> list[str]:
        answer = complete(http, "Once upon a time", max_tokens=8, n=2, seed=seed, temperature=1.5)
        return [choice["text"] for choice in answer["choices"]]

    alone = {seed: ask(seed) for seed in (1, 2)}
    assert alone[1][0] != alone[1][1]
    assert alone[1] != alone[2]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, [1, 2, 3, 4, 2, 1]))
    assert together[:2] == [alone[1], alone[2]]
    assert together[4:] == [alone[2], alone[1]]


def test_logprobs_agree_with_the_text(http: httpx.Client) -> None:
    choice = complete(http, "The capital of France is", max_tokens=5, logprobs=3)["choices"][0]
    logprobs = choice["logprobs"]
    assert "".join(logprobs["tokens"]) == choice["text"]
    assert logprobs["text_offset"] == [len("".join(logprobs["tokens"][:i])) for i in range(5)]
    for token, logprob, top in zip(
        logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
    ):
        assert len(top) == 3
        assert top[token] == logprob == max(top.values()) <= 0


def test_fifty_streams_at_once(http: httpx.Client) -> None:
    prompts = [
        f"Tell me in a few words about the number {number % 10} and its neighbours, please."
        for number in range(50)
    ]
    expected = {prompt: complete(http, prompt, max_tokens=6)["choices"][0]["text"] for prompt in prompts[:10]}
    with ThreadPoolExecutor(50) as pool:
        texts = list(pool.map(lambda prompt: streamed_text(http, prompt, max_tokens=6), prompts))
    assert texts == [expected[prompt] for prompt in prompts]
    now = wait_idle(http)
    assert now["octavo_prefix_cache_hit_tokens_total"] > 0


def test_clients_that_vanish_at_any_point_leave_nothing(http: httpx.Client) -> None:
    before = wait_idle(http)
    parts = urlsplit(str(http.base_url))
    rng = random.Random(7)
    for attempt in range(60):
        path = rng.choice((CHAT, COMPLETIONS))
        fields = {"max_tokens": 700, "stream": rng.random() < 0.7, "n": rng.choice((1, 1, 3)), **GREEDY}
        text = f"attempt {attempt} " * rng.choice((1, 40))
        body = json.dumps({"messages": [{"role": "user", "content": text}], **fields}).encode()
        if path == COMPLETIONS:
            body = json.dumps({"prompt": text, **fields}).encode()
        raw = f"POST {path} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        sent = raw if rng.random() < 0.8 else raw[: rng.randrange(len(raw))]
        with socket.create_connection((parts.hostname, parts.port)) as connection:
            connection.sendall(sent)
            if sent is raw:
                connection.settimeout(rng.choice((0.001, 0.01, 0.1, 0.5)))
                try:
                    while connection.recv(rng.choice((1, 500))) and rng.random() < 0.9:
                        pass
                except TimeoutError:
                    pass
    now = wait_idle(http)
    lost = 'octavo_requests_total{cause="disconnect"}'
    assert now[lost] > before[lost]
    for cause in ("stop", "length", "error"):
        name = f'octavo_requests_total{{cause="{cause}"}}'
        assert now[name] == before[name]
    assert "Paris" in complete(http, "The capital of France is", max_tokens=6)["choices"][0]["text"]
