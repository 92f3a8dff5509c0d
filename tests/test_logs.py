"""How log lines are written."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from octavo.app.logs import HumanFormatter, JsonFormatter


def record(message: str = "it %s", *args: object, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("octavo.x", logging.WARNING, "f.py", 1, message, args or ("went",), None)
    if fields:
        made.fields = fields
    return made


def test_people_read_words() -> None:
    line = HumanFormatter().format(record(request_id="abc", total_ms=1.5, cause="stop"))
    assert line.endswith(" WARNING octavo.x: it went request_id=abc total_ms=1.5 cause=stop")


@pytest.mark.parametrize(
    "value", ["two words", "a\nINFO forged: line", 'quo"te', "\x1b[31m", "\x9b31m", "a\u2028b", "", ("x y",)]
)
def test_a_client_cannot_write_lines(value: str | tuple[str, ...]) -> None:
    line = HumanFormatter().format(record(client=value))
    assert line.isprintable()
    told = json.loads(line.partition("client=")[2])
    assert (told if isinstance(value, str) else tuple(told)) == value


def test_machines_read_objects() -> None:
    line = json.loads(JsonFormatter().format(record(request_id="abc", output_tokens=3, texts=("a\n",))))
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "warning",
        "logger": "octavo.x",
        "message": "it went",
        "request_id": "abc",
        "output_tokens": 3,
        "texts": ["a\n"],
    }


@pytest.mark.parametrize("log_format", ["json", "human"])
def test_no_exception_text_is_lost(log_format: str) -> None:
    program = (
        "import logging; from octavo.app.logs import set_up_logging\n"
        f"set_up_logging('info', {log_format!r})\n"
        "try:\n"
        "    try: raise KeyError('the root')\n"
        "    except KeyError as cause: raise RuntimeError('the top') from cause\n"
        "except RuntimeError: logging.getLogger('octavo.x').exception('failed', extra={'fields': {'a': 1}})\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    text = run.stderr
    if log_format == "json":
        (line,) = text.splitlines()
        text = json.loads(line)["exception"]
    for part in ("KeyError: 'the root'", "RuntimeError: the top", "Traceback"):
        assert part in text


def test_a_line_with_something_that_json_has_not_is_still_written() -> None:
    assert json.loads(JsonFormatter().format(record(what=ValueError("odd"))))["what"] == "odd"
