"""What the data plane shares."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.edge.plane import IllegalTransitionError
from tests.playbook import ANSWER, CHAT, Edge, Playbook, client, client_sees, post, reply, upstream, upstream_says


def test_hosts_are_compared_in_lower_case() -> None:
    edge = Edge("a", hosts=("API.Example",))
    assert Playbook(edge) >> client(post(CHAT).replace(b"gateway", b"api.example")) << upstream("a", CHAT)
    edge.connect()
    assert Playbook(edge) >> client(post(CHAT)) << client_sees(b"HTTP/1.1 421", b"misdirected")


def test_an_illegal_transition_is_counted_and_raised_where_that_is_wanted() -> None:
    edge = Edge("a")
    with pytest.raises(IllegalTransitionError, match="DONE -> SENT"):
        edge.plane.illegal("DONE -> SENT")
    edge.plane.strict = False
    edge.plane.illegal("DONE -> SENT")
    assert edge.telemetry.value("edge.illegal") == 2


def test_a_swapped_router_serves_what_comes_and_not_what_runs() -> None:
    edge, other = Edge("a"), Edge("b")
    Playbook(edge) >> client(post(CHAT))
    edge.plane.router = other.router
    edge.connect()
    Playbook(edge) >> client(post(CHAT))
    first = edge.clients[0][0]
    first.connection_lost(None)
    assert edge.unreported == 0
    assert other.unreported == 1


def test_what_a_decision_wants_to_know_is_asked_once_its_request_is_on_the_way() -> None:
    asked: list[tuple[tuple[str, ...], bytes]] = []
    edge = Edge("ab", ask=lambda worker_ids: asked.append((tuple(worker_ids), bytes(edge.wire("a").sent))))
    route = edge.router.route
    wanted: tuple[str, ...] = ()

    def curious(*args: Any) -> Any:
        return msgspec.structs.replace(route(*args), probes=wanted)

    edge.router.route = curious  # type: ignore[method-assign]
    Playbook(edge) >> client(post(CHAT)) >> upstream_says("a", reply(ANSWER))
    assert asked == []
    edge.wire("a").take()
    wanted = ("b", "c")
    Playbook(edge) >> client(post(CHAT))
    ((worker_ids, sent),) = asked
    assert worker_ids == ("b", "c")
    assert sent.endswith(CHAT)
