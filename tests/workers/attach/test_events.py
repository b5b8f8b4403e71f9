import pytest

from workers.attach.events import DONE, MAX_EVENT, Events

STREAM = b'data: {"a":1}\n\n: note\r\n\r\nevent: x\rdata: 2\r\rdata: [DONE]\n\n'
WHOLE = [b'data: {"a":1}\n\n', b": note\r\n\r\n", b"event: x\rdata: 2\r\r", b"data: [DONE]\n\n"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_whole_however_the_bytes_come(size):
    events = Events()
    found = [event for at in range(0, len(STREAM), size) for event in events.feed(STREAM[at : at + size])]
    assert found == WHOLE
    assert events.rest == b""


def test_what_has_not_ended_is_kept():
    events = Events()
    assert list(events.feed(b"data: 1\n")) == []
    assert events.rest == b"data: 1\n"


def test_bytes_without_an_end_go_on():
    events = Events()
    assert list(events.feed(b"x" * (MAX_EVENT + 1))) == [b"x" * (MAX_EVENT + 1)]


def test_the_end_of_a_stream_is_known():
    assert [bool(DONE.match(event)) for event in WHOLE] == [False, False, False, True]
