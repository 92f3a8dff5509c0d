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
_AT_ONCE = 8
_REJOINS_CHARS = 12


def verify(target: Target, asked: Iterable[tuple[Ask, str]], timeout_s: float = 600) -> dict[str, int]:
    """How many streamed texts compare in each way with the unstreamed answers."""

    def one(pair: tuple[Ask, str]) -> str:
        ask, streamed = pair
        return compare_texts(streamed, unstreamed(target, ask.body, timeout_s))

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

    After the first difference, a text that goes on as the other does some characters further was robbed of
    them or has them twice; the same characters in another order were moved; anything else is another text.
    """
    if streamed == whole:
        return SAME
    start = next((i for i, (a, b) in enumerate(zip(streamed, whole, strict=False)) if a != b), None)
    if start is None:
        return LOST if len(streamed) < len(whole) else DOUBLED
    if len(streamed) == len(whole):
        return MOVED if Counter(streamed) == Counter(whole) else DIVERGED
    ours, theirs = streamed[start:], whole[start:]
    if len(ours) < len(theirs) and _ends_alike(theirs, ours):
        return LOST
    if len(ours) > len(theirs) and _ends_alike(ours, theirs):
        return DOUBLED
    return DIVERGED


def _ends_alike(longer: str, shorter: str) -> bool:
    """Whether the last characters of both are the same."""
    count = min(_REJOINS_CHARS, len(shorter))
    return count > 0 and longer.endswith(shorter[-count:])
