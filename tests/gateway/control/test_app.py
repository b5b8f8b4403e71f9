"""The control plane over HTTP: every path, who may ask it, and how it refuses."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from prometheus_client.parser import text_string_to_metric_families

from gateway.app import Gateway
from gateway.auth import Keys
from gateway.control import app as control
from gateway.control.app import ROUTES
from gateway.edge.gate import Head
from gateway.geo import UNKNOWN, Place
from gateway.ring import Trace, Tried
from policies.request import Outcome
from tests.gateway.control.conftest import MODEL, SECRET, admin_config
from tests.gateway.members import dispatch, request

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


async def fetch(client: TestClient, method: str, path: str, **options: Any) -> tuple[int, Any]:
    async with client.request(method, path, **options) as answer:
        return answer.status, await answer.json()


async def test_health_names_the_configuration_in_force(client: TestClient) -> None:
    status, told = await fetch(client, "GET", "/healthz")
    assert status == 200
    assert told["status"] == "ok"
    assert told["gateway"] == "gw1"
    assert told["config"]["number"] == 1
    assert told["config"]["refused"] == ""


async def test_ready_with_a_stale_registry_while_a_fleet_is_known(client: TestClient, gateway: Gateway) -> None:
    status, told = await fetch(client, "GET", "/readyz")
    assert (status, told["registry"], told["workers"]) == (200, "stale", 2)
    for worker_id in ("near", "far"):
        gateway.roster.left(worker_id, 0.0)
    status, told = await fetch(client, "GET", "/readyz")
    assert (status, told["ready"]) == (503, False)


async def test_not_ready_while_draining(client: TestClient, gateway: Gateway) -> None:
    gateway.plane.draining = True
    status, told = await fetch(client, "GET", "/readyz")
    assert status == 503
    assert told["draining"] is True


async def test_the_metrics_page_parses(client: TestClient) -> None:
    async with client.get("/metrics") as answer:
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        families = {family.name: family for family in text_string_to_metric_families(await answer.text())}
    workers = {sample.labels["state"]: sample.value for sample in families["isochrone_workers"].samples}
    assert workers["serving"] == 2
    rtts = {sample.labels["region"]: sample.value for sample in families["isochrone_region_rtt_seconds"].samples}
    assert rtts["us-east"] == pytest.approx(0.09, abs=0.002)


async def test_nodes_with_what_was_measured(client: TestClient) -> None:
    _, told = await fetch(client, "GET", "/admin/nodes")
    rows = {row["worker"]: row for row in told["nodes"]}
    assert rows["far"]["rtt_ms"] == pytest.approx(90, abs=2)
    assert rows["near"]["price"] == 4.0
    assert (await fetch(client, "GET", "/admin/nodes?model=other"))[1] == {"nodes": []}


async def test_signals_of_supply_and_of_demand_that_nobody_met(client: TestClient, gateway: Gateway) -> None:
    gateway.plane.router.tick(gateway.plane.clock())
    now = gateway.plane.clock()
    gateway.plane.router.route(request(arrived=now, deadline=now + 1e-4), now)
    _, told = await fetch(client, "GET", "/admin/signals")
    assert [(row["region"], row["nodes"], row["runway_s"]) for row in told["signals"]] == [
        ("eu-west", 1, None), ("us-east", 1, None),
    ]  # fmt: skip
    assert [row["shadow_price_ratio"] for row in told["signals"]] == [4.0, 1.0]
    assert told["infeasible"] == [
        {"model": MODEL, "region": "eu-west", "cause": "distance", "requests": 1, "accelerator_seconds": 0.01}
    ]
    assert (await fetch(client, "GET", "/admin/signals?model=other"))[1] == {"signals": [], "infeasible": []}


async def test_drain_and_undrain(client: TestClient, gateway: Gateway) -> None:
    status, told = await fetch(client, "POST", "/admin/drain", json={"worker": "near"})
    assert (status, told) == (200, {"worker": "near", "draining": True, "shared": False})
    assert gateway.fleet.workers["near"].health.state.value == "draining"
    _, told = await fetch(client, "POST", "/admin/drain", json={"worker": "near", "on": False})
    assert told["draining"] is False
    assert gateway.fleet.workers["near"].health.state.value == "serving"
    status, told = await fetch(client, "POST", "/admin/drain", json={"worker": "nobody"})
    assert (status, told["error"]["code"], told["error"]["param"]) == (404, "not_found", "worker")


@pytest.mark.parametrize("body", [b"", b"[]", b'{"worker": 1}', b'{"worker": "near", "force": true}', b"\xff"])
async def test_a_wrong_drain_order_is_refused(client: TestClient, body: bytes) -> None:
    status, told = await fetch(client, "POST", "/admin/drain", data=body)
    assert (status, told["error"]["code"]) == (400, "bad_request")


async def test_steer_by_address(client: TestClient) -> None:
    status, told = await fetch(client, "GET", "/admin/steer?ip=192.0.2.1")
    assert status == 200
    assert [gateway["region"] for gateway in told["gateways"]] == ["eu-west", "us-east"]
    assert (await fetch(client, "GET", "/admin/steer"))[1]["ip"] == "127.0.0.1"
    status, told = await fetch(client, "GET", "/admin/steer?ip=nonsense")
    assert (status, told["error"]["param"]) == (400, "ip")


class Places:
    """A locator that notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[bytes | None] = []

    def locate(self, peer: str, forwarded: bytes | None) -> Place:
        self.asked.append(forwarded)
        return UNKNOWN


