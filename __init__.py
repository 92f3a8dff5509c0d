"""octavo: a streaming inference server for language models.

Exports are lazy, so that `import octavo` and `octavo --help` load neither torch nor the server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .app.process import let_threads_sleep

if TYPE_CHECKING:
    from .app.async_llm import AsyncLLM as AsyncLLM
    from .app.llm import LLM as LLM
    from .app.outputs import CompletionOutput as CompletionOutput
    from .app.outputs import RequestOutput as RequestOutput
    from .model.grammar import StructuredOutputsParams as StructuredOutputsParams
    from .model.sampling_params import SamplingParams as SamplingParams

__version__ = "0.1.0"

_EXPORTS = {
    "AsyncLLM": ".app.async_llm",
    "LLM": ".app.llm",
    "CompletionOutput": ".app.outputs",
    "RequestOutput": ".app.outputs",
    "SamplingParams": ".model.sampling_params",
    "StructuredOutputsParams": ".model.grammar",
}
__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'octavo' has no attribute {name!r}")
    let_threads_sleep()
    return getattr(import_module(_EXPORTS[name], __name__), name)
