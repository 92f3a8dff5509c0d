"""The limit of open files: raised in the process that serves, and kept to."""

from __future__ import annotations

import subprocess
import sys

import pytest

SET = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}));"
TELL = "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], max_connections())"


@pytest.mark.parametrize(("soft", "hard", "raised"), [(256, 512, 512), (512, 512, 512), (100, 100, 100)])
def test_the_soft_limit_becomes_the_hard_one_with_room_for_what_else_is_needed(
    soft: int, hard: int, raised: int
) -> None:
    program = (
        SET.format(soft=soft, hard=hard)
        + "from octavo.app.file_limit import max_connections, raise_file_limit; raise_file_limit();"
        + TELL
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.split() == [str(raised), str(max(1, raised - 128))]
