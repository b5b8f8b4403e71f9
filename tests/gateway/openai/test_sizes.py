import pytest

from gateway.openai.sizes import MAX_ITEMS, MEDIA_TOKENS, MESSAGE_TOKENS
from tests.gateway.openai.test_requests import HELLO, body, refused


def test_text_counts_by_utf8_bytes():
    narrow, wide = (body(b"/v1/embeddings", input=character * 100) for character in "aж")
    assert wide.prompt_tokens == 2 * narrow.prompt_tokens


def test_parts_tools_and_tool_calls_count():
    parts = [{"type": "text", "text": "abcd"}, {"type": "image_url", "image_url": {"url": "data:" + "A" * 10_000}}]
    assert body(messages=[{"role": "user", "content": parts}]).prompt_tokens == MESSAGE_TOKENS + 1 + MEDIA_TOKENS
    assert body(tools=[{"type": "function"}]).prompt_tokens > body().prompt_tokens
    called = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [{"id": "x" * 400}]}]
    assert body(messages=called).prompt_tokens > body().prompt_tokens + 100


@pytest.mark.parametrize(
    ("value", "tokens", "items"),
    [("abcdefgh", 2, 1), (["abcd", "efgh"], 2, 2), ([1, 2, 3], 3, 1), ([[1, 2], [3]], 3, 2)],
)
@pytest.mark.parametrize(("path", "key"), [(b"/v1/embeddings", "input"), (b"/v1/completions", "prompt")])
def test_inputs_of_every_shape(path, key, value, tokens, items):
    read_ = body(path, **{key: value})
    assert (read_.prompt_tokens, read_.items) == (tokens, items)


def test_responses_and_rerank():
    assert body(b"/v1/responses", input="abcdefgh", instructions="abcd").prompt_tokens == 3
    assert body(b"/v1/responses", input=HELLO).prompt_tokens == body().prompt_tokens
    assert body(b"/v1/rerank", query="q", documents=["a", "b", "c"]).items == 3


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (b"/v1/embeddings", {}, "input"),
        (b"/v1/embeddings", {"input": []}, "input"),
        (b"/v1/embeddings", {"input": ["a"] * (MAX_ITEMS + 1)}, "input"),
        (b"/v1/completions", {"prompt": 5}, "prompt"),
        (b"/v1/rerank", {"documents": "a"}, "documents"),
    ],
)
def test_each_kind_needs_its_input(path, fields, param):
    assert refused(path, **fields).param == param


CHOICES = [{"value": "a"}, {"value": "b"}, {"value": "c"}]
CHOICE = {"type": "choice", "choices": CHOICES}


@pytest.mark.parametrize(
    ("path", "fields", "items"),
    [
        (b"/v1/decisions", {"input": "a text", "questions": [CHOICE, {"type": "predicate"}]}, 5),
        (b"/v1/decisions", {"input": "a text", "questions": [{"type": "score", "levels": [1, 2]}]}, 3),
        (b"/v1/systemone", {"state": "a text", "questions": {"q": {"criteria": {"a": "", "b": ""}}}}, 3),
        (b"/v1/decisions", {"input": "[1, 2]", "questions": [CHOICE]}, 1),
        (b"/v1/systemone", {"state": {"a": 1}, "questions": {"q": {"criteria": ["a", "b"]}}}, 1),
        (b"/v1/decisions", {"input": "a text", "questions": 5}, 1),
        (b"/v1/decisions", {"input": "a text", "questions": ["?"]}, 2),
        (b"/v1/decisions", {}, 1),
    ],
)
def test_a_decision_about_a_text_is_as_large_as_its_options(path, fields, items):
    read = body(path, **fields)
    assert read.items == items
    assert read.prompt_tokens > 10
