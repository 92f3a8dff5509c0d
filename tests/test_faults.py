"""Processes that are killed, paused and flooded while streams run; loadtest/faults.py does it for longer.

What kills a front end or the engine at once, without a load, is in test_frontends.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from fault_rounds import flood_body, kill_engine, kill_frontend, run_round
from toy_server import ToyServer, toy_server


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
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=full, timeout=60, text=True
        )
    assert ended.stdout == "alive\n"


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
