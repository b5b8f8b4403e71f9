"""`isochrone worker`: the options of `serve` and `attach`, nothing else.

Options become the frozen structs of config.py; app.py does the work and is imported only when a command runs. Exit
status: 0 after a drain, 1 for a fault, 2 for options that cannot be used.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from workers.config import Placement

DECODE_TPS = 50.0
PREFILL_TPS = 5000.0
"""What an 8B model in bf16 does on one current datacentre GPU for a single stream, rounded down: a guess to start
from. Gateways correct it by what they measure."""
MAX_BATCH = 256
"""vLLM's own default for concurrent sequences."""


@click.group()
def worker() -> None:
    """Serve models, or register an engine that already does."""


def placed(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options both commands share: where a worker stands, what it costs, how it registers."""
    options = [
        click.option("--region", default="local", show_default=True, help="Region it stands in."),
        click.option("--zone", default="", help="Zone inside the region."),
        click.option("--cloud", default="", help="Cloud or owner."),
        click.option("--id", "worker_id", default="", help="Stable name in the registry.  [default: HOST-PORT]"),
        click.option(
            "--price-hour",
            type=click.FloatRange(0),
            default=None,
            help="US dollars per accelerator hour.  [default: 0]",
        ),
        click.option("--reserved", is_flag=True, help="--price-hour is paid, used or not."),
        click.option("--egress-gb", type=click.FloatRange(0), default=0.0, help="US dollars per gigabyte sent."),
        click.option("--accelerator", default="", help="What it runs on, free text."),
        click.option(
            "--power-watts", type=click.FloatRange(0), default=0.0, help="What the accelerator draws under load."
        ),
        click.option("--carbon-g-per-kwh", type=click.FloatRange(0), default=None, help="CO2 of its electricity."),
        click.option("--advertise", default="", metavar="HOST:PORT", help="Where gateways reach it."),
        click.option("--advertise-grpc", default="", metavar="HOST:PORT", help="Where gateways reach it by gRPC."),
        click.option("--redis", default="", metavar="URL", help="Registry."),
        click.option("--key", type=click.Path(path_type=Path), default=None, help="Signing key: ID.pem."),
        click.option("-v", "--verbose", is_flag=True, help="Log what happens, not only what is wrong."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@worker.command()
@click.option("--model", "models", multiple=True, help="Bundled model: digits, fraud, minilm, tinychat. Repeatable.")
@click.option("--manifest", "manifests", multiple=True, type=click.Path(path_type=Path), help="Manifest of a model.")
@click.option("--variants", default="", metavar="A,B", help="Variants to serve, the default first.  [default: all]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port; 0 picks a free one.")
@click.option("--grpc-port", type=click.IntRange(0, 65535), default=None, help="Speak gRPC too, there; 0: a free port.")
@click.option("--queue-limit", type=click.IntRange(1), default=None, help="Jobs that may wait.  [default: 256]")
@click.option(
    "--batching", default="slack", show_default=True, help="none, fixed_window:MS, fixed_delay:MS: to compare."
)
@click.option("--drain-seconds", type=click.FloatRange(0), default=None, help="Longest drain.  [default: 30]")
@click.option("--device", default="cpu", show_default=True, help="cpu, or an NVIDIA device by place or UUID.")
@click.option(
    "--memory-gb", type=click.FloatRange(0, min_open=True), default=None, help="Of it.  [default: what is free]"
)
@click.option(
    "--weight", "weights", multiple=True, metavar="VARIANT=N", help="Its share beside the others.  [default: 1]"
)
@click.option(
    "--onnx", "providers", multiple=True, type=click.Choice(["cuda", "tensorrt"]), help="On it.  [default: cuda]"
)
@placed
def serve(
    models: tuple[str, ...],
    manifests: tuple[Path, ...],
    variants: str,
    host: str,
    port: int,
    grpc_port: int | None,
    queue_limit: int | None,
    batching: str,
    device: str,
    memory_gb: float | None,
    weights: tuple[str, ...],
    providers: tuple[str, ...],
    drain_seconds: float | None,
    verbose: bool,
    **place: Any,
) -> None:
    """Serve accelerated variants of models, and register them."""
    from workers import app, config

    def start() -> Any:
        settings = config.ServeConfig(
            placement=placement(place),
            models=models,
            manifests=manifests,
            variants=tuple(name for name in variants.split(",") if name),
            host=host,
            port=port,
            grpc_port=grpc_port,
            batching=config.batching(batching),
            device=device,
            memory_gb=memory_gb,
            weights=tuple(config.weighed(weight) for weight in weights),
            providers=providers or ("cuda",),
            queue_limit=config.QUEUE_LIMIT if queue_limit is None else queue_limit,
            drain_seconds=config.DRAIN_SECONDS if drain_seconds is None else drain_seconds,
        )
        return app.serve(settings, announce)

    run(start, verbose)


@worker.command()
@click.argument("url")
@click.option(
    "--engine", required=True, metavar="NAME", help="Which: openai is anything with that API; a wrong name lists all."
)
@click.option("--model", "models", multiple=True, metavar="NAME[=SERVED_NAME]", help="Default: what the engine lists.")
@click.option("--variant", default="default", show_default=True, help="Name of this build of the model.")
@click.option(
    "--quality", type=click.FloatRange(0), default=1.0, show_default=True, help="Relative to the reference variant."
)
@click.option("--price-in", type=click.FloatRange(0), default=None, help="US dollars per million prompt tokens.")
@click.option("--price-out", type=click.FloatRange(0), default=None, help="US dollars per million output tokens.")
@click.option("--prefill-tps", type=float, default=PREFILL_TPS, show_default=True, help="Prompt tokens a second.")
@click.option("--decode-tps", type=float, default=DECODE_TPS, show_default=True, help="Tokens a second, one stream.")
@click.option(
    "--max-batch", type=click.IntRange(1), default=MAX_BATCH, show_default=True, help="Requests it works on at once."
)
@click.option("--metrics-url", default="", metavar="URL", help="Its metrics page, where it is not in its usual place.")
@click.option("--proxy", is_flag=True, help="Stand in its path: count, drop what expires, tell times and load.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address the proxy listens on.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port of the proxy; 0 picks a free one.")
@placed
def attach(
    url: str,
    engine: str,
    models: tuple[str, ...],
    variant: str,
    quality: float,
    price_in: float | None,
    price_out: float | None,
    prefill_tps: float,
    decode_tps: float,
    max_batch: int,
    metrics_url: str,
    proxy: bool,
    host: str,
    port: int,
    verbose: bool,
    **place: Any,
) -> None:
    """Register the engine at URL unchanged, and keep its lease while it is healthy."""
    from workers import app, config
    from workers.attach import ENGINES

    if engine not in ENGINES:
        raise click.BadParameter(f"unknown: choose among {', '.join(ENGINES)}", param_hint="--engine")

    def start() -> Any:
        settings = config.AttachConfig(
            placement=placement(place, price_in, price_out),
            url=url,
            engine=engine,
            models=tuple(config.named(model) for model in models),
            variant=variant,
            quality=quality,
            prefill_tps=prefill_tps,
            decode_tps=decode_tps,
            max_batch=max_batch,
            metrics_url=metrics_url,
            proxy=proxy,
            host=host,
            port=port,
        )
        return app.attach(settings, announce)

    run(start, verbose)


@worker.command()
@click.argument("url")
@click.option("--engine", required=True, metavar="NAME", help="As attach takes it.")
@click.option("--model", default="", help="The engine's name of the model to ask.  [default: the first it lists]")
@click.option("--metrics-url", default="", metavar="URL", help="Its metrics page, where it is not in its usual place.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def conformance(url: str, engine: str, model: str, metrics_url: str, as_json: bool) -> None:
    """Check that the engine at URL shows and answers what attach needs: exit status 1 where it does not."""
    from workers import app
    from workers.attach import ENGINES
    from workers.attach.conformance import Verdict
    from workers.config import ConfigError

    if engine not in ENGINES:
        raise click.BadParameter(f"unknown: choose among {', '.join(ENGINES)}", param_hint="--engine")
    try:
        rows = asyncio.run(app.conformance(url, engine, model, metrics_url))
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        click.echo(json.dumps([{"check": row.check, "verdict": row.verdict.value, "found": row.found} for row in rows]))
    else:
        for row in rows:
            click.echo(f"{row.check:12} {row.verdict.value:6} {row.found}")
    if any(row.verdict is Verdict.FAILS for row in rows):
        raise SystemExit(1)


@worker.command()
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def devices(as_json: bool) -> None:
    """List this machine's NVIDIA devices, as --device of serve takes them: cards, and MIG instances by themselves."""
    from workers.devices import devices as found
    from workers.devices import load_nvml, row

    nvml = load_nvml()
    if nvml is None:
        raise click.ClickException("no NVIDIA driver answers here: install nvidia-ml-py, or serve with --device cpu")
    rows = [row(place, device) for place, device in enumerate(found(nvml))]
    if as_json:
        click.echo(json.dumps(rows))
        return
    for each in rows:
        click.echo("  ".join(str(value) for value in each.values() if value is not None))


def placement(place: dict[str, Any], price_in: float | None = None, price_out: float | None = None) -> Placement:
    """The shared options as config.py takes them."""
    from workers import config

    return config.Placement(
        id=place.pop("worker_id"),
        price=config.price(place.pop("price_hour"), price_in, price_out, reserved=place.pop("reserved")),
        redis=config.registry(place.pop("redis")),
        egress_usd_per_gb=place.pop("egress_gb"),
        **place,
    )


def announce(line: str) -> None:
    """The ready line: the only thing on stdout, and at once even through a pipe."""
    click.echo(line)


def run(start: Callable[[], Any], verbose: bool) -> None:
    """Run a command's coroutine on uvloop, options that cannot be used being the user's errors."""
    import uvloop

    from workers.config import ConfigError
    from workers.manifest import ManifestError

    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format=form)
    try:
        uvloop.run(start())
    except (ConfigError, ManifestError) as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        hint = ": choose another with --port" if error.errno == errno.EADDRINUSE else ""
        raise click.ClickException(f"{error}{hint}") from error
