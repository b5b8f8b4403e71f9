"""The states of one request's exchange, and which may follow which.

An exchange that takes a step which is not listed raises in tests and is counted in production. Next: exchange.py.
"""

from __future__ import annotations

import enum

# Theory of operation
#
#   DECIDE   the whole request is here; nothing is reserved.
#   HELD     nobody can take it now; it is routed again, at the latest when the router said.
#   CONNECT  a node is reserved, and no link to its worker was idle.
#   SENT     the request is written; no whole head of an answer has come (a short answer may come whole, and ends it).
#   BUFFER   the head is here, and the client has nothing yet: unary bodies, and streams before their first whole
#            event, wait here, so that a worker's death costs no request.
#   STREAM   bytes have gone to the client: from here on nothing can be repeated or taken back.
#   DONE     the client has its ending, and every dispatch is reported.
#
# Three things may end an attempt early: the worker (lost, garbled, an error), the alarm (one per exchange, set for
# whatever is nearest: too long a silence, a stall, the limit), the client (it left). Before STREAM, the first two may
# lead back to DECIDE and another node; in STREAM they lead to an error event and a close that no client can mistake
# for the end of an answer. One loss is no failure: on a link used before, and right after the write, it may be the
# worker's idle timeout racing with us; then the request is written once more on a fresh link to the same worker.


class State(enum.IntEnum):  # an Enum hashes in Python, five times more slowly
    DECIDE = enum.auto()
    HELD = enum.auto()
    CONNECT = enum.auto()
    SENT = enum.auto()
    BUFFER = enum.auto()
    STREAM = enum.auto()
    DONE = enum.auto()


DECIDE, HELD, CONNECT, SENT, BUFFER, STREAM, DONE = State

TRANSITIONS: dict[State, frozenset[State]] = {
    DECIDE: frozenset((HELD, CONNECT, SENT, DONE)),
    HELD: frozenset((DECIDE, DONE)),
    CONNECT: frozenset((SENT, DECIDE, DONE)),
    SENT: frozenset((BUFFER, CONNECT, DECIDE, DONE)),
    BUFFER: frozenset((STREAM, DECIDE, DONE)),
    STREAM: frozenset((DONE,)),
    DONE: frozenset(),
}
