"""Which of several replicas gets a request: in turn, or where its beginning is probably cached.

The router knows what it sent where and how much each replica has to do, not what their caches hold.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

from octavo.cache.prefix_cache import hash_chain, root_hash
from octavo.scheduler.request import Request

_BLOCK_SIZE = 64
"""Tokens of a prefix that the router tells apart; coarser than the cache's blocks."""
_SLACK = 1.25
"""A replica with more than this times the average number of requests (and four more) is passed over."""


class Router(Protocol):
    """Chooses for one request after the other."""

    def choose(self, request: Request, loads: Sequence[int]) -> int:
        """A replica's index. loads: requests that each has to do."""


class RoundRobin:
    """In turn."""

    def __init__(self) -> None:
        self._next = -1

    def choose(self, request: Request, loads: Sequence[int]) -> int:
        """See Router."""
        self._next = (self._next + 1) % len(loads)
        return self._next


class CacheAware:
    """Where the longest prefix went last, unless that replica is busier than the others; else the idlest.

    capacity: blocks that it remembers, the oldest forgotten first.
    """

    def __init__(self, capacity: int = 1 << 20) -> None:
        # A plain dict would look for its oldest entry among all that were deleted before it.
        self._replica_by_block: OrderedDict[bytes, int] = OrderedDict()
        self._capacity = capacity
        self._root = root_hash()

    def choose(self, request: Request, loads: Sequence[int]) -> int:
        """See Router."""
        blocks = hash_chain(request.prompt_token_ids, _BLOCK_SIZE, self._root)
        known = self._replica_by_block
        allowed = _SLACK * sum(loads) / len(loads) + 4
        chosen = loads.index(min(loads))
        for block in reversed(blocks):
            last = known.get(block)
            if last is not None and loads[last] <= allowed:
                chosen = last
                break
        for block in blocks:
            known[block] = chosen
            known.move_to_end(block)
        while len(known) > self._capacity:
            known.popitem(last=False)
        return chosen
