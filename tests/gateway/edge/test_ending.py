"""How requests end: settled once, told once, whoever leaves or breaks."""

from __future__ import annotations

import pytest

from gateway.edge.exchange import Exchange
from gateway.edge.plane import IllegalTransitionError
from gateway.edge.state import State
from policies.reason import Reason
from tests.playbook import (
    ANSWER,
    CHAT,
    EVENT,
    STREAM,
    Edge,
    Playbook,
    cancelled,
    chunk,
    client,
    client_leaves,
    client_sees,
    lost,
    post,
    reply,
    reported,
    seconds,
    stream_head,
    upstream,
    upstream_says,
)


def test_the_trace_is_in_the_ring(edge: Edge) -> None:
    Playbook(edge) >> client(post(CHAT, b"X-Request-Id: r-1")) >> upstream_says("a", reply(ANSWER))
    trace = edge.ring.find("r-1")
    assert trace is not None
    assert trace.status == 200
    (tried,) = trace.attempts
    assert tried.dispatch.node.worker.id == "a"
    assert tried.outcome is not None
    assert tried.outcome.reason is None
    assert tried.cost > 0.0


def test_the_alarm_of_an_answered_request_rings_for_nobody(edge: Edge) -> None:
    assert (
        Playbook(edge)
        >> client(post(CHAT))
        >> upstream_says("a", reply(ANSWER))
        >> seconds(5.0)
        >> client(post(CHAT))
        << upstream("a", b"POST", b"POST")
        >> seconds(0.5)
        >> upstream_says("a", reply(ANSWER))
        << client_sees(b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK")
    )
    assert [outcome.reason for _, outcome in edge.outcomes] == [None, None]


def test_a_clients_error_is_settled_as_one(edge: Edge) -> None:
    assert (
        Playbook(edge)
        >> client(post(CHAT))
        << upstream("a", b"POST")
        >> upstream_says("a", reply(b"{}", status=b"400 Bad Request"))
        << client_sees(b"HTTP/1.1 400 ")
    )
    assert edge.outcomes[0][1].client_error


def test_an_illegal_transition_raises_in_tests_and_counts_in_production(edge: Edge) -> None:
    Playbook(edge) >> client(post(CHAT))
    exchange = edge.link("a").caller
    assert isinstance(exchange, Exchange)
    with pytest.raises(IllegalTransitionError, match="SENT attempt 1 at a> -> HELD"):
        exchange._go(State.HELD)
    edge.plane.strict = False
    exchange._go(State.HELD)
    assert edge.telemetry.value("edge.illegal") == 2


# The client leaves.


@pytest.mark.parametrize("body", [CHAT, STREAM])
def test_a_client_that_leaves_cancels_its_work(edge: Edge, body: bytes) -> None:
    assert (
        Playbook(edge) >> client(post(body)) >> client_leaves() << cancelled("a") << reported("a", Reason.CLIENT_GONE)
    )
    assert edge.unreported == 0
    assert len(edge.pools.links) == 1


def test_a_client_that_leaves_amid_a_stream_cancels_it(edge: Edge) -> None:
    script = Playbook(edge) >> client(post(STREAM)) >> upstream_says("a", stream_head() + chunk(EVENT))
    assert script >> client_leaves() << cancelled("a") << reported("a", Reason.CLIENT_GONE)


def test_a_client_that_leaves_while_connecting_leaves_nothing_behind(edge: Edge) -> None:
    edge.pools.waiting = []
    assert Playbook(edge) >> client(post(CHAT)) >> client_leaves() << reported("a", Reason.CLIENT_GONE)
    pool = edge.pools.waiting.pop()
    edge.pools.waiting = None
    edge.pools.complete(pool)
    assert repr(pool) == "<Pool 10.0.0.1:9000 idle 1 busy 0 connecting 0 waiting 0>"


# Faults of our own.


def test_a_fault_of_ours_still_gives_the_client_an_ending(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Playbook(edge) >> client(post(CHAT))
    monkeypatch.setattr("gateway.edge.relay.head", lambda *_: 1 / 0)
    script >> upstream_says("a", reply(ANSWER))
    assert edge.telemetry.value("edge.faults") == 1
    assert edge.transport.sent.startswith(b"HTTP/1.1 500")
    assert edge.unreported == 0


def broken(*_: object, **__: object) -> None:
    raise KeyError("a policy that is gone")


def test_a_fault_while_repeating_ends_the_request_and_not_the_patience_of_its_client(edge: Edge) -> None:
    script = Playbook(edge) >> client(post(CHAT)) << upstream("a", b"POST")
    edge.router.route = broken  # type: ignore[method-assign]
    assert script >> lost("a") << client_sees(b"HTTP/1.1 500 ")
    assert edge.unreported == 0


def test_a_fault_in_the_alarm_ends_the_request(edge: Edge) -> None:
    script = Playbook(edge) >> client(post(CHAT, b"x-deadline-ms: 60000")) << upstream("a", b"POST")
    edge.router.route = broken  # type: ignore[method-assign]
    assert script >> seconds(30.0) << client_sees(b"HTTP/1.1 500 ")
    assert edge.unreported == 0
