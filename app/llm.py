"""Offline generation: a model in this process, called like a function. Names as in vLLM's `LLM`.

The engine runs in an event loop of its own thread; this file turns calls into requests and waits for them.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from ..model.sampling_params import SamplingParams
from ..scheduler.stats import EngineStats
from .chat_template import ChatTemplate
from .config import EngineConfig
from .errors import RequestError
from .generation import RequestOptions, TextDelta, TextStream
from .jobs import Job, run_jobs
from .launch import Launched, launch
from .loop_thread import LoopThread
from .outputs import RequestOutput
from .prompts import Prompt, PromptInput, parse_prompts
from .settings import build, nearest, settings_of
from .tokenizer import Tokenizer

Messages = Sequence[Mapping[str, Any]]


class LLM:
    """A loaded model. Use it as a context manager, or `close` it; the interpreter's end does so, too.

    settings: the fields of EngineConfig, as for `octavo serve` with underscores. By default the queue is
    unbounded, and prompts fill every step (`itl_target_ms` 0), since nobody reads the tokens as they come.
    Raises TypeError for an unknown setting, with the nearest known name, ValueError for a wrong value,
    StartupError if the model cannot be loaded.
    """

    def __init__(self, model: str = "demo", **settings: Any) -> None:
        self.config = engine_config(model, {"itl_target_ms": 0, **settings})
        loop = LoopThread("octavo-llm")
        try:
            launched = loop.run(launch(self.config))
        except BaseException:
            loop.close()
            raise
        self._loop = loop
        self._stats = launched.engine.stats
        self._generation = launched.generation()
        self._request_numbers = itertools.count()
        # Runs when this object is collected or the interpreter ends; must not hold `self`.
        self._finalizer = weakref.finalize(self, _close, loop, launched)

    def generate(
        self,
        prompts: PromptInput | Sequence[PromptInput],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        *,
        priority: Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """Complete every prompt; the results come in the order of the prompts.

        prompts: text, token ids, a dict with `prompt_token_ids` (or `prompt`) and `cache_salt`, or a list.
        sampling_params: one for all, or one for each; None takes the model's own defaults.
        priority: one for each prompt; lower runs earlier.
        Raises RequestError, with nothing started, for a prompt that cannot run, and EngineDeadError. An
        interrupt aborts what runs; the LLM stays usable.
        """
        parsed = parse_prompts(prompts, self._generation.tokenizer)
        return self._run(parsed, sampling_params, use_tqdm, priority)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer a conversation, or each of a list of them, rendered by the model's chat template.

        chat_template: replaces the model's own.
        Raises what `generate` raises, and RequestError if there is no chat template.
        """
        conversations = [messages] if messages and isinstance(messages[0], Mapping) else messages
        parsed = [
            self.render_chat(
                conversation,  # type: ignore[arg-type]  # a list of conversations by now
                template=chat_template,
                tools=tools,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                variables=chat_template_kwargs,
            )
            for conversation in conversations
        ]
        return self._run(parsed, sampling_params, use_tqdm, None)

    def render_chat(self, messages: Messages, template: str | None = None, **options: Any) -> Prompt:
        """The prompt that the chat template makes of a conversation; options as in ChatTemplate.render.

        template: source of a template that replaces the model's own.
        """
        own, tokenizer = self._generation.chat_template, self._generation.tokenizer
        if template is not None and tokenizer is not None:
            own = ChatTemplate.of_request(template, tokenizer.special_tokens)
        if own is None or tokenizer is None:
            raise RequestError(
                "messages cannot be rendered: the model has no chat template", param="messages"
            )
        text = own.render([dict(message) for message in messages], **options)
        return Prompt(text, tokenizer.encode(text, add_special_tokens=False))

    def stream(self, prompt: Prompt, sampling_params: SamplingParams) -> Generator[TextDelta]:
        """One completion as it comes. Closing the generator, or an interrupt, aborts the request."""
        request_id = f"llm-{next(self._request_numbers)}"
        stream = self._loop.run(self._start(prompt, sampling_params, request_id))
        try:
            finished = False
            while not finished:
                delta = self._loop.run(stream.__anext__())
                finished = delta.finish_reason is not None
                yield delta
        finally:
            self._loop.call(stream.abort)

    def get_tokenizer(self) -> Tokenizer | None:
        """None with `skip_tokenizer_init`."""
        return self._generation.tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """The default of `generate`: what the model's generation_config.json says."""
        return SamplingParams(**self._generation.model.default_params)

    def stats(self) -> EngineStats:
        """A moment of the engine: running and waiting requests, blocks, counters."""
        return self._stats()

    def close(self) -> None:
        """End what runs, free the model. Safe to call again."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(
        self,
        prompts: list[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        use_tqdm: bool,
        priority: Sequence[int] | None,
    ) -> list[RequestOutput]:
        if not self._finalizer.alive:
            raise RuntimeError("this LLM is closed")
        params = self._params_of(prompts, sampling_params)
        if priority is not None and len(priority) != len(prompts):
            raise ValueError(f"priority must have one entry per prompt ({len(prompts)}), got {len(priority)}")
        priorities = priority or [0] * len(prompts)
        jobs = [
            Job(self._generation, prompt, one, f"llm-{next(self._request_numbers)}", rank)
            for prompt, one, rank in zip(prompts, params, priorities, strict=True)
        ]
        with tqdm(total=len(jobs), desc="prompts", unit="prompt", disable=not use_tqdm) as bar:
            return self._loop.run(run_jobs(jobs, on_finished=bar.update))

    async def _start(self, prompt: Prompt, params: SamplingParams, request_id: str) -> TextStream:
        options = RequestOptions(cache_salt=prompt.cache_salt)
        return self._generation.start(prompt.token_ids, params, request_id=request_id, options=options)

    def _params_of(
        self, prompts: list[Prompt], params: SamplingParams | Sequence[SamplingParams] | None
    ) -> Sequence[SamplingParams]:
        if params is None:
            return [self._default_params(len(prompt.token_ids)) for prompt in prompts]
        if isinstance(params, SamplingParams):
            return [params] * len(prompts)
        if len(params) != len(prompts):
            raise ValueError(
                f"sampling_params must be one, or one per prompt ({len(prompts)}), got {len(params)}"
            )
        return params

    def _default_params(self, prompt_len: int) -> SamplingParams:
        defaults = self.get_default_sampling_params()
        limit = self._generation.default_max_tokens(prompt_len)
        return defaults if limit is None else replace(defaults, max_tokens=limit)


def engine_config(model: str, settings: Mapping[str, Any]) -> EngineConfig:
    """The configuration of an engine for one program: without a bound on the queue, unless given."""
    known = settings_of(EngineConfig)
    for name in settings:
        if name not in known:
            raise TypeError(f"{name} is not a setting{nearest(name, known)}")
    return build(EngineConfig, {"max_queued_requests": None, **settings, "model": model})


def _close(loop: LoopThread, launched: Launched) -> None:
    loop.run(launched.close())
    loop.close()
