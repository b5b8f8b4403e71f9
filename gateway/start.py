"""`isochrone gateway`: the command line over the file, the interpreter's fitness, signals, the event loop.

SIGTERM and SIGINT drain (a second one hurries), SIGHUP reads the configuration again. Exit status 0 after a drain, 1
when the configuration or an address cannot be used, 2 for options that make no sense. Next: app.py.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import signal
import sys
from pathlib import Path

import click
import msgspec
import uvloop
from aiohttp import http_parser

from gateway import config as configuration
from gateway import logs
from gateway.app import Gateway
from gateway.config import ConfigError, GatewayConfig

log = logging.getLogger(__name__)

PORT = click.IntRange(0, 65535)


def unfit() -> str | None:
    """Why this interpreter must not run a gateway (faults.md T20), if so."""
    if not __debug__:
        return "python runs with -O, which removes the checks this gateway relies on: start it without"
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        return "aiohttp runs without its C parser: install a wheel, and unset AIOHTTP_NO_EXTENSIONS"
    return None


class Overlay(msgspec.Struct, frozen=True):
    """What the command line says over the file."""

    host: str | None = None
    port: int | None = None
    grpc_port: int | None = None
    control_port: int | None = None
    redis: str | None = None

    def over(self, config: GatewayConfig) -> GatewayConfig:
        """The configuration with it, checked again as a whole. Raises ConfigError."""
        replace = msgspec.structs.replace
        entry, control = config.listen, config.control
        if self.host is not None:
            entry = replace(entry, host=self.host)
        if self.port is not None:
            entry = replace(entry, port=self.port)
        if self.grpc_port is not None:
            entry = replace(entry, grpc_port=self.grpc_port)
        if self.control_port is not None:
            control = replace(control, port=self.control_port)
        config = replace(config, listen=entry, control=control)
        if self.redis is not None:
            config = replace(config, redis=self.redis, registries={})
        configuration.check(config)
        return config


@click.command("gateway")
@click.option("--config", "path", type=click.Path(path_type=Path), help="gateway.yaml; without it: loopback, no keys.")
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=PORT, help="Port for clients; 0 takes a free one.")
@click.option("--grpc-port", type=PORT, help="Port for gRPC clients too; 0 takes a free one.")
@click.option("--control-port", type=PORT, help="Port for operators; 0 takes a free one.")
@click.option("--redis", metavar="URL", help="Registry, instead of the file's.")
def main(
    path: Path | None,
    host: str | None,
    port: int | None,
    grpc_port: int | None,
    control_port: int | None,
    redis: str | None,
) -> None:
    """Route each request to the cheapest node that meets its deadline."""
    reason = unfit()
    if reason is not None:
        raise click.ClickException(reason)
    overlay = Overlay(host, port, grpc_port, control_port, redis)
    try:
        config = overlay.over(configuration.load(path) if path is not None else GatewayConfig())
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    logs.start()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_run(config, path, overlay))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            hint = ": choose another with --port and --control-port, or in the file" if taken else ""
            raise click.ClickException(f"cannot serve: {error}{hint}") from None


async def _run(config: GatewayConfig, path: Path | None, overlay: Overlay) -> None:
    loop = asyncio.get_running_loop()
    gateway = Gateway(config, path, overlay.over)
    loop.set_exception_handler(lambda _, context: _unhandled(gateway, context))
    reloads: set[asyncio.Task[bool]] = set()

    def hang_up() -> None:
        task = loop.create_task(gateway.reload.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, gateway.stop)
    loop.add_signal_handler(signal.SIGHUP, hang_up)
    calm_collector()
    await gateway.run(_announce)


def calm_collector() -> None:
    """Look for cycles rarely: requests make none, and the ring keeps thousands of traces to walk through in vain.

    Modules and configuration are never looked through again. The thresholds cost at most some megabytes.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _announce(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _unhandled(gateway: Gateway, context: dict[str, object]) -> None:
    """What asyncio found nobody to tell: logged and counted, never fatal."""
    error = context.get("exception")
    log.error(
        str(context.get("message", "unhandled")),
        exc_info=error if isinstance(error, BaseException) else None,
        extra={"loop": "asyncio"},
    )
    gateway.telemetry.count("loop.faults")
