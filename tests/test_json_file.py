"""A JSON object in a file, or one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from octavo.app.errors import StartupError
from octavo.app.json_file import read_json_object


def test_an_object(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"é": [1, null]}', encoding="utf-8")
    assert read_json_object(tmp_path / "a.json") == {"é": [1, None]}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "a.json is not valid JSON: Expecting value"),
        (b'{"a": 1', "a.json is not valid JSON"),
        (b"\xff\xfe\xfd", "a.json is not valid JSON"),
        (b"[]", "a.json must hold a JSON object, got list"),
        (b"null", "a.json must hold a JSON object, got NoneType"),
    ],
)
def test_anything_else(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(StartupError, match=sentence):
        read_json_object(tmp_path / "a.json")


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"b\.json cannot be read: No such file"):
        read_json_object(tmp_path / "b.json")
    (tmp_path / "c.json").mkdir()
    with pytest.raises(StartupError, match=r"c\.json cannot be read: Is a directory"):
        read_json_object(tmp_path / "c.json")
