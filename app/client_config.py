"""Settings of `octavo chat`, `octavo complete` and `octavo run-batch`, declared like those of config.py."""

from __future__ import annotations

from dataclasses import dataclass

from .config import FRACTION
from .settings import choice, integer, number, setting, text, texts, validate


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminalConfig:
    """Settings of `chat` and `complete`. Raises SettingError, a ValueError, for a wrong value."""

    url: str | None = setting(
        None,
        text("URL"),
        "ask the server at this address, for example http://localhost:8000",
        default_text="run the model here",
    )
    api_key: str | None = setting(
        None, text("KEY"), "key for the server at --url", default_text="$OCTAVO_API_KEY"
    )
    prompt: str | None = setting(
        None, text("TEXT"), "answer this and exit", default_text="ask at the terminal, or read standard input"
    )
    system_prompt: str | None = setting(
        None, text("TEXT"), "system message of a chat", default_text="the template's own"
    )
    max_tokens: int | None = setting(
        None, integer(1), "longest answer", default_text="256 to complete, up to the model's length to chat"
    )
    temperature: float | None = setting(
        None,
        number("in [0, 2]", lambda v: 0 <= v <= 2, "T"),
        "0 is greedy",
        default_text="the model's own, else 1",
    )
    top_p: float | None = setting(
        None, FRACTION, "share of probability to sample from", default_text="the model's own, else 1"
    )

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig:
    """What `octavo run-batch` reads and writes. Raises SettingError, a ValueError, for a wrong value."""

    input_file: str = setting(
        "-", text("FILE"), "requests, a JSON object per line; - is standard input", short="-i"
    )
    output_file: str = setting(
        "-", text("FILE"), "answers, a JSON object per line; - is standard output", short="-o"
    )
    served_model_name: tuple[str, ...] = setting(
        (), texts("NAME"), "names that requests may use for the model", default_text="MODEL as given"
    )
    max_concurrent_requests: int = setting(1024, integer(1), "requests that are under way at once")
    log_level: str = setting(
        "warning", choice("debug", "info", "warning", "error"), "least important messages that are logged"
    )

    def __post_init__(self) -> None:
        validate(self)
