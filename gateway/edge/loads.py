"""What answers say of their worker's load: from the bytes of a report to what the router knows.

Reports come with the head of an answer and before the end of a stream, so that the nodes in use are the ones known
best, and no two gateways learn of them at the same instant. The bytes are policies/reports.py's; exchange.py and
ending.py say when.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.records import Rejected
from policies.reports import REPORT_HEADER, decode_report
from policies.request import LoadSeen

if TYPE_CHECKING:
    from gateway.edge.attempt import Attempt
    from gateway.edge.plane import Plane

REPORT = REPORT_HEADER.encode()


def learn(plane: Plane, attempt: Attempt, now: float) -> None:
    """Tell the router what the attempt's worker reported, once. Call it after the attempt is settled, if it is to be
    settled now: the worker does not count an answered request any more, and so nor may we afterwards."""
    value, attempt.report = attempt.report, None
    assert value is not None
    report = decode_report(value)
    if isinstance(report, Rejected):
        plane.telemetry.count("reports.malformed")
        return
    state = attempt.dispatch.node.state
    load = report.load(state.record, state.load)
    if load is None:
        plane.telemetry.count("reports.unused")
        return
    plane.telemetry.count("reports.taken")
    age = state.rtt.mean / 2 + now - attempt.reported
    plane.router.observe(LoadSeen(load, age, not report.ordered), now)
