"""Run by Ray's own Python: `ray_app.py HTTP_PORT METRICS_PORT`, a deployment that takes a while, one request at a time.

Ray's proxy, router, replicas and metrics are what is under test; the model is a pause.
"""

import asyncio
import sys
import time

import ray
from ray import serve

SECONDS = 0.3


@serve.deployment(max_ongoing_requests=1)
class Pause:
    async def __call__(self, request):
        body = await request.json()
        await asyncio.sleep(SECONDS)
        message = {"role": "assistant", "content": "paused"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [choice],
            "usage": usage,
        }


http_port, metrics_port = map(int, sys.argv[1:])
ray.init(num_cpus=2, include_dashboard=False, _metrics_export_port=metrics_port, object_store_memory=100 << 20)
serve.start(http_options={"host": "127.0.0.1", "port": http_port})
serve.run(Pause.bind())
sys.stdout.write("ready ray\n")
sys.stdout.flush()
while True:
    time.sleep(60)
