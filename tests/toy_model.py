"""The toy language model that the fake device of fakes.py runs. Torch-free."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from octavo.model.plan import INVALID_TOKEN, TokenLogprobs

EOS = 0


@dataclass(frozen=True)
class ToyModel:
    """A deterministic language model: the next token is a hash of all tokens before it and of the seed.

    eos_probability: how often token `EOS` is drawn.   nan_probability: how often the logits are not finite.
    """

    vocab_size: int = 50
    eos_probability: float = 0.0
    nan_probability: float = 0.0

    def next_token(self, tokens: Sequence[int], seed: int, banned: frozenset[int] = frozenset()) -> int:
        """The token after `tokens`, which is not one of `banned`; INVALID_TOKEN where logits are NaN."""
        name = array("q", [seed, *tokens]).tobytes()
        for attempt in range(10_000):
            digest = blake2b(name, digest_size=12, salt=attempt.to_bytes(4, "little")).digest()
            first, second, third = (int.from_bytes(digest[i : i + 4], "little") for i in (0, 4, 8))
            if attempt == 0 and first < self.nan_probability * 2**32:
                return INVALID_TOKEN
            token = EOS if second < self.eos_probability * 2**32 else 1 + third % (self.vocab_size - 1)
            if token not in banned:
                return token
        raise AssertionError(f"every token is banned: {banned}")

    def logprobs(self, token: int, num_top: int) -> TokenLogprobs:
        """Made up from the token alone, so that one filed under another token shows."""
        top = tuple(((token + i) % self.vocab_size, -0.5 - i) for i in range(num_top))
        return TokenLogprobs(-0.5 - token, 1 + token % 3, top)
