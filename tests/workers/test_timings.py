import pytest

from policies.records import decode_timings
from workers.queue import Job, Result, Token
from workers.timings import comment, load_comment, timings


def ended(event, arrived=0.0, started=1.0, first=None, finished=3.0, accel=0.5):
    job = Job("a", None, arrived=arrived)
    job.begin(started)
    job.first = first
    job.accel = accel
    job.end(event, finished)
    return job


def test_a_batched_request_has_no_decode_and_all_its_compute_before_the_answer():
    figures = timings([ended(Result(1))])
    assert (figures.queue, figures.prefill, figures.decode, figures.accel) == (1.0, 2.0, None, 0.5)


def test_a_text_is_split_at_its_first_token():
    figures = timings([ended(Token(1, "stop"), first=1.5)])
    assert (figures.queue, figures.prefill, figures.decode) == (1.0, 0.5, 1.5)


def test_several_jobs_of_one_request_are_one_span_and_their_accelerator_seconds_add_up():
    figures = timings([ended(Result(1), started=2.0, finished=3.0), ended(Result(2), started=1.0, finished=4.0)])
    assert (figures.queue, figures.prefill, figures.accel) == (1.0, 3.0, 1.0)


def test_a_request_says_how_large_its_batch_was():
    jobs = [ended(Result(1)), ended(Result(2))]
    jobs[0].batch, jobs[1].batch = 3, 8
    assert timings(jobs).batch == 8
    assert timings(jobs).encode().endswith(", batch;desc=8")
    assert timings([ended(Token(1, "stop"), first=1.5)]).batch is None, "a text has another at every step"


def test_what_never_ran_has_no_figures():
    assert timings([Job("a", None, arrived=0.0)]).encode() == ""


def test_the_comment_is_one_that_gateways_read():
    line = comment(timings([ended(Token(1, "stop"), first=1.5)]))
    assert line.startswith(b": timing ")
    assert line.endswith(b"\n\n")
    assert decode_timings(line).accel == pytest.approx(0.5)


def test_the_comment_with_the_load_is_one_event():
    assert load_comment("JSON {}") == b": load JSON {}\n\n"
