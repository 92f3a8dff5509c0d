"""Processes that are killed, paused and flooded while streams run; loadtest/faults.py does it for longer.

What kills a front end or the engine at once, without a load, is in test_frontends.py.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from fault_rounds import flood_body, kill_engine, kill_frontend, run_round
from toy_server import ToyServer, alive, toy_server, wait_for


@pytest.mark.parametrize("fault", [kill_frontend, kill_engine, flood_body], ids=lambda f: f.__name__)
def test_every_stream_ends_and_nothing_is_left(tmp_path: Path, fault: Callable[[ToyServer], None]) -> None:
    ends = run_round(tmp_path, fault, 48)
    assert sum(ends.values()) == 48
    if fault is flood_body:
        assert set(ends) <= {"whole", "left"}, ends


def test_a_full_disk_under_the_log_stops_nobody(tmp_path: Path) -> None:
    """Standard error on /dev/full: every line that is logged fails with ENOSPC."""
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    program = (
        "import logging, sys\n"
        "from octavo.app.logs import set_up_logging\n"
        "set_up_logging('info')\n"
        "for _ in range(1000): logging.getLogger('octavo').info('x' * 100)\n"
        "print('alive')\n"
    )
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=full, timeout=300, text=True
        )
    assert ended.stdout == "alive\n"


@pytest.mark.parametrize(
    "how", ["the disk is full", "the file may not grow", "nobody reads the pipe any more"]
)
def test_a_server_whose_log_fails_serves_on(tmp_path: Path, how: str) -> None:
    """Two front ends and an engine: requests, probes, a death, a drain, and not one line can be written."""
    if how == "the disk is full" and not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")

    def limit() -> None:
        if how == "the file may not grow":
            resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))

    log = open(tmp_path / "log", "wb") if how == "the file may not grow" else open("/dev/full", "wb")  # noqa: SIM115
    if how == "nobody reads the pipe any more":
        log.close()
        reading, writing = os.pipe()
        os.close(reading)
        log = open(writing, "wb")  # noqa: SIM115
    with log, toy_server(tmp_path, log=log, before=limit, latency=0.001) as server:
        with httpx.Client(base_url=server.url, timeout=60) as http:
            body = {"prompt": "hello", "max_tokens": 20}
            for number in range(40):
                stream = number % 2 == 0
                answer = http.post("/v1/completions", json=body | {"stream": stream})
                assert answer.status_code == 200
                assert answer.text.endswith("[DONE]\n\n") if stream else answer.json()["choices"][0]["text"]
            assert http.post("/v1/completions", content=b"nonsense").status_code == 400
            assert http.get("/health").status_code == http.get("/readyz").status_code == 200
            kill_frontend(server)  # whose end is logged, and another's start
            wait_for(lambda: len(server.frontends()) == 2)
        pids = [server.process.pid, *server.frontends()]
        server.process.terminate()
        assert server.end() == 0
    wait_for(lambda: not any(map(alive, pids)))


def test_a_clock_that_jumps_disturbs_no_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines, watchdogs and rates go by the monotonic clock; the wall clock only dates answers."""
    (tmp_path / "sitecustomize.py").write_text(
        "import itertools, time\n"
        "real, count = time.time, itertools.count()\n"
        "time.time = lambda: real() + (-1) ** next(count) * 86400 * 400\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with (
        toy_server(tmp_path, step_timeout=20.0, rpm=100, tpm=100_000) as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        began_s = time.monotonic()
        body = {"prompt": "hello", "max_tokens": 20, "timeout": 50, "queue_timeout": 40}
        answers = [http.post("/v1/completions", json=body) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200] * 3
        assert time.monotonic() - began_s < 40
        dates = [answer.json()["created"] for answer in answers]
        assert max(abs(date - time.time()) for date in dates) > 86400 * 300, "the clock did jump"
        assert http.get("/health").status_code == 200
