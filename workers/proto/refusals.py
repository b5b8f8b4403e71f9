"""How a `Reason` is said over gRPC: a status, a sentence, and details that carry the code HTTP clients know.

The details are google.rpc's, as AIP-193 has them (google.aip.dev/193): `ErrorInfo.reason` is the code of `error.code`,
its metadata the `param`, `RetryInfo` the wait where waiting helps. Both the workers and the gateway's front answer so.
"""

from __future__ import annotations

import math

import grpc

from policies.reason import TABLE, Reason
from workers.proto.messages import ErrorInfo, RetryInfo, Status

DOMAIN = "isochrone"
DETAILS = "grpc-status-details-bin"
"""The trailer that holds a serialized google.rpc.Status (grpc.io/docs/guides/error/)."""
MAX_MESSAGE = 1024
"""Characters of a status message: it travels in a header, of which clients take 8 KiB in all."""
CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
"""By their numbers, as `policies.reason.Grpc` has them."""

Trailers = tuple[tuple[str, str | bytes], ...]


def status(reason: Reason) -> grpc.StatusCode:
    return CODES[TABLE[reason].grpc]


def trailers(reason: Reason, message: str, param: str | None, wait: float | None) -> Trailers:
    """The trailing metadata of a refusal. `wait` is seconds after which to try again, where anybody knows."""
    meaning = TABLE[reason]
    said = Status(code=int(meaning.grpc), message=message[:MAX_MESSAGE])
    info = ErrorInfo(reason=meaning.code, domain=DOMAIN, metadata={} if param is None else {"param": param})
    said.details.add().Pack(info)
    found: Trailers = (("x-should-retry", "true" if meaning.retry else "false"),)
    if meaning.waits and wait is not None:
        seconds = max(math.ceil(wait), 1)
        retry = RetryInfo()
        retry.retry_delay.seconds = seconds
        said.details.add().Pack(retry)
        found += (("retry-after", str(seconds)),)
    return (*found, (DETAILS, said.SerializeToString()))
