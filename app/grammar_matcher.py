"""Grammars over a model's tokens, by llguidance: compiling, following a sequence, masks of allowed tokens.

Knows no requests and no event loop. Compiling recurses: grammar_compiler.py gives it a large stack.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLParserLimits, LLTokenizer, grammar_from
from numpy.typing import NDArray

from ..model.grammar import JSON_WHITESPACE, Grammar, GrammarKind
from ..scheduler.constraint import MaskRow
from .lark_text import SpecialId
from .mask_workers import MaskWorkers
from .panics import PANICS_ARE_ERRORS
from .structural_tag import structural_lark
from .tokenizer import Tokenizer

_LIMITS = LLParserLimits(
    max_lexer_states=50_000,
    max_items_in_row=10_000,
    step_max_items=10_000,
    step_lexer_fuel=50_000,
    verbose_errors=False,
)
"""For one mask: about 10 ms at most, else its sequence fails. Objects of 2,000 properties fit, and all but
very ambiguous grammars."""
_MAX_CHARACTERS = 300
_SOURCE_LINE = re.compile(r"\n +\d+ \| ")
"""The compiler quotes lines of the grammar; the client has them."""
_IN_WORDS = {
    GrammarKind.JSON: "JSON schema",
    GrammarKind.REGEX: "regular expression",
    GrammarKind.CHOICE: "choice",
    GrammarKind.EBNF: "grammar",
    GrammarKind.STRUCTURAL_TAG: "structural tag",
}


class GrammarError(Exception):
    """A grammar cannot be compiled; one sentence says why."""

    def __init__(self, kind: GrammarKind, cause: str) -> None:
        cause = " ".join(_SOURCE_LINE.split(cause)[0].split())
        if len(cause) > _MAX_CHARACTERS:
            cause = f"{cause[:_MAX_CHARACTERS]}..."
        super().__init__(f"The {_IN_WORDS[kind]} cannot be compiled: {cause}")


Words = NDArray[np.int32]
"""A mask, [ceil(vocab_size / 32)], or rows of them: TokenMasks.words."""


def in_memory(num_rows: int, num_words: int) -> Words:
    """Room for masks."""
    return np.empty((num_rows, num_words), np.int32)


class GrammarVocabulary:
    """A model's tokens as bytes, in a tree. Takes 0.1 s and more to build.

    vocab_size: of the model, whose logits may have more entries than the tokenizer has tokens.
    allocate: room for (rows, words) of masks, from which they are copied to the device.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        vocab_size: int,
        eos_token_ids: frozenset[int],
        allocate: Callable[[int, int], Words] = in_memory,
    ) -> None:
        assert eos_token_ids, "a grammar's end is told by a token"
        self.num_words = -(-vocab_size // 32)
        self._eos = _bits([token for token in eos_token_ids if token < vocab_size], self.num_words)
        self._tokenizer = LLTokenizer(
            _Tokens(tokenizer, vocab_size, eos_token_ids),  # type: ignore[arg-type]  # is duck-typed
            eos_token=sorted(eos_token_ids),
        )
        self._allocate = allocate
        self._special_id = tokenizer.special_id
        self._pool = LLExecutor()
        self.workers: MaskWorkers[GrammarFollower] = MaskWorkers(self.compute)

    def compile(self, grammar: Grammar) -> CompiledGrammar:
        """May take seconds, and lets other threads run meanwhile. Raises GrammarError."""
        try:
            lark = _lark(grammar, self._special_id)
            with PANICS_ARE_ERRORS:
                matcher = LLMatcher(self._tokenizer, lark, log_level=0, limits=_LIMITS)
        except ValueError as error:
            raise GrammarError(grammar.kind, str(error)) from error
        words = np.zeros((1, self.num_words), np.int32)
        if not matcher.is_error():
            # All copies of the matcher share what the lexer learns here.
            with PANICS_ARE_ERRORS:
                matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        if matcher.is_error():
            cause = matcher.get_error()
            nothing = cause.startswith("NoExtension")
            raise GrammarError(grammar.kind, "there is no text that conforms to it" if nothing else cause)
        return CompiledGrammar(self, matcher, words[0])

    def compute(self, followers: Sequence[GrammarFollower]) -> None:
        """Give each its mask, computed in parallel and without the interpreter's lock.

        Never raises: a row without a mask would wait for ever. One that cannot have a mask fails, alone.
        """
        words = in_memory(len(followers), self.num_words)
        try:
            words = self._allocate(len(followers), self.num_words)
            self._fill(followers, words)
        except Exception:  # none is known that can happen here
            for row, follower in zip(words, followers, strict=True):
                self._fill_alone(follower, row)
        for index, follower in enumerate(followers):
            follower.mask = MaskRow(words, index)

    def _fill(self, followers: Sequence[GrammarFollower], words: Words) -> None:
        matchers = [(follower.matcher, row) for row, follower in enumerate(followers)]
        with PANICS_ARE_ERRORS:
            self._pool.unsafe_compute_mask_ptr(
                matchers, words.ctypes.data, self.num_words * words.itemsize, len(followers)
            )
            for row, follower in zip(words, followers, strict=True):
                follower.check()
                if follower.ignore_eos:
                    self.without_end(row)

    def _fill_alone(self, follower: GrammarFollower, words: Words) -> None:
        try:
            self._fill([follower], words[None])
        except Exception as error:
            follower.fail(str(error))
            words[:] = self._eos

    def without_end(self, words: Words) -> None:
        """Remove end tokens from a mask, in place, if any other token is allowed."""
        if (words & ~self._eos).any():
            words &= ~self._eos


class CompiledGrammar:
    """A grammar at its beginning. first: what may come first."""

    def __init__(self, vocabulary: GrammarVocabulary, matcher: LLMatcher, first: Words) -> None:
        self._vocabulary = vocabulary
        self._matcher = matcher
        self._first = MaskRow.of(first)

    def follower(self, *, ignore_eos: bool) -> GrammarFollower:
        """Follows one sequence. ignore_eos: it may end only where nothing else can follow."""
        first = self._first
        if ignore_eos:
            words = first.words.copy()
            self._vocabulary.without_end(words)
            first = MaskRow.of(words)
        return GrammarFollower(self._vocabulary, self._matcher.deep_copy(), first, ignore_eos)


class GrammarFollower:
    """Implements scheduler.constraint.Constraint, and Masked."""

    __slots__ = ("_vocabulary", "complete", "error", "ignore_eos", "mask", "matcher", "slow")
    binds_from = 0

    def __init__(
        self, vocabulary: GrammarVocabulary, matcher: LLMatcher, first: MaskRow, ignore_eos: bool
    ) -> None:
        self.complete = False
        self.error: str | None = None
        self.mask: MaskRow | None = first
        self.matcher = matcher
        self.ignore_eos = ignore_eos
        self.slow = False
        self._vocabulary = vocabulary

    def advance(self, token: int) -> None:
        """See Constraint. Takes microseconds, even for difficult grammars; only masks take long."""
        self.mask = None
        with PANICS_ARE_ERRORS:
            self.matcher.consume_token(token)
        self.check()
        self.complete = self.matcher.is_stopped()

    def check(self) -> None:
        """Note that the grammar got too difficult. Its mask then allows only the end of the text."""
        if self.error is None and self.matcher.is_error():
            self.fail(self.matcher.get_error())

    def fail(self, cause: str) -> None:
        """There is no telling what may come next."""
        self.error = (
            f"the grammar cannot be followed any further: {' '.join(cause.split())[:_MAX_CHARACTERS]}"
        )

    def prepare(self, batch: Sequence[GrammarFollower], came: Callable[[], None]) -> None:
        """See Constraint."""
        self._vocabulary.workers.submit(batch, came)


class _Tokens:
    """What LLTokenizer asks of a tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: frozenset[int]) -> None:
        num_tokens = min(tokenizer.vocab_size, vocab_size)
        self.tokens = [tokenizer.token_bytes(token) for token in range(num_tokens)]
        self.tokens += [b""] * (vocab_size - num_tokens)
        added = tokenizer.backend.get_added_tokens_decoder()
        special = {token for token, entry in added.items() if entry.special} | eos_token_ids
        self.special_token_ids = sorted(token for token in special if token < vocab_size)
        self.eos_token_id = min(eos_token_ids)
        self._encode: Callable[[str, bool], list[int]] = tokenizer.encode

    def __call__(self, text: str) -> list[int]:
        return self._encode(text, False)


def _lark(grammar: Grammar, special_id: SpecialId) -> str:
    """Raises ValueError."""
    match grammar.kind:
        case GrammarKind.JSON:
            pattern = JSON_WHITESPACE if grammar.whitespace is None else grammar.whitespace
            return LLMatcher.grammar_from_json_schema(
                grammar.source, overrides={"whitespace_pattern": pattern}
            )
        case GrammarKind.REGEX:
            return LLMatcher.grammar_from_regex(grammar.source)
        case GrammarKind.CHOICE:
            choices = " | ".join(json.dumps(text) for text in json.loads(grammar.source))
            return LLMatcher.grammar_from_lark(f"start: {choices}")
        case GrammarKind.EBNF:
            return grammar_from("ebnf", grammar.source)
        case GrammarKind.STRUCTURAL_TAG:
            return LLMatcher.grammar_from_lark(structural_lark(grammar.source, special_id))


def _bits(tokens: Sequence[int], num_words: int) -> Words:
    """A mask with just these tokens."""
    words = np.zeros(num_words, np.uint32)
    for token in tokens:
        words[token // 32] |= np.uint32(1 << token % 32)
    return words.view(np.int32)
