"""Where the time of one HTTP request went: in its usage, and in a Server-Timing header. Knows no text.

    arrival      first step        first token              last token
       | queue_ms    |   prefill_ms    |      decode_ms         |

Of several choices: the first step and first token of any, the last token of all.
Source of the header: W3C Server Timing.
"""

from __future__ import annotations

from typing import Any

from ..scheduler.request import RequestTimings


class RequestTimes:
    """Gathers what the engine says of each choice when it ends. Moments are on the clock of time.monotonic.

    arrival_s: of the HTTP request, before its body was read.
    """

    def __init__(self, arrival_s: float) -> None:
        self._arrival_s = arrival_s
        self._scheduled_s = 0.0
        self._first_token_s = 0.0
        self._finished_s = 0.0
        self._num_preemptions = 0

    def absorb(self, timings: RequestTimings) -> None:
        """A choice has ended."""
        self._scheduled_s = _earliest(self._scheduled_s, timings.scheduled_s)
        self._first_token_s = _earliest(self._first_token_s, timings.first_token_s)
        self._finished_s = max(self._finished_s, timings.finished_s)
        self._num_preemptions += timings.num_preemptions

    def usage(self) -> dict[str, Any]:
        """octavo's own object `timings` in a response's usage; null for what did not happen."""
        return {
            "queue_ms": _ms(self._arrival_s, self._scheduled_s),
            "prefill_ms": _ms(self._scheduled_s, self._first_token_s),
            "decode_ms": _ms(self._first_token_s, self._finished_s),
            "preemptions": self._num_preemptions,
        }

    def header(self, now_s: float) -> str:
        """The value of Server-Timing for a response that is complete at `now_s`."""
        spans = {
            "queue": _ms(self._arrival_s, self._scheduled_s),
            "prefill": _ms(self._scheduled_s, self._first_token_s),
            "decode": _ms(self._first_token_s, self._finished_s),
            "total": _ms(self._arrival_s, now_s),
        }
        return ", ".join(f"{name};dur={span}" for name, span in spans.items() if span is not None)

    def opening_header(self, now_s: float) -> str:
        """The same for a stream that begins at `now_s`, after reading, tokenizing and acceptance."""
        return f"accept;dur={_ms(self._arrival_s, now_s)}"


def _earliest(known_s: float, other_s: float) -> float:
    """0 stands for never."""
    return min(known_s, other_s) if known_s and other_s else known_s or other_s


def _ms(begin_s: float, end_s: float) -> float | None:
    """Milliseconds, to a hundredth."""
    return round(max(0.0, end_s - begin_s) * 1000, 2) if begin_s and end_s else None
