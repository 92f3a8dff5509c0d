"""What each piece of a token's way through a front end costs: microseconds of processor time, torch-free.

    python loadtest/event_cost.py [--streams 256] [--rounds 30]

The pieces are octavo's own, run alone and in the order of a step, the best of all rounds; what is written
goes over real connections of a real server to a thread that reads. loadtest/frontends.py measures the whole.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from toy import write_tokenizer

from octavo.app.choice_record import ChoiceRecord
from octavo.app.chunks import CHAT_CHUNK, ChunkEncoder
from octavo.app.client import OutputStream
from octavo.app.detokenizer import Detokenizer
from octavo.app.direct_writer import DirectWriter, direct_writer
from octavo.app.frames import StepEncoder, decode_step
from octavo.app.metrics import ServerMetrics
from octavo.app.model_source import read_texts
from octavo.app.text_assembly import TextAssembler, TextDelta
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.request import Request, TokenOutput

_HEADER_BYTES = 5


class Bench:
    """A step of `num_streams` plain tokens, again and again."""

    def __init__(self, num_streams: int, rounds: int) -> None:
        self.outputs = [TokenOutput("", (300 + i % 1000,)) for i in range(num_streams)]
        self._rounds = rounds
        self.results: dict[str, float] = {}

    def time(self, name: str, step: Callable[[], Any]) -> None:
        """Microseconds for each stream, of the best round."""
        best = float("inf")
        for _ in range(self._rounds):
            began = time.thread_time()
            step()
            best = min(best, time.thread_time() - began)
        self.results[name] = best / len(self.outputs) * 1e6

    async def time_in_loop(self, name: str, step: Callable[[], Any]) -> None:
        """The same, with the turns of the loop that it takes until everything has happened."""
        best = float("inf")
        for _ in range(self._rounds):
            began = time.thread_time()
            step()
            for _ in range(3):
                await asyncio.sleep(0)
            best = min(best, time.thread_time() - began)
            await asyncio.sleep(0.005)  # the reader's turn
        self.results[name] = best / len(self.outputs) * 1e6


def text_pieces(bench: Bench, folder: Path) -> list[bytes]:
    """Times what happens between frame and socket; the chunks of a step."""
    tokenizer, _ = read_texts(folder)
    request = Request(
        request_id="r", prompt_token_ids=[300] * 16, params=SamplingParams(max_tokens=9), max_tokens=9
    )
    encoder = StepEncoder()

    def encode() -> bytes:
        for number, output in enumerate(bench.outputs):
            encoder.add(number, output)
        return encoder.take()

    payload = memoryview(encode())[_HEADER_BYTES:]
    bench.time("engine: STEP frame encoded", encode)
    bench.time("STEP frame decoded", lambda: list(decode_step(payload)))
    detokenizers = [Detokenizer(tokenizer, request.prompt_token_ids) for _ in bench.outputs]
    pairs = list(zip(detokenizers, bench.outputs, strict=True))
    bench.time("of which detokenizer", lambda: [d.push(output.token_ids) for d, output in pairs])
    assemblers = [TextAssembler(request, tokenizer) for _ in bench.outputs]
    singles = [(a, [output]) for a, output in zip(assemblers, bench.outputs, strict=True)]
    bench.time("tokens to a text delta", lambda: [a.absorb(outputs) for a, outputs in singles])
    records = [ServerMetrics("toy", "0").begin(16, time.monotonic()) for _ in bench.outputs]
    delta = TextDelta(" 0300", (300,))
    bench.time("counted", lambda: count(records, delta))
    chunks = ChunkEncoder(CHAT_CHUNK, {"id": "chatcmpl-0", "created": 1, "model": "toy"}, with_usage=True)
    bench.time("chunk encoded", lambda: [chunks.text(0, delta.text) for _ in records])
    return [chunks.text(0, delta.text) for _ in records]


def count(records: list[ChoiceRecord], delta: TextDelta) -> None:
    """What /metrics wants to know of a delta."""
    for record in records:
        record.receive(delta)


async def socket_pieces(bench: Bench, bodies: list[bytes]) -> None:
    """Times waking and writing, over as many connections as there are streams."""
    sends: list[Any] = []
    enough, over = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        sends.append(send)
        if len(sends) == len(bodies):
            enough.set()
        await over.wait()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    config = uvicorn.Config(app, loop="none", http="httptools", log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    reader = threading.Thread(target=read, args=(listener.getsockname(), len(bodies)), daemon=True)
    reader.start()
    await enough.wait()
    writers = [writer for send in sends if (writer := direct_writer(send)) is not None]
    assert len(writers) == len(bodies), "this uvicorn cannot be written to directly"

    async def send_all() -> None:
        for send, body in zip(sends, bodies, strict=True):
            await send({"type": "http.response.body", "body": body, "more_body": True})

    await bench.time_in_loop("written through send", lambda: asyncio.ensure_future(send_all()))
    await bench.time_in_loop("written directly", lambda: write_all(writers, bodies))
    await wake_pieces(bench)
    over.set()
    await asyncio.sleep(0.05)
    server.force_exit = server.should_exit = True
    await serving


def write_all(writers: list[DirectWriter], bodies: list[bytes]) -> None:
    """A part for each."""
    for writer, body in zip(writers, bodies, strict=True):
        if writer.ready():
            writer.write(body)


async def wake_pieces(bench: Bench) -> None:
    """Times how an output reaches its reader: a task that waits, or a callback."""
    woken, diverted = ([OutputStream(lambda reason: None) for _ in bench.outputs] for _ in range(2))

    async def listen(stream: OutputStream) -> None:
        while True:
            await stream.next()

    tasks = [asyncio.create_task(listen(stream)) for stream in (*woken, *diverted)]
    for stream in diverted:
        stream.divert(lambda outputs: True)
    await asyncio.sleep(0)

    def push(streams: list[OutputStream]) -> None:
        for stream, output in zip(streams, bench.outputs, strict=True):
            stream.push(output)

    await bench.time_in_loop("handed to a task that waits", lambda: push(woken))
    await bench.time_in_loop("handed to a callback", lambda: push(diverted))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def read(
    address: tuple[str, int], num_streams: int, request: bytes = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
) -> None:
    """A client that asks and then only reads."""
    connections = [socket.create_connection(address) for _ in range(num_streams)]
    for connection in connections:
        connection.sendall(request)
        connection.settimeout(0)
    while True:
        time.sleep(0.002)
        for connection in connections:
            try:
                if not connection.recv(1 << 16):
                    return
            except BlockingIOError:
                continue
            except OSError:
                return


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    bench = Bench(options.streams, options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        bodies = text_pieces(bench, Path(folder))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(socket_pieces(bench, bodies))
    for name, microseconds in bench.results.items():
        print(f"{name:<32}{microseconds:>8.2f}")


if __name__ == "__main__":
    main()
