"""What stands in the replies; that the official client reads them is tested in test_openai.py."""

import json

import msgspec
import pytest

from workers.openai_bodies import ChatBody, CompletionBody, ResponseBody
from workers.openai_replies import Chat, Completion, Response

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def shape(kind, fields):
    body = {Chat: ChatBody, Completion: CompletionBody, Response: ResponseBody}[kind]
    return kind(msgspec.convert(fields, body), "m:fp32", "r1", 3)


def events(raw):
    """(name, data) of each event."""
    found = []
    for block in raw.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((fields.get("event"), json.loads(fields["data"])))
    return found


def test_a_chat_begins_with_its_role_and_ends_with_its_reason():
    made = shape(Chat, CHAT | {"stream_options": {"include_usage": True}})
    (opening,) = events(made.opening())
    assert opening[1]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    reason, usage = events(made.closing("stop", 2))
    assert reason[1]["choices"][0]["finish_reason"] == "stop"
    assert usage[1]["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert made.end == b"data: [DONE]\n\n"


def test_a_completion_has_no_opening_and_no_usage_unless_asked():
    made = shape(Completion, {"model": "m", "prompt": "hi"})
    assert made.opening() == b""
    (last,) = events(made.delta("x") + made.closing("length", 1))[1:]
    assert "usage" not in last[1]


def test_a_response_is_told_in_named_and_numbered_events():
    made = shape(Response, {"model": "m", "input": "hi", "instructions": "be brief"})
    told = events(made.opening() + made.delta("a") + made.delta("b") + made.closing("stop", 2))
    assert [name for name, _ in told] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert all(name == data["type"] for name, data in told)
    assert [data["sequence_number"] for _, data in told] == list(range(10))
    first, last = told[0][1]["response"], told[-1][1]["response"]
    assert (first["status"], first["output"], first["usage"]) == ("in_progress", [], None)
    assert first["id"] == last["id"]
    assert last["output"][0]["content"][0]["text"] == "ab"
    assert last["instructions"] == "be brief"
    assert last["store"] is False
    assert made.end == b""  # OpenAI's own streams of this kind have no [DONE]


@pytest.mark.parametrize(("finish", "status"), [("stop", "completed"), ("length", "incomplete")])
def test_a_response_says_whether_it_is_whole(finish, status):
    whole = shape(Response, {"model": "m", "input": "hi", "max_output_tokens": 2}).whole("ab", finish, 2)
    assert (whole["status"], whole["output"][0]["status"]) == (status, status)
    assert whole["incomplete_details"] == (None if status == "completed" else {"reason": "max_output_tokens"})
    assert list(whole)[-1] == "usage"
    assert (whole["usage"]["input_tokens"], whole["usage"]["output_tokens"]) == (3, 2)
