"""`octavo run-batch`: every line gets its answer, whatever the others are; by the real program once."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from http_harness import CHAT, REPLY, ScriptedClient, make_app

from octavo.app.client_config import BatchConfig
from octavo.app.config import EngineConfig
from octavo.app.errors import StartupError
from octavo.app.run_batch import LineError, answer_lines, read_line, run


def line(custom_id: str, url: str = CHAT, **body: Any) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body})


def chat(custom_id: str, text: str, **body: Any) -> str:
    return line(custom_id, messages=[{"role": "user", "content": text}], **body)


def answered(text: str, at_once: int = 4) -> tuple[dict[str, Any], int]:
    """Answers by custom_id, and how many failed."""
    sink = io.StringIO()
    engine = ScriptedClient()
    num_failed = asyncio.run(answer_lines(make_app(engine), io.StringIO(text), sink, at_once))
    assert not engine.running
    answers = [json.loads(each) for each in sink.getvalue().splitlines()]
    assert len(answers) == sum(bool(each.strip()) for each in text.splitlines())
    assert len({answer["id"] for answer in answers}) == len(answers)
    return {answer["custom_id"]: answer for answer in answers}, num_failed


def test_each_route_answers() -> None:
    lines = [
        chat("a", "hi"),
        line("b", "/v1/completions", prompt="hi", max_tokens=3),
        line("c", "/v1/responses", input="hi"),
        line("d", "/v1/messages", messages=[{"role": "user", "content": "hi"}], max_tokens=99),
    ]
    answers, num_failed = answered("\n".join(lines))
    assert num_failed == 0 and all(answer["error"] is None for answer in answers.values())
    bodies = {name: answer["response"]["body"] for name, answer in answers.items()}
    assert bodies["a"]["choices"][0]["message"]["content"] == REPLY
    assert bodies["b"]["choices"][0]["finish_reason"] == "length"
    assert bodies["c"]["output"][0]["content"][0]["text"] == REPLY
    assert bodies["d"]["content"][0]["text"] == REPLY
    assert bodies["a"]["id"] == f"chatcmpl-{answers['a']['response']['request_id']}"


def test_errors_are_those_of_their_line() -> None:
    lines = [
        chat("fine", "hi"),
        chat("cold", "hi", temperature=-1),
        chat("broken", "broken"),
        chat("dead", "dead"),
        chat("streamed", "hi", stream=True),
        chat("other", "hi", model="gpt"),
        line("lost", "/v1/embeddings", input="hi"),
        json.dumps({"custom_id": "bare", "url": CHAT}),
        "{",
        "",
        chat("last", "slow", max_tokens=3),
    ]
    answers, num_failed = answered("\n".join(lines) + "\n")
    assert num_failed == 8
    told = {name: answer["response"] for name, answer in answers.items()}
    for name, status, code in (
        ("cold", 400, "invalid_value"),
        ("broken", 500, "generation_failed"),
        ("dead", 500, "engine_dead"),
        ("other", 404, "model_not_found"),
    ):
        assert (told[name]["status_code"], told[name]["body"]["error"]["code"]) == (status, code)
    refused: list[tuple[Any, str]] = [
        ("streamed", "invalid_request"),
        ("lost", "invalid_url"),
        ("bare", "invalid_request"),
        (None, "invalid_json"),
    ]
    for name, code in refused:
        assert told[name] is None and answers[name]["error"]["code"] == code
    assert told["fine"]["status_code"] == told["last"]["status_code"] == 200


def test_at_most_so_many_at_once() -> None:
    most = 0

    class Watched(ScriptedClient):
        def submit(self, request: Any) -> Any:
            nonlocal most
            stream = super().submit(request)
            most = max(most, len(self.running))
            return stream

    sink = io.StringIO()
    text = "\n".join(chat(str(i), "slow", max_tokens=2) for i in range(12))
    assert asyncio.run(answer_lines(make_app(Watched()), io.StringIO(text), sink, 3)) == 0
    assert most == 3 and len(sink.getvalue().splitlines()) == 12


@pytest.mark.parametrize("text", ["7", "[]", "null", '{"custom_id": 1}', '{"a": ' * 5000, '"\udc80"'])
def test_what_is_no_request(text: str) -> None:
    with pytest.raises(LineError):
        read_line(text)


def test_program(tmp_path: Path) -> None:
    source, sink = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    questions = [chat(str(i), f"What is {i} plus one?", max_tokens=3, model="demo") for i in range(6)]
    source.write_text("\n".join([*questions, "oops"]))
    flags = ["--max-model-len", "256", "--kv-cache-memory-bytes", "64MiB", "-i", source, "-o", sink]
    done = subprocess.run(
        [sys.executable, "-m", "octavo", "run-batch", "demo", *map(str, flags)],
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(each) for each in sink.read_text().splitlines()]
    assert {answer["custom_id"] for answer in answers} == {*map(str, range(6)), None}
    for answer in answers:
        if answer["custom_id"] is not None:
            assert answer["response"]["body"]["usage"]["completion_tokens"] in (1, 2, 3)
    assert "1 of the requests failed" in done.stderr


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    for flags in (["-i", str(tmp_path / "none")], ["-i", sys.executable, "-o", str(tmp_path / "no" / "x")]):
        command = [sys.executable, "-m", "octavo", "run-batch", *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 2 and "must name a file that can be opened" in done.stderr


def test_a_file_is_not_emptied_by_answering_itself(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(chat("a", "hi"))
    batch = BatchConfig(input_file=str(path), output_file=str(tmp_path / "." / "in.jsonl"))
    with pytest.raises(StartupError, match="--output-file must be another file than --input-file"):
        run(EngineConfig(), batch)
    assert path.read_text()


def test_a_full_disk_is_one_sentence() -> None:
    app = make_app(ScriptedClient())
    sink = Path("/dev/full").open("w")  # noqa: SIM115
    with pytest.raises(StartupError, match="--output-file cannot be written: .*No space left"):
        asyncio.run(answer_lines(app, io.StringIO(chat("a", "hi")), sink, 1))
    with contextlib.suppress(OSError):  # what could not be written is tried again
        sink.close()
