from tests.workers.attach.pages import choices, serving
from workers.attach import UNKNOWN
from workers.attach.llamacpp import LlamaCpp

PAGE = """\
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed.
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 6886
# HELP llamacpp:requests_processing Number of requests processing.
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 1
# HELP llamacpp:requests_deferred Number of requests deferred.
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred {depth}
"""


async def test_a_rising_queue_sends_requests_elsewhere():
    chosen = await choices("llamacpp", "/health", "/metrics", PAGE)
    assert (chosen[0], chosen[20]) == ("cheap", "dear")


async def test_without_its_flag_the_load_is_unknown_and_the_flag_named(caplog):
    async with serving() as (pages, session):
        pages.statuses["/metrics"] = 501
        assert await LlamaCpp(session, pages.url).load() == UNKNOWN
    assert "start llama-server with --metrics" in caplog.text


async def test_while_it_loads_it_is_not_well():
    async with serving() as (pages, session):
        pages.statuses["/health"] = 503
        assert not await LlamaCpp(session, pages.url).healthy()
