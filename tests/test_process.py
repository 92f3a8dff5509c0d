"""A process and the system: open files, waiting threads, a parent that is killed without a word."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from toy_server import alive, wait_for

from octavo.app import cli
from octavo.app.process import ended_by_sigterm

SET = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}));"
TELL = "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], max_connections())"


@pytest.mark.parametrize(("soft", "hard", "raised"), [(256, 512, 512), (512, 512, 512), (100, 100, 100)])
def test_the_soft_limit_becomes_the_hard_one_with_room_for_what_else_is_needed(
    soft: int, hard: int, raised: int
) -> None:
    program = (
        SET.format(soft=soft, hard=hard)
        + "from octavo.app.process import max_connections, raise_file_limit; raise_file_limit();"
        + TELL
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.split() == [str(raised), str(max(1, raised - 128))]


WATCH = """
import os, sys
from importlib.abc import MetaPathFinder

class Watch(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("policy:", os.environ.get("OMP_WAIT_POLICY"), flush=True)
            os._exit(0)  # loading it takes seconds, and shows no more
        return None

sys.meta_path.insert(0, Watch())
"""
ENTRIES = {
    "LLM": "import octavo; octavo.LLM",
    "AsyncLLM": "from octavo import AsyncLLM",
    "command line": "from octavo.__main__ import main; sys.argv = ['octavo', 'collect-env']; main()",
}


def policy_when_torch_is_loaded(entry: str, own: str | None) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if own is not None:
        environment["OMP_WAIT_POLICY"] = own
    script = WATCH + ENTRIES[entry]
    run = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return [line for line in run.stdout.splitlines() if line.startswith("policy:")]


@pytest.mark.parametrize("entry", ENTRIES)
def test_threads_sleep_when_octavo_loads_torch(entry: str) -> None:
    assert policy_when_torch_is_loaded(entry, None) == ["policy: passive"]


def test_the_users_own_choice_is_kept() -> None:
    assert policy_when_torch_is_loaded("LLM", "active") == ["policy: active"]


CHILD = """
import os, signal, sys, time
from octavo.app.process import follow_parent
follow_parent(os.getppid())
print(os.getpid(), flush=True)
{body}
"""
PARENT = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", sys.argv[1]])
sys.stdin.read()
"""


def start(body: str) -> tuple[subprocess.Popen[str], int]:
    """A parent process, and the id of its child that runs `body`."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD.format(body=body)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline())


@pytest.mark.parametrize(
    "body",
    [
        "signal.alarm = lambda s: signal.setitimer(signal.ITIMER_REAL, 0.5)\nwhile True: pass",
        "signal.alarm = lambda s: signal.setitimer(signal.ITIMER_REAL, 0.5)\ntime.sleep(60)",
    ],
    ids=["busy", "asleep"],
)
def test_a_child_that_does_not_notice_ends_all_the_same(body: str) -> None:
    parent, child = start(body)
    with parent:
        parent.kill()
    wait_for(lambda: not alive(child))


def test_signals_to_the_group_are_the_parents_affair() -> None:
    parent, child = start("print(sys.stdin is not None, flush=True)\ntime.sleep(60)")
    with parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(child, number)
        time.sleep(0.2)
        assert alive(child)
        os.kill(child, signal.SIGKILL)
        parent.kill()


def test_a_parent_that_is_gone_already_is_noticed() -> None:
    check = "from octavo.app.process import follow_parent; follow_parent(1 << 22)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 1


COMPLAINT = "from octavo.__main__ import main; import sys; sys.argv = ['octavo', 'serve', '--port', 'x']; "


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_obstacle(closed: str) -> None:
    """Files that are opened later get no number of theirs."""
    code = COMPLAINT + "import os, tempfile; assert main() == 2; assert tempfile.TemporaryFile().fileno() > 2"
    done = subprocess.run(["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code], timeout=300)
    assert done.returncode == 0


def test_characters_that_a_stream_cannot_show_are_escaped() -> None:
    code = "from octavo.app.process import open_standard_streams as o; o(); print(chr(0x4e2d))"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, timeout=300)
    assert done.stdout == b"\\u4e2d\n", done.stderr


def test_sigterm_ends_a_process_that_nobody_told_what_to_do() -> None:
    """Process 1 of a container ends by no signal's default."""
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="143"), ended_by_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_server_that_loads_is_ended_by_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*settings: object) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        return 0

    monkeypatch.setitem(sys.modules, "octavo.app.serve", SimpleNamespace(run=load))
    with pytest.raises(SystemExit, match="143"):
        cli.main(["serve", "--device", "cpu"])
