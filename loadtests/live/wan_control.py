"""The WAN proxy as a process, and its control: JSON over HTTP on loopback, in toxiproxy's shape where it has one.

`/proxies` and their `latency` toxics are toxiproxy's (github.com/Shopify/toxiproxy, HTTP API); `/legs/A/B` is ours:
the delay, jitter and state of one direction between two regions. Run: `python -m loadtests.live.wan_control --help`.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import click
import msgspec
import uvloop
from aiohttp import web
from aiohttp.typedefs import Handler
from msgspec import Meta

from loadtests import scenario as scenarios
from loadtests.live.wan import Proxy, Toxic, Wan, Way

Milliseconds = Annotated[float, Meta(ge=0, le=60_000)]
WAN = web.AppKey("wan", Wan)


class LinkChange(msgspec.Struct, forbid_unknown_fields=True):
    """What to change about one direction; what is left out stays."""

    delay_ms: Milliseconds | None = None
    jitter_ms: Milliseconds | None = None
    down: bool | None = None


class ProxyChange(msgspec.Struct, forbid_unknown_fields=True):
    enabled: bool


class ToxicAttributes(msgspec.Struct, forbid_unknown_fields=True):
    latency: Milliseconds
    jitter: Milliseconds = 0.0


class ToxicAsked(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["latency"]
    attributes: ToxicAttributes
    stream: Literal["upstream", "downstream"] = "downstream"
    name: str = ""
    toxicity: Annotated[float, Meta(ge=1, le=1)] = 1.0


def control(wan: Wan) -> web.Application:
    app = web.Application(middlewares=[_refuse])
    app[WAN] = wan
    app.add_routes(
        [
            web.get("/proxies", _proxies),
            web.post("/proxies/{proxy}", _change_proxy),
            web.post("/proxies/{proxy}/toxics", _add_toxic),
            web.delete("/proxies/{proxy}/toxics/{toxic}", _remove_toxic),
            web.get("/legs", _legs),
            web.post("/legs/{a}/{b}", _change_leg),
            web.post("/reset", _reset),
        ]
    )
    return app


@web.middleware
async def _refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except msgspec.MsgspecError as error:
        return web.json_response({"error": str(error)}, status=400)
    except KeyError as error:
        return web.json_response({"error": f"there is no {error}"}, status=404)


def _shown(proxy: Proxy) -> dict[str, object]:
    toxics = [
        {
            "name": name,
            "type": "latency",
            "stream": toxic.stream,
            "toxicity": 1.0,
            "attributes": {"latency": toxic.latency * 1e3, "jitter": toxic.jitter * 1e3},
        }
        for name, toxic in proxy.toxics.items()
    ]
    return {
        "name": proxy.name,
        "listen": "{}:{}".format(*proxy.listen),
        "upstream": "{}:{}".format(*proxy.upstream),
        "enabled": proxy.enabled,
        "toxics": toxics,
    }


def _shown_way(way: Way) -> dict[str, object]:
    return {"delay_ms": way.delay * 1e3, "jitter_ms": way.jitter * 1e3, "down": way.down}


async def _proxies(request: web.Request) -> web.Response:
    return web.json_response({name: _shown(proxy) for name, proxy in request.app[WAN].proxies.items()})


async def _change_proxy(request: web.Request) -> web.Response:
    proxy = request.app[WAN].proxies[request.match_info["proxy"]]
    await proxy.enable(msgspec.json.decode(await request.read(), type=ProxyChange).enabled)
    return web.json_response(_shown(proxy))


async def _add_toxic(request: web.Request) -> web.Response:
    proxy = request.app[WAN].proxies[request.match_info["proxy"]]
    asked = msgspec.json.decode(await request.read(), type=ToxicAsked)
    name = asked.name or f"{asked.type}_{asked.stream}"
    proxy.toxics[name] = Toxic(asked.stream, asked.attributes.latency / 1e3, asked.attributes.jitter / 1e3)
    return web.json_response(_shown(proxy))


async def _remove_toxic(request: web.Request) -> web.Response:
    proxy = request.app[WAN].proxies[request.match_info["proxy"]]
    del proxy.toxics[request.match_info["toxic"]]
    return web.Response(status=204)


async def _legs(request: web.Request) -> web.Response:
    return web.json_response({f"{a}/{b}": _shown_way(way) for (a, b), way in request.app[WAN].ways.items()})


async def _change_leg(request: web.Request) -> web.Response:
    way = request.app[WAN].ways[request.match_info["a"], request.match_info["b"]]
    change = msgspec.json.decode(await request.read(), type=LinkChange)
    if change.delay_ms is not None:
        way.delay = change.delay_ms / 1e3
    if change.jitter_ms is not None:
        way.jitter = change.jitter_ms / 1e3
    if change.down is not None:
        way.cut(change.down)
    return web.json_response(_shown_way(way))


async def _reset(request: web.Request) -> web.Response:
    await request.app[WAN].reset()
    return web.Response(status=204)


async def run(wan: Wan, control_port: int) -> None:
    """Serve until SIGINT or SIGTERM."""
    await wan.start()
    runner = web.AppRunner(control(wan))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", control_port)
    await site.start()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    print("ready http://{}:{}".format(*runner.addresses[0][:2]), flush=True)
    await stop.wait()
    await wan.stop()
    await runner.cleanup()


def parse_upstreams(pairs: Sequence[str], known: set[str]) -> dict[str, tuple[str, int]]:
    """`WORKER=HOST:PORT` arguments, each worker of the scenario at most once."""
    upstreams: dict[str, tuple[str, int]] = {}
    for pair in pairs:
        name, _, address = pair.partition("=")
        host, _, port = address.rpartition(":")
        if name not in known or name in upstreams or not host or not port.isdecimal():
            raise click.BadParameter(f"{pair!r}: WORKER=HOST:PORT was expected, each worker of the scenario once")
        upstreams[name] = (host, int(port))
    return upstreams


@click.command()
@click.option("--scenario", "path", type=click.Path(path_type=Path), help="Scenario file; default: the demo's.")
@click.option("--upstream", "pairs", multiple=True, metavar="WORKER=HOST:PORT", help="Where a worker really listens.")
@click.option("--control-port", default=0, help="Port of the control on 127.0.0.1; 0 takes a free one.")
def main(path: Path | None, pairs: Sequence[str], control_port: int) -> None:
    """Delay the bytes between regions as SCENARIO says."""
    try:
        world = scenarios.load(path)
    except scenarios.ScenarioError as error:
        raise click.ClickException(str(error)) from error
    upstreams = parse_upstreams(pairs, {worker.id for worker in world.workers})
    uvloop.run(run(Wan(world, upstreams), control_port))


if __name__ == "__main__":
    main()