async def test_every_forwarding_header_counts_as_on_the_data_plane(client: TestClient, gateway: Gateway) -> None:
    places = Places()
    gateway.plane.locator = places  # type: ignore[assignment]
    hops = [("Forwarded", "for=9.9.9.9"), ("X-Forwarded-For", "1.1.1.1"), ("X-Forwarded-For", "2.2.2.2")]
    await fetch(client, "GET", "/admin/steer", headers=hops)
    await fetch(client, "POST", "/admin/explain", json=CHAT, headers=hops)
    on_the_data_plane = Head(
        b"POST", b"/", "1.1", [(name.lower().encode(), value.encode()) for name, value in hops]
    ).forwarded
    assert places.asked == [on_the_data_plane] * 2 == [b"1.1.1.1,2.2.2.2"] * 2


async def test_explain_takes_the_request_in_three_ways(client: TestClient) -> None:
    headers = {"x-deadline-ms": "60"}
    described = {"path": "/v1/chat/completions", "headers": headers, "body": CHAT}
    answers = [
        await fetch(client, "POST", "/admin/explain", json=described),
        await fetch(client, "POST", "/admin/explain", json=CHAT, headers=headers),
        await fetch(client, "POST", "/admin/explain/v1/chat/completions", json=CHAT, headers=headers),
    ]
    for status, told in answers:
        assert status == 200
        assert told["chosen"] == "near/digits:fp32"
        assert told["budget_s"] == pytest.approx(0.06)
        assert {row["node"] for row in told["candidates"]} == {"near/digits:fp32", "far/digits:fp32"}
    _, patient = await fetch(client, "POST", "/admin/explain", json=CHAT)
    assert patient["chosen"] == "far/digits:fp32"


@pytest.mark.parametrize(
    ("body", "headers", "status", "param"),
    [
        (b"{", {}, 400, None), (b"[]", {}, 400, None), (b'{"body": {}, "hedaers": {}}', {}, 400, None),
        (json.dumps(CHAT).encode(), {"x-deadline-ms": "soon"}, 400, "x-deadline-ms"),
        (b'{"model": "digits", "messages": []}', {}, 400, "messages"),
    ],
)  # fmt: skip
async def test_what_cannot_be_explained_is_refused_like_the_data_plane_would(
    client: TestClient, body: bytes, headers: dict[str, str], status: int, param: str | None
) -> None:
    got, told = await fetch(client, "POST", "/admin/explain", data=body, headers=headers)
    assert (got, told["error"]["param"]) == (status, param)


async def test_an_unknown_model_is_explained_as_refused(client: TestClient) -> None:
    status, told = await fetch(client, "POST", "/admin/explain", json={**CHAT, "model": "other"})
    assert status == 200
    assert told["chosen"] is None
    assert told["decision"] == "model_not_found"


async def test_a_decided_request_by_its_id(client: TestClient, gateway: Gateway) -> None:
    sent = dispatch()
    outcome = Outcome(total=0.1, queue=0.0, prefill=0.03, decode=0.04, accelerator=3.6)
    gateway.plane.ring.add(
        Trace(request_id="a/b", request=sent.request, attempts=[Tried(sent, outcome, 0.25)], status=200)
    )
    status, told = await fetch(client, "GET", "/admin/explain/a/b")
    assert status == 200
    assert told["attempts"][0]["actual"]["cost_usd"] == 0.25
    assert (await fetch(client, "GET", "/admin/explain?n=10"))[1]["decisions"] == [told]
    assert (await fetch(client, "GET", "/admin/explain?n=x"))[0] == 400
    assert (await fetch(client, "GET", "/admin/explain/unknown"))[0] == 404


