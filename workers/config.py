"""What the two worker commands are told, checked once at start.

Frozen values only; app.py builds everything from them. Every problem is a `ConfigError` whose text names the option
and the fix. The registry's own rules (ids, ranges) are policies/records.py's and are checked against it here.
"""

from __future__ import annotations

import math
import re
import socket
from pathlib import Path

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from policies.records import Curve, Endpoint, MarginalPrice, Price, ReservedPrice, Sign, TokenPrice, Worker
from workers.forming import Batching, Slack

QUEUE_LIMIT = 256
"""Jobs that may wait: about two seconds of work for the slowest bundled model, more would only time out."""
DRAIN_SECONDS = 30.0
"""Longest wait for requests in flight at shutdown; container platforms kill after 30 s."""
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
REDIS_SCHEMES = ("redis", "rediss", "unix")
ANY_ADDRESS = ("0.0.0.0", "[::]")  # noqa: S104 - compared with, not bound to


class ConfigError(Exception):
    """An option that cannot be used."""


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Where a worker stands and what it costs: what both commands share."""

    region: str
    zone: str = ""
    cloud: str = ""
    id: str = ""
    """Empty: host name and port."""
    price: Price = MarginalPrice(usd_per_hour=0.0)
    egress_usd_per_gb: float = 0.0
    accelerator: str = ""
    power_watts: float = 0.0
    carbon_g_per_kwh: float | None = None
    advertise: str = ""
    """HOST:PORT where gateways reach it, when that is not where it listens."""
    advertise_grpc: str = ""
    """HOST:PORT where gateways reach its gRPC side, likewise; of an attached engine, where that has one at all."""
    redis: str = ""
    """Empty: serve without registering."""
    key: Path | None = None


class ServeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`isochrone worker serve`."""

    placement: Placement
    models: tuple[str, ...] = ()
    manifests: tuple[Path, ...] = ()
    variants: tuple[str, ...] = ()
    """Empty: all that the manifests have, in their order."""
    host: str = "127.0.0.1"
    port: int = 0
    grpc_port: int | None = None
    """None: no gRPC."""
    queue_limit: int = QUEUE_LIMIT
    batching: Batching = Slack()
    device: str = "cpu"
    """`cpu`, or an NVIDIA device: its place among this machine's, or its UUID (MIG instances have their own)."""
    memory_gb: float | None = None
    """Of the device, for this worker; None: all that is free but some headroom."""
    weights: tuple[tuple[str, float], ...] = ()
    """Pairs of a variant and how much of the device it is to have beside the others; 1 where none is given."""
    providers: tuple[str, ...] = ("cuda",)
    """ONNX Runtime's, on a device, where it has them: `cuda`, `tensorrt`."""
    drain_seconds: float = DRAIN_SECONDS


class AttachConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`isochrone worker attach`."""

    placement: Placement
    url: str
    engine: str
    models: tuple[tuple[str, str], ...] = ()
    """Pairs of the clients' name and the engine's name; empty: what the engine lists."""
    variant: str = "default"
    quality: float = 1.0
    prefill_tps: float
    decode_tps: float
    max_batch: int
    metrics_url: str = ""
    """Empty: where such an engine has its page by default."""
    proxy: bool = False
    host: str = "127.0.0.1"
    port: int = 0
    """Where the proxy listens."""


def price(
    hour: float | None, per_mtok_in: float | None, per_mtok_out: float | None, *, reserved: bool = False
) -> Price:
    """The price model that the options mean."""
    if reserved and hour is None:
        raise ConfigError("--reserved says that --price-hour is paid already: give the price")
    if per_mtok_in is None and per_mtok_out is None:
        return ReservedPrice(hour) if reserved and hour is not None else MarginalPrice(usd_per_hour=hour or 0.0)
    if hour is not None:
        raise ConfigError("--price-hour and --price-in/--price-out exclude each other: give one of the two")
    return TokenPrice(input_usd_per_mtok=per_mtok_in or 0.0, output_usd_per_mtok=per_mtok_out or 0.0)


def batching(rule: str) -> Batching:
    """`slack`, `none`, `fixed_window:MS` or `fixed_delay:MS`, as --batching takes it."""
    kind, colon, ms = rule.partition(":")
    try:
        fields = {"kind": kind} | ({"ms": float(ms)} if colon else {})
        return msgspec.convert(fields, Batching)
    except (ValueError, msgspec.ValidationError) as error:
        raise ConfigError(f"--batching {rule}: {error}: give slack, none, fixed_window:MS or fixed_delay:MS") from error


def named(model: str) -> tuple[str, str]:
    """`NAME` or `NAME=SERVED_NAME`, as --model takes it."""
    name, _, served = model.partition("=")
    return name, served or name


def weighed(weight: str) -> tuple[str, float]:
    """`VARIANT=WEIGHT`, as --weight takes it."""
    name, _, number = weight.partition("=")
    try:
        value = float(number)
    except ValueError:
        value = 0.0
    if not name or not 0 < value < math.inf:
        raise ConfigError(f"--weight {weight}: give VARIANT=WEIGHT, the weight a number above 0, as in int8=2")
    return name, value


def registry(url: str) -> str:
    """A Redis URL as --redis takes it; empty means none. Raises ConfigError."""
    if url and url.partition("://")[0] not in REDIS_SCHEMES:
        raise ConfigError(f"--redis {url}: not a Redis URL: write redis://HOST:PORT/0, rediss:// or unix://PATH")
    return url


def guessed_curve(prefill_tps: float, decode_tps: float) -> Curve:
    """A curve from two speeds, for engines that nobody has measured yet."""
    if prefill_tps <= 0 or decode_tps <= 0:
        raise ConfigError("--prefill-tps and --decode-tps must be above 0: tokens per second")
    return Curve(base=0.0, prefill=1 / prefill_tps, decode=1 / decode_tps)


def record(
    placement: Placement,
    *,
    boot: str,
    address: str,
    endpoints: tuple[Endpoint, ...],
    grpc_address: str | None = None,
    engine: str = "isochrone",
    health_path: str = "/healthz",
    variant_header: bool = True,
) -> Worker:
    """The static record, checked against the registry's schema before anyone else has to."""
    if not placement.advertise and placement.redis and address.rpartition(":")[0] in ANY_ADDRESS:
        raise ConfigError(f"{address} is no address a gateway can reach: give --advertise HOST:PORT")
    worker = Worker(
        id=placement.id or default_id(address),
        boot=boot,
        seq=0,
        address=placement.advertise or address,
        grpc_address=placement.advertise_grpc or _beside(placement.advertise, grpc_address),
        region=placement.region,
        zone=placement.zone,
        cloud=placement.cloud,
        accelerator=placement.accelerator,
        power_watts=placement.power_watts,
        carbon_g_per_kwh=placement.carbon_g_per_kwh,
        price=placement.price,
        egress_usd_per_gb=placement.egress_usd_per_gb,
        engine=engine,
        health_path=health_path,
        variant_header=variant_header,
        endpoints=endpoints,
    )
    try:
        return msgspec.convert(msgspec.to_builtins(worker), Worker)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the registry would refuse this worker: {error}") from error


def _beside(advertised: str, grpc_address: str | None) -> str | None:
    """The gRPC address as gateways reach it: its own port, on the host that the worker advertises, if it does."""
    if grpc_address is None or not advertised:
        return grpc_address
    return f"{advertised.rpartition(':')[0]}:{grpc_address.rpartition(':')[2]}"


def default_id(address: str) -> str:
    """Host and port, this machine's name for its own addresses: stable over restarts, distinct in a fleet."""
    host, _, port = address.rpartition(":")
    name = f"{socket.gethostname() if host in (*LOOPBACK, *ANY_ADDRESS) else host}-{port}"
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)[-64:].lstrip("._-")


def load_key(path: Path) -> tuple[str, Sign]:
    """The signing key of an Ed25519 PEM file, and its id: the file's name without its ending."""
    hint = "make a key with `isochrone keys new worker`"
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"--key {path}: {error}: {hint}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"--key {path}: not an Ed25519 key: {hint}")
    return path.stem, key.sign
