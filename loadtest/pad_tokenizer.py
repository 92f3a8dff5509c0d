"""A byte-level BPE tokenizer of any size from scratch, for models with random weights.

    python loadtest/pad_tokenizer.py DIR --size 151936

Every entry decodes to one to four visible ASCII characters, so every token that such a model makes up is
text at once, and a stream can be checked by its characters. Encoding is lossy (white space becomes `_`, what
is not ASCII `?`) and finds two to three characters a token in English. The same size gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import string
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

_BY_FREQUENCY = "_etaoinshrdlucmfwypvbgkjqxz"
_ALPHABET = _BY_FREQUENCY + "".join(
    c for c in string.ascii_letters + string.digits + string.punctuation if c not in _BY_FREQUENCY
)
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant: "
)


def pad_tokenizer(size: int) -> Tokenizer:
    """A tokenizer of `size` entries: characters, then pairs of them, then pairs of pairs, likely ones first.

    Raises ValueError if `size` is below the number of characters.
    """
    if size < len(_ALPHABET):
        raise ValueError(f"size must be at least {len(_ALPHABET)}, one for each character, got {size}")
    pairs = _products(list(_ALPHABET), size - len(_ALPHABET))
    joined = [a + b for a, b in pairs]
    pairs += _products(joined, size - len(_ALPHABET) - len(pairs))
    vocab = {text: i for i, text in enumerate([*_ALPHABET, *(a + b for a, b in pairs)])}
    assert len(vocab) == size, f"{size} entries are more than characters, pairs and pairs of pairs"
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=pairs))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex(r"\s"), "_"), normalizers.Replace(Regex(r"[^\x21-\x7e]"), "?")]
    )
    words = pre_tokenizers.Split(Regex("_*[^_]+|_+"), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _products(parts: list[str], limit: int) -> list[tuple[str, str]]:
    """The first `limit` ordered pairs, by the product of their places."""
    side = min(len(parts), limit)
    # Pair (i, j) of n = limit pairs in this order has i * j <= n: the others need not be made.
    places = [
        (i * j, i, j) for i in range(1, side + 1) for j in range(1, min(len(parts), limit // i + 1) + 1)
    ]
    return [(parts[i - 1], parts[j - 1]) for _, i, j in sorted(places)[:limit]]


def write_tokenizer(folder: Path, size: int) -> None:
    """Put tokenizer.json and tokenizer_config.json, with a chat template, in `folder`."""
    pad_tokenizer(size).save(str(folder / "tokenizer.json"), pretty=False)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": _CHAT_TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="where the files go; must exist")
    parser.add_argument("--size", type=int, help="entries (default: vocab_size in DIR/config.json)")
    options = parser.parse_args()
    size = options.size or json.loads((options.folder / "config.json").read_text())["vocab_size"]
    write_tokenizer(options.folder, size)


if __name__ == "__main__":
    main()
