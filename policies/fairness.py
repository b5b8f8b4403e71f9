"""What each tenant asked for and got while there was not enough for all, and who has had more than its share.

Counted only while requests are crowded out, in cost units (what a request costs on its cheapest node), and forgotten
within seconds: headroom knows no shares, and who falls silent claims none. A share is max-min fair: what is served is
dealt out by weight, and what a tenant does not ask for is dealt out again among the others.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence

MEMORY_SECONDS = 5.0
"""Time constant of what is counted: about as long as a queue that anybody would wait in."""
DEALT_SECONDS = 0.1
"""Between two deals of what is served: they cost a sort of the tenants."""
TOLERANCE = 1.05
"""Times its share that a tenant may get: counts vary by chance, and to refuse those that are even serves nobody. With
1.01 a third of the capacity of the hog's test is left unused, with 1.05 a tenth, with 1.1 a small tenant gets 70 % of
what it asks for, not 83 %."""
SILENT_SECONDS = 2.0
"""Without a request, after which a tenant claims nothing. What it once asked for in vain fades no faster than what the
others got: it would keep them from an idle fleet for half a minute."""
MAX_TENANTS = 1024
"""Tenants counted at once; the one heard of longest ago makes room."""
FORGOTTEN = 1e-3
"""Share of an amount that counts as nothing: seven time constants later."""


def level(asked: Sequence[tuple[float, float]], served: float) -> float:
    """What one unit of weight gets, when `served` is dealt out to tenants given as (what it asked for, its weight): the
    level up to which everybody gets what it asked for; infinite when that is all of it."""
    weight = sum(each for _, each in asked)
    for amount, each in sorted(asked, key=lambda one: one[0] / one[1]):
        if amount * weight > served * each:
            return served / weight
        served -= amount
        weight -= each
    return math.inf


class _Account:
    """One tenant's figures, as of `at`."""

    __slots__ = ("asked", "asked_at", "at", "served")

    def __init__(self, now: float) -> None:
        self.asked = 0.0
        self.asked_at = now
        self.served = 0.0
        self.at = now

    def age(self, now: float) -> None:
        """Forget."""
        left = math.exp((self.at - now) / MEMORY_SECONDS) if now > self.at else 1.0
        self.asked *= left
        self.served *= left
        self.at = now


class Shares:
    """The tenants of one policy."""

    __slots__ = ("_accounts", "_dealt_at", "_level", "_weights")

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        """`weights` by tenant; those not named have 1."""
        self._weights = dict(weights or {})
        self._accounts: OrderedDict[str, _Account] = OrderedDict()
        self._level = math.inf
        self._dealt_at = -math.inf

    def weight(self, tenant: str) -> float:
        return self._weights.get(tenant, 1.0)

    def count(self, tenant: str, cost: float, now: float, *, asked: bool, served: bool) -> None:
        """A request came, or was sent, or both at once."""
        account = self._accounts.get(tenant)
        if account is None:
            if len(self._accounts) >= MAX_TENANTS:
                self._accounts.popitem(last=False)
            account = self._accounts[tenant] = _Account(now)
        else:
            self._accounts.move_to_end(tenant)
            account.age(now)
        if asked:
            account.asked += cost
            account.asked_at = now
        if served:
            account.served += cost

    def over(self, tenant: str, now: float, lenience: float = 0.0) -> bool:
        """Whether a tenant has had its share of late, and more than `lenience` (of it) beyond, and others have not had
        what they asked for."""
        account = self._accounts.get(tenant)
        if account is None or len(self._accounts) < 2:
            return False
        if now - self._dealt_at >= DEALT_SECONDS:
            self._deal(now)
        account.age(now)
        return account.served > (TOLERANCE + lenience) * self._level * self.weight(tenant)

    def _deal(self, now: float) -> None:
        self._dealt_at = now
        for tenant, account in list(self._accounts.items()):
            gone = now - account.at > -math.log(FORGOTTEN) * MEMORY_SECONDS
            if gone:
                del self._accounts[tenant]
            else:
                account.age(now)
        heard = {tenant: one for tenant, one in self._accounts.items() if now - one.asked_at <= SILENT_SECONDS}
        asked = [(account.asked, self.weight(tenant)) for tenant, account in heard.items()]
        self._level = level(asked, sum(account.served for account in heard.values()))

    def __repr__(self) -> str:
        return f"<Shares of {len(self._accounts)} tenants, level {self._level:.3g}>"
