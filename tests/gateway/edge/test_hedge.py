"""Hedged pairs: two workers have it, the first byte decides, and each is settled once."""

from __future__ import annotations

import re

import pytest

from policies.hedge import HedgeConfig, Hedging
from policies.reason import Reason
from policies.request import DrainSet
from tests.gateway.edge.rpcs import MODEL, fronted, node, until
from tests.playbook import (
    ANSWER,
    CHAT,
    EVENT,
    STREAM,
    Edge,
    Playbook,
    Step,
    cancelled,
    chunk,
    client,
    client_leaves,
    client_sees,
    client_sees_nothing,
    lost,
    post,
    refusing,
    reply,
    reported,
    seconds,
    stream_head,
    upstream,
    upstream_says,
)

BUDGET = b"x-deadline-ms: 520"
"""So tight that another worker must be tried before anybody can be sure that the first is stuck."""
DUE = seconds(0.35)
EARLY = seconds(0.30)


def hedging(workers: str = "abc", *, pure: bool = True) -> Edge:
    edge = Edge(workers, pure=pure)
    edge.router._policies["house"].hedging = Hedging(HedgeConfig(share=1.0))
    edge.router.fleet.refresh("chat", edge.clock.now)  # the columns know how old the loads are
    return edge


def untried(name: str) -> Step:
    def check(edge: Edge) -> None:
        address = next(record.address for record in edge.records if record.id == name)
        assert all(link._pool.address != address for link in edge.pools.links)

    return Step(f"{name} untried", check)


def hedges(edge: Edge) -> dict[str, int]:
    outcomes = ("won", "lost", "failed", "abandoned")
    return {outcome: count for outcome in outcomes if (count := edge.telemetry.value(f"hedges.{outcome}"))}


def ended(edge: Edge) -> list[tuple[str, Reason | None]]:
    assert edge.unreported == 0
    return [(name, outcome.reason) for name, outcome in edge.outcomes]


def paired(edge: Edge, body: bytes = CHAT) -> Playbook:
    """A pair under way: `a` is silent, `b` has been sent it too."""
    return Playbook(edge) >> client(post(body, BUDGET)) << upstream("a", b"POST") >> DUE << upstream("b", b"POST")


def test_the_hedge_answers_and_the_silent_one_is_cancelled() -> None:
    edge = hedging()
    assert (
        Playbook(edge)
        >> client(post(CHAT, BUDGET, b"x-request-id: r-1", b"x-route-explain: 1"))
        << upstream("a", b"x-isochrone-hedge: r-1\r\n")
        >> EARLY
        << untried("b")
        >> seconds(0.05)
        << upstream("b", b"x-isochrone-hedge: r-1\r\n", b"x-envoy-attempt-count: 2")
        << client_sees_nothing()
        >> upstream_says("b", reply(ANSWER))
        << cancelled("a")
        << client_sees(b"HTTP/1.1 200 OK", b"x-route-node: b", ANSWER)
    )
    assert ended(edge) == [("a", Reason.OUTRUN), ("b", None)]
    assert hedges(edge) == {"won": 1}
    trace = edge.ring.find("r-1")
    assert trace is not None
    assert [tried.dispatch.hedge for tried in trace.attempts] == [False, True], "who answered comes last"
    assert edge.router.fleet.workers["a"].health._failures == 0


def test_a_loose_deadline_too_is_kept_by_company_and_not_by_giving_up() -> None:
    edge = hedging()
    assert (
        Playbook(edge)
        >> client(post(CHAT, b"x-deadline-ms: 3000"))
        << upstream("a", b"POST")
        >> seconds(2.0)  # more than half of it, when an attempt that has no hedge to come is given up
        << untried("b")
        >> seconds(0.9)
        << upstream("b", b"POST")
        >> upstream_says("b", reply(ANSWER))
        << client_sees(b"200 OK")
        << cancelled("a")
    )
    assert hedges(edge) == {"won": 1}


def test_the_first_answers_after_all_and_the_hedge_is_cancelled() -> None:
    edge = hedging()
    assert (
        paired(edge) >> upstream_says("a", reply(ANSWER)) << cancelled("b") << client_sees(b"HTTP/1.1 200 OK", ANSWER)
    )
    assert ended(edge) == [("b", Reason.OUTRUN), ("a", None)]
    assert hedges(edge) == {"lost": 1}
    assert b'isochrone_hedges_total{outcome="lost"} 1.0' in edge.telemetry.page()
    assert b"isochrone_retries_total 0.0" in edge.telemetry.page(), "a hedge is no repeat"


