"""A GGUF file, opened: its metadata as Python values and its tensors as memory-mapped bytes.

Knows the container only: no architecture, no tensor names, no dequantization. The `gguf` package's own reader
makes several numpy arrays for every string of a vocabulary: 3.4 s for 98,000 strings; this one takes 0.1 s.
Format: docs/gguf.md in the ggml repository.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from numpy.typing import NDArray

_MAGIC = b"GGUF"
_SCALARS = {
    GGUFValueType.UINT8: "<u1",
    GGUFValueType.INT8: "<i1",
    GGUFValueType.UINT16: "<u2",
    GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4",
    GGUFValueType.INT32: "<i4",
    GGUFValueType.UINT64: "<u8",
    GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT32: "<f4",
    GGUFValueType.FLOAT64: "<f8",
    GGUFValueType.BOOL: "?",
}
_SHARD = re.compile(r"^(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf$")


class GGUFError(ValueError):
    """The file is not a GGUF file that octavo can use; the message is one sentence naming it."""


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """One tensor as it lies in the file.

    type_name: "F32", "Q4_K", ...   shape: outermost dimension first, as torch has it.
    data: [num_bytes] uint8, a view of the mapped file.
    """

    name: str
    type_name: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """Metadata and tensors of one model; of several files if it was split."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GGUFTensor]

    @property
    def eos_token_ids(self) -> list[int]:
        """Ids that end a sequence, a turn or a message, where the file names them."""
        names = ("eos_token_id", "eot_token_id", "eom_token_id")
        found = [self.metadata.get(f"tokenizer.ggml.{name}") for name in names]
        return list(dict.fromkeys(int(token) for token in found if token is not None))

    def get(self, key: str, default: Any) -> Any:
        """A value of the file's architecture, such as `context_length`."""
        return self.metadata.get(f"{self.metadata['general.architecture']}.{key}", default)

    def need(self, key: str) -> Any:
        """The same, raising GGUFError if it is not there."""
        value = self.get(key, None)
        if value is None:
            raise GGUFError(f"{self.path} lacks the metadata {self.metadata['general.architecture']}.{key}")
        return value

    def per_model(self, key: str, default: int | None = None) -> int:
        """A size that may be given per layer, which octavo runs only if all layers agree."""
        value = self.need(key) if default is None else self.get(key, default)
        sizes = {int(size) for size in value} if isinstance(value, list) else {int(value)}
        if len(sizes) != 1:
            raise GGUFError(f"{self.path} has layers that differ in {key}, which octavo does not run")
        return sizes.pop()

    def tensor(self, name: str) -> GGUFTensor:
        """Raises GGUFError if it is not there."""
        if name not in self.tensors:
            raise GGUFError(f"{self.path} lacks the tensor {name}")
        return self.tensors[name]

    @classmethod
    def open(cls, path: Path) -> GGUFFile:
        """Maps the file (and, if it is the first of a split model, the others). Raises GGUFError, OSError."""
        metadata, tensors = _Reader(path).read()
        num_files = int(metadata.get("split.count", 1))
        if num_files > 1:
            for shard in _other_shards(path, num_files):
                tensors.update(_Reader(shard).read()[1])
            expected = int(metadata.get("split.tensors.count", len(tensors)))
            if len(tensors) != expected:
                raise GGUFError(f"{path} and its other parts hold {len(tensors)} tensors, not {expected}")
        return cls(path, metadata, tensors)


def _other_shards(path: Path, num_files: int) -> list[Path]:
    """Paths of parts 2, 3, ... of a model split by llama.cpp's naming rule."""
    match = _SHARD.match(path.name)
    if match is None or int(match["index"]) != 1:
        raise GGUFError(
            f"{path} is part of a split model: name its first file, ...-00001-of-{num_files:05}.gguf"
        )
    shards = [
        path.with_name(f"{match['stem']}-{i:05}-of-{num_files:05}.gguf") for i in range(2, num_files + 1)
    ]
    for shard in shards:
        if not shard.is_file():
            raise GGUFError(f"{path} is part of a split model, and its part {shard.name} is missing")
    return shards


