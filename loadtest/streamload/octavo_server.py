"""`octavo serve` as a child process: started, timed until it is ready, stopped. Knows no loads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_READY_MARK = " ready at "
_POLL_S = 0.02
_STOP_S = 60


@dataclass(frozen=True)
class OctavoServer:
    """ready_s: from the command to the line that says so.   max_files: the process's limit of open files."""

    url: str
    ready_s: float
    max_files: int
    command: tuple[str, ...]


@contextmanager
def octavo_server(
    model: Path, flags: Sequence[str], log: Path, *, cold: bool, start_s: float = 300
) -> Iterator[OctavoServer]:
    """Serve random weights of `model` on a free port; what it prints goes to `log`.

    cold: kernels are compiled anew, in a cache of their own. Raises RuntimeError with the log's end if the
    server does not come up, or does not stop as it should.
    """
    serve = (sys.executable, "-m", "octavo", "serve", str(model))
    command = (*serve, "--load-format", "dummy", "--port", "0", *flags)
    with tempfile.TemporaryDirectory() as cache, log.open("w") as output:
        environment = {**os.environ, **({"TRITON_CACHE_DIR": cache} if cold else {})}
        began_s = time.monotonic()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            url = _wait_ready(process, log, began_s + start_s)
            yield OctavoServer(url, time.monotonic() - began_s, _max_files(process.pid), command)
            process.send_signal(signal.SIGTERM)
            if process.wait(_STOP_S) != 0:
                raise RuntimeError(f"octavo ended with {process.returncode}:\n{_tail(log)}")
        finally:
            process.kill()
            process.wait()


def _wait_ready(process: subprocess.Popen[bytes], log: Path, until_s: float) -> str:
    while time.monotonic() < until_s:
        for line in log.read_text(errors="replace").splitlines():
            if _READY_MARK in line:
                return line.split(_READY_MARK)[1].split()[0]
        if process.poll() is not None:
            break
        time.sleep(_POLL_S)
    raise RuntimeError(f"octavo did not become ready:\n{_tail(log)}")


def _max_files(pid: int) -> int:
    """The soft limit; -1 where /proc does not tell."""
    limits = Path(f"/proc/{pid}/limits")
    if limits.exists():
        for line in limits.read_text().splitlines():
            if line.startswith("Max open files"):
                return int(line.split()[3])
    return -1


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])
