"""What a process settles with the system: standard streams, files, threads, its parent, its children.

Does not know what the process is for. Imports no torch, since `let_threads_sleep` must come before that.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import io
import logging
import os
import resource
import signal
import sys
from collections.abc import Iterator
from types import FrameType

log = logging.getLogger(__name__)

_ENOUGH_FILES = 1 << 20
_SPARE_FILES = 128
"""What a process opens beside its connections: weights, tokenizer, sockets to the other processes, logs."""
_PR_SET_PDEATHSIG = 1
_LAST_S = 10


def open_standard_streams() -> None:
    """Replace streams that are closed by empty ones, and let no character that they cannot show be an error.

    Files opened later would otherwise get the closed streams' numbers, and be written to by mistake.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape" if name == "stdin" else "backslashreplace")


def drop_output() -> None:
    """Nobody can be written to: what is still buffered must not fail again when the interpreter ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def let_threads_sleep() -> None:
    """Have OpenMP's threads sleep between products instead of spinning, unless the user chose otherwise.

    A spinning thread takes the core that the event loop or another process needs, and every product waits for
    the slowest thread: with one core of two taken, a step took 290 ms spinning and 50 ms sleeping.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the process, by exit code 143, until somebody else handles it.

    That is its default, but not for the process 1 of a container: there the kernel drops a signal that nobody
    handles, and a model that takes minutes to load could only be killed.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def freeze_garbage() -> None:
    """Exempt what exists now, model and tokenizer, from garbage collections: they would take 20 ms."""
    gc.collect()
    gc.freeze()


def raise_file_limit() -> None:
    """Raise the soft limit of open files to the hard one, for this process and those that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        log.debug("the limit of open files was raised from %d to %d", soft, wanted)


def max_connections() -> int:
    """Connections that this process may hold and still open what else it needs."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _ENOUGH_FILES if soft == resource.RLIM_INFINITY else max(1, soft - _SPARE_FILES)


def module_command(module: str, *arguments: object) -> list[str]:
    """The command that runs a module of octavo as a process, whatever is in the current directory."""
    return [sys.executable, "-P", "-m", module, *map(str, arguments)]


def module_environment() -> dict[str, str]:
    """The environment of such a process, in which it finds the same modules as this one."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def follow_parent(parent: int) -> None:
    """From now on this process ends when `parent` has, at the latest `_LAST_S` seconds after it.

    It has that time to tell its clients. A terminal or a service manager sends SIGINT and SIGTERM to all
    processes of a group; here they are ignored, since the parent acts on them and says what is to be done.
    Call from the main thread.
    """

    def on_parents_death(number: int, frame: FrameType | None) -> None:
        signal.alarm(_LAST_S)  # whose default action is to end the process: no handler can miss it

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, on_parents_death)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGUSR2) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit(1)  # it ended before it was followed
