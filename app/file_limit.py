"""The limit of open files, which many streams meet first: raised as far as it goes. Knows no connections."""

from __future__ import annotations

import logging
import resource

log = logging.getLogger(__name__)

_ENOUGH = 1 << 20
_SPARE_FILES = 128
"""What a process opens beside its connections: weights, tokenizer, sockets to the other processes, logs."""


def raise_file_limit() -> None:
    """Raise the soft limit to the hard one, for this process and those that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        log.debug("the limit of open files was raised from %d to %d", soft, wanted)


def max_connections() -> int:
    """Connections that this process may hold and still open what else it needs."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _ENOUGH if soft == resource.RLIM_INFINITY else max(1, soft - _SPARE_FILES)
