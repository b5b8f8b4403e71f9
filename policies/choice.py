"""What a decision has found: a node and the promise it was picked under; if none, what that says of the fleet."""

from __future__ import annotations

import msgspec

from policies.candidates import Candidates
from policies.node import Node
from policies.reason import Reason
from policies.request import Hold, Infeasible, Shed, Status

WORTH_TRYING = 0.9
"""The probability from which a request that may be tried without a promise is tried at once, not held until it can be
promised: time that is waited is lost. In the headline world (seeds 101 and 102, load 0.95) 89.8 % are in time with 0.85
and 89.5 % with 0.95; held for their promise, always, some 2 % fewer than without any hold."""


class Choice(msgspec.Struct, gc=False, frozen=True):
    """What `consider` found: a node and the promise it was picked under."""

    candidates: Candidates
    slot: int
    status: Status
    test: bool = False
    """Whether it would be feasible, if its promise could be given now."""

    @property
    def node(self) -> Node:
        return self.candidates.columns.nodes[self.slot]


def worth_trying(candidates: Candidates, now: float) -> bool:
    """Whether best effort, which the request takes as well, is too likely to succeed to wait for better."""
    return Infeasible.BEST_EFFORT in candidates.request.when_infeasible and candidates.surest(now)[1] >= WORTH_TRYING


def hopeless(choice: Choice | Hold | Shed) -> bool:
    """Whether nobody can serve a request in time (and not only its balancer picked somebody who cannot)."""
    if isinstance(choice, Choice):
        return choice.status is Status.BEST_EFFORT and not (choice.test or choice.candidates.fit.any())
    return isinstance(choice, Hold) or choice.reason is Reason.DEADLINE_INFEASIBLE


def crowded_out(choice: Choice | Hold | Shed, now: float) -> bool:
    """Whether only queues kept a request from being promised its deadline."""
    if isinstance(choice, Hold):
        return True
    if isinstance(choice, Choice):
        if choice.status is not Status.BEST_EFFORT or choice.test:
            return False
        return choice.candidates.crowded_out(now)
    return choice.reason is Reason.DEADLINE_INFEASIBLE and choice.retry_after is not None
