import json

import pytest

from loadtests.live.replies import WORD, Asked, chunk, event, reply

ASKED = Asked(model="m", max_tokens=3)


def test_the_newer_name_of_the_bound_counts():
    assert (ASKED.tokens, Asked(max_tokens=3, max_completion_tokens=5).tokens) == (3, 5)


@pytest.mark.parametrize(
    ("path", "kind"), [("/v1/chat/completions", "chat.completion"), ("/v1/completions", "text_completion")]
)
def test_an_answer_has_as_many_words_as_were_asked_for(path, kind):
    told = reply(path, ASKED, 1)
    (choice,) = told["choices"]
    assert (told["object"], told["model"], told["usage"]["completion_tokens"]) == (kind, "m", 3)
    assert choice.get("text", choice.get("message", {}).get("content")) == WORD * 3
    first, last = (chunk(path, ASKED, last=last)["choices"][0]["finish_reason"] for last in (False, True))
    assert (first, last) == (None, "stop")


def test_a_vector_per_item_and_nothing_for_what_is_unknown():
    assert [row["index"] for row in reply("/v1/embeddings", ASKED, 3)["data"]] == [0, 1, 2]
    assert set(reply("/v1/other", ASKED, 1)) == {"id", "created", "model", "usage"}


def test_an_event_is_one_line_of_json():
    raw = event({"a": 1})
    assert raw.startswith(b"data: ")
    assert raw.endswith(b"\n\n")
    assert json.loads(raw[6:]) == {"a": 1}
