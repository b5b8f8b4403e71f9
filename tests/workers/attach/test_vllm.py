import aiohttp
import pytest

from tests.workers.attach.engine import METRICS, running
from tests.workers.attach.pages import choices
from workers.attach import ENGINES, UNKNOWN, Reading, adapter, page
from workers.attach.vllm import Vllm

PAGE = METRICS.replace("{waiting}", "{depth}").replace("{running}", "1").replace("{kv_use}", "0.25")


@pytest.fixture
async def session():
    async with aiohttp.ClientSession() as session:
        yield session


async def test_a_rising_queue_sends_requests_elsewhere():
    chosen = await choices("vllm", "/health", "/metrics", PAGE)
    assert (chosen[0], chosen[20]) == ("cheap", "dear")


async def test_load_is_read_from_the_metrics_page(session):
    async with running() as engine:
        engine.waiting, engine.running, engine.kv_use = 20, 5, 0.25
        assert await Vllm(session, engine.url).load() == Reading(20, 5, 0.25)


async def test_health_is_the_engines_own(session):
    async with running() as engine:
        vllm = Vllm(session, engine.url)
        assert await vllm.healthy()
        engine.healthy = False
        assert not await vllm.healthy()
        assert engine.asked == ["health", "health"]


async def test_ranks_add_up_and_the_fullest_cache_counts(session):
    async with running() as engine:
        engine.page = METRICS + (
            'vllm:num_requests_waiting{{engine="1"}} 3\nvllm:num_requests_running{{engine="1"}} 4\n'
            'vllm:kv_cache_usage_perc{{engine="1"}} 0.75\n'
        )
        engine.waiting = 2
        assert await Vllm(session, engine.url).load() == Reading(5, 4, 0.75)


async def test_missing_names_are_unknown_and_said_once(session, caplog):
    async with running() as engine:
        engine.page = METRICS.replace("vllm:num_requests_waiting{{", "vllm:renamed{{")
        vllm = Vllm(session, engine.url)
        assert await vllm.load() == UNKNOWN
        assert await vllm.load() == UNKNOWN
        assert caplog.text.count("lacks vllm:num_requests_waiting") == 1
        engine.page = METRICS
        assert (await vllm.load()).waiting == 0


async def test_a_page_without_cache_use_still_gives_the_queue(session, caplog):
    async with running() as engine:
        engine.page = METRICS.replace("vllm:kv_cache_usage_perc{{", "vllm:gpu_cache_usage_perc{{")
        engine.waiting = 7
        assert await Vllm(session, engine.url).load() == Reading(7, 0, 0.0)
    assert "lacks vllm:kv_cache_usage_perc" in caplog.text


async def test_a_page_without_end_is_not_read_to_its_end(session, monkeypatch):
    monkeypatch.setattr("workers.attach.PAGE_LIMIT", 10)
    async with running() as engine:
        with pytest.raises(aiohttp.ClientPayloadError, match="more than 10 bytes"):
            await page(session, engine.url + "/metrics")


def test_every_engine_in_the_table_has_its_adapter():
    for name in ENGINES:
        made = adapter(name)(None, "http://x")
        assert made.health_path.startswith("/")
    with pytest.raises(KeyError):
        adapter("other")
