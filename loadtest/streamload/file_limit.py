"""The limit of open files, which many streams meet first."""

from __future__ import annotations

import resource

SPARE_FILES = 64
"""What a process needs beside its connections."""


def raise_file_limit(num_open: int) -> None:
    """Let this process open `num_open` connections. Raises SystemExit if the hard limit forbids it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = num_open + SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SystemExit(
            f"{num_open} streams need {needed} open files, the hard limit (ulimit -Hn) is {hard}"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
