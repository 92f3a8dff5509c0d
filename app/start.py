"""A start under way: where its time goes, and what was started early. Knows no server."""

from __future__ import annotations

import os
import time
from pathlib import Path

from ..ops.compiler_process import CompilerProcess


class Start:
    """Spans that follow each other, the first from the start of this process to the first `mark`.

    compiler: the process that waits for kernels to compile; None if there is none.
    patient: capture all graphs now instead of when the engine is idle.
    """

    def __init__(self, compiler: CompilerProcess | None = None, *, patient: bool = False) -> None:
        self.compiler = compiler
        self.patient = patient
        self._began_s = _process_began_s()
        self._spans: list[tuple[str, float]] = []

    @property
    def elapsed_s(self) -> float:
        """Since the process was started."""
        return time.monotonic() - self._began_s

    def mark(self, name: str) -> None:
        """Name the time since the last mark."""
        self._spans.append((name, self.elapsed_s - sum(seconds for _, seconds in self._spans)))

    def table(self) -> str:
        """All spans, one a line."""
        return "\n".join(f"{name:<24}{seconds:>8.2f} s" for name, seconds in self._spans)


def _process_began_s() -> float:
    """By time.monotonic, to a hundredth of a second; now, where the system does not tell."""
    stat, now_s = Path("/proc/self/stat"), time.monotonic()
    if not stat.is_file():
        return now_s
    fields = stat.read_text().rpartition(")")[2].split()
    began_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # after boot; suspended time included
    return now_s - max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began_s)
