"""The tokenizer inside a GGUF file, rebuilt for the `tokenizers` library. Knows nothing of weights.

A file names its kind ("gpt2": byte-level BPE with merges; "llama": SentencePiece BPE with scores) and, for
the first, how text is split before merging, by a name of llama.cpp's. Unknown kinds and names are refused: a
near miss would give wrong tokens and no error.
Sources: each family's tokenizer.json; llama.cpp's src/llama-vocab.cpp.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from ..model.gguf_file import GGUFFile
from .errors import StartupError
from .tokenizer import Tokenizer


class _Kind(enum.IntEnum):
    """tokenizer.ggml.token_type."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS, _REST = r"[^\r\n\p{L}\p{N}]?\p{L}+", r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LLAMA3 = (f"{_CONTRACTIONS}|{_WORDS}|\\p{{N}}{{1,3}}|{_REST}",)
_QWEN2 = (f"{_CONTRACTIONS}|{_WORDS}|\\p{{N}}|{_REST}",)
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_DIGITS_APART = (r"\p{N}", _GPT2_SPLIT)
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2_SPLIT, r"\p{N}+", r"[0-9][0-9][0-9]")

# tokenizer.ggml.pre to the patterns that cut the text, one after the other.
_SPLITS: dict[str, Sequence[str]] = {
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "smaug-bpe", "falcon3", "dbrx", "pixtral"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez", "stablelm2"), _QWEN2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell"), _DIGITS_APART),
    **dict.fromkeys(("gpt-2", "olmo", "mpt", "jais"), (_GPT2_SPLIT,)),
    "tekken": _TEKKEN,
    "default": _DEFAULT,
}
_WHOLE_WORDS_FIRST = {"llama-bpe", "llama3", "llama-v3", "tekken"}
"""Where a word in the vocabulary is one token even if merges do not lead to it."""
_BOS_BY_DEFAULT = {"llama-bpe", "llama3", "llama-v3", "tekken"}
_SPECIAL_TOKENS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}


def gguf_tokenizer(file: GGUFFile) -> Tokenizer:
    """The file's own tokenizer. Raises StartupError if octavo cannot rebuild it exactly."""
    tokens, kinds = _vocabulary(file)
    model = file.metadata.get("tokenizer.ggml.model")
    try:
        if model == "gpt2":
            backend = _byte_level(file, tokens, kinds)
        elif model == "llama":
            backend = _sentence_piece(file, tokens, kinds)
        else:
            raise StartupError(
                f"{file.path} has a tokenizer of the kind {model!r}; octavo rebuilds gpt2 and llama only"
            )
        for kind in (_Kind.CONTROL, _Kind.USER_DEFINED):
            added = [token for token, its in zip(tokens, kinds, strict=True) if its == kind]
            special = kind == _Kind.CONTROL
            backend.add_tokens([AddedToken(text, normalized=False, special=special) for text in added])
    except StartupError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise StartupError(f"{file.path} has a tokenizer that cannot be rebuilt: {error}") from error
    backend.post_processor = _template(file, tokens, bos_by_default=_bos_by_default(file))
    special_tokens = {}
    for name, key in _SPECIAL_TOKENS.items():
        token_id = file.metadata.get(f"tokenizer.ggml.{key}")
        if token_id is not None and 0 <= token_id < len(tokens):
            special_tokens[name] = tokens[token_id]
    return Tokenizer(backend, eos_token_ids=file.eos_token_ids, special_tokens=special_tokens)


def _vocabulary(file: GGUFFile) -> tuple[list[str], list[int]]:
    """Text and kind of every token, by id."""
    tokens: list[str] = file.metadata.get("tokenizer.ggml.tokens", [])
    if not tokens:
        raise StartupError(f"{file.path} has no vocabulary (tokenizer.ggml.tokens)")
    kinds: list[int] = file.metadata.get("tokenizer.ggml.token_type", [_Kind.NORMAL] * len(tokens))
    if len(kinds) != len(tokens):
        raise StartupError(f"{file.path} has {len(tokens)} tokens but {len(kinds)} token types")
    return tokens, kinds


