"""OpenMP learns how its threads wait when torch is loaded: octavo says it before, unless the user has."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

WATCH = """
import os, sys
from importlib.abc import MetaPathFinder

class Watch(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("policy:", os.environ.get("OMP_WAIT_POLICY"))
        return None

sys.meta_path.insert(0, Watch())
"""
ENTRIES = {
    "LLM": "import octavo; octavo.LLM",
    "AsyncLLM": "from octavo import AsyncLLM",
    "command line": "from octavo.__main__ import main; sys.argv = ['octavo', 'collect-env']; main()",
}


def policy_when_torch_is_loaded(entry: str, own: str | None) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if own is not None:
        environment["OMP_WAIT_POLICY"] = own
    script = WATCH + ENTRIES[entry]
    run = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return [line for line in run.stdout.splitlines() if line.startswith("policy:")]


@pytest.mark.parametrize("entry", ENTRIES)
def test_threads_sleep_when_octavo_loads_torch(entry: str) -> None:
    assert policy_when_torch_is_loaded(entry, None) == ["policy: passive"]


def test_the_users_own_choice_is_kept() -> None:
    assert policy_when_torch_is_loaded("LLM", "active") == ["policy: active"]
