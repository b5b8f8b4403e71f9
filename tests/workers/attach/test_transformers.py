from tests.workers.attach.pages import serving
from workers.attach import UNKNOWN
from workers.attach.transformers import Transformers


async def test_health_is_its_own_and_its_load_unknown():
    async with serving() as (pages, session):
        pages.texts["/health"] = '{"status":"ok"}'
        made = Transformers(session, pages.url)
        assert await made.healthy()
        assert await made.load() == UNKNOWN
        pages.statuses["/health"] = 503
        assert not await made.healthy()
