"""What happens when nobody is predicted to make it, and why nobody may take a request at all.

Both come out as values: a `Shed` names the reason, the field it is about and, where waiting helps, how long.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import msgspec

from policies.reason import Reason
from policies.request import Shed

if TYPE_CHECKING:
    from policies.candidates import Candidates

MIN_RETRY_AFTER = 1.0
MAX_RETRY_AFTER = 30.0
"""Seconds. Below one, HTTP cannot say it; beyond thirty, nobody can predict a queue (peers bound it at 2 to 30 s)."""
OVER_SHARE = "There is not enough for all, and this tenant has had its share."


class AdmissionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    max_in_flight: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Most requests of this policy in flight at once; 0 means no limit."""
    yielding: bool = True
    """Whether, in overload, requests with time to spare are held (as far as `max_held` goes) until a node is free."""
    early_rejection: bool = True
    """Whether, in overload, best effort is refused to what would most likely miss anyway."""
    fair: bool = True
    """Whether, in overload, tenants that have had more than their share are refused first."""
    max_held: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 256
    """Most requests of one model that a tenant may have held (`hold`) alone; several have up to twice as many between
    them. 0 means that none is. Each keeps its body in memory."""


CROWDED_GAIN = 0.01
"""Of the share of requests crowded out: about the last hundred count."""
CROWDED_FROM = 0.2
"""Share of requests crowded out at which overload begins: bursts alone stay below it."""
CROWDED_SLOPE = 4.0
MAX_FLOOR = 0.9
"""The probability asked of best effort grows to this with the share. Both tuned in the simulator's headline world on
seed 101 at load 1.1, where goodput on FIFO workers falls to 14 % without a floor."""
WASTE_GAIN = 0.02
WASTE_TARGET = 0.05
"""Of what is tried without a promise, so much may be answered late: late work is what makes a crowd of a queue, but who
drops it unexecuted (our workers do) may be tried at worse odds. At load 1.1 of the headline world 88 % are in time on
such workers with this, 85 % without; on those that execute everything nothing changes."""


class Overload:
    """How crowded the fleet is, and how likely best effort must be to make it (algorithm.md 2.8).

    Crowded out is a request that nobody can serve in time now, and somebody could if there were no queue. Serving it
    late would only make the queue longer; an impossible deadline on an idle fleet is no overload.
    """

    __slots__ = ("_most", "share")

    def __init__(self) -> None:
        self.share = 0.0
        self._most = MAX_FLOOR
        """The floor at most, by what came of it."""

    def routed(self, crowded_out: bool) -> None:
        """A request with a deadline was routed."""
        self.share += CROWDED_GAIN * (crowded_out - self.share)

    @property
    def floor(self) -> float:
        """The least probability at which a request is tried without a promise; 0 outside overload."""
        return min(self._most, max(0.0, (self.share - CROWDED_FROM) * CROWDED_SLOPE))

    def tried(self, wasted: bool) -> None:
        """A request without a promise has ended; wasted is work that was done and came late."""
        self._most = min(MAX_FLOOR, max(0.0, self._most + WASTE_GAIN * (wasted - WASTE_TARGET)))

    def __repr__(self) -> str:
        return f"<Overload {self.share:.0%} crowded out, floor {self.floor:.2f}>"


def infeasible(candidates: Candidates, now: float) -> Shed:
    """Refuse deadlines nobody is predicted to meet: name the one that fails and how far the best eligible node is from
    it, and ask to come back only where a shorter queue would help."""
    whole, first, pace = (late[candidates.eligible] for late in candidates.lateness(now))
    for param, late in (("x-deadline-ms", whole), ("x-slo-ttft-ms", first)):
        missing = float(late.min())
        if missing > 0:
            drained = candidates.drained(candidates.request.arrived)  # who comes back has all of its time again
            back = None if math.isinf(drained) else retry_after(drained)
            return Shed(Reason.DEADLINE_INFEASIBLE, f"{math.ceil(missing * 1e3)} ms more would do.", param, back)
    missing = float(pace.min())
    if missing > 0:
        detail = f"The fastest needs {missing * 1e3:.2g} ms more for each token."
        return Shed(Reason.DEADLINE_INFEASIBLE, detail, "x-slo-tpot-ms")
    return Shed(
        Reason.DEADLINE_INFEASIBLE, "Each deadline alone can be met, but not by the same node.", "x-deadline-ms"
    )


def retry_after(seconds: float) -> float:
    return min(MAX_RETRY_AFTER, max(MIN_RETRY_AFTER, seconds))
