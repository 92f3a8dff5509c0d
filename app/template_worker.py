"""Templates that come with requests, rendered in a process of their own, which can be ended at any moment.

Run as `python -m octavo.app.template_worker`: jobs on standard input, answers on standard output. While it
renders, an alarm clock runs whose default action ends the process, whatever it is doing.
"""

from __future__ import annotations

import contextlib
import pickle
import resource
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import msgspec

from .chat_formats import effort_variables
from .chat_template import ChatTemplate
from .errors import RequestError
from .process import module_command, module_environment
from .template_sandbox import TemplateError

_LENGTH = struct.Struct("=I")
_MAX_S = 2.0
_MAX_MEMORY_BYTES = 1 << 30


class Job(NamedTuple):
    """A template and what it is to show. options: as of ChatTemplate.render, messages included."""

    source: str
    special_tokens: Mapping[str, str]
    effort: str | None
    options: Mapping[str, Any]

    def render(self) -> str:
        """The prompt. Raises RequestError."""
        template = ChatTemplate.of_request(self.source, self.special_tokens)
        variables = {**effort_variables(self.effort, template), **(self.options["variables"] or {})}
        return template.render(**{**self.options, "variables": variables})


class Answer(msgspec.Struct):
    """The prompt, or the error for the client."""

    text: str | None = None
    message: str = ""
    param: str | None = None
    code: str = ""


class TemplateWorker:
    """Starts the process with the first job, and again after it was ended. May be used by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def render(self, job: Job) -> str:
        """The prompt; waits for it. Raises TemplateError, and RequestError as ChatTemplate does."""
        data = pickle.dumps(job)
        with self._lock:
            process = self._running()
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(_LENGTH.pack(len(data)) + data)
                process.stdin.flush()
                told = _read(process.stdout)
            except BrokenPipeError:
                told = None
            if told is None:
                raise self._ended()
        answer = msgspec.msgpack.decode(told, type=Answer)
        if answer.text is None:
            raise RequestError(answer.message, param=answer.param, code=answer.code)
        return answer.text

    def close(self) -> None:
        """End the process."""
        with self._lock:
            if self._process is not None:
                self._process.kill()
                self._forget(self._process)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                module_command("octavo.app.template_worker"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=module_environment(),
            )
        return self._process

    def _ended(self) -> TemplateError:
        assert self._process is not None
        code = self._forget(self._process)
        why = f"ran for more than {_MAX_S:g} s" if code == -signal.SIGALRM else "needed more than it may have"
        return TemplateError(f"chat_template {why}", param="chat_template")

    def _forget(self, process: subprocess.Popen[bytes]) -> int:
        self._process = None
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # of what was not sent any more
                    pipe.close()
        return process.wait()


def _read(stream: BinaryIO | Any) -> bytes | None:
    """The next message; None at the end."""
    header = stream.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(header)
    data: bytes = stream.read(length)
    return data if len(data) == length else None


def _answer(job: Job) -> Answer:
    try:
        return Answer(job.render())
    except RequestError as error:
        return Answer(None, error.message, error.param, error.code)
    except MemoryError:
        return Answer(
            None, "chat_template needed more memory than it may have", "chat_template", "invalid_value"
        )
    except RecursionError:
        return Answer(None, "chat_template is nested too deeply", "chat_template", "invalid_value")


def main() -> None:
    """Render until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to act on
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))
    while (data := _read(sys.stdin.buffer)) is not None:
        signal.setitimer(signal.ITIMER_REAL, _MAX_S)
        answer = msgspec.msgpack.encode(_answer(pickle.loads(data)))
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.stdout.buffer.write(_LENGTH.pack(len(answer)) + answer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
