"""The spans of a start follow each other from the birth of the process on."""

from __future__ import annotations

import subprocess
import sys

from octavo.app.start import Start

SCRIPT = """
import time
time.sleep(0.3)
from octavo.app.start import Start
start = Start()
start.mark("before")
time.sleep(0.2)
start.mark("after")
print(start.table())
print(start.elapsed_s)
"""


def test_a_start_that_is_made_late_knows_what_was_before_it() -> None:
    told = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    before, after, elapsed = told.stdout.splitlines()
    assert before.startswith("before ") and after.startswith("after ")
    assert float(before.split()[1]) + 0.02 >= 0.3  # the system counts in hundredths
    assert 0.2 <= float(after.split()[1]) < float(elapsed)
    assert float(elapsed) + 0.02 >= float(before.split()[1]) + float(after.split()[1])


def test_this_process_is_older_than_its_start() -> None:
    start = Start()
    first = start.elapsed_s
    start.mark("all")
    assert 0 < first <= start.elapsed_s and start.table().startswith("all")