# Who may ask.


def test_every_path_but_health_needs_an_operator() -> None:
    assert {route.path for route in ROUTES if route.public} == {"/healthz", "/readyz"}


async def test_with_admin_keys_nothing_else_is_open(client: TestClient, gateway: Gateway) -> None:
    gateway.plane.keys = Keys(admin_config())
    for route in ROUTES:
        path = route.path.replace("{request_id:.+}", "x").replace("{path:/v[12]/.+}", "/v1/x")
        status, told = await fetch(client, route.method, path)
        if route.public:
            assert status == 200
        else:
            assert (status, told["error"]["code"]) == (401, "invalid_api_key")
    for headers in ({"authorization": f"Bearer ops.{SECRET}"}, {"x-api-key": f"ops.{SECRET}"}):
        assert (await fetch(client, "GET", "/admin/nodes", headers=headers))[0] == 200
    wrong = {"authorization": f"Bearer ops.{SECRET[:-1]}x"}
    assert (await fetch(client, "GET", "/admin/nodes", headers=wrong))[0] == 401


async def test_a_page_in_a_browser_is_no_operator(client: TestClient) -> None:
    for headers, status in (
        ({"origin": "http://evil.example"}, 403), ({"host": "evil.example"}, 421),
        ({"host": "evil.example", "origin": "http://evil.example"}, 421),
        ({"host": "localhost:8081"}, 200), ({"host": "[::1]:8081"}, 200),
    ):  # fmt: skip
        assert (await fetch(client, "GET", "/admin/nodes", headers=headers))[0] == status


async def test_refusals_have_one_shape(client: TestClient) -> None:
    for method, path, code in (
        ("GET", "/nothing", "not_found"), ("DELETE", "/admin/nodes", "method_not_allowed"),
        ("GET", "/admin/drain", "method_not_allowed"),
    ):  # fmt: skip
        async with client.request(method, path) as answer:
            told = await answer.json()
            assert set(told["error"]) == {"message", "type", "param", "code"}
            assert told["error"]["code"] == code
            assert answer.headers["x-request-id"].startswith("adm-")
            assert answer.headers["x-should-retry"] == "false"


async def test_a_body_larger_than_the_limit_is_refused(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert control.MAX_BODY == 16 * 1024 * 1024
    status, told = await fetch(client, "POST", "/admin/explain", data=io.BytesIO(b"x" * (control.MAX_BODY + 1)))
    assert (status, told["error"]["code"]) == (413, "body_too_large")


async def test_a_fault_of_ours_is_told_without_its_text(
    client: TestClient, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: str | None) -> list[dict[str, Any]]:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(gateway.slot, "nodes", broken)
    status, told = await fetch(client, "GET", "/admin/nodes")
    assert status == 500
    assert "secret" not in json.dumps(told)


async def test_a_client_that_leaves_cancels_its_request(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def slow(worker_id: str, on: bool) -> dict[str, Any]:
        began.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return {}

    monkeypatch.setattr(gateway.slot, "drain", slow)
    door = await control.serve(gateway.slot, lambda: gateway.plane.keys, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection("127.0.0.1", door.port)
    body = b'{"worker":"near"}'
    writer.write(b"POST /admin/drain HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    async with asyncio.timeout(5):
        await began.wait()
        writer.close()
        await cancelled.wait()
    await door.close()


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: x"])
async def test_half_a_header_is_not_waited_for(gateway: Gateway, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(control, "HEADER_SECONDS", 0.2)
    door = await control.serve(gateway.slot, lambda: gateway.plane.keys, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(sent)
    async with asyncio.timeout(3):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()
    await door.close()


async def test_half_a_body_is_not_waited_for(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "ANSWER_SECONDS", 0.2)
    door = await control.serve(gateway.slot, lambda: gateway.plane.keys, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(b"POST /admin/drain HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
    async with asyncio.timeout(5):
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
    writer.close()
    await door.close()


async def test_a_connection_that_spoke_may_stay(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "HEADER_SECONDS", 0.1)
    door = await control.serve(gateway.slot, lambda: gateway.plane.keys, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    async with asyncio.timeout(5):
        for _ in range(2):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            length = next(int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length: "))
            await reader.readexactly(length)
            await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0.2))])  # longer than a silent one may stay
    writer.close()
    await door.close()
