"""Asks some requests again, unstreamed and one by one, and compares texts: were tokens lost or moved?

With greedy sampling both answers should be the same. Yet numbers differ in their last bits with the size of
the batch, so texts may part ways at a near tie; that is told apart from a fault of delivery by its shape.
"""

from __future__ import annotations

import json
import urllib.request
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from .ask import Ask, Target

SAME, DIVERGED, LOST, DOUBLED, MOVED = "same", "diverged", "lost", "doubled", "moved"
UNANSWERED = "unanswered"
FAULTS = frozenset((LOST, DOUBLED, MOVED))
_AT_ONCE = 8
_ENOUGH_CHARS = 12


def verify(target: Target, asked: Iterable[tuple[Ask, str]], timeout_s: float = 600) -> dict[str, int]:
    """How many streamed texts compare in each way with the unstreamed answers."""

    def one(pair: tuple[Ask, str]) -> str:
        ask, streamed = pair
        try:
            whole = unstreamed(target, ask.body, timeout_s)
        except OSError:  # of which urllib's errors are a kind
            return UNANSWERED
        return compare_texts(streamed, whole)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(Counter(pool.map(one, asked)).most_common())


def unstreamed(target: Target, body: bytes, timeout_s: float) -> str:
    """The text of a whole answer."""
    fields = json.loads(body)
    del fields["stream"], fields["stream_options"]
    headers = {"Content-Type": "application/json"}
    if target.api_key:
        headers["Authorization"] = f"Bearer {target.api_key}"
    request = urllib.request.Request(target.url + target.path, json.dumps(fields).encode(), headers)
    with urllib.request.urlopen(request, timeout=timeout_s) as response:
        choice = json.load(response)["choices"][0]
    text: str = choice["text"] if "text" in choice else choice["message"]["content"]
    return text


def compare_texts(streamed: str, whole: str) -> str:
    """`same`, or how `streamed` differs.

    What misses characters of the other and has the rest in order lost them, or has some twice; the same
    characters in another order were moved; anything else is another text.
    """
    if streamed == whole:
        return SAME
    pairs = zip(streamed, whole, strict=False)
    start = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    if start is None:
        return LOST if len(streamed) < len(whole) else DOUBLED
    if len(streamed) == len(whole):
        return MOVED if Counter(streamed) == Counter(whole) else DIVERGED
    ours, theirs = streamed[start:], whole[start:]
    if min(len(ours), len(theirs)) < _ENOUGH_CHARS:
        return DIVERGED  # so few characters may agree by chance
    if len(ours) < len(theirs) and _is_subsequence(ours, theirs):
        return LOST
    if len(ours) > len(theirs) and _is_subsequence(theirs, ours):
        return DOUBLED
    return DIVERGED


def _is_subsequence(shorter: str, longer: str) -> bool:
    """Whether `longer` holds all characters of `shorter` in their order."""
    rest = iter(longer)
    return all(character in rest for character in shorter)
