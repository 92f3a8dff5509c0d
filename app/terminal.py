"""`octavo chat` and `octavo complete`: a person or a pipe, and a model in this process or behind a URL.

Ctrl-C stops the answer, or leaves at the prompt. Answers go to standard output, all else to standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any, Protocol, TextIO

from .client_config import TerminalConfig
from .config import EngineConfig
from .errors import OctavoError, StartupError
from .process import drop_output

Message = dict[str, Any]

_HINT = "Ctrl-C stops an answer; Ctrl-D leaves."


class Model(Protocol):
    """Gives answers piece by piece. Closing the generator stops the answer."""

    def chat(self, messages: Sequence[Message]) -> Generator[str]: ...

    def complete(self, prompt: str) -> Generator[str]: ...

    def close(self) -> None: ...


def run(command: str, engine: EngineConfig, terminal: TerminalConfig, *, model_given: bool) -> int:
    """Answer one prompt, standard input, or a person until they leave. Returns the exit code.

    model_given: whether the person named a model; a server at `terminal.url` is otherwise asked for its own.
    """
    with closing(_model(command, engine, terminal, model_given)) as model:
        session = Session(model, chats=command == "chat", system_prompt=terminal.system_prompt)
        if terminal.prompt is not None:
            return session.answer(terminal.prompt)
        if not sys.stdin.isatty():
            return session.answer(sys.stdin.read().rstrip("\n"))
        return session.converse()


def _model(command: str, engine: EngineConfig, terminal: TerminalConfig, model_given: bool) -> Model:
    # Imported here: a remote model needs no torch.
    if terminal.url is not None:
        from .remote_model import RemoteModel

        return RemoteModel(terminal, engine.model if model_given else None, engine.seed)
    from .local_model import LocalModel

    return LocalModel(engine, terminal)


class Session:
    """One person's exchange with a model. A chat remembers, a completion does not."""

    def __init__(
        self, model: Model, *, chats: bool, system_prompt: str | None, output: TextIO | None = None
    ) -> None:
        self._model = model
        self._chats = chats
        self._output = sys.stdout if output is None else output
        self._messages: list[Message] = []
        if system_prompt is not None:
            self._messages.append({"role": "system", "content": system_prompt})

    def converse(self) -> int:
        """Read, answer, repeat, until the person leaves."""
        print(_HINT, file=sys.stderr)
        while True:
            try:
                text = input("> ")
            except (EOFError, KeyboardInterrupt):
                print(file=sys.stderr)
                return 0
            if text.strip():
                self.answer(text)

    def answer(self, text: str) -> int:
        """Write the answer as it comes; 0, or 1 if it failed, 130 if it was stopped.

        Raises StartupError or BrokenPipeError if it cannot be written.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            print(f"the text is not valid in its encoding: see character {error.start + 1}", file=sys.stderr)
            return 1
        if self._chats:
            self._messages.append({"role": "user", "content": text})
            pieces = self._model.chat(self._messages)
        else:
            pieces = self._model.complete(text)
        said: list[str] = []
        code = 0
        with closing(pieces):
            try:
                for piece in pieces:
                    said.append(piece)
                    self._write(piece)
            except KeyboardInterrupt:
                code = 130
            except OctavoError as error:
                print(error, file=sys.stderr)
                code = 1
        self._write("\n")
        if self._chats and code == 1:
            self._messages.pop()  # the template may refuse two questions in a row
        elif self._chats:
            self._messages.append({"role": "assistant", "content": "".join(said)})
        return code

    def _write(self, text: str) -> None:
        try:
            self._output.write(text)
            self._output.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            drop_output()
            raise StartupError(f"standard output cannot be written: {error.strerror}") from error
