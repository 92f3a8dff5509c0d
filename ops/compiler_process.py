"""A process that compiles kernels, started long before it is known which. Knows no kernel and loads nothing.

It loads torch and Triton meanwhile, which takes seconds, and then splits into as many as there is work for.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

_MODULE = "octavo.ops.compile_ahead"
_PIPE_BYTES = 1 << 20
"""Holds what the process is given, so that nobody waits until it is ready to read it."""
_DRIVER = Path("/proc/driver/nvidia"), Path("/dev/nvidiactl")

log = logging.getLogger(__name__)


class CompilerProcess:
    """Compiles what it is given once, and ends; also when nobody is left who could give it anything."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", _MODULE]
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, pipesize=_PIPE_BYTES)
        except PermissionError:  # this user's pipes hold as much as they may: `give` waits for the reader
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE)

    @classmethod
    def where_there_is_a_gpu(cls) -> CompilerProcess | None:
        """Started if this machine has a driver for kernels to run on; asking torch would take seconds."""
        return cls() if any(path.exists() for path in _DRIVER) else None

    def give(self, work: bytes) -> None:
        """See compile_ahead.py; nothing, if there is no work."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as pipe:  # has ended already? `wait` tells
            pipe.write(work)

    def wait(self) -> None:
        """Until everything is compiled; what could not be is left to its first real launch."""
        if self._process.wait():
            log.warning("the process that compiles kernels ended with %d", self._process.returncode)
