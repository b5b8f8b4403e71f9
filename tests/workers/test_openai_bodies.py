import msgspec
import pytest

from policies.reason import Reason
from tests.workers.fakes import Bytes
from workers.openai_bodies import (
    CHAT_TOKENS,
    COMPLETION_TOKENS,
    MAX_INPUTS,
    ChatBody,
    CompletionBody,
    EmbeddingBody,
    ResponseBody,
    sentences,
)
from workers.queue import Refused

TURNS = [{"role": "user", "content": "hi"}]


def chat(**fields):
    return msgspec.convert({"model": "m", "messages": TURNS} | fields, ChatBody)


def completion(prompt="hi", **fields):
    return msgspec.convert({"model": "m", "prompt": prompt} | fields, CompletionBody)


def response(given, **fields):
    return msgspec.convert({"model": "m", "input": given} | fields, ResponseBody)


def embedding(given, **fields):
    return msgspec.convert({"model": "m", "input": given} | fields, EmbeddingBody)


def test_absent_and_null_fields_mean_the_defaults():
    for body in (chat(), chat(temperature=None, top_p=None, stop=None, n=None, max_tokens=None, stream_options=None)):
        sampling = body.sampling(1000, 7)
        assert (sampling.temperature, sampling.top_p, sampling.seed, sampling.stop) == (1.0, 1.0, 7, ())
        assert sampling.max_tokens == CHAT_TOKENS
    assert completion().sampling(1000, 7).max_tokens == COMPLETION_TOKENS


def test_what_is_named_is_used():
    body = chat(temperature=0, top_p=0.5, seed=-1, stop=["a", "b"], max_completion_tokens=5, max_tokens=9)
    sampling = body.sampling(1000, 7)
    assert (sampling.temperature, sampling.top_p, sampling.stop, sampling.max_tokens) == (0, 0.5, ("a", "b"), 5)
    assert sampling.seed >= 0
    assert chat(stop="x").sampling(10, 0).stop == ("x",)
    assert chat(stream_options={"include_usage": True}).include_usage
    assert not chat(stream_options={}).include_usage


def test_the_context_bounds_the_answer():
    assert chat(max_tokens=500).sampling(20, 0).max_tokens == 20


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (chat(n=2), "n"),
        (chat(tools=[{}]), "tools"),
        (chat(response_format={"type": "json_object"}), "response_format"),
        (chat(logprobs=True), "logprobs"),
        (chat(presence_penalty=0.5), "presence_penalty"),
        (chat(logit_bias={"1": 5}), "logit_bias"),
        (completion(echo=True), "echo"),
        (completion(best_of=3), "best_of"),
        (completion(suffix="x"), "suffix"),
        (completion(stop=["a"] * 5), "stop"),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(body, field):
    refused = body.sampling(100, 0)
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.param, refused.executed) == (Reason.BAD_REQUEST, field, False)
    assert field in refused.message


@pytest.mark.parametrize(
    "fields", [{"n": 1}, {"tools": []}, {"response_format": {"type": "text"}}, {"logprobs": False}]
)
def test_what_asks_for_nothing_passes(fields):
    assert not isinstance(chat(**fields).sampling(100, 0), Refused)


@pytest.mark.parametrize("prompt", ["hi", ["hi"], [104, 105], [[104, 105]]])
def test_a_prompt_is_one_text_or_its_tokens(prompt):
    assert completion(prompt).prompt_ids(Bytes()) == [104, 105]


@pytest.mark.parametrize("prompt", [["a", "b"], [], "", [1, "a"], [1, 999], [True], {"a": 1}, 5, [[]]])
def test_other_prompts_are_refused(prompt):
    refused = completion(prompt).prompt_ids(Bytes())
    assert isinstance(refused, Refused)
    assert refused.param == "prompt"


