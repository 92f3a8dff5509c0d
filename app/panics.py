"""A panic in a Rust library raises what is not an Exception, so handlers of errors would not see it.

`with PANICS_ARE_ERRORS:` around a call turns it into one. Knows no library.
"""

from __future__ import annotations

from types import TracebackType

_NAME = "PanicException"
"""PyO3 makes this class anew in each library, and exports it from none."""


class PanicError(RuntimeError):
    """A library panicked."""


class _PanicsAreErrors:
    __slots__ = ()

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and kind.__name__ == _NAME:
            raise PanicError(str(error)) from error


PANICS_ARE_ERRORS = _PanicsAreErrors()
