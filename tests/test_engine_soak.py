"""The soak of an engine: a few seconds of it pass on a CPU, preemptions included."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "loadtest/engine_soak.py"


def test_a_few_seconds_leave_nothing_behind() -> None:
    flags = {
        "--seconds": 4,
        "--device": "cpu",
        "--max-num-seqs": 8,
        "--num-blocks": 12,
        "--max-model-len": 128,
        "--max-growth": 10**6,  # in so short a time, caches fill
    }
    command = [sys.executable, str(SCRIPT), *(str(word) for pair in flags.items() for word in pair)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["ends"]["length"] > 0 and seen["errors"] == {}
    assert seen["blocks_held"] == seen["left"] == seen["not_finite"] == 0
    assert sum(seen["graph_steps"]["launched"].values()) > 0
