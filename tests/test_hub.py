"""Downloads from a stand-in of the hub, each in its own process: the library reads its settings once."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_stand_in import HubStandIn
from transformers import LlamaConfig, LlamaForCausalLM

from octavo.app import hub as hub_module
from octavo.app.errors import StartupError
from octavo.app.hub import download_model

SCRIPT = """
import sys
from octavo.app.errors import StartupError
from octavo.app.hub import download_model
try:
    print(download_model(sys.argv[1], sys.argv[2] or None, weights=sys.argv[3] == "True"))
except StartupError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""
EXTRA = {
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"x",
    "README.md": b"# not needed",
    "pytorch_model.bin": b"not needed",
    "original/consolidated.00.pth": b"not needed",
    "original/model.safetensors": b"not needed",
    "model.fp16.safetensors": b"not needed",
    "onnx/model.onnx": b"not needed",
}
NEEDED = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
}


@pytest.fixture(scope="module")
def repos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """A tiny real model, in one file and in shards."""
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    model = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=256))
    found = {}
    for name, shard_size in {"tiny/single": "1GB", "tiny/sharded": "100KB"}.items():
        directory = tmp_path_factory.mktemp("model")
        model.save_pretrained(directory, max_shard_size=shard_size)
        found[name] = {path.name: path.read_bytes() for path in directory.iterdir()} | EXTRA
    assert "model.safetensors.index.json" in found["tiny/sharded"]
    found["tiny/pickled"] = {"config.json": b"{}", "pytorch_model.bin": b"x"}
    found["tiny/empty"] = {"README.md": b"x"}
    return found


@pytest.fixture
def hub(repos: dict[str, dict[str, bytes]]) -> Iterator[HubStandIn]:
    with HubStandIn(dict(repos)).running() as running:
        yield running


