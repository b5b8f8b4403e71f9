import asyncio
import contextlib

import grpc
import grpc.aio
import pytest

from workers.proto.health import NOT_SERVING, SERVICE_UNKNOWN, SERVING, Health
from workers.proto.messages import HEALTH, INFERENCE, HealthCheckRequest, HealthCheckResponse


class Served:
    """A health service on a port, what it says, and a client's two methods."""

    def __init__(self):
        self.serves = True
        self.health = Health(lambda: self.serves)

    async def start(self):
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self.server.add_generic_rpc_handlers((self.health.handlers(),))
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}")
        await self.server.start()
        kinds = {
            "request_serializer": HealthCheckRequest.SerializeToString,
            "response_deserializer": HealthCheckResponse.FromString,
        }
        self.check = self.channel.unary_unary(f"/{HEALTH}/Check", **kinds)
        self.watch = self.channel.unary_stream(f"/{HEALTH}/Watch", **kinds)


@pytest.fixture
async def served():
    served = Served()
    await served.start()
    yield served
    await served.channel.close()
    await served.server.stop(None)


@pytest.mark.parametrize("service", ["", INFERENCE, HEALTH])
async def test_check_says_whether_it_serves(served, service):
    assert (await served.check(HealthCheckRequest(service=service))).status == SERVING
    served.serves = False
    assert (await served.check(HealthCheckRequest(service=service))).status == NOT_SERVING


async def test_an_unknown_service_is_not_found(served):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.check(HealthCheckRequest(service="nonsense"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_watch_says_it_at_once_and_again_when_it_changes(served):
    seen = served.watch(HealthCheckRequest(service=INFERENCE))
    assert (await seen.read()).status == SERVING
    served.serves = False
    served.health.changed()
    assert (await seen.read()).status == NOT_SERVING
    seen.cancel()


async def test_watching_an_unknown_service_stays_open(served):
    seen = served.watch(HealthCheckRequest(service="nonsense"))
    assert (await seen.read()).status == SERVICE_UNKNOWN
    more = asyncio.ensure_future(seen.read())
    assert (await served.check(HealthCheckRequest())).status == SERVING
    assert not more.done()
    seen.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await more
