"""Decisions and rerank through a gateway, by the official client, on classifiers and an embedding model."""

import json

import numpy as np
import openai
import pytest

from workers.manifest import packaged

DIGITS = [{"value": str(digit)} for digit in range(10)]


@pytest.fixture
def client(gateway):
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="unused", timeout=30) as client:
        yield client


@pytest.fixture
async def aclient(gateway):
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="unused", timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def fraud():
    """Held-out rows as objects, whether each is of the rare class, and the model's answers to them."""
    path = packaged("fraud")
    names = json.loads(path.read_text())["features"]
    with np.load(path.parent / "samples.npz") as samples:
        rows = [dict(zip(names, row, strict=True)) for row in samples["features"].tolist()]
        return rows, samples["labels"].tolist()


def test_a_classifier_answers_all_kinds_of_questions(client, fraud):
    rows, labels = fraud
    for row, bad in list(zip(rows, labels, strict=True))[:6]:
        decision = client.decisions.create(
            model="fraud",
            input=json.dumps(row),
            questions=[
                {"type": "predicate", "name": "p", "instructions": "malignant"},
                {"type": "choice", "instructions": "?", "choices": [{"value": True}, {"value": False}]},
                {"type": "score", "instructions": "?", "levels": [{"label": "benign"}, {"label": "malignant"}]},
            ],
        )
        predicate, choice, score = decision.answers
        assert (predicate.probability > 0.5) is bool(bad) is choice.choice
        assert predicate.name == "p"
        assert score.score == pytest.approx(predicate.probability, abs=1e-5)


async def test_json_parts_reach_a_classifier_by_the_asynchronous_client(aclient, fraud):
    rows, _ = fraud
    decision = await aclient.decisions.create(
        model="fraud",
        input=[{"role": "user", "content": [{"type": "input_json", "data": rows[0]}]}],
        questions=[{"type": "predicate", "instructions": "malignant"}],
        extra_headers={"x-deadline-ms": "2000"},
    )
    assert 0 <= decision.answers[0].probability < 0.1


def test_an_image_is_decided_about(client):
    with np.load(packaged("digits").parent / "samples.npz") as samples:
        pixels, label = samples["pixels"][0].tolist(), int(samples["labels"][0])
    decision = client.decisions.create(
        model="digits", input=json.dumps(pixels), questions=[{"type": "choice", "instructions": "?", "choices": DIGITS}]
    )
    assert decision.answers[0].choice == str(label)
    assert sum(each.probability for each in decision.answers[0].probabilities) == pytest.approx(1)


def test_a_text_is_decided_about_on_both_surfaces(client):
    teams = {"billing": "charges and refunds", "technical": "errors and crashes"}
    given = "The program crashes when I open a file."
    choices = [{"value": name, "description": what} for name, what in teams.items()]
    decision = client.decisions.create(
        model="minilm", input=given, questions=[{"type": "choice", "instructions": "Who?", "choices": choices}]
    )
    asked = {"team": {"type": "choice", "instructions": "Who?", "criteria": teams}}
    same = client.post("/systemone", body={"model": "minilm", "state": given, "questions": asked}, cast_to=dict)
    assert decision.answers[0].choice == same["answers"]["team"]["choice"] == "technical"
    assert decision.usage.input_tokens > 20


def test_what_is_wrong_with_a_question_comes_back_as_the_workers_said_it(client):
    with pytest.raises(openai.BadRequestError) as refusal:
        client.decisions.create(
            model="digits", input="[1, 2]", questions=[{"type": "predicate", "instructions": "Is it a 7?"}]
        )
    assert refusal.value.param == "input"
    assert "[64]" in refusal.value.message


def test_rerank(client):
    documents = ["A recipe for bread.", "How to bake a cake.", "The moons of Jupiter."]
    body = {"model": "minilm", "query": "astronomy", "documents": documents, "top_n": 2}
    reply = client.post("/rerank", body=body, cast_to=dict)
    assert len(reply["results"]) == 2
    assert reply["results"][0]["index"] == 2
    assert reply["results"][0]["document"]["text"] == documents[2]
