import pytest

from tests.workers.attach.pages import choices, serving
from tests.workers.attach.test_vllm import PAGE
from workers.attach import UNKNOWN
from workers.attach.kserve import KServe


async def test_its_runtime_for_language_models_tells_the_queue_and_requests_go_elsewhere():
    chosen = await choices("kserve", "/v2/health/ready", "/metrics", PAGE)
    assert (chosen[0], chosen[20]) == ("cheap", "dear")


async def test_of_other_runtimes_the_load_is_unknown_and_nothing_is_missed(caplog):
    async with serving() as (pages, session):
        pages.texts["/metrics"] = 'request_predict_seconds_count{model_name="m"} 3\n'
        assert await KServe(session, pages.url).load() == UNKNOWN
    assert not caplog.text


async def test_models_are_as_the_server_lists_them():
    async with serving() as (pages, session):
        kserve = KServe(session, pages.url)
        pages.texts["/v2/models"] = '{"models": ["a", "b"]}'
        assert await kserve.models() == ["a", "b"]
        pages.texts["/v2/models"] = "[]"
        with pytest.raises(ValueError, match="is not a list of models"):
            await kserve.models()
        pages.statuses["/v2/models"] = 404
        with pytest.raises(ValueError, match="answered 404"):
            await kserve.models()
