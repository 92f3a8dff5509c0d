"""Compiles kernels in several processes at once, since Triton compiles one at a time in each.

What a step will need is found by running it with every launch left out; a process of its own then forks into
several, which compile the missing variants into Triton's cache on disk, from where the real run loads them.
Knows no kernel by name.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import os
import pickle
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import triton
from triton import knobs
from triton._C.libtriton import get_cache_invalidating_env_vars
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.cache import get_cache_key, get_cache_manager
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from .compiler_process import CompilerProcess

_MAX_WORKERS = 12

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Variant:
    """A kernel with the types, constants and options that it is compiled for; all of it can be pickled.

    module, name: where the kernel is defined.   options: as Triton's backend keeps them.
    """

    module: str
    name: str
    signature: dict[str, Any]
    constants: dict[Any, Any]
    attributes: dict[Any, Any]
    options: dict[str, Any]
    target: tuple[str, int | str, int]

    def source(self) -> ASTSource:
        """What Triton compiles."""
        kernel = getattr(importlib.import_module(self.module), self.name)
        return ASTSource(kernel, self.signature, self.constants, self.attributes)

    def compile(self) -> None:
        """Into the cache on disk, with what launches it."""
        compiled = triton.compile(self.source(), target=GPUTarget(*self.target), options=self.options)
        with suppress(RuntimeError):  # there is no driver here
            driver.active.launcher_cls(compiled.src, compiled.metadata)

    @property
    def num_lines(self) -> int:
        """Of the kernel and of what it calls, counted once."""
        return _num_lines(getattr(importlib.import_module(self.module), self.name), set())

    def is_cached(self) -> bool:
        """Whether the cache on disk has it."""
        source, backend = self.source(), make_backend(GPUTarget(*self.target))
        options = backend.parse_options(dict(self.options))
        key = get_cache_key(source, backend, options, env_vars=get_cache_invalidating_env_vars())
        name = hashlib.sha256(key.encode()).hexdigest()
        return bool(get_cache_manager(name).get_group(f"{source.name[:150]}.json"))


class CompilingAhead:
    """Variants that were met, and the process at work on those that no cache has.

    compiler: started if there is work, unless it was before.
    """

    def __init__(self, compiler: CompilerProcess | None, num_workers: int) -> None:
        self.variants: list[Variant] = []
        self._num_workers = num_workers
        self._compiler = compiler

    def begin(self) -> None:
        """Have what the cache lacks compiled; a process that was started before finds out what that is."""
        work = pickle.dumps((self.variants, self._num_workers))
        if self._compiler is not None:
            self._compiler.give(work)
        # A name in the cache depends on those that were found out before it: in this order, there too.
        cached = [variant.is_cached() for variant in self.variants]
        if self._compiler is None and not all(cached):
            self._compiler = CompilerProcess()
            self._compiler.give(work)

    def dismiss(self) -> None:
        """There is no work."""
        if self._compiler is not None:
            self._compiler.give(b"")
            self._compiler = None

    def wait(self) -> None:
        """Until all is compiled; what could not be is left to its first real launch."""
        if self._compiler is not None:
            self._compiler.wait()


@contextmanager
def kernels_compiled_ahead(
    compiler: CompilerProcess | None = None, *, num_workers: int | None = None
) -> Iterator[CompilingAhead]:
    """Inside, kernels that this process never launched are not launched, so results are undefined; when it
    ends, those that are in no cache are being compiled, until `wait` returns.

    num_workers: processes at most; by default as many as there are cores, but for two.
    """
    ahead = CompilingAhead(compiler, num_workers or _default_workers())
    found: set[str] = set()

    def skip(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
        key = f"{fn.module}.{fn.name} {compile['key']}"
        if key not in found:
            found.add(key)
            ahead.variants.append(_variant(fn, compile))
        return True  # Triton gives up the launch

    previous = knobs.runtime.jit_cache_hook
    knobs.runtime.jit_cache_hook = skip
    try:
        yield ahead
    except BaseException:
        ahead.dismiss()
        raise
    finally:
        knobs.runtime.jit_cache_hook = previous
    ahead.begin()


def _variant(fn: Any, compile: dict[str, Any]) -> Variant:
    target = driver.active.get_current_target()
    return Variant(
        module=fn.module,
        name=fn.name,
        signature=compile["signature"],
        constants=compile["constants"],
        attributes=compile["configs"][0],
        options=_tuples(json.loads(compile["specialization_data"])["options"]),
        target=(target.backend, target.arch, target.warp_size),
    )


def _tuples(value: Any) -> Any:
    """JSON made lists of tuples, which Triton hashes."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _num_lines(kernel: Any, seen: set[str]) -> int:
    seen.add(kernel.cache_key)
    called = (value for value in kernel.fn.__globals__.values() if isinstance(value, JITFunction))
    names = kernel.fn.__code__.co_names
    called = (each for each in called if each.__name__ in names and each.cache_key not in seen)
    return len(kernel.src.splitlines()) + sum(_num_lines(each, seen) for each in called)


def _default_workers() -> int:
    return min(_MAX_WORKERS, max(1, len(os.sched_getaffinity(0)) - 2))


def work(variants: Sequence[Variant], num_workers: int) -> None:
    """Compile those that the cache lacks, in up to `num_workers` processes. This one must have one thread."""
    missing = [variant for variant in variants if not variant.is_cached()]
    if missing:
        # Whoever has most to say takes longest, and must not begin last.
        longest_first = sorted(missing, key=lambda variant: -variant.num_lines)
        with get_context("fork").Pool(min(num_workers, len(missing))) as pool:
            pool.map(_compile, longest_first, chunksize=1)


def _compile(variant: Variant) -> None:
    try:
        variant.compile()
    except Exception:
        logger.warning("%s is left to its first launch", variant.name, exc_info=True)


def _load() -> None:
    """What the forks will share; also has Triton build its access to the driver, if there is one."""
    importlib.import_module("torch")
    with suppress(Exception):
        assert driver.active.utils


if __name__ == "__main__":
    _load()
    if received := sys.stdin.buffer.read():
        work(*pickle.loads(received))
