"""An engine to attach to: the pages a vLLM server has, with figures a test sets. No inference behind them."""

import contextlib

from aiohttp import web

METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="m"}} {running}
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{engine="0",model_name="m"}} {waiting}
vllm:num_requests_waiting_by_reason{{engine="0",model_name="m",reason="capacity"}} 77.0
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{{engine="0",model_name="m"}} {kv_use}
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{{engine="0",le="0.001",model_name="m"}} 0.0
"""


class Engine:
    """What the pages say."""

    def __init__(self):
        self.healthy = True
        self.waiting = self.running = 0
        self.kv_use = 0.0
        self.page = METRICS
        self.models = ["m"]
        self.url = ""
        self.asked = []

    async def health(self, request):
        self.asked.append("health")
        return web.Response(status=200 if self.healthy else 503)

    async def metrics(self, request):
        self.asked.append("metrics")
        figures = {"waiting": float(self.waiting), "running": float(self.running), "kv_use": self.kv_use}
        return web.Response(text=self.page.format(**figures))

    async def listing(self, request):
        if not self.healthy:
            return web.Response(status=503)
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]})


@contextlib.asynccontextmanager
async def running(port=0):
    engine = Engine()
    app = web.Application()
    app.router.add_get("/health", engine.health)
    app.router.add_get("/metrics", engine.metrics)
    app.router.add_get("/v1/models", engine.listing)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    engine.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield engine
    finally:
        await runner.cleanup()
