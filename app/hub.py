"""A model from the hub, as a directory in the local cache. Knows which files octavo needs, not their meaning.

huggingface-hub does the work and reads the user's settings itself (HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE,
token). A file gets its name in the cache only when it is complete.
"""

from __future__ import annotations

import errno
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .errors import StartupError
from .json_file import read_json_object

_INDEX = "model.safetensors.index.json"
_DESCRIPTIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    _INDEX,
)


def download_model(repo_id: str, revision: str | None = None, *, weights: bool = True) -> Path:
    """The snapshot's directory, complete; downloads what the cache lacks, with progress.

    Only the descriptions above and the safetensors files that they lead to are fetched; without `weights`,
    only the descriptions. Raises StartupError.
    """
    snapshot = _fetch(repo_id, revision, _DESCRIPTIONS)
    if not (snapshot / "config.json").is_file():
        raise StartupError(
            f"{repo_id} has no config.json on the hub, so octavo cannot tell what model it is; "
            "if it holds GGUF files, download one and name that"
        )
    if not weights:
        return snapshot
    names = _weight_files(snapshot)
    # By commit, so that weights and descriptions belong together even if the branch moves meanwhile.
    _fetch(repo_id, snapshot.name, names)
    missing = [name for name in names if not (snapshot / name).is_file()]
    if missing:
        raise StartupError(
            f"{repo_id} has no {missing[0]}, neither on the hub nor in the local cache; "
            "octavo needs safetensors weights"
        )
    return snapshot


def _weight_files(snapshot: Path) -> list[str]:
    """Names of the files that hold the weights, without other copies that a repository may have."""
    if not (snapshot / _INDEX).is_file():
        return ["model.safetensors"]
    weight_map = read_json_object(snapshot / _INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise StartupError(f"{snapshot / _INDEX} has no weight_map")
    return sorted({str(name) for name in weight_map.values()})


def _fetch(repo_id: str, revision: str | None, names: list[str] | tuple[str, ...]) -> Path:
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(names)))
    except Exception as error:  # transport errors have the types of the library's HTTP client of the day
        raise StartupError(_sentence(error, repo_id, revision)) from error


def _sentence(error: Exception, repo_id: str, revision: str | None) -> str:
    """What went wrong and what a person can do about it."""
    match error:
        case HFValidationError():
            return f"{repo_id} is no file or directory here, and it cannot be a hub id: {_first_line(error)}"
        case GatedRepoError():
            return (
                f"{repo_id} is gated: accept its conditions on its page on the hub, "
                "then log in with `hf auth login` or set HF_TOKEN"
            )
        case RevisionNotFoundError():
            return f"{repo_id} has no revision {revision!r} on the hub"
        case RepositoryNotFoundError():
            return (
                f"{repo_id} was not found, neither here nor on the hub; if it is private, "
                "log in with `hf auth login` or set HF_TOKEN"
            )
        case LocalEntryNotFoundError(__cause__=HfHubHTTPError() as answer):
            return _sentence(answer, repo_id, revision)
        case LocalEntryNotFoundError() | OfflineModeIsEnabled():
            return (
                f"{repo_id} is not, or not whole, in the local cache, and the hub cannot be reached: "
                "connect, unset HF_HUB_OFFLINE, or check HF_ENDPOINT and HF_HOME"
            )
        case HfHubHTTPError() if error.response is not None:
            return f"{repo_id} could not be downloaded: the hub answered {error.response.status_code}"
        case OSError(errno=errno.ENOSPC):
            return f"{repo_id} could not be downloaded: the disk of the cache (HF_HOME) is full"
        case _:
            reason = _first_line(error)
            return f"{repo_id} could not be downloaded whole ({reason}); start again to go on from there"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