def _ids(tokens: list[str], kinds: list[int]) -> dict[str, int]:
    """Ids by text, without unused entries that only round up the vocabulary's size."""
    return {text: i for i, (text, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind != _Kind.UNUSED}


def _byte_level(file: GGUFFile, tokens: list[str], kinds: list[int]) -> Backend:
    """GPT-2's kind: bytes as printable characters, merges in order of rank."""
    pre = file.metadata.get("tokenizer.ggml.pre", "")
    if pre not in _SPLITS:
        raise StartupError(
            f"{file.path} asks for the pre-tokenizer {pre!r} (tokenizer.ggml.pre); "
            f"octavo knows {', '.join(_SPLITS)}"
        )
    merges = [tuple(merge.split(" ", 1)) for merge in file.metadata.get("tokenizer.ggml.merges", [])]
    model: Any = models.BPE(
        vocab=_ids(tokens, kinds),
        merges=merges,
        ignore_merges=pre in _WHOLE_WORDS_FIRST,
    )
    backend = Backend(model)
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in _SPLITS[pre]]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentence_piece(file: GGUFFile, tokens: list[str], kinds: list[int]) -> Backend:
    """SentencePiece's BPE: the pair that scores best is merged first, unknown characters become bytes."""
    if file.metadata.get("tokenizer.ggml.precompiled_charsmap"):
        raise StartupError(f"{file.path} has a tokenizer with a character map, which octavo does not rebuild")
    scores = file.metadata.get("tokenizer.ggml.scores", [])
    if len(scores) != len(tokens):
        raise StartupError(f"{file.path} has {len(tokens)} tokens but {len(scores)} scores")
    unknown = [text for text, kind in zip(tokens, kinds, strict=True) if kind == _Kind.UNKNOWN]
    model: Any = models.BPE(
        vocab=_ids(tokens, kinds),
        merges=_merges_from_scores(tokens, kinds, scores),
        unk_token=unknown[0] if unknown else None,
        fuse_unk=True,
        byte_fallback=True,
    )
    backend = Backend(model)
    marks = [normalizers.Replace(" ", "\u2581")]
    steps: list[Any] = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    if file.metadata.get("tokenizer.ggml.add_space_prefix", True):
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), *marks])
        steps.append(decoders.Strip(" ", 1, 0))
    else:
        backend.normalizer = normalizers.Sequence([*marks])
    backend.decoder = decoders.Sequence(steps)
    return backend


def _merges_from_scores(tokens: list[str], kinds: list[int], scores: list[float]) -> list[tuple[str, str]]:
    """All ways to make a token of two others, best score first.

    Ways to the same token are ordered by the length of their left part, the longest first, as in the
    tokenizer.json that transformers makes of a SentencePiece model.
    """
    mergeable = {
        text: score
        for text, kind, score in zip(tokens, kinds, scores, strict=True)
        if kind in (_Kind.NORMAL, _Kind.USER_DEFINED)
    }
    ways = [
        (text, cut)
        for text in mergeable
        for cut in range(1, len(text))
        if text[:cut] in mergeable and text[cut:] in mergeable
    ]
    # The sort is stable: what is equal stays in the vocabulary's order.
    ways.sort(key=lambda way: (-mergeable[way[0]], -way[1], way[1] - len(way[0])))
    return [(text[:cut], text[cut:]) for text, cut in ways]


def _bos_by_default(file: GGUFFile) -> bool:
    model, pre = (file.metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    return model == "llama" or pre in _BOS_BY_DEFAULT


def _template(file: GGUFFile, tokens: list[str], *, bos_by_default: bool) -> processors.TemplateProcessing:
    """Which special tokens `encode` puts around a text."""
    before, after = [], []
    if file.metadata.get("tokenizer.ggml.add_bos_token", bos_by_default):
        before.append(_named(file, tokens, "bos_token_id"))
    if file.metadata.get("tokenizer.ggml.add_eos_token", False):
        after.append(_named(file, tokens, "eos_token_id"))
    around = dict([*before, *after])
    single = [text for text, _ in before] + ["$A"] + [text for text, _ in after]
    return processors.TemplateProcessing(single=single, special_tokens=list(around.items()))


def _named(file: GGUFFile, tokens: list[str], key: str) -> tuple[str, int]:
    token_id = file.metadata.get(f"tokenizer.ggml.{key}", -1)
    if not 0 <= token_id < len(tokens):
        raise StartupError(f"{file.path} wants tokenizer.ggml.{key} in every text but does not define it")
    return tokens[token_id], token_id
