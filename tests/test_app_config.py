"""Settings: parsing, rules, what is refused, and that they cannot change."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from octavo.app.client_config import TerminalConfig
from octavo.app.config import EngineConfig, ServerConfig
from octavo.app.settings import SettingError, build, parse_bytes, parse_count, settings_of


@pytest.mark.parametrize("config", [EngineConfig, ServerConfig, TerminalConfig])
def test_defaults_are_valid_and_frozen(config: type[Any]) -> None:
    made = config()
    for name, (field, described) in settings_of(config).items():
        assert getattr(made, name) == field.default
        assert described.help and not described.help.endswith(".")
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, next(iter(settings_of(config))), "changed")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4096", 4096),
        ("8k", 8000),
        ("8K", 8192),
        ("1.5k", 1500),
        ("2M", 2 << 20),
        ("-3", -3),
        ("0", 0),
        ("9007199254740993", 2**53 + 1),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_counts(text: str, value: int) -> None:
    assert parse_count(text) == value


@pytest.mark.parametrize("text", ["", "k", "8kk", "1.5", "0.0001k", "1e3", "eight"])
def test_counts_refuse(text: str) -> None:
    with pytest.raises(ValueError):
        parse_count(text)


@pytest.mark.parametrize("name", ["max_num_seqs", "kv_cache_memory_bytes", "seed"])
@pytest.mark.parametrize("unit", ["", "G"])
def test_numbers_beyond_all_machines_are_one_sentence(name: str, unit: str) -> None:
    with pytest.raises(SettingError, match=f"{name} must be below 2.63, got '9"):
        build(EngineConfig, {name: "9" * 400 + unit})
    with pytest.raises(SettingError, match=f"{name} must be below 2.63, got 9"):
        build(EngineConfig, {name: int("9" * 400)})


@pytest.mark.parametrize("network", ["proxy", "10.0.0.1/8", "1.2.3", ""])
def test_proxies_that_could_never_be_met_are_refused(network: str) -> None:
    with pytest.raises(SettingError, match="forwarded_allow_ips must be a list of addresses, networks"):
        ServerConfig(forwarded_allow_ips=("127.0.0.1", network))
    ServerConfig(forwarded_allow_ips=("127.0.0.1", "::1", "10.0.0.0/8", "*"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4GiB", 4 << 30),
        ("4G", 4 << 30),
        ("4GB", 4 * 10**9),
        ("4gb", 4 * 10**9),
        ("1.5 MiB", 3 << 19),
        ("512KiB", 1 << 19),
        ("1T", 1 << 40),
        ("100", 100),
        ("100B", 100),
    ],
)
def test_bytes(text: str, value: int) -> None:
    assert parse_bytes(text) == value


@pytest.mark.parametrize("text", ["", "GiB", "4X", "4Gi B", "-1", "1.5", "four"])
def test_bytes_refuse(text: str) -> None:
    with pytest.raises(ValueError):
        parse_bytes(text)


def test_text_is_parsed_and_values_are_taken_as_they_are() -> None:
    from_text = build(
        EngineConfig,
        {
            "max_model_len": "8k",
            "kv_cache_memory_bytes": "1GiB",
            "gpu_memory_utilization": "0.5",
            "overlap": "off",
            "max_queued_requests": "none",
            "seed": "-7",
        },
    )
    from_values = build(
        EngineConfig,
        {
            "max_model_len": 8000,
            "kv_cache_memory_bytes": 1 << 30,
            "gpu_memory_utilization": 0.5,
            "overlap": False,
            "max_queued_requests": None,
            "seed": -7,
        },
    )
    assert from_text == from_values
    assert build(EngineConfig, {"max_model_len": "auto"}).max_model_len == "auto"
    assert build(ServerConfig, {"api_key": "a"}).api_key == ("a",)
    assert build(ServerConfig, {"served_model_name": ["a", "b"]}).served_model_name == ("a", "b")


@pytest.mark.parametrize(
    ("config", "values", "sentence"),
    [
        (EngineConfig, {"model": ""}, "model must be text that is not empty, got ''"),
        (EngineConfig, {"device": "tpu"}, "device must be one of auto, cuda, cpu, got 'tpu'"),
        (EngineConfig, {"max_model_len": "8x"}, "max_model_len must be a positive number of tokens"),
        (EngineConfig, {"max_model_len": 0}, "got 0"),
        (
            EngineConfig,
            {"gpu_memory_utilization": 1.1},
            "gpu_memory_utilization must be a number in (0, 1], got 1.1",
        ),
        (EngineConfig, {"gpu_memory_utilization": "nan"}, "got nan"),
        (EngineConfig, {"kv_cache_memory_bytes": "4 apples"}, "got '4 apples'"),
        (EngineConfig, {"block_size": 24}, "block_size must be a power of two, got 24"),
        (EngineConfig, {"max_num_seqs": 0}, "max_num_seqs must be an integer of at least 1, got 0"),
        (EngineConfig, {"max_num_seqs": True}, "got True"),
        (EngineConfig, {"max_num_seqs": 1.5}, "got 1.5"),
        (
            EngineConfig,
            {"max_num_seqs": 32, "max_num_batched_tokens": 16},
            "at least max_num_seqs (32), got 16",
        ),
        (EngineConfig, {"itl_target_ms": -1}, "itl_target_ms must be a number of milliseconds, not negative"),
        (
            EngineConfig,
            {"itl_target_ms": 20, "enable_chunked_prefill": False},
            "itl_target_ms needs chunked prefill, which is off: must be 0 then, got 20",
        ),
        (EngineConfig, {"overlap": "maybe"}, "overlap must be true or false, got 'maybe'"),
        (EngineConfig, {"overlap": 1}, "overlap must be true or false, got 1"),
        (EngineConfig, {"seed": 2**63}, "seed must be an integer from"),
        (
            EngineConfig,
            {"num_gpu_blocks_override": 9, "kv_cache_memory_bytes": 9},
            "cannot be given together",
        ),
        (ServerConfig, {"port": 65536}, "port must be an integer from 0 to 65535, got 65536"),
        (
            ServerConfig,
            {"drain_timeout": -1},
            "drain_timeout must be a number of seconds, not negative, got -1",
        ),
        (
            ServerConfig,
            {"api_key": ["a", ""]},
            "api_key must be a list of texts that are not empty, got ['a', '']",
        ),
        (TerminalConfig, {"temperature": "3"}, "temperature must be a number in [0, 2], got 3.0"),
    ],
)
def test_a_wrong_value_names_setting_rule_and_value(
    config: type[Any], values: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SettingError) as caught:
        build(config, values)
    assert sentence in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("config", "values"),
    [
        (EngineConfig, {"tensor_parallel_size": 2}),
        (EngineConfig, {"quantization": "awq"}),
        (EngineConfig, {"kv_cache_dtype": "fp8"}),
    ],
)
def test_what_does_not_exist_yet_is_refused(config: type[Any], values: dict[str, Any]) -> None:
    ((name, value),) = values.items()
    with pytest.raises(SettingError, match=f"{name} cannot be {value!r} yet: "):
        build(config, values)


def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(SettingError, match="max_num_seq is not a setting; did you mean max_num_seqs"):
        build(EngineConfig, {"max_num_seq": 3})


@pytest.mark.parametrize(("given", "kept"), [("auto", "auto"), ("3", 3), (0, 0)])
def test_frontends_are_a_number_or_auto(given: Any, kept: Any) -> None:
    assert build(ServerConfig, {"frontends": given}).frontends == kept
    with pytest.raises(SettingError, match="must be an integer from 0 to 256, or auto, got"):
        build(ServerConfig, {"frontends": "some"})
