"""Programs that a plain machine may lack, and that CI must have."""

from __future__ import annotations

import os
import shutil

import pytest


def program(name: str) -> str:
    """Path of a program. Without it the test is skipped, but fails where the environment has CI set."""
    path = shutil.which(name)
    if path is None:
        complaint = f"needs the program {name}"
        if os.environ.get("CI"):
            pytest.fail(complaint)
        pytest.skip(complaint)
    return path
