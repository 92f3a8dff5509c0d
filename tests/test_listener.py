"""Addresses that can be served, that cannot, and what is left of them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from octavo.app.errors import StartupError
from octavo.app.listener import address_of, bind, bind_unix, bound, share


def test_a_path_is_used_once_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "octavo.sock"
    with bound("127.0.0.1", 8000, str(path)) as listener:
        assert address_of(listener) == f"unix:{path}"
        listener.listen()
        with pytest.raises(StartupError, match="cannot listen on --uds .*in use"):
            bind_unix(str(path))
    assert not path.exists()


def test_a_socket_that_a_killed_server_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "octavo.sock"
    bind_unix(str(path)).close()
    assert path.is_socket()
    bind_unix(str(path)).close()


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("keep me")
    with pytest.raises(StartupError, match="cannot listen on --uds"):
        bind_unix(str(path))
    assert path.read_text() == "keep me"
    with pytest.raises(StartupError, match="cannot listen on --uds"):
        bind_unix(str(tmp_path / ("x" * 200)))


def test_front_ends_share_a_path(tmp_path: Path) -> None:
    path = str(tmp_path / "octavo.sock")
    with bound("127.0.0.1", 8000, path) as listener:
        sockets = share(listener, 3)
        for each in sockets:
            each.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            connection, _ = sockets[2].accept()
            connection.close()
        for each in sockets[1:]:
            each.close()


def test_addresses_as_clients_write_them() -> None:
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert address_of(listener) == f"http://127.0.0.1:{port}"
        assert address_of(listener, tls=True) == f"https://127.0.0.1:{port}"
