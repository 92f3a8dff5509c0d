"""Every setting of an engine and of a server: name, default, rule and line of help, declared once.

The command line, YAML files and `LLM` keywords are made from these classes; only app/cli.py reads the
environment. A setting whose feature does not exist yet is refused here, never passed over.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_network

from .settings import (
    LENGTH,
    SIZE_BYTES,
    SWITCH,
    Kind,
    SettingError,
    choice,
    integer,
    integer_or_auto,
    number,
    numbers,
    setting,
    text,
    texts,
    validate,
)

FRACTION = number("in (0, 1]", lambda v: 0 < v <= 1, "SHARE")
_SECONDS = number("of seconds, not negative", lambda v: v >= 0, "S")
_POSITIVE_SECONDS = number("of seconds above 0", lambda v: v > 0, "S")
_ROOT_PATH = Kind(
    "empty or a path that begins with /", str, lambda v: isinstance(v, str) and v[:1] in ("", "/"), "PATH"
)
_MILLISECONDS = number("of milliseconds, not negative", lambda v: v >= 0, "MS")


def _is_network(word: str) -> bool:
    try:
        return word == "*" or bool(ip_network(word))
    except ValueError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """A model and how it is run. Raises SettingError, a ValueError, for a wrong value."""

    model: str = setting(
        "demo", text("MODEL"), "a hub id, a directory in the Hugging Face layout, a .gguf file, or demo"
    )
    device: str = setting(
        "auto", choice("auto", "cuda", "cpu"), "where the model runs; auto takes the GPU if there is one"
    )
    dtype: str = setting(
        "auto", choice("auto", "bfloat16", "float16", "float32"), "type of weights, activations and KV cache"
    )
    max_model_len: int | str | None = setting(
        None,
        LENGTH,
        "tokens of prompt and output together; auto is the most that memory allows",
        default_text="the model's own length",
    )
    gpu_memory_utilization: float = setting(
        0.9, FRACTION, "share of a GPU's memory that octavo may use, weights included"
    )
    kv_cache_memory_bytes: int | None = setting(
        None,
        SIZE_BYTES,
        "size of the KV cache",
        default_text="what --gpu-memory-utilization leaves; 4GiB on a CPU",
    )
    num_gpu_blocks_override: int | None = setting(
        None, integer(1), "number of KV blocks, whatever memory says", default_text="computed"
    )
    block_size: int = setting(16, integer(1), "tokens in a KV block, a power of two")
    max_num_batched_tokens: int | None = setting(
        None, integer(1), "tokens that one step may carry", default_text="by device"
    )
    max_num_seqs: int | None = setting(
        None, integer(1), "sequences that run at once", default_text="by device"
    )
    max_queued_requests: int | None = setting(
        8192,
        integer(1),
        "waiting requests beyond which new ones are refused; none is no bound",
        optional=True,
    )
    max_ttft: float | None = setting(
        None,
        _POSITIVE_SECONDS,
        "time to the first token; who is predicted to wait longer is refused with Retry-After",
        default_text="no limit",
    )
    itl_target_ms: float | None = setting(
        None,
        _MILLISECONDS,
        "time between a stream's tokens that chunks of others' prompts keep to; 0 lets them fill every step",
        default_text="12 on a GPU, 0 on a CPU",
    )
    enable_chunked_prefill: bool = setting(True, SWITCH, "split long prompts over several steps")
    enable_prefix_caching: bool = setting(True, SWITCH, "reuse the KV blocks of prompts that begin alike")
    overlap: bool = setting(True, SWITCH, "launch a step before the previous one's tokens are read")
    load_format: str = setting(
        "auto",
        choice("auto", "safetensors", "gguf", "dummy"),
        "format of the weights; dummy makes random ones, to measure speed",
    )
    quantization: str | None = setting(
        None,
        text("METHOD"),
        "method of the checkpoint's quantization",
        default_text="none",
        only=None,
        because="this version computes in full precision (GGUF files are dequantized while they load)",
    )
    kv_cache_dtype: str = setting(
        "auto",
        choice("auto", "fp8"),
        "type of the KV cache; auto is the model's",
        only="auto",
        because="this version keeps keys and values in the model's own type",
    )
    tensor_parallel_size: int = setting(
        1, integer(1), "devices that share the model", only=1, because="this version runs on one device"
    )
    step_timeout: float | None = setting(
        600.0,
        _POSITIVE_SECONDS,
        "longest that a step may take; then its requests fail, after as long again the server ends",
        optional=True,
    )
    enforce_eager: bool = setting(False, SWITCH, "never capture CUDA graphs")
    deterministic: bool = setting(
        False,
        SWITCH,
        "the same bits whatever else runs and however a prompt is cut or cached; slower, GPU only",
    )
    skip_tokenizer_init: bool = setting(False, SWITCH, "load no tokenizer; prompts are token ids")
    seed: int | None = setting(
        None,
        integer(-(2**63), 2**63 - 1),
        "seed of requests that name none",
        default_text="a fresh one at every start",
    )

    def __post_init__(self) -> None:
        validate(self)
        if self.block_size & (self.block_size - 1):
            raise SettingError("block_size", f"must be a power of two, got {self.block_size}")
        if self.kv_cache_memory_bytes is not None and self.num_gpu_blocks_override is not None:
            raise SettingError(
                "kv_cache_memory_bytes", "cannot be given together with num_gpu_blocks_override"
            )
        if self.itl_target_ms and not self.enable_chunked_prefill:
            raise SettingError(
                "itl_target_ms",
                f"needs chunked prefill, which is off: must be 0 then, got {self.itl_target_ms}",
            )
        tokens, seqs = self.max_num_batched_tokens, self.max_num_seqs
        if tokens is not None and seqs is not None and tokens < seqs:
            raise SettingError(
                "max_num_batched_tokens", f"must be at least max_num_seqs ({seqs}), got {tokens}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """How a served model meets its clients. Raises SettingError, a ValueError, for a wrong value."""

    host: str = setting("127.0.0.1", text("HOST"), "address to listen on")
    port: int = setting(8000, integer(0, 65535), "port to listen on; 0 takes a free one")
    served_model_name: tuple[str, ...] = setting(
        (), texts("NAME"), "names that clients may use for the model", default_text="MODEL as given"
    )
    api_key: tuple[str, ...] = setting(
        (), texts("KEY"), "keys that clients may present", default_text="$OCTAVO_API_KEY, or none needed"
    )
    api_key_file: str | None = setting(
        None, text("FILE"), "more of them, one a line; # begins a comment", default_text="none"
    )
    allowed_origins: tuple[str, ...] = setting(
        ("*",), texts("ORIGIN"), "web pages whose scripts may call, as in https://example.org; * is any"
    )
    allowed_methods: tuple[str, ...] = setting(("*",), texts("METHOD"), "methods that they may use")
    allowed_headers: tuple[str, ...] = setting(("*",), texts("HEADER"), "headers that they may send")
    allow_credentials: bool = setting(False, SWITCH, "let them send cookies")
    ssl_certfile: str | None = setting(
        None, text("FILE.pem"), "certificate to serve TLS with, its chain behind it", default_text="no TLS"
    )
    ssl_keyfile: str | None = setting(
        None, text("FILE.pem"), "the certificate's private key", default_text="in --ssl-certfile"
    )
    uds: str | None = setting(
        None, text("PATH"), "unix socket to listen on, in place of --host and --port", default_text="none"
    )
    root_path: str = setting(
        "",
        _ROOT_PATH,
        "prefix under which a proxy offers the server, as in /llm",
        default_text="none",
    )
    forwarded_allow_ips: tuple[str, ...] = setting(
        ("127.0.0.1",),
        texts("ADDRESS", "a list of addresses, networks such as 10.0.0.0/8, or *", _is_network),
        "proxies that are believed whom they forward for, as addresses or networks; * is any",
    )
    max_body_bytes: int = setting(16 << 20, SIZE_BYTES, "size of a request's body", default_text="16MiB")
    max_header_bytes: int = setting(
        64 << 10, SIZE_BYTES, "size of a request's line and headers", default_text="64KiB"
    )
    frontends: int | str = setting(
        "auto",
        integer_or_auto(0, 256),
        "HTTP processes; 0 serves from the engine's own, auto takes 0 on a CPU and up to 8 with a GPU",
    )
    request_timeout: float | None = setting(
        None,
        _POSITIVE_SECONDS,
        "longest that a request may take; requests may ask for less",
        default_text="no limit",
    )
    queue_timeout: float | None = setting(
        None,
        _POSITIVE_SECONDS,
        "longest that a request may wait before it starts; requests may ask for less",
        default_text="no limit",
    )
    requests_per_minute: int | None = setting(
        None, integer(1), "choices that each API key may ask for in a minute", default_text="no limit"
    )
    tokens_per_minute: int | None = setting(
        None, integer(1), "tokens, read and written, of each API key in a minute", default_text="no limit"
    )
    api_key_weights: tuple[float, ...] = setting(
        (),
        numbers("above 0", lambda v: v > 0, "W"),
        "shares of the engine, one for each --api-key, when more is asked than it can do",
        default_text="equal",
    )
    drain_timeout: float = setting(
        30.0, _SECONDS, "time that running requests get to finish when the server is stopped"
    )
    strict: bool = setting(False, SWITCH, "refuse request fields that nobody knows")
    max_logprobs: int = setting(20, integer(-1), "likeliest tokens that a request may ask for; -1 is all")
    trust_request_chat_template: bool = setting(
        False, SWITCH, "let requests bring a chat template of their own"
    )
    tool_call_parser: str = setting(
        "auto",
        choice("auto", "hermes", "llama3_json", "mistral"),
        "how the model writes tool calls; auto reads it off the chat template",
    )
    reasoning_parser: str = setting(
        "auto",
        choice("auto", "none", "qwen3", "deepseek_r1", "mistral"),
        "how the model marks its reasoning; auto reads it off the chat template",
    )
    log_level: str = setting(
        "info", choice("debug", "info", "warning", "error"), "least severe log lines shown"
    )
    log_format: str = setting("human", choice("human", "json"), "how log lines are written")
    log_prompts: bool = setting(False, SWITCH, "write prompts and answers into the log")
    otlp_endpoint: str | None = setting(
        None,
        text("URL"),
        "send a trace of every request to this OpenTelemetry collector, for example http://localhost:4318",
        default_text="none; needs the extra otel",
    )
    dry_run: bool = setting(False, SWITCH, "print how memory would be divided, and exit")

    def __post_init__(self) -> None:
        validate(self)
        if self.allow_credentials and "*" in self.allowed_origins:
            raise SettingError("allow_credentials", "needs --allowed-origins: not every page may use cookies")
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            raise SettingError("ssl_keyfile", "needs --ssl-certfile")
        if self.uds is not None and (self.host, self.port) != ("127.0.0.1", 8000):
            raise SettingError("uds", "cannot be given together with --host or --port")
        if self.api_key_file is None:
            self.check_weights(len(self.api_key))

    def check_weights(self, num_keys: int) -> None:
        """Raises SettingError unless there are no weights, or as many as keys, those of the file included."""
        if self.api_key_weights and len(self.api_key_weights) != num_keys:
            raise SettingError(
                "api_key_weights",
                f"must be as many as there are keys ({num_keys}), got {len(self.api_key_weights)}",
            )