def test_a_stream_s_head_decides_nothing_and_its_first_event_does() -> None:
    edge = hedging()
    assert (
        paired(edge, STREAM)
        >> upstream_says("a", stream_head())
        << client_sees_nothing()
        >> upstream_says("b", stream_head() + chunk(EVENT))
        << cancelled("a")
        << client_sees(b"HTTP/1.1 200 OK", EVENT)
        >> upstream_says("b", chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        << client_sees(b"[DONE]")
    )
    assert ended(edge) == [("a", Reason.OUTRUN), ("b", None)]


def test_an_engine_that_sends_its_head_at_once_is_hedged_too() -> None:
    edge = hedging()
    script = Playbook(edge) >> client(post(STREAM, BUDGET)) >> upstream_says("a", stream_head())
    assert script >> DUE << upstream("b", b"POST")


def test_never_after_a_byte_went_to_the_client() -> None:
    edge = hedging()
    script = Playbook(edge) >> client(post(STREAM, BUDGET)) >> upstream_says("a", stream_head() + chunk(EVENT))
    assert script >> seconds(0.5) << untried("b")
    assert hedges(edge) == {}


def test_a_unary_answer_under_way_is_not_hedged() -> None:
    edge = hedging()
    script = Playbook(edge) >> client(post(CHAT, BUDGET)) >> upstream_says("a", reply(ANSWER)[:-5])
    assert script >> seconds(0.5) << untried("b")


def test_an_impure_route_is_not_hedged() -> None:
    assert Playbook(hedging(pure=False)) >> client(post(CHAT, BUDGET)) >> seconds(0.5) << untried("b")


def test_without_hedging_nothing_is_tied(edge: Edge) -> None:
    Playbook(edge) >> client(post(CHAT, BUDGET)) >> seconds(0.35) << untried("b")
    assert b"x-isochrone-hedge" not in edge.wire("a").take()


@pytest.mark.parametrize("fails", ["lost", "garbled", "error", "refused"])
def test_a_hedge_that_fails_leaves_the_first_alone(fails: str) -> None:
    edge = hedging()
    step, reason = {
        "lost": (lost("b"), Reason.UPSTREAM_LOST),
        "garbled": (upstream_says("b", b"\x00 nonsense\r\n\r\n"), Reason.BAD_UPSTREAM_REPLY),
        "error": (upstream_says("b", reply(b"{}", status=b"500 Oops")), Reason.UPSTREAM_ERROR),
        "refused": (
            upstream_says("b", reply(b"{}", b"x-isochrone-executed: 0", status=b"503 Full")),
            Reason.REFUSED,
        ),
    }[fails]
    assert (
        paired(edge)
        >> step
        << reported("b", reason)
        << client_sees_nothing()
        >> seconds(0.03)
        << untried("c")
        >> upstream_says("a", reply(ANSWER))
        << client_sees(b"HTTP/1.1 200 OK", ANSWER)
    )
    assert ended(edge) == [("b", reason), ("a", None)]
    assert edge.outcomes[0][1].executed is (fails != "refused")
    assert hedges(edge) == {"failed": 1}


def test_an_unreachable_hedge_leaves_the_first_alone() -> None:
    edge = hedging()
    script = Playbook(edge) >> refusing("b") >> client(post(CHAT, BUDGET)) >> DUE
    assert script << reported("b", Reason.CONNECT_FAILED) >> upstream_says("a", reply(ANSWER)) << client_sees(ANSWER)
    assert hedges(edge) == {"failed": 1}


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (lost("a"), Reason.UPSTREAM_LOST),
        (upstream_says("a", reply(b"{}", status=b"500 Oops")), Reason.UPSTREAM_ERROR),
    ],
    ids=["lost", "error"],
)
def test_when_the_first_fails_the_hedge_is_the_repeat(step: Step, reason: Reason) -> None:
    edge = hedging()
    assert (
        paired(edge)
        >> step
        << reported("a", reason)
        << untried("c")
        << client_sees_nothing()
        >> upstream_says("b", reply(ANSWER))
        << client_sees(b"HTTP/1.1 200 OK", ANSWER)
    )
    assert ended(edge) == [("a", reason), ("b", None)]


def test_when_both_fail_a_third_is_tried() -> None:
    edge = hedging()
    script = paired(edge) >> lost("b") >> lost("a") << upstream("c", b"POST", b"x-envoy-attempt-count: 3")
    assert script >> upstream_says("c", reply(ANSWER)) << client_sees(ANSWER)
    assert ended(edge) == [("b", Reason.UPSTREAM_LOST), ("a", Reason.UPSTREAM_LOST), ("c", None)]


