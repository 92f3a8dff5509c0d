"""The bounds of a template that is rendered in this process: time, output, and values made out of nothing."""

from __future__ import annotations

from typing import Any

import pytest

from octavo.app import template_sandbox
from octavo.app.template_sandbox import GuardedEnvironment, TemplateError


def render(source: str, **variables: Any) -> str:
    environment = GuardedEnvironment()
    return environment.run(environment.from_string(source), variables)


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for a in tree recursive %}{{ loop(tree) }}{{ loop(tree) }}{% endfor %}",
    ],
    ids=["loops", "macros", "recursive"],
)
def test_what_runs_away_is_ended(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_sandbox, "MAX_SECONDS", 0.2)
    with pytest.raises(TemplateError, match=r"ran for more than 0\.2 s|RecursionError"):
        render(source, tree=[1, 2])


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'ab' * n }}",
        "{{ n * [1] }}",
        "{{ 10 ** n }}",
        "{% for a in range(9) %}{{ 'x' * 9999999 }}{% endfor %}",
    ],
)
def test_much_out_of_little(source: str) -> None:
    with pytest.raises(TemplateError, match="may not|wrote more than"):
        render(source, n=10**9)


def test_loops_keep_what_jinja_promises() -> None:
    source = (
        "{% for m in ms %}{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last }}"
        "{{ loop.nextitem or '' }}{% else %}none{% endfor %}"
    )
    assert render(source, ms=["a", "b"]) == "1/2,b2/2"
    assert render(source, ms=[]) == "none"
    assert render(source) == "none"
    nested = "{% for k, v in pairs.items() if v %}{{ k }}{% break %}{% endfor %}{{ 3 * 'ab' }}{{ 2 ** 8 }}"
    assert render(nested, pairs={"x": 0, "y": 1, "z": 2}) == "yababab256"
