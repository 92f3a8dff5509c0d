"""What can be said of a request once it has ended, for logs and traces. Knows neither of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .answer_summary import AnswerSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSummary:
    """One HTTP request. Times are seconds, moments on the clock of time.monotonic.

    route: as it was declared; `other` for paths that there are not.   status: 0 if no response began.
    error_code: the `code` of an error's body.   traceparent: the header, if there was one.
    generates: whether it asked for tokens; `answer` is None if it got as far as no engine.
    """

    request_id: str
    method: str
    route: str
    status: int
    client: str
    began_s: float
    ended_s: float
    error_code: str | None = None
    traceparent: str | None = None
    generates: bool = False
    answer: AnswerSummary | None = None

    @property
    def cause(self) -> str | None:
        """Why it ended, the first of its choices' causes; None if it did not ask for tokens."""
        if self.answer is not None:
            return self.answer.causes[0]
        if not self.generates:
            return None
        if self.status in (0, 499):
            return "disconnect"
        if self.status == 504:
            return "deadline"
        return "refused" if self.status < 500 or self.status == 503 else "error"


Observer = Callable[[RequestSummary], None]
"""Hears of every request when it has ended. Must not raise."""
