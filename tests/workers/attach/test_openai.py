import aiohttp
import pytest

from tests.workers.attach.engine import running
from workers.attach import UNKNOWN
from workers.attach.openai import OpenAI


@pytest.fixture
async def session():
    async with aiohttp.ClientSession() as session:
        yield session


async def test_healthy_while_it_lists_models_with_its_load_unknown(session):
    async with running() as engine:
        engine.models = ["a", "org/b"]
        adapter = OpenAI(session, engine.url)
        assert await adapter.healthy()
        assert await adapter.models() == ["a", "org/b"]
        assert await adapter.load() == UNKNOWN
        engine.healthy = False
        assert not await adapter.healthy()
        with pytest.raises(ValueError, match="answered 503"):
            await adapter.models()


async def test_a_listing_that_is_none_is_refused(session):
    async with running() as engine:
        engine.models = [5]
        with pytest.raises(ValueError, match="not a list of models"):
            await OpenAI(session, engine.url).models()


async def test_an_engine_that_is_not_there_is_an_error(session):
    async with running() as engine:
        gone = engine.url
    with pytest.raises(aiohttp.ClientError):
        await OpenAI(session, gone).healthy()
