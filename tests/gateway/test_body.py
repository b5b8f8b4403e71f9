import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.body import MAX_DEPTH, Kind, beginning, too_deep


def nested(depth: int, opener: str = "[", closer: str = "]") -> bytes:
    return (opener * depth + closer * depth).encode()


def test_the_limit_is_exact():
    assert not too_deep(nested(MAX_DEPTH))
    assert too_deep(nested(MAX_DEPTH + 1))
    assert too_deep(nested(MAX_DEPTH + 1, '{"a":', "}").replace(b":}", b":1}"))


def test_width_is_not_depth():
    assert not too_deep(b"[" + b"[]," * 5000 + b"{}]")


def test_brackets_inside_strings_do_not_count():
    assert not too_deep(orjson.dumps(["[" * 500, '"[' * 500, "\\" * 7 + "{" * 100]))


def test_brackets_inside_strings_do_not_hide_depth():
    raw = b'["' + b"]" * 500 + b'",' + nested(MAX_DEPTH) + b"]"
    assert too_deep(raw)


def depth_of(value: object) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


awkward = st.text(alphabet='[]{}"\\a', max_size=40)
documents = st.recursive(
    awkward, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(awkward, inner, max_size=4), max_leaves=60
)


@given(documents, st.integers(0, MAX_DEPTH + 2))
def test_it_agrees_with_a_walk_over_the_parsed_document(document, extra):
    for _ in range(extra):
        document = [document]
    assert too_deep(orjson.dumps(document)) == (depth_of(document) > MAX_DEPTH)


@pytest.mark.parametrize("kind", Kind)
def test_only_text_answers_generate(kind):
    assert kind.generates == (kind.label in {"chat", "completion", "response"})


def test_prompts_that_begin_alike_share_a_key():
    system = {"role": "system", "content": "You are terse. " * 100}

    def key(*messages, **fields):
        return beginning(orjson.dumps({"model": "m", **fields, "messages": list(messages)}))

    one, other = {"role": "user", "content": "Why?"}, {"role": "user", "content": "How?"}
    assert key(system, one) == key(system, other) == key(system, one, temperature=0.5) != ""
    assert key(system | {"content": "You are verbose. " * 100}, one) != key(system, one)
    assert key(one) == "", "nothing worth keeping warm"
    assert beginning(orjson.dumps({"model": "m", "prompt": "word " * 300})).startswith("prefix-")
    assert beginning(b'{"model": "m"}') == ""
