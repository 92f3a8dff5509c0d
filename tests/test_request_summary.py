"""Why a request ended, also if no engine has seen it."""

from __future__ import annotations

import pytest

from octavo.app.request_summary import RequestSummary


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (0, "disconnect"),
        (499, "disconnect"),
        (400, "refused"),
        (429, "refused"),
        (503, "refused"),
        (504, "deadline"),
        (500, "error"),
    ],
)
def test_without_an_answer_the_status_tells(status: int, cause: str) -> None:
    summary = RequestSummary(
        request_id="r",
        method="POST",
        route="/v1/completions",
        status=status,
        client="",
        began_s=0.0,
        ended_s=1.0,
        generates=True,
    )
    assert summary.cause == cause


def test_what_asks_for_no_tokens_ends_by_no_cause() -> None:
    summary = RequestSummary(
        request_id="r", method="GET", route="/livez", status=200, client="", began_s=0.0, ended_s=1.0
    )
    assert summary.cause is None
