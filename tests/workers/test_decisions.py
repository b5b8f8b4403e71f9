import aiohttp
import numpy as np
import openai
import pytest

from tests.workers.fakes import classifier_entry, endpoint, serving, tensor_entry
from workers import decisions
from workers.catalog import EMBEDDING, Entry
from workers.runners import Batched

ITEM = '{"r": 0.5, "g": 0.3}'
COLOURS = [{"value": "red"}, {"value": "green"}, {"value": "blue"}]


def client(bench):
    return openai.AsyncOpenAI(base_url=f"{bench.url}/v1", api_key="none", max_retries=0, timeout=10)


async def decide(*questions, entry=None, model="third", given=ITEM):
    async with serving(entry or classifier_entry()) as bench, client(bench) as ai:
        return await ai.decisions.create(model=model, input=given, questions=questions)


async def systemone(entry, **body):
    async with serving(entry) as bench, aiohttp.ClientSession(bench.url) as session:
        reply = await session.post("/v1/systemone", json=body)
        return reply.status, await reply.json(), reply.headers


async def test_a_classifier_answers_the_official_client():
    reply = await decide(
        {"type": "predicate", "name": "p", "instructions": "Is this Green?"},
        {"type": "choice", "instructions": "Which?", "choices": COLOURS},
        {"type": "score", "instructions": "How far?", "levels": [{"label": c["value"]} for c in COLOURS]},
    )
    predicate, choice, score = reply.answers
    assert (predicate.type, predicate.name, predicate.probability) == ("predicate", "p", pytest.approx(0.3))
    assert (choice.choice, choice.name) == ("red", None)
    assert [(each.value, each.probability) for each in choice.probabilities] == [
        ("red", pytest.approx(0.5)), ("green", pytest.approx(0.3)), ("blue", pytest.approx(0.2)),
    ]  # fmt: skip
    assert choice.confidence == pytest.approx((3 * 0.5 - 1) / 2)
    assert score.score == pytest.approx(0.3 + 2 * 0.2)
    assert [(level.label, level.value) for level in score.probabilities] == [("red", 0), ("green", 1), ("blue", 2)]
    assert (reply.model, reply.usage.total_tokens) == ("third", 0)


async def test_a_choice_among_some_classes_is_of_their_shares():
    reply = await decide({"type": "choice", "instructions": "?", "choices": [{"value": "blue"}, {"value": "green"}]})
    assert reply.answers[0].choice == "green"
    assert [each.probability for each in reply.answers[0].probabilities] == pytest.approx([0.4, 0.6])


async def test_classes_without_names_go_by_number_and_items_by_array():
    reply = await decide(
        {"type": "predicate", "instructions": "Is it a 2?"}, entry=classifier_entry(classes=()), given="[0.5, 0.3]"
    )
    assert reply.answers[0].probability == pytest.approx(0.2)


@pytest.mark.parametrize("given", ["[[0.5, 0.3]]", '{"x": [0.5, 0.3]}', '{"g": 0.3, "r": 0.5}'])
async def test_an_item_may_be_sent_in_several_ways(given):
    reply = await decide({"type": "predicate", "instructions": "red"}, given=given)
    assert reply.answers[0].probability == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("red, I think", "reads numbers"),
        ('{"r": 0.5}', "'g' is missing"),
        ('{"r": 0.5, "g": 0.3, "b": 1}', "no feature 'b'"),
        ('{"r": 0.5, "g": "much"}', "reads numbers"),
        ("[0.5]", "shape [1], the model takes [2]"),
        ("[[0.5], [0.3, 0.2]]", "ragged"),
        ("[1e39, 0]", "cannot hold"),
    ],
)
async def test_what_is_wrong_with_an_item_is_said(given, said):
    with pytest.raises(openai.BadRequestError) as refusal:
        await decide({"type": "predicate", "instructions": "red"}, given=given)
    assert refusal.value.param == "input"
    assert said in refusal.value.message


@pytest.mark.parametrize(
    ("question", "param"),
    [
        ({"type": "predicate", "instructions": "Is it nice?"}, "questions[0].instructions"),
        ({"type": "predicate", "instructions": "Is it red or green?"}, "questions[0].instructions"),
        ({"type": "predicate", "instructions": "Is it reddish?"}, "questions[0].instructions"),
        (
            {"type": "choice", "instructions": "?", "choices": [{"value": "red"}, {"value": "pink"}]},
            "questions[0].choices[1]",
        ),
        (
            {"type": "choice", "instructions": "?", "choices": [{"value": True}, {"value": False}]},
            "questions[0].choices[0]",
        ),
    ],
)
async def test_a_question_about_no_class_is_refused_with_the_classes(question, param):
    with pytest.raises(openai.BadRequestError) as refusal:
        await decide(question)
    assert refusal.value.param == param
    assert "red, green, blue" in refusal.value.message


