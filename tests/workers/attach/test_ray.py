from tests.workers.attach.pages import choices, serving
from workers.attach import Reading
from workers.attach.ray import RayServe

PAGE = """\
# HELP ray_serve_deployment_queued_queries The current number of queries to this deployment waiting to be assigned.
# TYPE ray_serve_deployment_queued_queries gauge
ray_serve_deployment_queued_queries{{application="default",deployment="Model",handle="h1"}} {depth}
# TYPE ray_serve_replica_processing_queries gauge
ray_serve_replica_processing_queries{{application="default",deployment="Model",replica="r1"}} 1
"""


async def test_a_rising_queue_sends_requests_elsewhere():
    chosen = await choices("ray", "/-/healthz", "/metrics", PAGE)
    assert (chosen[0], chosen[20]) == ("cheap", "dear")


async def test_handles_and_replicas_add_up():
    async with serving() as (pages, session):
        pages.texts["/m"] = (PAGE + PAGE.replace("h1", "h2").replace("r1", "r2")).format(depth=2)
        assert await RayServe(session, pages.url, pages.url + "/m").load() == Reading(4, 2, 0.0)
