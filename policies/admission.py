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
    from policies.columns import Candidates

MIN_RETRY_AFTER = 1.0
MAX_RETRY_AFTER = 30.0
"""Seconds. Below one, HTTP cannot say it; beyond thirty, nobody can predict a queue (peers bound it at 2 to 30 s)."""


class AdmissionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    max_in_flight: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Most requests of this policy in flight at once; 0 means no limit."""


def infeasible(candidates: Candidates, now: float) -> Shed:
    """Refuse deadlines nobody is predicted to meet: name the one that fails and how far the best eligible node is from
    it, and ask to come back only where a shorter queue would help."""
    whole, first, pace = (late[candidates.eligible] for late in candidates.lateness(now))
    for param, late in (("x-deadline-ms", whole), ("x-slo-ttft-ms", first)):
        missing = float(late.min())
        if missing > 0:
            drained = candidates.drained(now)
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
