"""A JSON object in a model's directory, or one sentence saying what is wrong. Knows none of its fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import StartupError


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in the file. Raises StartupError if it is unreadable, not JSON, or not an object."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise StartupError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # JSONDecodeError, UnicodeDecodeError, brackets in brackets
        raise StartupError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise StartupError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value
