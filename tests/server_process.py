"""`python -m octavo serve demo` as a process of its own, and what its /metrics say."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

START_S = 300
CLIENT_KEY = "secret"
CLIENT_MODEL = "smol"
FLAGS = ["--max-model-len", "1024", "--kv-cache-memory-bytes", "256MiB", "--max-num-seqs", "64"]


@contextlib.contextmanager
def serve_demo(folder: Path, *flags: str) -> Iterator[str]:
    """Serve the demo model on a free port; gives the address. The log is in `folder`."""
    log = folder / "server.log"
    command = [sys.executable, "-m", "octavo", "serve", "demo", "--port", "0", *FLAGS, *flags]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield _address(process, log)
        assert process.poll() is None, log.read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 0, log.read_text()
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        process.kill()
        process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if " ready at " in line:
                return line.split(" ready at ")[1].split()[0]
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    raise AssertionError(f"the server did not get ready: {log.read_text()}")


def samples(http: httpx.Client) -> dict[str, float]:
    """Samples of /metrics by name and labels as written."""
    lines = http.get("/metrics").text.splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def wait_idle(http: httpx.Client, within_s: float = 60) -> dict[str, float]:
    """Samples once nothing runs and no block is held; fails if that does not come about.

    Looks twice: of a front end that does not answer for two seconds, /metrics tells what was.
    """
    deadline = time.monotonic() + within_s
    idle_before = False
    while True:
        now = samples(http)
        held = now["octavo_kv_blocks"] - now["octavo_kv_blocks_free"] - now["octavo_kv_blocks_evictable"]
        # A block is given back when the last step that mentions it has ended, a little after the request.
        busy = [
            now[f"octavo_{name}"]
            for name in ("engine_requests_running", "engine_requests_waiting", "requests_open")
        ]
        idle = not held and not any(busy)
        if idle and idle_before:
            return now
        idle_before = idle
        assert time.monotonic() < deadline, f"running, waiting, open: {busy}; blocks held: {held}"
        time.sleep(0 if idle else 0.05)
