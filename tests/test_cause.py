"""What clients are told of a device's errors."""

from __future__ import annotations

import pytest

from octavo.scheduler.cause import cause_of


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("out of luck"), "RuntimeError: out of luck"),
        (RuntimeError(), "RuntimeError"),
        (RuntimeError('first\n  File "/srv/octavo/model/runner.py", line 3\nlast'), "RuntimeError: first"),
        (OSError(2, "No such file", "/srv/models/secret/w.bin"), "OSError: [Errno 2] No such file: 'w.bin'"),
        (ValueError("at /usr/lib/python3/x.py:12 and 1/2 of it"), "ValueError: at x.py:12 and 1/2 of it"),
        (ValueError("see https://example.org/a/b"), "ValueError: see https://example.org/a/b"),
        (ValueError("x" * 1000), f"ValueError: {'x' * 300}..."),
    ],
    ids=["plain", "nothing", "trace", "file", "inside", "address", "long"],
)
def test_one_line_without_paths(error: Exception, told: str) -> None:
    assert cause_of(error).replace("FileNotFoundError", "OSError") == told
