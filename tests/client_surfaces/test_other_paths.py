"""Any other POST under /v1 whose body names a model is routed by it, and its body arrives as it was sent."""

import openai
import pytest

from loadtests.embedded import fetch
from tests.integration.stage import MODEL, Stage


@pytest.fixture(scope="module")
def scene():
    with Stage() as made:
        worker = made.emulate("w1")
        gateway = made.start_gateway("europe-west4")
        made.await_workers(gateway, 1)
        yield gateway, worker


@pytest.mark.parametrize("path", ["responses", "decisions", "rerank", "audio/transcription-of-tomorrow"])
def test_it_reaches_a_worker_under_its_own_path(scene, path):
    gateway, worker = scene
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0) as client:
        reply = client.post(f"/{path}", body={"model": MODEL, "input": "hi", "documents": ["a", "b"]}, cast_to=object)
    assert reply["model"] == MODEL
    assert worker.log()[-1]["path"] == f"/v1/{path}"


def test_the_remaining_budget_travels_with_it(scene):
    gateway, worker = scene
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0) as client:
        client.completions.create(
            model=MODEL, prompt="hi", max_tokens=2, extra_headers={"x-deadline-ms": "700", "x-request-id": "budget"}
        )
    (entry,) = [entry for entry in worker.log() if entry["request_id"] == "budget"]
    assert 600 < entry["deadline_ms"] <= 700


def test_without_a_model_it_is_refused(scene):
    gateway, _ = scene
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError) as refusal:
            client.post("/rerank", body={"input": "hi"}, cast_to=object)
        assert refusal.value.param == "model"
    assert fetch(f"{gateway.control}/healthz")["status"] == "ok"
