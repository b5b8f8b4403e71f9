"""The data plane's surroundings: what every connection and exchange of one gateway process shares.

`app.py` builds one and hands it to `listener.listen`. A reload swaps fields (router, routes, keys, hosts, ...) between
two callbacks of the loop, so an exchange sees either the old or the new; the ones in flight keep the node they have.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from gateway.auth import Keys
    from gateway.config import Limits
    from gateway.edge.rpc import RpcPools
    from gateway.edge.stay import Stay
    from gateway.edge.upstream import Pools
    from gateway.edge.wheel import TimerWheel
    from gateway.geo import Locator
    from gateway.ring import Ring
    from gateway.routes import Routes
    from gateway.steer import Steering
    from gateway.telemetry import Telemetry
    from policies.router import Router

DecisionHeaders = Literal["on_request", "always", "never"]


def _nobody(worker_ids: Collection[str]) -> None:
    """Nobody asks."""


class IllegalTransitionError(AssertionError):
    """An exchange was told something that its state does not allow: a bug of ours."""


class Plane:
    """One process's router and everything around it. Fields may be swapped; the wheel, clock and pools stay."""

    __slots__ = (
        "ask",
        "clock",
        "decision_headers",
        "draining",
        "hosts",
        "keys",
        "limits",
        "locator",
        "measure_clients",
        "releasing",
        "ring",
        "rng",
        "router",
        "routes",
        "rpc",
        "stays",
        "steering",
        "strict",
        "telemetry",
        "upstream",
        "wheel",
    )

    def __init__(
        self,
        *,
        router: Router,
        routes: Routes,
        keys: Keys,
        locator: Locator,
        steering: Steering,
        telemetry: Telemetry,
        ring: Ring,
        limits: Limits,
        upstream: Pools,
        rpc: RpcPools | None = None,
        wheel: TimerWheel,
        hosts: tuple[str, ...] = (),
        decision_headers: DecisionHeaders = "on_request",
        measure_clients: bool = False,
        ask: Callable[[Collection[str]], None] = _nobody,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        strict: bool = False,
    ) -> None:
        self.router = router
        self.routes = routes
        self.keys = keys
        self.locator = locator
        self.steering = steering
        self.telemetry = telemetry
        self.ring = ring
        self.limits = limits
        self.upstream = upstream
        upstream.count = telemetry.count
        self.rpc = rpc
        """Workers over gRPC; None while no client can come by it."""
        self.wheel = wheel
        self.hosts = frozenset(host.lower().encode() for host in hosts)
        """Lower-case names this gateway answers for; empty means any."""
        self.decision_headers = decision_headers
        self.measure_clients = measure_clients
        """Whether the client's own round trip is read from the kernel (`deadline_from: client`)."""
        self.ask = ask
        """Have these workers' loads asked for at once; takes no time."""
        self.clock = clock
        self.rng = rng or random.Random()  # noqa: S311
        """Makes request ids, which must be distinct, not secret."""
        self.strict = strict
        """Whether an illegal transition raises (tests) or is only counted."""
        self.draining = False
        self.stays: dict[int, Stay] = {}
        """Of the requests held, by their identity."""
        self.releasing = False
        """Whether those held are being routed again."""

    def illegal(self, what: str) -> None:
        """An exchange reached a state it may not: raise in tests, count in production."""
        self.telemetry.count("edge.illegal")
        if self.strict:
            raise IllegalTransitionError(what)