def test_a_chat_the_template_refuses_names_messages():
    refused = chat(messages=[]).prompt_ids(Bytes())
    assert (refused.param, refused.message) == ("messages", "messages is empty")
    assert chat().prompt_ids(Bytes()) == [104, 105]


TURN = {"role": "user", "content": "hi"}
INPUT_PARTS = [{"type": "input_text", "text": "h"}, {"type": "text", "text": "i"}]


@pytest.mark.parametrize(
    "given",
    [
        "hi",
        [TURN],
        [{"type": "message", **TURN}],
        [{"role": "user", "content": INPUT_PARTS}],
        [
            {"role": "developer", "content": "h"},
            {"role": "assistant", "content": [{"type": "output_text", "text": "i"}]},
        ],
    ],
)
def test_a_response_is_asked_with_a_text_or_with_messages_of_texts(given):
    assert response(given).prompt_ids(Bytes()) == [104, 105]
    assert response(given, instructions="!").prompt_ids(Bytes()) == [33, 104, 105]


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ([], "input"),
        (5, "input"),
        ([5], "input[0]"),
        ([TURN, {"type": "function_call_output", "call_id": "c", "output": "x"}], "input[1]"),
        ([{"role": "tool", "content": "x"}], "input[0]"),
        ([{"role": ["user"], "content": "x"}], "input[0]"),
        ([{"role": "user", "content": None}], "input[0].content"),
        ([{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}], "input[0].content"),
        ([{"role": "user", "content": [{"type": "input_text", "text": 5}]}], "input[0].content"),
    ],
)
def test_a_response_refuses_what_is_no_text_by_its_place(given, param):
    refused = response(given).prompt_ids(Bytes())
    assert (refused.reason, refused.param) == (Reason.BAD_REQUEST, param)


@pytest.mark.parametrize(
    "fields",
    [
        {"previous_response_id": "resp_1"},
        {"tools": [{"type": "web_search"}]},
        {"background": True},
        {"reasoning": {"effort": "high"}},
        {"text": {"format": {"type": "json_object"}}},
        {"truncation": "auto"},
        {"conversation": "c"},
    ],
)
def test_a_response_refuses_what_would_change_the_answer(fields):
    (name,) = fields
    refused = response("hi", **fields).sampling(100, 0)
    assert (refused.reason, refused.param) == (Reason.BAD_REQUEST, name)


def test_a_response_takes_what_asks_for_nothing_and_its_own_limit():
    harmless = {
        "store": True,
        "text": {"format": {"type": "text"}},
        "tools": [],
        "tool_choice": "auto",
        "reasoning": {},
    }
    assert response("hi", **harmless).sampling(1000, 0).max_tokens == CHAT_TOKENS
    assert response("hi", max_output_tokens=7).sampling(1000, 0).max_tokens == 7


def test_refusals_speak_json_not_python():
    assert chat(logprobs=True).sampling(9, 0).message.endswith("leave it out, or send false.")
    assert chat(audio={}).sampling(9, 0).message.endswith("`audio`: leave it out.")
    assert '{"type":"text"}' in chat(response_format={}).sampling(9, 0).message


def test_sentences_are_one_text_or_many():
    assert sentences(embedding("a")) == ["a"]
    assert sentences(embedding(["a", "b"])) == ["a", "b"]


@pytest.mark.parametrize(
    ("given", "param"),
    [([], "input"), (None, "input"), ("", "input[0]"), (["a", ""], "input[1]"), ([1, 2], "input"), ([[1]], "input")],
)
def test_other_inputs_are_refused(given, param):
    assert sentences(embedding(given)).param == param


def test_too_many_inputs_and_shorter_vectors_are_refused():
    assert sentences(embedding(["a"] * (MAX_INPUTS + 1))).param == "input"
    assert sentences(embedding("a", dimensions=5)).param == "dimensions"
    assert sentences(embedding("a", encoding_format="hex")).param == "encoding_format"
    assert sentences(embedding("a", encoding_format=["float"])).param == "encoding_format"
