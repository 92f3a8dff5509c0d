"""The edge of the server: how it is reached, whom it trusts, what it lets in. Values; knows no sockets."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from .errors import StartupError


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSettings:
    """What an HTTP server must know beside its application.

    ssl_certfile, ssl_keyfile: PEM files; the key may be in the first. None serves without TLS.
    forwarded_allow_ips: proxies whose X-Forwarded-For and X-Forwarded-Proto count; `*` is anybody.
    root_path: the prefix under which a proxy offers the server; requests with and without it are served.
    max_header_bytes: of a request's line and headers.
    """

    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    forwarded_allow_ips: tuple[str, ...] = ("127.0.0.1",)
    root_path: str = ""
    max_header_bytes: int = 64 << 10


def check_certificate(certfile: str | None, keyfile: str | None) -> None:
    """Raise StartupError unless TLS can be served with these files, if there are any."""
    if certfile is None:
        return
    for flag, name in (("--ssl-certfile", certfile), ("--ssl-keyfile", keyfile)):
        if name is not None and not Path(name).is_file():
            raise StartupError(f"{flag} must name a PEM file, got {name!r}")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certfile, keyfile, password=_no_password)
    except (OSError, ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise StartupError(
            f"--ssl-certfile and --ssl-keyfile must hold a certificate and its private key ({reason})"
        ) from error


def read_api_keys(path: str | None) -> tuple[str, ...]:
    """The keys in a file, one a line; empty lines and those that begin with # say nothing.

    Raises StartupError for a file that cannot be read, or holds no key: what should be closed stays shut.
    """
    if path is None:
        return ()
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise StartupError(f"--api-key-file must name a readable file, got {path!r} ({reason})") from error
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise StartupError(f"--api-key-file must hold at least one key, got none in {path!r}")
    return keys


def _no_password() -> str:
    """OpenSSL would ask at the terminal."""
    raise ValueError("the key is encrypted; octavo has no password for it")