class _Reader:
    """Walks one file's header."""

    def __init__(self, path: Path) -> None:
        size = path.stat().st_size
        if size < 24:
            raise GGUFError(f"{path} is not a GGUF file: it has {size} bytes")
        self._path = path
        # Copy-on-write, so that torch gets writable memory and does not warn; nothing writes to it.
        self._bytes: NDArray[np.uint8] = np.memmap(path, dtype=np.uint8, mode="c")
        self._view = self._bytes.data
        self._at = 0

    def read(self) -> tuple[dict[str, Any], dict[str, GGUFTensor]]:
        """Metadata and tensors. Raises GGUFError for anything cut short or out of bounds."""
        try:
            return self._read()
        except (struct.error, UnicodeDecodeError, OverflowError) as error:
            raise self._damaged(f"unreadable at byte {self._at:,}") from error

    def _read(self) -> tuple[dict[str, Any], dict[str, GGUFTensor]]:
        if bytes(self._view[:4]) != _MAGIC:
            raise GGUFError(f"{self._path} is not a GGUF file: it begins with {bytes(self._view[:4])!r}")
        self._at = 4
        version = self._unpack("<I")
        if version not in (2, 3):
            # The number of a big-endian file, read in the wrong order, ends up here as well.
            raise GGUFError(
                f"{self._path} is GGUF version {version}; octavo reads versions 2 and 3, little-endian"
            )
        num_tensors, num_keys = self._unpack("<Q"), self._unpack("<Q")
        metadata: dict[str, Any] = {}
        for _ in range(num_keys):
            key = self._string()
            metadata[key] = self._value(self._unpack("<I"))
        headers = [self._tensor_header() for _ in range(num_tensors)]
        alignment = int(metadata.get("general.alignment", 32))
        if alignment <= 0:
            raise self._damaged(f"its general.alignment is {alignment}")
        base = math.ceil(self._at / alignment) * alignment
        tensors = {name: self._tensor(name, shape, kind, base + at) for name, shape, kind, at in headers}
        return metadata, tensors

    def _tensor_header(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string()
        num_dims = self._unpack("<I")
        if num_dims > 8:
            raise self._damaged(f"tensor {name} has {num_dims} dimensions")
        # The file has the innermost dimension first.
        shape = tuple(reversed([self._unpack("<Q") for _ in range(num_dims)]))
        return name, shape, self._unpack("<I"), self._unpack("<Q")

    def _tensor(self, name: str, shape: tuple[int, ...], kind: int, at: int) -> GGUFTensor:
        try:
            tensor_type = GGMLQuantizationType(kind)
        except ValueError:
            raise GGUFError(f"{self._path}: tensor {name} has the unknown type number {kind}") from None
        block_size, block_bytes = GGML_QUANT_SIZES[tensor_type]
        if not shape or shape[-1] % block_size:
            raise self._damaged(f"tensor {name} of type {tensor_type.name} has the shape {list(shape)}")
        end = at + math.prod(shape) // block_size * block_bytes
        if end > len(self._bytes):
            size = len(self._bytes)
            raise self._damaged(f"tensor {name} ends at byte {end:,} but the file has {size:,} bytes")
        return GGUFTensor(name, tensor_type.name, shape, self._bytes[at:end])

    def _value(self, kind: int) -> Any:
        if kind == GGUFValueType.STRING:
            return self._string()
        if kind == GGUFValueType.ARRAY:
            kind, length = self._unpack("<I"), self._unpack("<Q")
            self._need(length)  # every element takes a byte or more: refuses absurd lengths before the loop
            if kind in _SCALARS:
                return self._scalars(kind, length).tolist()
            return [self._value(kind) for _ in range(length)]
        if kind not in _SCALARS:
            raise self._damaged(f"unknown value type {kind} at byte {self._at:,}")
        return self._scalars(kind, 1)[0].item()

    def _scalars(self, kind: int, length: int) -> NDArray[Any]:
        dtype = np.dtype(_SCALARS[GGUFValueType(kind)])
        self._need(length * dtype.itemsize)
        values = np.frombuffer(self._view, dtype, length, self._at)
        self._at += length * dtype.itemsize
        return values

    def _string(self) -> str:
        length = self._unpack("<Q")
        self._need(length)
        self._at += length
        return bytes(self._view[self._at - length : self._at]).decode()

    def _unpack(self, layout: str) -> int:
        (value,) = struct.unpack_from(layout, self._view, self._at)
        self._at += struct.calcsize(layout)
        return int(value)

    def _need(self, num_bytes: int) -> None:
        if self._at + num_bytes > len(self._bytes):
            raise self._damaged(f"its header goes beyond its {len(self._bytes):,} bytes")

    def _damaged(self, what: str) -> GGUFError:
        return GGUFError(f"{self._path} is damaged or was not downloaded whole: {what}")
