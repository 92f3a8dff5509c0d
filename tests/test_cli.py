"""The command line as a person meets it: real processes, exit codes, one sentence for what is wrong."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from octavo import __version__
from octavo.app import cli
from octavo.app.client_config import TerminalConfig
from octavo.app.config import EngineConfig, ServerConfig
from octavo.app.errors import StartupError
from octavo.app.settings import settings_of


def octavo(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "octavo", *words],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
    )


def parsed(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[Any]:
    """The configurations that a command would run with."""
    monkeypatch.delenv("OCTAVO_API_KEY", raising=False)
    return cli.configs_of(cli.parse(list(words)))


def test_version() -> None:
    done = octavo("--version")
    assert (done.returncode, done.stdout) == (0, f"octavo {__version__}\n")


def test_help_shows_every_flag_with_its_default() -> None:
    done = octavo("serve", "--help")
    assert done.returncode == 0
    shown = " ".join(done.stdout.split())
    for name in (*settings_of(EngineConfig), *settings_of(ServerConfig)):
        assert name == "model" or "--" + name.replace("_", "-") in shown
    num_settings = len(settings_of(EngineConfig)) + len(settings_of(ServerConfig))
    assert shown.count("(default:") == num_settings + 1, "--config is not a setting, and has a default, too"
    assert "(default: (" not in shown, "written as on the command line, not as Python does"
    assert "No module" not in done.stderr


def cpu_s_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["serve", "--help"], ["chat", "--help"]])
def test_quick_answers_are_quick_and_load_no_torch(words: list[str]) -> None:
    program = (
        "import sys\n"
        "from octavo.__main__ import main\n"
        f"sys.argv[1:] = {words!r}\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'uvicorn', 'starlette', 'tokenizers', 'numpy', 'yaml'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    durations_s = []
    for _ in range(3):
        began_s = cpu_s_of_children()
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
        durations_s.append(cpu_s_of_children() - began_s)
        assert done.returncode == 0, done.stderr
    # 0.15 s on a good processor; of its time and not the clock's, since others may have most of that.
    assert min(durations_s) < 1.0


def test_without_a_command_it_explains_itself() -> None:
    done = octavo()
    assert done.returncode == 0
    assert "serve" in done.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["srve"], "octavo: 'srve' is not a command; did you mean serve?"),
        (["bench"], "octavo: 'bench' is not there yet; loadtest/load.py"),
        (["serve", "--port", "70000"], "octavo serve: --port must be an integer from 0 to 65535, got 70000"),
        (["serve", "--port", "http"], "octavo serve: --port must be an integer from 0 to 65535, got 'http'"),
        (["serve", "--dtype", "int4"], "--dtype must be one of auto, bfloat16, float16, float32, got 'int4'"),
        (
            ["serve", "--max-model-length", "8k"],
            "--max-model-length is not a flag of octavo serve; did you mean --max-model-len?",
        ),
        (["serve", "--max-num", "8"], "--max-num is not a flag"),
        (["serve", "one", "two"], "one MODEL at most"),
        (["serve", "--port"], "octavo serve: --port needs one argument"),
        (["serve", "--dry-run=3"], "takes no value, got '3'"),
        (
            ["serve", "--frontends", "99999"],
            "--frontends must be an integer from 0 to 256, or auto, got 99999",
        ),
        (["serve", "--tensor-parallel-size", "2"], "--tensor-parallel-size cannot be 2 yet"),
        (["--no-such"], "octavo: --no-such is not a flag of octavo"),
        (["serve", "--no-such", "x"], "--no-such is not a flag"),
        (["chat", "--port", "1"], "--port is not a flag of octavo chat"),
        (["chat", "--url", "http://localhost:1", "--device", "cpu"], "--device cannot be used with --url"),
        (["chat", "--api-key", "k"], "--api-key is for the server at --url"),
        (["complete", "--system-prompt", "x"], "--system-prompt is for octavo chat"),
        (["serve", "--config", "nowhere.yaml"], "--config must name a readable file, got 'nowhere.yaml'"),
        (["serve", "./no-such-model.gguf"], "no-such-model.gguf"),
    ],
)
def test_a_wrong_call_is_one_sentence_and_exit_code_2(words: list[str], sentence: str) -> None:
    done = octavo(*words)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_ctrl_c_while_the_program_loads_is_no_traceback() -> None:
    code = """
import sys
from importlib.abc import MetaPathFinder
class Interrupted(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "octavo.app.settings":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
from octavo.__main__ import main
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "")


def test_flags_become_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, server = parsed(
        monkeypatch, "serve", "some/model", "--max-model-len", "8k", "--no-overlap",
        "--kv-cache-memory-bytes=1GiB", "--served-model-name", "a", "b", "--api-key", "k1", "--api-key", "k2",
        "--strict",
    )  # fmt: skip
    assert engine == EngineConfig(
        model="some/model", max_model_len=8000, overlap=False, kv_cache_memory_bytes=1 << 30
    )
    assert server == ServerConfig(served_model_name=("a", "b"), api_key=("k1", "k2"), strict=True)


def test_no_flags_give_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parsed(monkeypatch, "serve") == [EngineConfig(), ServerConfig()]
    assert parsed(monkeypatch, "chat") == [EngineConfig(), TerminalConfig()]


def test_yaml_gives_settings_and_flags_win(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "octavo.yaml"
    file.write_text(
        "model: some/model\nmax-model-len: 8k\nport: 9000\nserved_model_name: [a, b]\n"
        "overlap: false\nseed: 3\n"
    )
    engine, server = parsed(monkeypatch, "serve", "--config", str(file), "--port", "9001", "--overlap")
    assert engine == EngineConfig(model="some/model", max_model_len=8000, overlap=True, seed=3)
    assert server == ServerConfig(port=9001, served_model_name=("a", "b"))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("prot: 1\n", "'prot' is not a setting; did you mean port?"),
        ("- port\n", "a YAML file of settings"),
        ("port: [1\n", "must name a YAML file"),
        ("port: many\n", "--port must be an integer from 0 to 65535, got 'many'"),
        ("overlap: 3\n", "--overlap must be true or false, got 3"),
    ],
)
def test_a_wrong_yaml_file_is_one_sentence(
    content: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "octavo.yaml"
    file.write_text(content)
    assert cli.main(["serve", "--config", str(file)]) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1


def test_the_environment_gives_the_key_unless_a_flag_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTAVO_API_KEY", "secret")
    _, server = cli.configs_of(cli.parse(["serve"]))
    assert server.api_key == ("secret",)
    _, server = cli.configs_of(cli.parse(["serve", "--api-key", "other"]))
    assert server.api_key == ("other",)
    _, terminal = cli.configs_of(cli.parse(["chat"]))
    assert terminal.api_key == "secret"


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [
        (StartupError("no such model"), 2, "octavo serve: no such model\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_a_command_raises_becomes_an_exit_code(
    raised: BaseException,
    code: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*args: object) -> int:
        raise raised

    monkeypatch.setitem(sys.modules, "octavo.app.serve", SimpleNamespace(run=run))
    assert cli.main(["serve"]) == code
    assert capsys.readouterr().err == told


def test_collect_env_names_versions_and_no_path() -> None:
    done = octavo("collect-env")
    assert done.returncode == 0
    lines = dict(
        line.split(maxsplit=1) for line in done.stdout.splitlines() if not line.startswith(("cpu ", "gpu "))
    )
    assert lines["octavo"] == __version__
    assert lines["torch"][0].isdigit()
    assert str(Path.home()) not in done.stdout
