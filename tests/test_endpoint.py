"""claim_of: body, header and setting; the shortest limit counts, and a wrong one is refused by name."""

from __future__ import annotations

import math
from typing import Any

import pytest
from starlette.requests import Request

from octavo.app.endpoint import claim_of
from octavo.app.errors import RequestError
from octavo.app.protocol import SamplingFields
from octavo.app.server_settings import ServerSettings

NOW_S = 1000.0


def claim(headers: Any = None, tenant: str | None = None, fields: Any = None, **settings: Any) -> Any:
    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    request = Request({"type": "http", "headers": raw, "state": {"tenant": tenant} if tenant else {}})
    server = ServerSettings(model_names=("toy",), version="0", **settings)
    return claim_of(request, SamplingFields(**(fields or {})), server, NOW_S)


@pytest.mark.parametrize(
    ("setting", "header", "field", "limit_s"),
    [
        (None, None, None, math.inf),
        (9.0, None, None, 9.0),
        (9.0, "3", None, 3.0),
        (9.0, "30", None, 9.0),
        (9.0, "3", 1.5, 1.5),
        (None, None, 2.0, 2.0),
        (None, "0.5", 2.0, 0.5),
    ],
)
@pytest.mark.parametrize("which", ["request", "queue"])
def test_the_shortest_limit_counts(
    which: str, setting: float | None, header: str | None, field: float | None, limit_s: float
) -> None:
    made = claim(
        {} if header is None else {f"x-{which}-timeout": header},
        fields={"timeout" if which == "request" else "queue_timeout": field},
        **dict[str, Any]({f"{which}_timeout_s": setting}),
    )
    of = {"request": made.deadline_s, "queue": made.queue_deadline_s}
    assert of.pop(which) == NOW_S + limit_s
    assert [*of.values()] == [math.inf]


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf", ""])
def test_a_header_that_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(
        RequestError, match="x-request-timeout must be a number of seconds above 0"
    ) as refused:
        claim({"x-request-timeout": text})
    assert refused.value.param == "x-request-timeout"


def test_a_key_has_its_share() -> None:
    keys: dict[str, Any] = {"api_keys": ("k", "l"), "key_weights": (3.0, 1.0)}
    assert [claim(tenant=f"key-{i}", **keys).weight for i in (0, 1)] == [3.0, 1.0]
    assert claim(tenant="key-1", api_keys=("k", "l")).weight == 1.0
    assert (claim().tenant, claim().weight) == ("", 1.0)
