"""How a server meets its clients: values made from the settings once, which travel to front-end processes.

Reads the files that settings name; knows no sockets and no requests.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from .config import ServerConfig
from .errors import RequestError, StartupError
from .protocol import DEFAULT_MAX_LOGPROBS


@dataclass(frozen=True, slots=True, kw_only=True)
class CorsRules:
    """Which pages' scripts may call, how, and with which headers; `*` is any. credentials: and cookies."""

    origins: tuple[str, ...] = ("*",)
    methods: tuple[str, ...] = ("*",)
    headers: tuple[str, ...] = ("*",)
    credentials: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSettings:
    """What an HTTP server must know beside its application.

    ssl_certfile, ssl_keyfile: PEM files; the key may be in the first. None serves without TLS.
    forwarded_allow_ips: proxies whose X-Forwarded-For and X-Forwarded-Proto are believed; `*` is all.
    root_path: the prefix under which a proxy offers the server; requests with and without it are served.
    max_header_bytes: of a request's line and headers.
    """

    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    forwarded_allow_ips: tuple[str, ...] = ("127.0.0.1",)
    root_path: str = ""
    max_header_bytes: int = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How a server meets its clients.

    model_names: names that requests may use; the first is the one shown.   api_keys: empty needs none.
    strict: refuse request fields that nobody knows.   max_body_bytes: of a request.
    keep_alive_s: silence after which a stream sends a comment.
    max_queued_requests: choices that may wait in the engine; None is any number.
    max_logprobs: likeliest tokens that a request may ask for; -1 is all.
    trust_request_chat_template: whether a request may bring a chat template of its own.
    request_timeout_s, queue_timeout_s: how long a request may take, and wait; None is no limit.
    key_weights: shares of the engine, one for each of api_keys; empty means equal shares.
    tool_call_parser, reasoning_parser: how the model writes both; auto reads it off the chat template.
    log_prompts: whether prompts and answers may be logged.   otlp_endpoint: where traces go; None has none.
    """

    model_names: tuple[str, ...]
    version: str
    api_keys: tuple[str, ...] = ()
    strict: bool = False
    max_body_bytes: int = 16 * 2**20
    keep_alive_s: float = 15.0
    cors: CorsRules = CorsRules()
    edge: EdgeSettings = EdgeSettings()
    max_queued_requests: int | None = None
    max_logprobs: int = DEFAULT_MAX_LOGPROBS
    trust_request_chat_template: bool = False
    request_timeout_s: float | None = None
    queue_timeout_s: float | None = None
    key_weights: tuple[float, ...] = ()
    tool_call_parser: str = "auto"
    reasoning_parser: str = "auto"
    log_prompts: bool = False
    otlp_endpoint: str | None = None

    def check_trusts_templates(self) -> None:
        """Raise RequestError unless a request may bring a chat template of its own."""
        if not self.trust_request_chat_template:
            message = "chat_template must be left out: the server runs without --trust-request-chat-template"
            raise RequestError(message, param="chat_template", code="unsupported_parameter")

    @staticmethod
    def tenant_of(index: int) -> str:
        """The name of the API key with this index, fit for logs: never the key itself."""
        return f"key-{index}"

    def weight_of(self, tenant: str) -> float:
        """The share of a tenant."""
        names = map(self.tenant_of, range(len(self.api_keys)))
        return dict(zip(names, self.key_weights, strict=False)).get(tenant, 1.0)

    @classmethod
    def of(
        cls, config: ServerConfig, model_names: tuple[str, ...], max_queued_requests: int | None
    ) -> ServerSettings:
        """What the settings say, API keys read. Raises StartupError, and SettingError for weights of keys."""
        keys = (*config.api_key, *read_api_keys(config.api_key_file))
        config.check_weights(len(keys))
        return cls(
            model_names=model_names,
            version=__version__,
            api_keys=keys,
            cors=CorsRules(
                origins=config.allowed_origins,
                methods=config.allowed_methods,
                headers=config.allowed_headers,
                credentials=config.allow_credentials,
            ),
            max_body_bytes=config.max_body_bytes,
            edge=EdgeSettings(
                ssl_certfile=config.ssl_certfile,
                ssl_keyfile=config.ssl_keyfile,
                forwarded_allow_ips=config.forwarded_allow_ips,
                root_path=config.root_path.rstrip("/"),
                max_header_bytes=config.max_header_bytes,
            ),
            strict=config.strict,
            max_logprobs=config.max_logprobs,
            trust_request_chat_template=config.trust_request_chat_template,
            tool_call_parser=config.tool_call_parser,
            reasoning_parser=config.reasoning_parser,
            max_queued_requests=max_queued_requests,
            request_timeout_s=config.request_timeout,
            queue_timeout_s=config.queue_timeout,
            key_weights=config.api_key_weights,
            log_prompts=config.log_prompts,
            otlp_endpoint=config.otlp_endpoint,
        )


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
    """The keys in a file, one a line; empty lines and those that begin with # are skipped.

    Raises StartupError for a file that cannot be read or holds no key, which would leave the server open.
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
    """Without it, OpenSSL would ask at the terminal."""
    raise ValueError("the key is encrypted; octavo has no password for it")
