"""What all layers of one step compute alike (indices, masks, rotary factors), kept until the step ends.

Made with each batch and passed down as an argument, so nothing outlives its step. The references, which are
the CPU path, use it; kernels derive such values on the device. Knows nothing of what it keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class StepMemo:
    """A table of values that hold for one batch."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """`make()` the first time, the same value after that. A key names one thing within a batch."""
        if key not in self._values:
            self._values[key] = make()
        value: T = self._values[key]
        return value
