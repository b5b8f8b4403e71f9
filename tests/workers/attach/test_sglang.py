from tests.workers.attach.pages import choices, serving
from workers.attach import Reading
from workers.attach.sglang import SGLang

LOADS = "/v1/loads?include=core&format=prometheus"
PAGE = """\
# TYPE sglang_num_running_reqs gauge
sglang_num_running_reqs{{dp_rank="0"}} 1
# TYPE sglang_num_waiting_reqs gauge
sglang_num_waiting_reqs{{dp_rank="0"}} {depth}
# TYPE sglang_num_waiting_uncached_tokens gauge
sglang_num_waiting_uncached_tokens{{dp_rank="0"}} 9000
# TYPE sglang_token_usage gauge
sglang_token_usage{{dp_rank="0"}} 0.25
"""
"""As `_format_loads_prometheus` of SGLang 0.5.23 writes it."""


async def test_a_rising_queue_sends_requests_elsewhere():
    chosen = await choices("sglang", "/health", LOADS, PAGE)
    assert (chosen[0], chosen[20]) == ("cheap", "dear")


async def test_ranks_add_up_and_the_page_needs_no_flag():
    async with serving() as (pages, session):
        second = PAGE.replace('dp_rank="0"', 'dp_rank="1"').replace("0.25", "0.75")
        pages.texts[LOADS] = (PAGE + second).format(depth=3)
        assert await SGLang(session, pages.url).load() == Reading(6, 2, 0.75)
