"""Parsers of what an operator gives, model files and settings, and of what a server tells a terminal.

Whatever is in there, an error that is one sentence, or a value; strangers' requests are in test_fuzz.py.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import httpx
import pytest
from http_harness import ScriptedClient, byte_tokenizer, make_app, serve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runner_harness import HF_CONFIG

from octavo.app.cli import UsageError, configs_of, parse
from octavo.app.errors import OctavoError, StartupError
from octavo.app.json_file import read_json_object
from octavo.app.model_source import default_params
from octavo.app.remote_model import _first_choices
from octavo.app.run_batch import LineError, read_line
from octavo.app.settings import SettingError
from octavo.app.tokenizer import Tokenizer
from octavo.model.config import ModelConfig
from octavo.model.safetensors_file import count_tensors, read_tensors, safetensors_files

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
MODEL_FIELDS = [
    *HF_CONFIG,
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "rms_norm_eps",
    "head_dim",
    "hidden_act",
    "tie_word_embeddings",
    "sliding_window",
    "layer_types",
    "eos_token_id",
    "torch_dtype",
    "quantization_config",
    "model_type",
    "attention_bias",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzzed")


@given(st.dictionaries(st.sampled_from(MODEL_FIELDS), JSON, min_size=1, max_size=3))
@settings(QUICK, max_examples=80)
def test_any_value_in_a_config_is_taken_or_refused(changes: dict[str, Any]) -> None:
    try:
        ModelConfig.from_hf(HF_CONFIG | changes)
    except ValueError as error:
        assert str(error)


@given(st.dictionaries(st.sampled_from(["temperature", "top_p", "top_k", "max_new_tokens", "min_p"]), JSON))
@QUICK
def test_any_generation_config_is_taken_or_refused(changes: dict[str, Any]) -> None:
    try:
        default_params(changes)
    except StartupError as error:
        assert str(error).startswith("generation_config.json: ")


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
@QUICK
def test_any_bytes_for_a_json_file_are_an_object_or_a_sentence(folder: Path, data: bytes) -> None:
    path = folder / "any.json"
    for written in (data, b"[" * 100_000, b'{"a":' * 100_000):
        path.write_bytes(written)
        try:
            assert isinstance(read_json_object(path), dict)
        except StartupError as error:
            assert path.name in str(error)


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=3),
    st.integers(0, 10**6),
)
@QUICK
def test_a_damaged_tokenizer_is_a_sentence(folder: Path, changes: list[tuple[int, int]], length: int) -> None:
    data = bytearray(byte_tokenizer().backend.to_str().encode())
    for place, value in changes:
        data[place % len(data)] = value
    (folder / "tokenizer.json").write_bytes(data[: length if length < len(data) else None])
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": changes[0][1]}))
    try:
        Tokenizer.from_directory(folder).encode("hello")
    except StartupError as error:
        assert "tokenizer" in str(error)


@given(JSON)
@QUICK
def test_any_tokenizer_config_is_taken_or_a_sentence(folder: Path, value: Any) -> None:
    (folder / "tokenizer.json").write_text(byte_tokenizer().backend.to_str())
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": value, "bos_token": value}))
    try:
        Tokenizer.from_directory(folder, {"eos_token_id": value}, {"eos_token_id": value})
    except StartupError as error:
        assert str(error)


def safetensors_bytes() -> bytes:
    header = {"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
    packed = json.dumps(header).encode()
    return struct.pack("<Q", len(packed)) + packed + bytes(16)


@given(st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), max_size=5), st.integers(0, 300))
@settings(QUICK, max_examples=80)
def test_damaged_weights_are_a_sentence(folder: Path, changes: list[tuple[int, int]], length: int) -> None:
    data = bytearray(safetensors_bytes())
    for place, value in changes:
        data[place % len(data)] = value
    path = folder / "model.safetensors"
    path.write_bytes(data[: length if length < len(data) else None])
    try:
        assert count_tensors([path]) == len(list(read_tensors([path])))
    except ValueError as error:
        assert path.name in str(error)


@given(JSON | st.fixed_dictionaries({"weight_map": JSON}))
@QUICK
def test_any_index_of_shards_is_a_sentence(folder: Path, value: Any) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps(value))
    try:
        safetensors_files(folder)
    except ValueError as error:
        assert index.name in str(error)
    finally:
        index.unlink()


YAML = st.text(st.sampled_from("ab:-_ \n0129.,[]{}&*!|>'\"#%@`?\t"), max_size=40)
DATES = st.sampled_from(["port: 2020-99-99", "a: !!python/object:os.system x", "port: 1:99", "[" * 3000])


@given(YAML | DATES | JSON.map(json.dumps))
@settings(QUICK, max_examples=80)
def test_any_yaml_is_settings_or_a_sentence(folder: Path, text: str) -> None:
    path = folder / "settings.yaml"
    path.write_text(text)
    try:
        configs_of(parse(["serve", "--config", str(path)]))
    except (UsageError, SettingError) as error:
        assert str(error)


WORDS = st.sampled_from(
    ["--port", "--host", "--max-model-len", "--seed", "--no-overlap", "--config", "--", "-"]
)


@given(st.lists(WORDS | st.text(max_size=6), max_size=5))
@settings(QUICK, max_examples=80)
def test_any_command_line_is_settings_or_a_sentence(words: list[str]) -> None:
    try:
        configs_of(parse(["serve", *words]))
    except (UsageError, SettingError) as error:
        assert str(error)
    except SystemExit as asked:  # for --help, in any of the ways that argparse lets it be written
        assert asked.code == 0


@given(st.text(max_size=60) | JSON.map(json.dumps))
@QUICK
def test_any_line_of_a_batch_is_a_request_or_an_error_of_that_line(line: str) -> None:
    for each in (line, "[" * 100_000, json.dumps({"custom_id": "1", "url": line, "body": {"stream": line}})):
        try:
            read_line(each)
        except LineError as error:
            assert error.code


@given(st.lists(st.binary(max_size=40) | JSON.map(lambda v: b"data: " + json.dumps(v).encode()), max_size=4))
@QUICK
def test_any_stream_of_a_server_is_text_or_one_error(lines: list[bytes]) -> None:
    try:
        assert all(isinstance(choice, dict) for choice in _first_choices(lines))
    except OctavoError as error:
        assert str(error)


HEADERS = st.sampled_from(
    [
        "authorization",
        "x-api-key",
        "x-request-id",
        "x-request-timeout",
        "x-queue-timeout",
        "x-forwarded-for",
        "x-forwarded-proto",
        "forwarded",
        "traceparent",
        "origin",
        "content-type",
        "accept",
        "expect",
        "range",
    ]
)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=30)


def test_any_headers_are_taken_or_refused() -> None:
    """Against a real server, which is asked for the same by all."""
    app = make_app(ScriptedClient(), {"api_keys": ("right",)})
    with serve(app) as url, httpx.Client(base_url=url, timeout=60) as http:

        @given(st.dictionaries(HEADERS, VALUES, max_size=4))
        @settings(QUICK, max_examples=80)
        def check(headers: dict[str, str]) -> None:
            sent = {name.encode(): value.strip().encode("latin-1") for name, value in headers.items()}
            asked = {"prompt": "hi", "max_tokens": 3}
            for given_headers in (sent, {b"authorization": b"Bearer right", **sent}):
                response = http.post("/v1/completions", json=asked, headers=given_headers)
                assert response.status_code in (200, 400, 401, 415), response.text
                assert "x-request-id" in response.headers

        check()