async def test_a_model_that_does_not_classify_decides_nothing():
    with pytest.raises(openai.BadRequestError) as refusal:
        await decide({"type": "predicate", "instructions": "red"}, entry=tensor_entry(), model="double")
    assert refusal.value.param == "model"


COMPASS = {
    "I walk up the map": (0.6, 0.8), "north: up": (0, 1), "east": (1, 0), "north": (0, 1), "up": (0, 1),
    "right": (1, 0),
}  # fmt: skip


def compass_entry():
    served = endpoint("compass", task="embedding")

    def embed(works):
        return [(np.array([COMPASS[text] for text in work], np.float32), len(work)) for work in works]

    return Entry(served, EMBEDDING, Batched(served, embed))


async def test_a_text_is_compared_with_the_options():
    reply = await decide(
        {
            "type": "choice",
            "instructions": "?",
            "choices": [{"value": "north", "description": "up"}, {"value": "east"}],
        },
        {"type": "predicate", "instructions": "north"},
        entry=compass_entry(),
        model="compass",
        given="I walk up the map",
    )
    choice, predicate = reply.answers
    odds = np.exp((0.8 - 0.6) / decisions.TEMPERATURE)
    assert choice.choice == "north"
    assert [each.probability for each in choice.probabilities] == pytest.approx([odds / (1 + odds), 1 / (1 + odds)])
    assert predicate.probability == pytest.approx(1 / (1 + np.exp((decisions.LIKE - 0.8) / decisions.TEMPERATURE)))
    assert reply.usage.input_tokens == 4


async def test_true_without_a_description_means_nothing_to_a_text():
    with pytest.raises(openai.BadRequestError) as refusal:
        await decide(
            {"type": "choice", "instructions": "?", "choices": [{"value": "north"}, {"value": False}]},
            entry=compass_entry(),
            model="compass",
            given="I walk up the map",
        )
    assert refusal.value.param == "questions[0].choices[1]"


async def test_system_one_of_a_classifier():
    questions = {
        "is_red": {"type": "noul", "instructions": "Is it red?"},
        "which": {"type": "choice", "criteria": {"green": None, "blue": None}},
        "far": {"type": "score", "criteria": ["red", "green", "blue"]},
    }
    status, reply, headers = await systemone(
        classifier_entry(), model="third", state={"r": 0.5, "g": 0.3}, questions=questions
    )
    assert status == 200
    answers = reply["answers"]
    assert answers["is_red"] == {"type": "noul", "noul": pytest.approx(0.5)}
    assert (answers["which"]["choice"], answers["which"]["confidence"]) == ("green", pytest.approx(0.2))
    assert answers["which"]["probabilities"] == pytest.approx({"green": 0.6, "blue": 0.4})
    assert answers["far"]["legend"] == {"0": "red", "1": "green", "2": "blue"}
    assert answers["far"]["score"] == pytest.approx(0.7)
    assert "accel" in headers["server-timing"]


async def test_system_one_weighs_what_is_true_against_what_is_false():
    asked = {"q": {"type": "noul", "criteria": {"true": "up", "false": "right"}}}
    _, reply, _ = await systemone(compass_entry(), model="compass", state="I walk up the map", questions=asked)
    odds = np.exp((0.8 - 0.6) / decisions.TEMPERATURE)
    assert reply["answers"]["q"]["noul"] == pytest.approx(odds / (1 + odds))


async def test_an_empty_text_is_nothing_to_decide_about():
    asked = {"q": {"type": "noul", "instructions": "north"}}
    status, reply, _ = await systemone(compass_entry(), model="compass", state="", questions=asked)
    assert (status, reply["error"]["param"]) == (400, "state")


def test_of_two_classes_the_second_is_what_is_true():
    choices = tuple(decisions.Option(value) for value in (True, False))
    question = decisions.Question("q", None, "choice", "?", choices, "q.choices")
    assert decisions.chosen_classes(question, ["fine", "fraud"]) == [1, 0]


def test_shares_of_nothing_are_alike():
    question = decisions.Question("q", None, "choice", "?", (decisions.Option("a"), decisions.Option("b")), "")
    assert decisions._shares(np.array([0.0, 0.0, 1.0]), question, [0, 1]).tolist() == [0.5, 0.5]


async def test_a_model_says_its_classes_and_how_far_its_probabilities_are_off():
    async with serving(classifier_entry(calibration_error=0.02), compass_entry()) as bench, client(bench) as ai:
        told = {model.id: model.model_dump() for model in (await ai.models.list()).data}
    assert told["third"]["classes"] == ["red", "green", "blue"]
    assert told["third"]["variants"] == [{"variant": "fp32", "quality": 1.0, "calibration_error": 0.02}]
    assert "classes" not in told["compass"]
