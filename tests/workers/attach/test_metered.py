import pytest

from tests.workers.attach.pages import serving
from workers.attach import UNKNOWN, Reading
from workers.attach.metered import Metered, read

WAITING, CACHE = ("q", ()), ("c", (("kind", "share"),))


class Counted(Metered):
    """An engine without a gauge of what runs."""

    health_path = "/health"
    waiting = WAITING
    kv_use = CACHE
    optional = (CACHE,)
    remedy = "start it with --gauges"


class Elsewhere(Counted):
    metrics_port = 8002


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-3", "many", ""])
def test_nonsense_is_left_out(value):
    assert read(f'q{{a="b"}} {value}\nr 4\nr{{broken 5\n', (("q", ()), ("r", ()))) == {("r", ()): [4.0]}


def test_only_the_series_with_the_labels_count():
    text = 'c{kind="share",rank="0"} 0.5\nc{kind="used"} 900\nc{kind="share",rank="1"} 0.7\ncc 3\n'
    assert read(text, (CACHE,)) == {CACHE: [0.5, 0.7]}


async def test_without_a_running_gauge_the_queue_counts_alone():
    async with serving() as (pages, session):
        pages.texts["/metrics"] = 'q{a="0"} 3\nq{a="1"} 4\nc{kind="share"} 1.5\n'
        assert await Counted(session, pages.url).load() == Reading(7, None, 1.0)


async def test_what_is_missing_is_said_once_with_what_to_do(caplog):
    async with serving() as (pages, session):
        counted = Counted(session, pages.url)
        assert await counted.load() == UNKNOWN
        assert await counted.load() == UNKNOWN
    assert caplog.text.count("(status 404) lacks q: that part of its load is unknown: start it with --gauges") == 1


async def test_what_an_engine_need_not_have_is_not_missed(caplog):
    async with serving() as (pages, session):
        pages.texts["/metrics"] = "q 2\n"
        assert await Counted(session, pages.url).load() == Reading(2, None, 0.0)
    assert not caplog.text


def test_the_page_may_stand_on_another_port_or_anywhere():
    assert Counted(None, "http://e:8000").metrics_url == "http://e:8000/metrics"
    assert Elsewhere(None, "http://e:8000").metrics_url == "http://e:8002/metrics"
    assert Elsewhere(None, "http://[::1]:8000").metrics_url == "http://[::1]:8002/metrics"
    assert Elsewhere(None, "http://e:8000", "http://m:1/all").metrics_url == "http://m:1/all"
