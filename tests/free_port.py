"""A port for a program that cannot be asked to choose one itself."""

from __future__ import annotations

import random
import socket


def free_port() -> int:
    """Nobody listens there, and the system gives it to no connection: those have ports above 32767."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
