from tests.workers.attach.pages import choices, serving
from workers.attach import Reading
from workers.attach.tgi import Tgi

PAGE = """\
# TYPE tgi_queue_size gauge
tgi_queue_size {depth}
# TYPE tgi_batch_current_size gauge
tgi_batch_current_size 1
# TYPE tgi_batch_current_max_tokens gauge
tgi_batch_current_max_tokens 512
"""


async def test_a_rising_queue_sends_requests_elsewhere():
    chosen = await choices("tgi", "/health", "/metrics", PAGE)
    assert (chosen[0], chosen[20]) == ("cheap", "dear")


async def test_its_cache_has_no_share():
    async with serving() as (pages, session):
        pages.texts["/metrics"] = PAGE.format(depth=4)
        assert await Tgi(session, pages.url).load() == Reading(4, 1, 0.0)
