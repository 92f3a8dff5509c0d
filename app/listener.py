"""The socket that is served, bound before the model is loaded, so that a taken address shows at once.

Knows no HTTP. A TCP address or a unix socket's path.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from .errors import StartupError


@contextlib.contextmanager
def bound(host: str, port: int, uds: str | None) -> Iterator[socket.socket]:
    """A socket at the path `uds` if given, else at `host` and `port`; closed and unlinked in the end.

    Raises StartupError.
    """
    listener = bind(host, port) if uds is None else bind_unix(uds)
    try:
        yield listener
    finally:
        listener.close()
        if uds is not None:
            Path(uds).unlink(missing_ok=True)


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet. Raises StartupError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise StartupError(
            f"--host must be an address of this machine, got {host!r} ({error.strerror})"
        ) from error
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        flag = "--host" if error.errno == errno.EADDRNOTAVAIL else "--port"
        raise StartupError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another {flag}"
        ) from error
    return listener


def bind_unix(path: str) -> socket.socket:
    """The same at a path. A socket that a killed server left behind is replaced. Raises StartupError."""
    if Path(path).is_socket() and not _answers(path):
        Path(path).unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
    except OSError as error:
        listener.close()
        raise StartupError(f"cannot listen on --uds {path}: {error.strerror or error}") from error
    return listener


def share(listener: socket.socket, num_sockets: int) -> list[socket.socket]:
    """`listener` and others for its address, among which the kernel spreads connections evenly.

    Only now, so that binding `listener` alone has shown whether the port was taken. A unix socket has one
    queue, which all share.
    """
    if listener.family == socket.AF_UNIX:
        return [listener, *(listener.dup() for _ in range(num_sockets - 1))]
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sockets = [listener]
    while len(sockets) < num_sockets:
        another = socket.socket(listener.family, socket.SOCK_STREAM)
        another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        another.bind(listener.getsockname())
        sockets.append(another)
    return sockets


def address_of(listener: socket.socket, *, tls: bool = False) -> str:
    """How a client would call it."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{os.fsdecode(listener.getsockname())}"
    host, port = listener.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True
