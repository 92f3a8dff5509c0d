"""The command line: flags from the configuration classes, YAML files, the environment, exit codes.

The only reader of the environment. Imports neither torch nor the server: a command loads what it needs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from .. import __version__
from ..ops.compiler_process import CompilerProcess
from .client_config import BatchConfig, TerminalConfig
from .config import EngineConfig, ServerConfig
from .errors import StartupError
from .process import drop_output, ended_by_sigterm, let_threads_sleep, open_standard_streams
from .settings import SettingError, build, nearest, settings_of

Configs = tuple[type[Any], ...]

_COMMANDS = ("serve", "chat", "complete", "run-batch", "collect-env")
_EPILOG = "The YAML file of --config holds any of these, without the dashes in front; flags win over it."


class UsageError(Exception):
    """The command line is wrong; the message is one sentence."""


class _Parser(argparse.ArgumentParser):
    """Raises UsageError where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ").replace(": expected", " needs", 1)
        raise UsageError(message.replace(": ignored explicit argument", " takes no value, got", 1))


def main(argv: Sequence[str]) -> int:
    """Run one command and return the exit code: 0, 2 for a wrong call or a failed start.

    130 for Ctrl-C, 141 if whoever read the output left, 143 for a server that SIGTERM ends before it is
    ready, as shells say it of programs that a signal ends.
    """
    open_standard_streams()
    let_threads_sleep()
    command = f"octavo {argv[0]}" if argv and argv[0] in _COMMANDS else "octavo"
    try:
        options = parse(argv)
        if options.command is None:
            _parser().print_help()
            return 0
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except SettingError as error:
        message = f"{_flag(error.name)} {error.complaint}"
    except (UsageError, StartupError) as error:
        message = str(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        drop_output()
        return 141
    print(f"{command}: {message}", file=sys.stderr)
    return 2


def _parser() -> _Parser:
    parser = _Parser(
        prog="octavo", description="A streaming inference server for language models.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"octavo {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=False)
    for name, help, run, configs in (
        ("serve", "serve a model over the OpenAI API", _serve, (EngineConfig, ServerConfig)),
        ("chat", "talk with a model in the terminal", _terminal, (EngineConfig, TerminalConfig)),
        ("complete", "continue texts in the terminal", _terminal, (EngineConfig, TerminalConfig)),
        ("run-batch", "answer the requests of a batch file", _run_batch, (EngineConfig, BatchConfig)),
    ):
        sub = commands.add_parser(
            name, help=help, description=help[0].upper() + help[1:] + ".", epilog=_EPILOG, allow_abbrev=False
        )
        sub.set_defaults(run=run, configs=configs)
        for config in configs:
            _add_flags(sub, config)
        sub.add_argument(
            "--config", metavar="FILE.yaml", help="read settings from a YAML file (default: none)"
        )
    sub = commands.add_parser(
        "collect-env", help="print versions and hardware, for a bug report", allow_abbrev=False
    )
    sub.set_defaults(run=_collect_env, configs=())
    return parser


def _add_flags(parser: argparse.ArgumentParser, config: type[Any]) -> None:
    group = parser.add_argument_group(config.__name__.removesuffix("Config").lower())
    for name, (field, described) in settings_of(config).items():
        kind = described.kind
        default = described.default_text or _shown(field.default)
        help = f"{described.help} (default: {default})".replace("%", "%%")
        if name == "model":
            parser.add_argument("model", nargs="?", default=argparse.SUPPRESS, metavar="MODEL", help=help)
        elif not kind.metavar:
            switch = argparse.BooleanOptionalAction
            group.add_argument(_flag(name), action=switch, default=argparse.SUPPRESS, help=help)
        elif kind.many:
            group.add_argument(
                _flag(name),
                action="extend",
                nargs="+",
                default=argparse.SUPPRESS,
                metavar=kind.metavar,
                help=help,
            )
        else:
            flags = [described.short, _flag(name)] if described.short else [_flag(name)]
            group.add_argument(*flags, default=argparse.SUPPRESS, metavar=kind.metavar, help=help)


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return " ".join(map(str, default)) or "none"
    return "none" if default is None else f"{default:g}" if isinstance(default, float) else str(default)


def _flag(name: str) -> str:
    return "MODEL" if name == "model" else "--" + name.replace("_", "-")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The words of the command line, settings as text. Raises UsageError."""
    parser = _parser()
    if argv and not argv[0].startswith("-") and argv[0] not in _COMMANDS:
        if argv[0] == "bench":
            raise UsageError("'bench' is not there yet; loadtest/load.py of the repository loads a server")
        raise UsageError(f"{argv[0]!r} is not a command{nearest(argv[0], _COMMANDS)}")
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        word = unknown[0]
        if not word.startswith("-"):
            raise UsageError(f"one MODEL at most, but {word!r} follows another")
        name = word.split("=", 1)[0]
        known = [_flag(field) for config in getattr(options, "configs", ()) for field in settings_of(config)]
        place = "octavo" if options.command is None else f"octavo {options.command}"
        raise UsageError(f"{name} is not a flag of {place}{nearest(name, known)}")
    return options


def configs_of(options: argparse.Namespace) -> list[Any]:
    """The command's configurations, from flags, then the YAML file, then the environment."""
    classes: Configs = options.configs
    known = {name: config for config in classes for name in settings_of(config)}
    values: dict[type[Any], dict[str, Any]] = {config: {} for config in classes}
    key = os.environ.get("OCTAVO_API_KEY")
    if key and "api_key" in known:
        values[known["api_key"]]["api_key"] = key
    layers = [_read_yaml(options.config)] if options.config else []
    layers.append({name: value for name, value in vars(options).items() if name in known})
    for layer in layers:
        for name, value in layer.items():
            if name not in known:
                raise UsageError(f"{options.config}: {name!r} is not a setting{nearest(name, known)}")
            values[known[name]][name] = value
    return [build(config, values[config]) for config in classes]


def _read_yaml(path: str) -> Mapping[str, Any]:
    import yaml  # type: ignore[import-untyped]

    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--config must name a readable file, got {path!r} ({error})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none, brackets in brackets
        raise UsageError(
            f"--config must name a YAML file, got {path!r} ({' '.join(str(error).split())})"
        ) from None
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UsageError(f"--config must name a YAML file of settings (name: value), got {path!r}")
    return {name.replace("-", "_"): value for name, value in content.items()}


def _serve(options: argparse.Namespace) -> int:
    engine, server = configs_of(options)
    with ended_by_sigterm():
        # Before anything else, since both sides of the work take seconds to load torch.
        wanted = engine.device != "cpu" and not server.dry_run
        compiler = CompilerProcess.where_there_is_a_gpu() if wanted else None
        from .serve import run

        return run(engine, server, compiler)


def _terminal(options: argparse.Namespace) -> int:
    engine, terminal = configs_of(options)
    if options.command == "complete" and terminal.system_prompt is not None:
        raise SettingError("system_prompt", "is for octavo chat: a completion has no messages")
    if terminal.url is not None:
        _refuse_engine_flags(options)
    elif "api_key" in options:
        raise SettingError("api_key", "is for the server at --url, which is not given")
    from .terminal import run

    return run(options.command, engine, terminal, model_given="model" in options)


def _run_batch(options: argparse.Namespace) -> int:
    engine, batch = configs_of(options)
    from .run_batch import run

    return run(engine, batch)


def _refuse_engine_flags(options: argparse.Namespace) -> None:
    for name in settings_of(EngineConfig):
        if name in options and name not in ("model", "seed"):
            raise UsageError(f"{_flag(name)} cannot be used with --url: the server has chosen it")


def _collect_env(options: argparse.Namespace) -> int:
    from .collect_env import report

    print(report())
    return 0
