"""Clients for Node, by their own test runner, against a server process: a run per file in tests/node/."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from server_process import CLIENT_KEY, CLIENT_MODEL

FOLDER = Path(__file__).parent / "node"
PRESENT = shutil.which("node") is not None and (FOLDER / "node_modules").is_dir()


@pytest.mark.skipif(
    not PRESENT and "CI" not in os.environ, reason="needs node, and `npm ci` to have run in tests/node"
)
@pytest.mark.parametrize("file", sorted(path.name for path in FOLDER.glob("*.test.js")))
def test_client(file: str, demo_url: str) -> None:
    done = subprocess.run(
        ["node", "--test", file],
        cwd=FOLDER,
        env={**os.environ, "OCTAVO_URL": demo_url, "OCTAVO_KEY": CLIENT_KEY, "OCTAVO_MODEL": CLIENT_MODEL},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fail 0" in done.stdout, done.stdout
