"""MODEL on the command line -> config, weights, tokenizer and chat template. Knows no layers and no devices.

Whatever is wrong with a model's files is found here, before anything is allocated, and told in one sentence.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..model.gguf_file import GGUFError, GGUFFile
from ..model.sampling_params import SamplingParams
from .chat_template import ChatTemplate, find_chat_template
from .demo import demo_model
from .errors import StartupError
from .gguf_tokenizer import gguf_tokenizer
from .json_file import read_json_object
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

    from ..model.targets import StoredBlocks

LoadFormat = Literal["auto", "safetensors", "gguf", "dummy"]

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w./-]+)?$")
_SAMPLING_FIELDS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}
"""Fields of generation_config.json -> SamplingParams' names."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model's files; the small ones have been read.

    name: what clients call the model.   path: its directory or .gguf file.
    config, generation_config: as in the JSON files of the same names; the second is empty if there is none.
    weights: where tensors come from; None if they are random (`--load-format dummy`) or were not asked for.
    tokenizer: None if it was not asked for.   chat_template: None if the model has none.
    """

    name: str
    path: Path
    config: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    weights: GGUFFile | tuple[Path, ...] | None
    num_tensors: int | None
    tokenizer: Tokenizer | None
    chat_template: ChatTemplate | None

    def tensors(self, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor | StoredBlocks]]:
        """(Hugging Face name, tensor on the CPU), one at a time; quantized ones can become `dtype`.

        Raises ValueError, naming the file, for what is found to be damaged only now.
        """
        from ..model.gguf_tensors import gguf_contents
        from ..model.safetensors_file import read_tensors

        assert self.weights is not None, "a model with made-up weights has no tensors to read"
        if isinstance(self.weights, GGUFFile):
            return gguf_contents(self.weights, dtype)
        return read_tensors(self.weights)


def find_model(
    model: str,
    *,
    load_format: LoadFormat = "auto",
    with_tokenizer: bool = True,
    with_weights: bool = True,
) -> ModelSource:
    """Find `model`, downloading it if necessary, and read all but its weights.

    model: `demo`, a .gguf file, a directory in the Hugging Face layout, or a hub id, `org/name` or
    `org/name@revision`.
    with_weights: without them only the descriptions are downloaded from the hub; a GGUF file is both in one.
    Raises StartupError.
    """
    with_weights = with_weights and load_format != "dummy"
    path = _locate(model, load_format, with_weights)
    is_gguf = path.is_file()
    if is_gguf and load_format == "safetensors":
        raise StartupError(f"--load-format safetensors does not fit {path}, which is a GGUF file")
    if not is_gguf and load_format == "gguf":
        raise StartupError(f"--load-format gguf does not fit {path}, which holds no GGUF file")
    try:
        read = _read_gguf if is_gguf else _read_directory
        return read(model, path, with_weights, with_tokenizer)
    except OSError as error:
        raise StartupError(f"{error.filename or path} cannot be read: {error.strerror or error}") from error


def read_texts(
    path: Path, config: Mapping[str, Any] | None = None, generation_config: Mapping[str, Any] | None = None
) -> tuple[Tokenizer, ChatTemplate | None]:
    """Tokenizer and chat template of the model at `path`: all that a process without a device needs.

    config, generation_config: as in Tokenizer.from_directory. Raises StartupError. Loads no torch.
    """
    if path.is_file():
        return _gguf_texts(GGUFFile.open(path))
    tokenizer = Tokenizer.from_directory(path, config, generation_config)
    template = find_chat_template(path)
    return tokenizer, ChatTemplate(template, tokenizer.special_tokens) if template else None


def default_params(generation_config: Mapping[str, Any]) -> dict[str, Any]:
    """Sampling values that the model's authors chose, by SamplingParams' names; null means not chosen.

    Raises StartupError, naming the file's field, for a value that no request could use.
    """
    found: dict[str, Any] = {}
    for theirs, ours in _SAMPLING_FIELDS.items():
        value = generation_config.get(theirs)
        if value is None:
            continue
        try:
            SamplingParams(**{ours: value})
        except ValueError as error:
            complaint = str(error).removeprefix(ours)
            raise StartupError(f"generation_config.json: {theirs}{complaint}") from error
        found[ours] = value
    return found


def _gguf_texts(file: GGUFFile) -> tuple[Tokenizer, ChatTemplate | None]:
    tokenizer = gguf_tokenizer(file)
    template = file.metadata.get("tokenizer.chat_template")
    return tokenizer, ChatTemplate(template, tokenizer.special_tokens) if template else None


def _locate(model: str, load_format: LoadFormat, with_weights: bool) -> Path:
    """The directory or GGUF file that holds the model, on this machine."""
    if model == "demo":
        return demo_model()
    if not model:
        raise StartupError("MODEL must not be empty")
    path = Path(os.path.expanduser(model))  # not Path.expanduser, which raises for ~somebody
    if path.is_dir():
        return _gguf_inside(path, load_format) or path
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise StartupError(f"{path} is a file but no .gguf; for other formats name the model's directory")
        return path
    if path.is_absolute() or model.startswith(".") or model.lower().endswith(".gguf"):
        raise StartupError(f"{path} does not exist")
    if not _HUB_ID.match(model):
        raise StartupError(f"{model!r} is no file or directory here, and it cannot be a hub id")
    from .hub import download_model

    repo_id, _, revision = model.partition("@")
    return download_model(repo_id, revision or None, weights=with_weights)


def _gguf_inside(directory: Path, load_format: LoadFormat) -> Path | None:
    """The GGUF file of a directory that holds one and, unless asked for, no config.json beside it."""
    if load_format != "gguf" and (directory / "config.json").exists():
        return None
    files = sorted(directory.glob("*.gguf"))
    firsts = [file for file in files if not re.search(r"-(?!00001)\d{5}-of-\d{5}\.gguf$", file.name)]
    if len(firsts) > 1:
        raise StartupError(
            f"{directory} holds several GGUF files; name one of {', '.join(f.name for f in firsts)}"
        )
    return firsts[0] if firsts else None


def _read_gguf(name: str, path: Path, with_weights: bool, with_tokenizer: bool) -> ModelSource:
    from ..model.gguf_config import gguf_config

    try:
        file = GGUFFile.open(path)
        config = gguf_config(file)
    except GGUFError as error:
        raise StartupError(str(error)) from error
    tokenizer, template = _gguf_texts(file) if with_tokenizer else (None, None)
    return ModelSource(
        name=name,
        path=path,
        config=config,
        generation_config={},
        weights=file if with_weights else None,
        num_tensors=len(file.tensors) if with_weights else None,
        tokenizer=tokenizer,
        chat_template=template,
    )


def _read_directory(name: str, path: Path, with_weights: bool, with_tokenizer: bool) -> ModelSource:
    if not any(path.iterdir()):
        raise StartupError(f"{path} is empty")
    if not (path / "config.json").is_file():
        raise StartupError(f"{path} has no config.json, so it is no model in the Hugging Face layout")
    config = read_json_object(path / "config.json")
    generation_path = path / "generation_config.json"
    generation_config = read_json_object(generation_path) if generation_path.is_file() else {}
    tokenizer, template = read_texts(path, config, generation_config) if with_tokenizer else (None, None)
    files, num_tensors = _safetensors(path) if with_weights else (None, None)
    return ModelSource(
        name=name,
        path=path,
        config=config,
        generation_config=generation_config,
        weights=files,
        num_tensors=num_tensors,
        tokenizer=tokenizer,
        chat_template=template,
    )


def _safetensors(directory: Path) -> tuple[tuple[Path, ...], int]:
    """The weight files and how many tensors they hold, from their headers: a truncated one is found now."""
    from ..model.safetensors_file import count_tensors, safetensors_files

    try:
        files = tuple(safetensors_files(directory))
        return files, count_tensors(files)
    except ValueError as error:
        pickled = sorted(
            file.name for pattern in ("*.bin", "*.pth", "*.pt") for file in directory.glob(pattern)
        )
        hint = f" ({pickled[0]} is a pickle, which octavo does not read)" if pickled else ""
        raise StartupError(f"{error}{hint}") from error