def download(
    hub: HubStandIn, home: Path, repo: str, revision: str = "", *, weights: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, repo, revision, str(weights)],
        env=keep | settings | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def names(snapshot: str) -> set[str]:
    root = Path(snapshot.strip())
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The last line on standard error: what a person reads; progress comes before it."""
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    return done.stderr.replace("\r", "\n").strip().splitlines()[-1]


@pytest.mark.parametrize("repo", ["tiny/single", "tiny/sharded"])
def test_only_what_is_needed_is_downloaded_and_once(
    hub: HubStandIn, repos: dict[str, dict[str, bytes]], tmp_path: Path, repo: str
) -> None:
    done = download(hub, tmp_path, repo)
    assert done.returncode == 0, done.stderr
    weights = {name for name in repos[repo] if name.startswith("model") and "fp16" not in name}
    assert names(done.stdout) == NEEDED | weights
    for name in names(done.stdout):
        assert (Path(done.stdout.strip()) / name).read_bytes() == repos[repo][name]
    assert "%" in done.stderr, "progress is shown"
    hub.requests.clear()
    again = download(hub, tmp_path, repo)
    assert again.stdout == done.stdout
    assert hub.downloaded() == set()
    hub.requests.clear()
    offline = download(hub, tmp_path, repo, HF_HUB_OFFLINE="1")
    assert (offline.stdout, hub.requests) == (done.stdout, [])


def test_cached_works_without_a_hub(hub: HubStandIn, tmp_path: Path) -> None:
    done = download(hub, tmp_path, "tiny/single")
    unreachable = download(hub, tmp_path, "tiny/single", HF_ENDPOINT="http://localhost:9")
    assert unreachable.stdout == done.stdout
    hub.broken.add("tiny/single")
    assert download(hub, tmp_path, "tiny/single").stdout == done.stdout


def test_without_weights(hub: HubStandIn, tmp_path: Path) -> None:
    done = download(hub, tmp_path, "tiny/single", weights=False)
    assert names(done.stdout) == NEEDED


def test_wrong_id_private_and_gated(hub: HubStandIn, tmp_path: Path) -> None:
    hub.private.add("tiny/single")
    hub.gated.add("tiny/sharded")
    assert "tiny/nothing was not found, neither here nor on the hub" in sentence(
        download(hub, tmp_path, "tiny/nothing")
    )
    assert "if it is private, log in" in sentence(download(hub, tmp_path, "tiny/single"))
    assert download(hub, tmp_path, "tiny/single", HF_TOKEN=hub.token).returncode == 0
    assert "tiny/sharded is gated: accept its conditions" in sentence(download(hub, tmp_path, "tiny/sharded"))
    assert "it cannot be a hub id" in sentence(download(hub, tmp_path, "a/b/c"))


def test_revision(hub: HubStandIn, tmp_path: Path) -> None:
    missing = sentence(download(hub, tmp_path, "tiny/single", "v9"))
    assert missing == "tiny/single has no revision 'v9' on the hub"
    assert download(hub, tmp_path, "tiny/single", "main").returncode == 0


def test_offline_and_not_cached(hub: HubStandIn, tmp_path: Path) -> None:
    offline = download(hub, tmp_path, "tiny/single", HF_HUB_OFFLINE="1")
    unreachable = download(hub, tmp_path, "tiny/single", HF_ENDPOINT="http://localhost:9")
    for said in map(sentence, (offline, unreachable)):
        assert said.startswith("tiny/single is not, or not whole, in the local cache, and the hub cannot be")


def test_a_cut_download_is_not_taken_for_good(hub: HubStandIn, tmp_path: Path) -> None:
    """Neither by the next start, which completes it, nor by one without network."""
    hub.cut_after = 50_000
    cut = download(hub, tmp_path, "tiny/sharded")
    if cut.returncode == 0:  # the library resumed by itself, piece by piece
        assert {name for name in names(cut.stdout) if name.endswith(".safetensors")}
    else:
        assert sentence(cut).startswith("tiny/sharded could not be downloaded")
        assert "start again" in sentence(cut)
        offline = sentence(download(hub, tmp_path, "tiny/sharded", HF_HUB_OFFLINE="1"))
        assert "not whole, in the local cache" in offline or "neither on the hub" in offline
    hub.cut_after = None
    whole = download(hub, tmp_path, "tiny/sharded")
    assert whole.returncode == 0, whole.stderr
    for name in names(whole.stdout):
        assert (Path(whole.stdout.strip()) / name).read_bytes() == hub.repos["tiny/sharded"][name]


def test_repositories_without_a_usable_model(hub: HubStandIn, tmp_path: Path) -> None:
    assert "tiny/empty has no config.json on the hub" in sentence(download(hub, tmp_path, "tiny/empty"))
    pickled = sentence(download(hub, tmp_path, "tiny/pickled"))
    assert pickled.startswith("tiny/pickled has no model.safetensors, neither on the hub nor")
    hub.repos["tiny/damaged"] = {"config.json": b"{}", "model.safetensors.index.json": b"{"}
    assert "model.safetensors.index.json is not valid JSON" in sentence(
        download(hub, tmp_path, "tiny/damaged")
    )
    index = json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}).encode()
    hub.repos["tiny/lacking"] = {"config.json": b"{}", "model.safetensors.index.json": index}
    lacking = sentence(download(hub, tmp_path, "tiny/lacking"))
    assert lacking.startswith("tiny/lacking has no model-00001-of-00001.safetensors")


def test_a_hub_in_trouble(hub: HubStandIn, tmp_path: Path) -> None:
    hub.broken.add("tiny/single")
    said = sentence(download(hub, tmp_path, "tiny/single"))
    assert said == "tiny/single could not be downloaded: the hub answered 500"


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(hub_module, "snapshot_download", full)
    with pytest.raises(
        StartupError, match=r"could not be downloaded: the disk of the cache \(HF_HOME\) is full"
    ):
        download_model("tiny/single")
