from tests.workers.attach.pages import serving
from workers.attach.oip import OpenInference

READY = "/v2/health/ready"


async def test_readiness_is_said_by_the_status_or_in_the_body():
    async with serving() as (pages, session):
        made = OpenInference(session, pages.url)
        verdicts = []
        for status, text in ((200, ""), (200, '{"ready": true}'), (200, '{"ready": false}'), (503, "")):
            pages.statuses[READY], pages.texts[READY] = status, text
            verdicts.append(await made.healthy())
    assert verdicts == [True, True, False, False]
