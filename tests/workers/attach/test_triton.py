import json

import pytest

from tests.workers.attach.pages import choices, serving
from workers.attach import Reading
from workers.attach.triton import Triton

PAGE = """\
# HELP nv_inference_pending_request_count Instantaneous number of pending requests awaiting execution per-model.
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{{model="digits",version="1"}} {depth}
# TYPE nv_inference_request_success counter
nv_inference_request_success{{model="digits",version="1"}} 400
"""
INDEX = "/v2/repository/index"


async def test_a_rising_queue_sends_requests_elsewhere():
    chosen = await choices("triton", "/v2/health/ready", "/metrics", PAGE)
    assert (chosen[0], chosen[20]) == ("cheap", "dear")


async def test_of_the_caches_gauges_the_fraction_counts():
    cache = 'nv_trt_llm_kv_cache_block_metrics{{kv_cache_block_type="%s",model="m"}} %s\n'
    async with serving() as (pages, session):
        text = PAGE + cache % ("used", 900) + cache % ("fraction", 0.5)
        pages.texts["/metrics"] = text.format(depth=2)
        assert await Triton(session, pages.url, pages.url + "/metrics").load() == Reading(2, None, 0.5)


def test_its_metrics_are_on_a_port_of_their_own():
    assert Triton(None, "http://e:8000").metrics_url == "http://e:8002/metrics"


async def test_models_are_those_that_are_loaded():
    entries = [{"name": "digits", "version": "1", "state": "READY"}, {"name": "old", "state": "UNAVAILABLE"}]
    async with serving() as (pages, session):
        triton = Triton(session, pages.url)
        pages.texts[INDEX] = json.dumps(entries)
        assert await triton.models() == ["digits"]
        pages.texts[INDEX] = "{}"
        with pytest.raises(ValueError, match="is not a list of models"):
            await triton.models()
        pages.statuses[INDEX] = 400
        with pytest.raises(ValueError, match="answered 400"):
            await triton.models()
