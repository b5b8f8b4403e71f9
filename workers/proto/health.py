"""`grpc.health.v1.Health`, as both programs answer it: Check at once, Watch until the client leaves.

Who serves is asked for by name: the empty name is the whole server. It says NOT_SERVING from the moment a drain begins,
which is how load balancers and orchestrators learn not to send more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from workers.proto.messages import HEALTH, INFERENCE, HealthCheckRequest, HealthCheckResponse

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
KNOWN = ("", INFERENCE, HEALTH)


class Health:
    """Answers by `serves`; whoever changes what that says calls `changed`."""

    def __init__(self, serves: Callable[[], bool]) -> None:
        self._serves = serves
        self._changed = asyncio.Event()

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a grpc.aio server is given."""
        request, reply = HealthCheckRequest.FromString, HealthCheckResponse.SerializeToString
        return grpc.method_handlers_generic_handler(
            HEALTH,
            {
                "Check": grpc.unary_unary_rpc_method_handler(self._check, request, reply),
                "Watch": grpc.unary_stream_rpc_method_handler(self._watch, request, reply),
            },
        )

    def changed(self) -> None:
        """Tell everybody who watches."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _status(self) -> int:
        return SERVING if self._serves() else NOT_SERVING

    async def _check(self, request: Any, context: Any) -> Any:
        if request.service not in KNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "No such service.")
        return HealthCheckResponse(status=self._status())

    async def _watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        if request.service not in KNOWN:  # the protocol's answer: unknown now, and perhaps not for ever
            yield HealthCheckResponse(status=SERVICE_UNKNOWN)
            await asyncio.Event().wait()
        while True:
            changed = self._changed
            yield HealthCheckResponse(status=self._status())
            await changed.wait()
