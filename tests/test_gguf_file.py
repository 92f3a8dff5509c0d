"""The GGUF container against the package that defines it, cut at every byte and damaged at every byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import quantize
from gguf_models import finish

from octavo.model.gguf_file import GGUFError, GGUFFile


def test_metadata_and_tensors_are_what_ggufs_own_reader_sees(tmp_path: Path) -> None:
    def metadata(writer: GGUFWriter) -> None:
        writer.add_string("a.string", "naïve 漢字 \x00 end")
        writer.add_array("an.array", ["x", "", "ÿ"])
        writer.add_array("numbers", [1, -2, 3])
        writer.add_array("floats", [0.5, -1e30])
        writer.add_array("flags", [True, False])
        for name in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"):
            getattr(writer, f"add_{name}")(f"a.{name}", 100)
        writer.add_float64("a.float64", 1 / 3)
        writer.add_bool("a.bool", True)
        writer.add_custom_alignment(64)

    writer = GGUFWriter(tmp_path / "m.gguf", "llama")
    metadata(writer)
    writer.add_tensor("norm", np.arange(7, dtype=np.float32))
    writer.add_tensor("half", np.arange(6, dtype=np.float16).reshape(3, 2))
    blocks = quantize(np.ones((4, 64), np.float32), GGMLQuantizationType.Q8_0)
    writer.add_tensor("quantized", blocks, raw_dtype=GGMLQuantizationType.Q8_0)
    finish(writer)
    file, reference = GGUFFile.open(tmp_path / "m.gguf"), GGUFReader(tmp_path / "m.gguf")
    theirs = {key: field.contents() for key, field in reference.fields.items() if not key.startswith("GGUF.")}
    assert file.metadata == theirs
    assert list(file.tensors) == [tensor.name for tensor in reference.tensors]
    for tensor in reference.tensors:
        ours = file.tensors[tensor.name]
        assert (ours.type_name, ours.shape) == (
            tensor.tensor_type.name,
            tuple(reversed(tensor.shape.tolist())),
        )
        assert ours.data.tobytes() == tensor.data.tobytes()


def test_every_truncation_is_one_sentence(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "whole.gguf", "llama")
    writer.add_string("a.text", "text")
    writer.add_array("some.texts", ["one", "two"])
    writer.add_array("some.numbers", [1, 2, 3])
    writer.add_tensor("token_embd.weight", np.ones((3, 32), np.float32))
    finish(writer)
    whole = (tmp_path / "whole.gguf").read_bytes()
    padding = len(whole) - GGUFReader(tmp_path / "whole.gguf").tensors[0].data_offset - 3 * 32 * 4
    for size in range(len(whole) - padding):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        with pytest.raises(GGUFError, match=r"cut\.gguf is (not a GGUF file|damaged|GGUF version)"):
            GGUFFile.open(tmp_path / "cut.gguf")


def test_damage_in_the_header_is_one_sentence(tmp_path: Path) -> None:
    """Any one wrong byte gives a readable file or a GGUFError, never another exception or an endless loop."""
    writer = GGUFWriter(tmp_path / "whole.gguf", "llama")
    writer.add_array("some.texts", ["one", "two"])
    writer.add_tensor("token_embd.weight", np.ones((3, 32), np.float32))
    finish(writer)
    whole = (tmp_path / "whole.gguf").read_bytes()
    refused = 0
    for at in range(len(whole) - 3 * 32 * 4):
        (tmp_path / "bad.gguf").write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            GGUFFile.open(tmp_path / "bad.gguf")
        except GGUFError:
            refused += 1
    assert refused > 100


def test_other_files_and_versions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(GGUFError, match="is not a GGUF file: it begins with b'PK"):
        GGUFFile.open(path)
    path.write_bytes(b"")
    with pytest.raises(GGUFError, match="is not a GGUF file: it has 0 bytes"):
        GGUFFile.open(path)
    path.write_bytes(b"GGUF\x01\x00\x00\x00" + bytes(100))
    with pytest.raises(GGUFError, match="is GGUF version 1"):
        GGUFFile.open(path)


def test_a_split_model_is_read_from_its_first_part(tmp_path: Path) -> None:
    for part in (1, 2):
        writer = GGUFWriter(tmp_path / f"m-{part:05}-of-00002.gguf", "llama")
        writer.add_uint16("split.count", 2)
        writer.add_int32("split.tensors.count", 2)
        writer.add_tensor(f"blk.{part}.ffn_up.weight", np.full((2, 32), part, np.float32))
        finish(writer)
    tensors = GGUFFile.open(tmp_path / "m-00001-of-00002.gguf").tensors
    assert [tensor.data.view(np.float32).mean() for tensor in tensors.values()] == [1, 2]
    with pytest.raises(GGUFError, match=r"name its first file"):
        GGUFFile.open(tmp_path / "m-00002-of-00002.gguf")
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(GGUFError, match=r"its part m-00002-of-00002\.gguf is missing"):
        GGUFFile.open(tmp_path / "m-00001-of-00002.gguf")
