"""What happens when nobody is predicted to make it, and why nobody may take a request at all.

Both come out as values: a `Shed` names the reason, the field it is about and, where waiting helps, how long.
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

from policies.reason import Reason
from policies.request import Shed

MIN_RETRY_AFTER = 1.0
MAX_RETRY_AFTER = 30.0
"""Seconds. Below one, HTTP cannot say it; beyond thirty, nobody can predict a queue (peers bound it at 2 to 30 s)."""


class AdmissionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    max_in_flight: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Most requests of this policy in flight at once; 0 means no limit."""


def infeasible(shortfall: float) -> Shed:
    """Refuse a deadline the best node misses by `shortfall` seconds (in the mean)."""
    if math.isinf(shortfall):
        return Shed(Reason.DEADLINE_INFEASIBLE, param="x-deadline-ms")
    detail = "No node is predicted to meet the deadline"
    if shortfall > 0:
        detail += f"; {math.ceil(shortfall * 1e3)} ms more would do"
    return Shed(Reason.DEADLINE_INFEASIBLE, detail + ".", "x-deadline-ms", retry_after(shortfall))


def retry_after(seconds: float) -> float:
    return min(MAX_RETRY_AFTER, max(MIN_RETRY_AFTER, seconds))
