"""gRPC through real processes: a worker that dies in mid-call, one that is drained, what operators see of it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from loadtests.embedded import fetch
from tests.client_surfaces.triton import Pair, pair
from workers.proto import messages

PIXELS = np.zeros((1, 64), np.float32)


@pytest.fixture
def served() -> Iterator[Pair]:
    with pair() as served:
        yield served


def request() -> bytes:
    made = messages.ModelInferRequest(model_name="digits", raw_input_contents=[PIXELS.tobytes()])
    made.inputs.add(name="pixels", datatype="FP32", shape=PIXELS.shape)
    return bytes(made.SerializeToString())


def infer(channel: grpc.Channel, **options: Any) -> dict[str, str]:
    """One inference; its trailing metadata."""
    method = channel.unary_unary(f"/{messages.INFERENCE}/ModelInfer")
    _, call = method.with_call(request(), timeout=20, **options)
    return dict(call.trailing_metadata())


def test_a_worker_killed_in_mid_call_costs_no_request(served: Pair) -> None:
    w1 = served.workers["w1"].child.pid
    with grpc.insecure_channel(served.gateway.grpc) as channel:
        assert infer(channel)["x-route-node"] == "w1"
        os.kill(w1, signal.SIGSTOP)  # whatever it gets now, it does not answer
        found: list[dict[str, str]] = []
        asking = threading.Thread(target=lambda: found.append(infer(channel)))
        asking.start()
        time.sleep(0.2)
        os.kill(w1, signal.SIGKILL)
        asking.join(20)
    (trailers,) = found
    assert (trailers["x-route-node"], trailers["x-route-attempts"]) == ("w2", "2")


def test_what_would_be_decided_for_a_call_is_explained(served: Pair) -> None:
    told = fetch(f"{served.control}/admin/explain", {"model_name": "digits", "inputs": [{"shape": [1, 64]}]})
    assert told["chosen"].startswith("w1/digits:")
    assert len(told["candidates"]) == 4


def test_a_drained_worker_gets_nothing_new_and_operators_see_who_speaks_grpc(served: Pair) -> None:
    rows = fetch(f"{served.control}/admin/nodes")["nodes"]
    assert {row["worker"]: row["grpc_address"] for row in rows} == {
        name: worker.grpc for name, worker in served.workers.items()
    }
    fetch(f"{served.control}/admin/drain", {"worker": "w1"})
    with grpc.insecure_channel(served.gateway.grpc) as channel:
        trailers = infer(channel, metadata=[("x-request-id", "r1")])
    assert trailers["x-route-node"] == "w2"
    told = fetch(f"{served.control}/admin/explain/r1")
    assert (told["protocol"], told["attempts"][0]["node"]) == ("grpc", f"w2/digits:{trailers['x-route-variant']}")
