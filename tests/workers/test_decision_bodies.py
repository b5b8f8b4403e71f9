import json

import pytest

from workers.decision_bodies import CHOICE, PREDICATE, SCORE, Option, read_decision, read_systemone
from workers.queue import Refused

TRUE = {"type": "predicate", "instructions": "it is red"}


def openai_body(**fields):
    return json.dumps({"model": "m", "input": "x", "questions": [TRUE]} | fields).encode()


def typesafe_body(**fields):
    asked = {"q": {"type": "noul", "instructions": "it is red"}}
    return json.dumps({"model": "m", "state": "x", "questions": asked} | fields).encode()


def test_both_surfaces_ask_the_same():
    ours = read_decision(
        openai_body(
            questions=[
                {"type": "predicate", "name": "p", "instructions": "it is red"},
                {"type": "choice", "name": "c", "instructions": "which", "choices": [{"value": "a"}, {"value": "b"}]},
                {"type": "score", "name": "s", "instructions": "how", "levels": [{"label": "low"}, {"label": "high"}]},
            ]
        )
    )
    theirs = read_systemone(
        typesafe_body(
            questions={
                "p": {"type": "noul", "instructions": "it is red"},
                "c": {"type": "choice", "instructions": "which", "criteria": {"a": None, "b": ""}},
                "s": {"type": "score", "instructions": "how", "criteria": ["low", "high"]},
            }
        )
    )
    for asked in (ours, theirs):
        assert [(q.name, q.kind, q.instructions) for q in asked.questions] == [
            ("p", PREDICATE, "it is red"), ("c", CHOICE, "which"), ("s", SCORE, "how"),
        ]  # fmt: skip
        assert asked.questions[1].options == (Option("a"), Option("b"))
        assert asked.questions[2].options == (Option("low"), Option("high"))
    assert (ours.questions[1].options_field, theirs.questions[1].options_field) == (
        "questions[1].choices", "questions.c.criteria",
    )  # fmt: skip


def test_an_option_is_its_name_and_what_it_means():
    assert [Option("a", "b").text, Option("a").text, Option(True, "b").text, Option(True).text] == [
        "a: b",
        "a",
        "b",
        "",
    ]


def test_a_conversation_is_its_texts():
    items = [
        {"role": "user", "content": "hello"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "yes?"}]},
        {"type": "function_call", "name": "look", "arguments": "{}", "call_id": "1"},
        {"type": "function_call_output", "output": "found", "call_id": "1"},
    ]
    assert read_decision(openai_body(input=items)).subject.text == "hello\nyes?\nlook {}\nfound"


@pytest.mark.parametrize(
    "asked",
    [
        read_decision(openai_body(input='{"a": 1}')),
        read_decision(openai_body(input=[{"role": "user", "content": [{"type": "input_json", "data": {"a": 1}}]}])),
        read_systemone(typesafe_body(state={"a": 1})),
        read_systemone(typesafe_body(state='{"a": 1}')),
    ],
)
def test_an_object_arrives_as_one_however_it_is_sent(asked):
    assert asked.subject.data == {"a": 1}


def test_whole_numbers_of_any_size_are_only_text():
    assert str(2**80) in read_systemone(typesafe_body(state={"a": 2**80})).subject.text


def test_a_text_with_a_bracket_is_a_text():
    assert read_decision(openai_body(input="[sic]")).subject.data is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"questions": []}, "questions"),
        ({"questions": [TRUE, {"type": "guess", "instructions": "x"}]}, "questions[1].type"),
        ({"questions": [{"type": "predicate", "instructions": ""}]}, "questions[0].instructions"),
        ({"questions": [{"type": "choice", "instructions": "x", "choices": [{"value": "a"}]}]}, "questions[0].choices"),
        (
            {"questions": [{"type": "score", "instructions": "x", "levels": [{"label": "a"}, {"label": "a"}]}]},
            "questions[0].levels",
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": 1}]}, "input[0].content"),
        ({"input": [{"type": "reasoning"}]}, "input[0].type"),
    ],
)
def test_what_is_wrong_with_a_decision_is_named(fields, param):
    refused = read_decision(openai_body(**fields))
    assert isinstance(refused, Refused)
    assert refused.param == param


def test_true_and_the_text_true_are_two_choices():
    choices = [{"value": True, "description": "yes"}, {"value": "true", "description": "yes"}]
    asked = read_decision(openai_body(questions=[{"type": "choice", "instructions": "x", "choices": choices}]))
    assert [option.value for option in asked.questions[0].options] == [True, "true"]


@pytest.mark.parametrize(
    ("question", "param"),
    [
        ({"type": "predicate", "instructions": "x"}, "questions.q.type"),
        ({"type": "score", "instructions": "x", "criteria": {"a": ""}}, "questions.q.criteria"),
        ({"type": "choice", "instructions": "x", "criteria": ["a", "b"]}, "questions.q.criteria"),
        ({"type": "choice", "instructions": "x"}, "questions.q.criteria"),
        ({"type": "noul", "instructions": "x", "criteria": {"maybe": "y"}}, "questions.q.criteria"),
        ({"type": "noul"}, "questions.q.instructions"),
    ],
)
def test_what_is_wrong_with_a_system_one_question_is_named(question, param):
    refused = read_systemone(typesafe_body(questions={"q": question}))
    assert isinstance(refused, Refused)
    assert refused.param == param


def test_a_noul_may_say_what_is_true_and_what_is_false():
    asked = read_systemone(
        typesafe_body(questions={"q": {"type": "noul", "criteria": {"false": "cold", "true": "warm"}}})
    )
    assert asked.questions[0].options == (Option(True, "warm"), Option(False, "cold"))
