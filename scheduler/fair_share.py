"""Whose turn it is among those who share the engine, by what each has been given. Knows no sequences.

Fairness in service received: who waits and has had least, for its weight, is next (Sheng et al., "Fairness in
Serving Large Language Models", OSDI 2024). Who comes back after a pause starts level with the others: nobody
saves up. Every `TURN_EVERY`th turn goes to who has waited longest for one, so no weight starves anybody.
"""

from __future__ import annotations

import heapq
from itertools import count

TURN_EVERY = 8
_KEPT = 64
_MEMORY = 0.1


class Tenant:
    """served: tokens computed for it, divided by its weight.   mean_output: tokens that it lets generate."""

    __slots__ = ("mean_output", "name", "served", "since", "waits", "weight")

    def __init__(self, name: str) -> None:
        self.name = name
        self.weight = 1.0
        self.served = 0.0
        self.since = 0
        self.waits = False
        self.mean_output = 16.0


class FairShare:
    """The tenants, as many as there are names; all that happens in a step is O(log tenants)."""

    __slots__ = ("_heap", "_level", "_num_turns", "_order", "_tenants", "_turns")

    def __init__(self) -> None:
        self._tenants: dict[str, Tenant] = {}
        self._heap: list[tuple[float, int, Tenant]] = []  # stale entries are passed over, and swept
        self._turns: dict[Tenant, None] = {}  # who waits, longest without a turn first
        self._level = 0.0
        self._num_turns = 0
        self._order = count()

    def tenant(self, name: str, weight: float) -> Tenant:
        """The tenant of that name, with this weight from now on."""
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._tenants[name] = Tenant(name)
        tenant.weight = weight
        return tenant

    def wait(self, tenant: Tenant) -> None:
        """It has something that waits."""
        if not tenant.waits:
            tenant.waits = True
            tenant.served = max(tenant.served, self._level)
            tenant.since = next(self._order)
            self._turns[tenant] = None
            self._push(tenant)

    def leave(self, tenant: Tenant) -> None:
        """Nothing of it waits any more."""
        tenant.waits = False
        self._turns.pop(tenant, None)

    def next(self) -> Tenant | None:
        """Whose turn it is; the same until `take`, whoever comes meanwhile."""
        if not self._turns:
            return None
        if self._num_turns % TURN_EVERY == TURN_EVERY - 1:
            return next(iter(self._turns))
        while True:
            served, since, tenant = self._heap[0]
            if tenant.waits and served == tenant.served and since == tenant.since:
                return tenant
            heapq.heappop(self._heap)

    def take(self, tenant: Tenant, num_tokens: float) -> None:
        """It has had its turn, and gets `num_tokens`."""
        self._num_turns += 1
        self._level = max(self._level, tenant.served)
        if tenant.waits:
            self._turns[tenant] = self._turns.pop(tenant)
        self.charge(tenant, num_tokens)

    def charge(self, tenant: Tenant, num_tokens: float) -> None:
        """It got so many tokens more than was said, or less, if negative."""
        tenant.served += num_tokens / tenant.weight
        if tenant.waits:
            self._push(tenant)

    def learn(self, tenant: Tenant, num_output: int) -> None:
        """One of its requests has ended with so many tokens."""
        tenant.mean_output += _MEMORY * (num_output - tenant.mean_output)

    def _push(self, tenant: Tenant) -> None:
        if len(self._heap) > 2 * len(self._turns) + _KEPT:
            self._heap = [(t.served, t.since, t) for t in self._turns if t is not tenant]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (tenant.served, tenant.since, tenant))
