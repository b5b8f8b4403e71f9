"""The official client with only its base URL changed: sync, async, streaming, embeddings, models, errors."""

import math

import openai
import pytest

from loadtests.embedded import fetch

HELLO = [{"role": "user", "content": "Hello, who are you?"}]


@pytest.fixture
def client(gateway):
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="unused", timeout=30) as client:
        yield client


@pytest.fixture
async def aclient(gateway):
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="unused", timeout=30) as client:
        yield client


def test_chat(client):
    reply = client.chat.completions.create(model="tinychat", messages=HELLO, max_tokens=12)
    assert reply.object == "chat.completion"
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].message.content
    assert 0 < reply.usage.completion_tokens <= 12


async def test_chat_async(aclient):
    reply = await aclient.chat.completions.create(model="tinychat", messages=HELLO, max_tokens=12)
    assert reply.choices[0].message.content


def test_stream_is_the_same_text_as_the_whole_reply(client):
    fixed = {"model": "tinychat", "messages": HELLO, "max_tokens": 16, "temperature": 0, "seed": 1}
    exact = {"extra_body": {"provider": {"quantizations": ["fp32"]}}}
    whole = client.chat.completions.create(**fixed, **exact).choices[0].message.content
    chunks = list(client.chat.completions.create(**fixed, **exact, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] in ("stop", "length")


async def test_stream_async_arrives_in_pieces(aclient):
    stream = await aclient.chat.completions.create(model="tinychat", messages=HELLO, max_tokens=8, stream=True)
    assert len([chunk async for chunk in stream]) >= 3


def test_stream_with_usage(client):
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(model="tinychat", messages=HELLO, max_tokens=8, **options))
    assert chunks[-1].usage.completion_tokens > 0


def test_completion_and_its_stream(client):
    reply = client.completions.create(model="tinychat", prompt="The sun", max_tokens=8)
    assert reply.choices[0].text
    chunks = list(client.completions.create(model="tinychat", prompt="The sun", max_tokens=8, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)


def test_response_and_its_stream(client):
    asked = {"model": "tinychat", "input": "Hello, who are you?", "max_output_tokens": 12}
    fixed = {"temperature": 0, "extra_body": {"seed": 1, "provider": {"quantizations": ["fp32"]}}}
    whole = client.responses.create(**asked, **fixed)
    assert whole.output_text
    assert 0 < whole.usage.output_tokens <= 12
    events = list(client.responses.create(**asked, **fixed, stream=True))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text
    assert events[-1].response.output_text == whole.output_text


async def test_response_async_with_instructions(aclient):
    reply = await aclient.responses.create(
        model="tinychat", instructions="Be brief.", input=[{"role": "user", "content": "Hello"}], max_output_tokens=8
    )
    assert reply.output_text


def test_embeddings_mean_something(client):
    texts = ["A cat sat on the mat.", "A kitten rests on a rug.", "Interest rates rose by half a point."]
    vectors = [item.embedding for item in client.embeddings.create(model="minilm", input=texts).data]
    assert all(len(vector) == 384 for vector in vectors)
    assert all(math.isclose(sum(x * x for x in vector), 1, abs_tol=1e-3) for vector in vectors)

    def likeness(a, b):
        return sum(x * y for x, y in zip(vectors[a], vectors[b], strict=True))

    assert likeness(0, 1) > likeness(0, 2) + 0.2


def test_embeddings_as_plain_numbers(client):
    reply = client.embeddings.create(model="minilm", input="one", encoding_format="float")
    assert len(reply.data[0].embedding) == 384


def test_models_list_variants_with_their_quality(client, gateway):
    assert {"tinychat", "minilm", "digits"} <= {model.id for model in client.models.list()}
    raw = fetch(f"{gateway.url}/v1/models")
    by_id = {model["id"]: model for model in raw["data"]}
    assert {variant["variant"] for variant in by_id["minilm"]["variants"]} == {"fp32", "int8"}
    assert all(0 < variant["quality"] <= 1.1 for variant in by_id["minilm"]["variants"])


def test_request_id_is_echoed_or_made(client):
    mine = client.chat.completions.with_raw_response.create(
        model="tinychat", messages=HELLO, max_tokens=2, extra_headers={"x-request-id": "mine-1"}
    )
    assert mine.headers["x-request-id"] == "mine-1"
    made = client.chat.completions.with_raw_response.create(model="tinychat", messages=HELLO, max_tokens=2)
    assert made.headers["x-request-id"]


def test_provider_field_is_obeyed(client):
    raw = client.chat.completions.with_raw_response.create(
        model="tinychat", messages=HELLO, max_tokens=2, extra_body={"provider": {"only": ["us-a"]}}
    )
    assert raw.headers["x-route-node"] == "us-a"
    assert raw.parse().choices[0].message.content is not None


def test_flex_is_cheap_and_far(client):
    """Which far worker is cheapest depends on what a few answers on a shared machine have taught; none is at home."""
    ask = client.chat.completions.with_raw_response.create
    near = ask(model="tinychat", messages=HELLO, max_tokens=2, extra_headers={"x-deadline-ms": "60"})
    raw = ask(model="tinychat", messages=HELLO, max_tokens=2, service_tier="flex")
    assert raw.headers["x-route-region"] != near.headers["x-route-region"] == "europe-west4"
    assert float(raw.headers["x-route-cost-usd"]) < float(near.headers["x-route-cost-usd"])


def test_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as refusal:
        client.chat.completions.create(model="gpt-42", messages=HELLO)
    assert refusal.value.code == "model_not_found"
    assert refusal.value.response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("headers", "body", "kind", "code"),
    [
        ({"x-deadline-ms": "soon"}, {}, openai.BadRequestError, "bad_request"),
        ({"x-max-cost-usd": "0.000000000001"}, {}, openai.BadRequestError, "price_cap"),
        ({"x-allow-regions": "mars-*"}, {}, openai.BadRequestError, "region_locked"),
        ({"x-min-quality": "1.9"}, {}, openai.BadRequestError, "quality_floor"),
        ({}, {"provider": {"only": ["nobody"]}}, openai.BadRequestError, "no_matching_node"),
        ({"x-deadline-ms": "1", "x-deadline-policy": "reject"}, {}, openai.RateLimitError, "deadline_infeasible"),
    ],
)
def test_refusals_are_the_clients_own_exceptions(gateway, headers, body, kind, code):
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0) as client:
        with pytest.raises(kind) as refusal:
            client.chat.completions.create(model="tinychat", messages=HELLO, extra_headers=headers, extra_body=body)
        assert refusal.value.code == code
        assert refusal.value.response.headers["x-request-id"]


def test_a_workers_own_refusal_reaches_the_client(client):
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="tinychat", messages=[], max_tokens=2)
