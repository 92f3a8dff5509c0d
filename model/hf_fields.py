"""Typed, loud reading of a Hugging Face config dict. Knows no field by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class HfFields:
    """A dict whose values are checked as they are read; `null` counts as absent.

    Every reader raises ValueError naming the field, the rule and the value.
    prefix: names the dict in messages, such as `rope_parameters.`.
    """

    def __init__(self, values: Mapping[str, Any], prefix: str = "") -> None:
        self._values = values
        self._prefix = prefix

    def get(self, name: str) -> Any:
        """The raw value, None if absent."""
        return self._values.get(name)

    def integer(self, name: str, default: int | None = None, *, minimum: int = 1) -> int:
        """A whole number."""
        value = self._or_default(name, default)
        whole = isinstance(value, int) and not isinstance(value, bool)
        self.require(whole and value >= minimum, name, f"a whole number of at least {minimum}")
        return int(value)

    def number(self, name: str, default: float | None = None) -> float:
        """A number > 0."""
        value = self._or_default(name, default)
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        self.require(numeric and 0 < value < float("inf"), name, "a positive number")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """true or false."""
        value = self._or_default(name, default)
        self.require(isinstance(value, bool), name, "true or false")
        return bool(value)

    def choice(self, name: str, allowed: Sequence[str], default: str | None = None) -> str:
        """One of a few strings."""
        value = self._or_default(name, default)
        self.require(value in allowed, name, f"one of {', '.join(allowed)}")
        return str(value)

    def token_ids(self, name: str) -> tuple[int, ...]:
        """Token ids, given as one, a list or not at all."""
        value = self.get(name)
        ids = () if value is None else tuple(value) if isinstance(value, list | tuple) else (value,)
        whole = all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in ids)
        self.require(whole, name, "a token id or a list of them")
        return ids

    def sequence(self, name: str, length: int) -> Sequence[Any] | None:
        """A list with an entry for each of `length` layers (some checkpoints have more), None if absent."""
        value = self.get(name)
        if value is None:
            return None
        listed = isinstance(value, list | tuple) and len(value) >= length
        self.require(listed, name, f"a list with an entry for each of the {length} layers")
        return tuple(value[:length])

    def require(self, holds: bool, name: str, rule: str) -> None:
        """Raise unless `holds`."""
        if not holds:
            found = "which is absent" if self.get(name) is None else f"got {self.get(name)!r}"
            raise ValueError(f"{self._prefix}{name} must be {rule}, {found}")

    def _or_default(self, name: str, default: Any) -> Any:
        value = self.get(name)
        return default if value is None else value