def test_both_are_silent_until_the_deadline() -> None:
    edge = hedging()
    assert paired(edge) >> seconds(0.3) << cancelled("a") << cancelled("b") << client_sees(b"HTTP/1.1 504")
    assert ended(edge) == [("a", Reason.DEADLINE_EXCEEDED), ("b", Reason.DEADLINE_EXCEEDED)]


def test_a_client_that_leaves_cancels_both() -> None:
    edge = hedging()
    assert paired(edge) >> client_leaves() << cancelled("a") << cancelled("b")
    assert ended(edge) == [("b", Reason.CLIENT_GONE), ("a", Reason.CLIENT_GONE)]
    assert hedges(edge) == {"abandoned": 1}


def test_a_hedge_that_still_connects_is_forgotten_when_the_first_answers() -> None:
    edge = hedging()
    script = Playbook(edge) >> client(post(CHAT, BUDGET))
    edge.pools.waiting = []
    assert script >> DUE >> upstream_says("a", reply(ANSWER)) << client_sees(ANSWER)
    (pool,) = edge.pools.waiting
    edge.pools.complete(pool)
    assert repr(pool) == "<Pool 10.0.0.2:9000 idle 1 busy 0 connecting 0 waiting 0>"
    assert ended(edge) == [("b", Reason.OUTRUN), ("a", None)]


def test_a_hedge_that_still_connects_takes_the_place_of_a_first_that_fails() -> None:
    edge = hedging()
    script = Playbook(edge) >> client(post(CHAT, BUDGET))
    edge.pools.waiting = []
    script >> DUE >> lost("a")
    edge.pools.complete(edge.pools.waiting[0])
    assert script << upstream("b", b"POST") >> upstream_says("b", reply(ANSWER)) << client_sees(ANSWER)
    assert ended(edge) == [("a", Reason.UPSTREAM_LOST), ("b", None)]


def test_a_first_that_still_connects_may_be_outrun() -> None:
    edge = hedging()
    edge.pools.waiting = []
    script = Playbook(edge) >> client(post(CHAT, BUDGET))
    edge.pools.waiting = None
    assert script >> DUE << upstream("b", b"POST") >> upstream_says("b", reply(ANSWER)) << client_sees(ANSWER)
    assert ended(edge) == [("a", Reason.OUTRUN), ("b", None)]


def test_a_hedge_may_lose_the_race_with_its_worker_s_idle_timeout_once() -> None:
    edge = hedging("ab")
    edge.router.observe(DrainSet("a", True), edge.clock.now)
    script = Playbook(edge) >> client(post(CHAT)) << upstream("b", b"POST") >> upstream_says("b", reply(ANSWER))
    edge.router.observe(DrainSet("a", False), edge.clock.now)
    script >> seconds(2.0) << client_sees(ANSWER)
    assert script >> client(post(CHAT, BUDGET)) >> DUE << upstream("b", b"POST") >> lost("b")
    assert script << upstream("b", b"POST"), "written once more, on a fresh connection"
    assert script >> upstream_says("b", reply(ANSWER)) << client_sees(ANSWER)
    assert ended(edge)[-2:] == [("a", Reason.OUTRUN), ("b", None)]


def test_a_fault_of_ours_ends_both() -> None:
    edge = hedging()
    script = paired(edge)
    hedge = edge.link("b").caller
    assert re.match(r"<Hedge <Attempt 2 at b>>", repr(hedge))
    assert hedge is not None
    hedge.broke()
    assert script << cancelled("a") << cancelled("b") << client_sees(b"HTTP/1.1 500")
    assert ended(edge) == [("b", Reason.INTERNAL), ("a", Reason.INTERNAL)]


async def test_a_tensor_worker_that_is_stuck_is_outrun_over_grpc_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real workers and calls; when the hedge is due and where it goes is said here, not by this machine."""
    monkeypatch.setattr(Hedging, "due", lambda self, candidates, status, eta, crowded, now: now + 0.01)
    monkeypatch.setattr(Hedging, "consider", lambda self, beside, candidates, *_: 1)
    async with node("a", 1.0) as a, node("b", 5.0) as b, fronted(a, b) as front:
        front.edge.router._policies["cheapest_in_deadline"].hedging = Hedging(HedgeConfig())
        assert front.edge.router.fleet.nodes(MODEL)[1].worker.id == "b"
        a.engine.gate.clear()
        reply = await front.infer()
        assert reply.model_name == MODEL
        assert ended(front.edge) == [("a", Reason.OUTRUN), ("b", None)]
        assert hedges(front.edge) == {"won": 1}
        tally = a.bench.batcher.runners[f"{MODEL}:fp32"].tally
        await until(lambda: tally.ended["cancelled"] == 1)
