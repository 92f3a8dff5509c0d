"""One log line for every HTTP request, when it has ended: how, with how many tokens, after how long.

Without secrets: no header, no body, no query; prompts and answers only if the summary has them.
"""

from __future__ import annotations

import logging
from typing import Any

from .request_summary import AnswerSummary, RequestSummary

log = logging.getLogger("octavo.requests")

_QUIET = frozenset(("/health", "/livez", "/readyz", "/metrics", "/page/{name}"))


def log_request(summary: RequestSummary) -> None:
    """An Observer. Probes and the page's files are of level debug when well, failures of level error."""
    level = logging.INFO
    if summary.status == 500 or summary.cause == "error":
        level = logging.ERROR
    elif summary.route in _QUIET and summary.status in (200, 304):
        level = logging.DEBUG
    if log.isEnabledFor(level):
        status = summary.status or "unanswered"
        fields = {"fields": request_fields(summary)}
        log.log(level, "%s %s %s", summary.method, summary.route, status, extra=fields)


def request_fields(summary: RequestSummary) -> dict[str, Any]:
    """What there is to say, without what is not known; times in milliseconds."""
    fields = {
        "request_id": summary.request_id,
        "client": summary.client,
        "total_ms": _ms(summary.ended_s - summary.began_s),
        "cause": summary.cause,
        "code": summary.error_code,
    }
    if summary.answer is not None:
        fields |= _answer_fields(summary.answer, summary.began_s)
    return {name: value for name, value in fields.items() if value not in (None, "", ())}


def _answer_fields(answer: AnswerSummary, began_s: float) -> dict[str, Any]:
    timings = answer.timings
    causes = set(answer.causes)
    fields: dict[str, Any] = {
        "cause": answer.causes[0] if len(causes) == 1 else ",".join(answer.causes),
        "response_id": answer.response_id,
        "model": answer.model,
        "choices": len(answer.causes) if len(answer.causes) > 1 else None,
        "prompt_tokens": answer.num_prompt_tokens,
        "cached_tokens": answer.num_cached_tokens,
        "output_tokens": answer.num_output_tokens,
        "first_token_ms": _ms(answer.first_token_s - began_s) if answer.first_token_s else None,
        "error": answer.error,
        "prompts": answer.prompts,
        "texts": answer.texts,
    }
    if timings is not None and timings.scheduled_s:
        fields["queue_ms"] = _ms(timings.scheduled_s - timings.arrival_s)
        fields["preemptions"] = timings.num_preemptions or None
        if timings.first_token_s:
            fields["prefill_ms"] = _ms(timings.first_token_s - timings.scheduled_s)
            fields["decode_ms"] = _ms(timings.finished_s - timings.first_token_s)
    return fields


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
