"""Compiles kernels in several processes at once, since Triton compiles one at a time in each.

What a step will need is found by running it with every launch left out; worker processes then compile the
missing variants into Triton's cache on disk, from where the real run loads them. Knows no kernel by name.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton import knobs
from triton._C.libtriton import get_cache_invalidating_env_vars
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.cache import get_cache_key, get_cache_manager
from triton.runtime.driver import driver

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
        """Into the cache on disk."""
        triton.compile(self.source(), target=GPUTarget(*self.target), options=self.options)

    def is_cached(self) -> bool:
        """Whether the cache on disk has it."""
        source, backend = self.source(), make_backend(GPUTarget(*self.target))
        options = backend.parse_options(dict(self.options))
        key = get_cache_key(source, backend, options, env_vars=get_cache_invalidating_env_vars())
        name = hashlib.sha256(key.encode()).hexdigest()
        return bool(get_cache_manager(name).get_group(f"{source.name[:150]}.json"))


@contextmanager
def kernels_compiled_ahead(num_workers: int | None = None) -> Iterator[list[Variant]]:
    """Inside, kernels that this process never launched are not launched, so results are undefined; when it
    ends, those that are in no cache have been compiled. Yields the list that gathers all of them.

    num_workers: processes at most; by default as many as there are cores, but for two. They are started when
    something is missing, or at once where nothing was ever cached.
    A variant that a worker cannot compile is left to its first real launch.
    """
    num_workers = num_workers or _default_workers()
    workers = [] if _anything_cached() else [_start_worker() for _ in range(num_workers)]
    found: dict[str, Variant] = {}

    def skip(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
        key = f"{fn.module}.{fn.name} {compile['key']}"
        if key not in found:
            found[key] = _variant(fn, compile)
            variants.append(found[key])
        return True  # Triton gives up the launch

    variants: list[Variant] = []
    previous = knobs.runtime.jit_cache_hook
    knobs.runtime.jit_cache_hook = skip
    try:
        yield variants
    except BaseException:
        _dismiss(workers)
        raise
    finally:
        knobs.runtime.jit_cache_hook = previous
    _compile_missing(variants, workers, num_workers)


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


def _default_workers() -> int:
    return min(_MAX_WORKERS, max(1, len(os.sched_getaffinity(0)) - 2))


def _anything_cached() -> bool:
    folder = Path(knobs.cache.dir)
    return folder.is_dir() and any(folder.iterdir())


def _start_worker() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", __name__], stdin=subprocess.PIPE, close_fds=True)


def _compile_missing(
    variants: list[Variant], workers: list[subprocess.Popen[bytes]], num_workers: int
) -> None:
    """Deal out what the cache lacks, variants of one kernel to different workers, and wait."""
    missing = [i for i, variant in enumerate(variants) if not variant.is_cached()]
    missing.sort(key=lambda i: variants[i].name)
    hands = [hand for i in range(num_workers) if (hand := missing[i::num_workers])]
    workers += [_start_worker() for _ in hands[len(workers) :]]
    for worker, hand in zip(workers, hands, strict=False):
        assert worker.stdin is not None
        pickle.dump((variants, hand), worker.stdin)
    _dismiss(workers)


def _dismiss(workers: list[subprocess.Popen[bytes]]) -> None:
    """Let them finish what they were given."""
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.close()
    for worker in workers:
        if worker.wait():
            logger.warning("a process that compiles kernels ended with %d", worker.returncode)


def work(variants: list[Variant], hand: list[int]) -> None:
    """What a worker does: compile some of the variants."""
    for variant in variants:
        # A kernel's name in the cache depends on the kernels whose names were found out before.
        assert variant.source().hash()
    for i in hand:
        try:
            variants[i].compile()
        except Exception:
            logger.warning("%s is left to its first launch", variants[i].name, exc_info=True)


if __name__ == "__main__":
    importlib.import_module("torch")  # takes seconds, in which the asking process finds out what it needs
    if received := sys.stdin.buffer.read():
        work(*pickle.loads(received))
