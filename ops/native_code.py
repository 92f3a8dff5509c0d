"""Machine code made at start from LLVM's language, and the threads that run it. Knows no operation.

The threads are those of the OpenMP library that torch has loaded, so products of both kinds share one team.
"""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from llvmlite import ir

_MAPS = Path("/proc/self/maps")
_NEEDED_FEATURES = ("avx2", "fma", "f16c")
"""What processors of the last ten years have; without them LLVM would call functions that nobody links."""


class NativeCode:
    """The functions of one LLVM module, as machine code for this processor."""

    def __init__(self, module: ir.Module, team: ThreadTeam) -> None:
        from llvmlite import binding

        for name, address in team.symbols.items():
            binding.add_symbol(name, address)
        target = binding.Target.from_default_triple().create_target_machine(
            cpu=binding.get_host_cpu_name(), features=_target_features(), opt=2
        )
        parsed = binding.parse_assembly(str(module))
        parsed.verify()
        options = binding.create_pipeline_tuning_options(speed_level=2)
        builder = binding.create_pass_builder(target, options)
        builder.getModulePassManager().run(parsed, builder)
        self._engine = binding.create_mcjit_compiler(parsed, target)
        self._engine.finalize_object()

    def address(self, name: str) -> int:
        """Where a function begins, for ThreadTeam.run."""
        return int(self._engine.get_function_address(name))


class ThreadTeam:
    """OpenMP's threads. symbols: addresses of the library's functions that native code may call."""

    def __init__(self, library: ctypes.CDLL) -> None:
        names = ("omp_get_thread_num", "omp_get_num_threads")
        self.symbols = {name: _address(library[name]) for name in names}
        self._parallel = library["GOMP_parallel"]
        self._parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        self._parallel.restype = None

    def run(self, address: int, arguments: ctypes.Array[ctypes.c_int64], *, alone: bool = False) -> None:
        """Have as many threads as torch uses, or this one alone, call the function; wait for all of them."""
        self._parallel(address, ctypes.addressof(arguments), 1 if alone else torch.get_num_threads(), 0)


def find_team() -> ThreadTeam | None:
    """This process's team; None if this processor or this torch is none that native code was tried on."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return None
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    features = binding.get_host_cpu_features()
    library = _loaded_openmp()
    if library is None or not all(features.get(name) for name in _NEEDED_FEATURES):
        return None
    return ThreadTeam(library)


def has_wide_registers() -> bool:
    """Whether there are 32 registers of 16 floats, as AVX-512 has them."""
    from llvmlite import binding

    return bool(binding.get_host_cpu_features().get("avx512f"))


def _target_features() -> str:
    """The processor's own, at its full width."""
    from llvmlite import binding

    return str(binding.get_host_cpu_features().flatten()) + ",-prefer-256-bit"


def _loaded_openmp() -> ctypes.CDLL | None:
    """GNU's OpenMP as torch has loaded it: one in torch's folder before others."""
    files = {line.split(maxsplit=5)[-1] for line in _MAPS.read_text().splitlines() if "libgomp" in line}
    folder = str(Path(torch.__file__).parent)
    found = sorted(files, key=lambda file: (not file.startswith(folder), file))
    return ctypes.CDLL(found[0]) if found else None


def _address(function: object) -> int:
    pointer = ctypes.cast(function, ctypes.c_void_p).value  # type: ignore[arg-type]
    assert pointer is not None, "a function that was found has an address"
    return pointer
