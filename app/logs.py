"""Where log lines go, which, and how they are written: for people, or as JSON, one object a line.

What a line says beside its message is passed as `extra={"fields": {...}}`, names to plain values.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec

_UNSAFE = set(' "=\\')


def set_up_logging(level: str, log_format: str = "human") -> None:
    """Lines of `level` and above to standard error, as `human` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else HumanFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # Its news are uvicorn's own steps, which the lines here tell better.
    logging.getLogger("uvicorn").setLevel(logging.DEBUG if level == "debug" else logging.WARNING)


class HumanFormatter(logging.Formatter):
    """`TIME LEVEL LOGGER: MESSAGE name=value ...`, then the traceback, if there is one."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line without a traceback."""
        fields = fields_of(record)
        words = [super().formatMessage(record), *(f"{name}={_word(value)}" for name, value in fields.items())]
        return " ".join(words)


class JsonFormatter(logging.Formatter):
    """`time` in UTC, `level`, `logger`, `message`, the fields, and `exception` with the whole traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        return msgspec.json.encode(line, enc_hook=str).decode()


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What was passed as `extra={"fields": ...}`."""
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields


def _word(value: Any) -> str:
    """A value as one word: clients choose some of them, and must not be able to write lines."""
    if not isinstance(value, tuple | list | dict):
        value = str(value)
        if value and value.isprintable() and not _UNSAFE & set(value):
            return str(value)
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)
