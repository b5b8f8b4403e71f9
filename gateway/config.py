"""`gateway.yaml`: frozen structs, their defaults, and the checks that span fields.

Whoever holds a `GatewayConfig` from `load` or `check` holds one that makes sense as a whole. Every default is safe on
loopback. Reading the file and finding the line of a mistake is `configfile.py`'s.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import importlib.resources
import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta, field

from gateway import configfile
from gateway.configfile import ConfigError as ConfigError  # what `load` and `check` raise
from gateway.routeconfig import UNKNOWN, Glob, Pattern, PositiveS, RouteConfig, Section
from policies.addresses import allowed_address
from policies.config import PolicyConfig
from policies.estimate import CLASSES
from policies.health import HealthConfig
from policies.records import Id
from policies.request import Infeasible

Port = Annotated[int, Meta(ge=0, le=65535)]
Bytes = Annotated[int, Meta(ge=1, le=2**31)]
Grams = Annotated[float, Meta(ge=0, le=5000)]
EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104 (compared with, not bound to)
"""Hosts that mean every address of this machine."""


class Listen(Section, frozen=True):
    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Port = 8080
    """0 lets the system choose; the ready line says which."""
    grpc_port: Port | None = None
    """Where the Open Inference Protocol is spoken over gRPC; None for nowhere."""


class Control(Section, frozen=True):
    """Where operators are listened to."""

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Port = 8081


class ClientKey(Section, frozen=True):
    """A client's key, as `isochrone keys new client` prints it. The secret itself is nowhere in the file."""

    id: Id
    hash: Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    """HMAC-SHA256 of the secret, in hexadecimal."""
    tenant: str = ""
    """Whose work and bill it is; the key's id when empty."""
    models: tuple[Glob, ...] = ("*",)
    priorities: tuple[Glob, ...] = ("*",)
    regions: tuple[Pattern, ...] = ()
    """Where its requests may run; empty for anywhere the route allows."""


class AdminKey(Section, frozen=True):
    id: Id
    hash: Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class WorkerKey(Section, frozen=True):
    """An Ed25519 public key and what its holder may register."""

    id: Id
    public_key: str
    """Base64 of the 32 raw bytes."""
    workers: tuple[Glob, ...] = ("*",)
    regions: tuple[Glob, ...] = ("*",)
    models: tuple[Glob, ...] = ("*",)
    addresses: tuple[str, ...] = ()
    """Where its workers may listen: CIDR ranges, each perhaps with a port (`10.1.2.0/24:9000`). Empty for any address
    or name, link-local ones excepted: then whoever holds the key says where prompts are sent."""


class AuthConfig(Section, frozen=True):
    pepper: str = ""
    """Key of the hashes, so that a copied file alone does not let anybody test guesses. Secrets are 256 random bits,
    so that none is needed against guessing."""
    clients: tuple[ClientKey, ...] = ()
    admins: tuple[AdminKey, ...] = ()


class Tenant(Section, frozen=True):
    weight: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    """Its share beside the others', while there is not enough for all."""


class RegistryConfig(Section, frozen=True):
    keys: tuple[WorkerKey, ...] = ()
    """Who may register workers. Without any, unsigned records pass, which `check` allows on loopback only."""


class GeoConfig(Section, frozen=True):
    path: Annotated[str, Meta(min_length=1)]
    """A MaxMind database (country or city), or one of the ip-location-db project. Swapped in when the file changes."""
    max_age_s: Annotated[float, Meta(gt=0)] | None = None
    """A database built longer ago than this says nothing any more."""


class Site(Section, frozen=True):
    """A gateway clients may be steered to."""

    url: Annotated[str, Meta(pattern=r"\Ahttps?://[!-~]+\Z", max_length=512)]
    latitude: Annotated[float, Meta(ge=-90, le=90)]
    longitude: Annotated[float, Meta(ge=-180, le=180)]


class ProbesConfig(Section, frozen=True):
    interval_s: PositiveS = 1.0


class Limits(Section, frozen=True):
    """What one connection or request may take."""

    head_bytes: Bytes = 32 * 1024
    header_count: Annotated[int, Meta(ge=1, le=10_000)] = 100
    header_bytes: Bytes = 8 * 1024
    url_bytes: Bytes = 8 * 1024
    body_bytes: Bytes = 16 * 1024 * 1024
    pipelined: Annotated[int, Meta(ge=1, le=10_000)] = 100
    header_timeout_s: PositiveS = 10.0
    idle_s: PositiveS = 60.0
    body_bytes_per_s: Bytes = 1024
    """A body that arrives more slowly ends the connection."""
    write_stall_s: PositiveS = 30.0
    """A client that takes nothing for this long is gone."""
    reply_buffer_bytes: Bytes = 1024 * 1024
    """Of a unary answer, kept before its first byte is sent, so that a lost worker can still be replaced."""
    connections: Annotated[int, Meta(ge=1, le=10_000_000)] = 10_000


class Upstream(Section, frozen=True):
    source_address: str | None = None
    """Local address of connections to workers."""
    connect_timeout_s: PositiveS = 0.3
    idle_s: PositiveS = 60.0
    """Shorter than the workers' own 75 s, so that a request rarely meets a connection being closed."""
    max_connections: Annotated[int, Meta(ge=1, le=100_000)] = 256
    """Per worker."""


class DecisionLogConfig(Section, frozen=True):
    """A sampled log of decisions, for `isochrone simulate --replay`. No bodies, no prompts, no keys."""

    path: Annotated[str, Meta(min_length=1)]
    """Its older files stand beside it as `path.1`, `path.2`, ..."""
    sample: Annotated[float, Meta(gt=0, le=1)] = 0.1
    """Share of the requests that are written down, about 500 bytes each."""
    max_bytes: Annotated[int, Meta(ge=64 * 1024, le=2**40)] = 64 * 1024 * 1024
    keep: Annotated[int, Meta(ge=0, le=1000)] = 4
    """Older files kept: with the defaults the log never takes more than 320 MiB."""
    tenants: Literal["hashed", "plain", "none"] = "hashed"
    """How a record names its tenant; `hashed` is keyed with `auth.pepper`, without which names can be guessed."""


class GatewayConfig(Section, frozen=True):
    id: Id = "gateway"
    region: Id = "local"
    listen: Listen = Listen()
    control: Control = Control()
    redis: str | None = None
    """One registry for all regions."""
    registries: dict[Id, str] = field(default_factory=dict)
    """Region -> URL of its own registry."""
    auth: AuthConfig = AuthConfig()
    tenants: dict[Glob, Tenant] = field(default_factory=dict)
    """By the name that client keys give; those not named have the defaults."""
    registry: RegistryConfig = RegistryConfig()
    routes: tuple[RouteConfig, ...] = (RouteConfig(),)
    """The first that matches a request's model is its route."""
    policies: dict[Id, PolicyConfig] = field(default_factory=dict)
    carbon_g_per_kwh: dict[Pattern, Grams] = field(default_factory=dict)
    """Region -> grams of CO2 per kilowatt-hour, for workers whose record does not say; the first that matches."""
    geoip: GeoConfig | None = None
    regions: dict[Id, Site] = field(default_factory=dict)
    """Region -> the gateway there, for steering."""
    probes: ProbesConfig = ProbesConfig()
    health: HealthConfig = HealthConfig()
    """When a worker is taken out, and how it comes back."""
    limits: Limits = Limits()
    upstream: Upstream = Upstream()
    snapshot: Annotated[str, Meta(min_length=1)] | None = None
    """File that keeps the last known fleet for a cold start without a registry."""
    decision_log: DecisionLogConfig | None = None
    decision_headers: Literal["on_request", "always", "never"] = "on_request"
    hosts: tuple[Annotated[str, Meta(pattern=r"\A[A-Za-z0-9.\[\]:-]+\Z", max_length=255)], ...] = ()
    """Values of `Host` this gateway answers for; empty for any."""
    deadline_from: Literal["edge", "client"] = "edge"
    """Where deadlines count: at this gateway, or at the client, whose round trip is then taken off."""
    trusted_peers: tuple[str, ...] = ()
    """CIDR ranges of proxies whose `X-Forwarded-For` or `Forwarded` is believed."""


def load(path: Path) -> GatewayConfig:
    """Read and check a file. Raises `ConfigError`: of every mistake, where it is and what would be right."""
    config, place = configfile.read(path, GatewayConfig)
    try:
        check(config)
    except ConfigError as error:
        raise place(error) from None
    return config


def presets() -> dict[str, PolicyConfig]:
    """The policies shipped in `policies/presets/`, by name."""
    found = {}
    for entry in importlib.resources.files("policies").joinpath("presets").iterdir():
        name, dot, kind = entry.name.rpartition(".")
        if dot and kind == "yaml":
            found[name] = configfile.parse(entry.read_text("utf-8"), f"presets/{entry.name}", PolicyConfig)[0]
    return dict(sorted(found.items()))


def check(config: GatewayConfig) -> None:
    """Refuse what each field alone allows but together makes no sense, or is not safe. Raises `ConfigError`."""
    found = [
        *_exposed(config),
        *_listening(config),
        *_bad_keys(config),
        *_bad_routes(config),
        *_bad_networks(config),
    ]
    if found:
        raise configfile.joined(found)


def notes(config: GatewayConfig) -> list[str]:
    """What is allowed and yet may not do what its author expects, a sentence each."""
    found = [
        f"$.routes[{index}].regions.by_country: no client's country is known without `geoip`: give one, or a row "
        f"`unknown`; else every request is refused"
        for index, route in enumerate(config.routes)
        if config.geoip is None and route.regions.by_country and route.regions.residency == "strict"
        and UNKNOWN not in route.regions.by_country
    ]  # fmt: skip
    found += [
        f"$.routes[{index}].when_infeasible: nothing after `reject` is ever done: move it to the end"
        for index, route in enumerate(config.routes)
        if Infeasible.REJECT in route.when_infeasible[:-1]
    ]
    tenants = {key.tenant or key.id for key in config.auth.clients}
    return found + [f"$.tenants.{name}: no client key is of this tenant" for name in config.tenants.keys() - tenants]


def loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


Faults = Iterator[ConfigError]


def _exposed(config: GatewayConfig) -> Faults:
    if not loopback(config.listen.host) and not config.auth.clients:
        yield ConfigError("$.listen.host", "open only on loopback: add `auth.clients`, or listen on 127.0.0.1")
    if not loopback(config.control.host) and not config.auth.admins:
        yield ConfigError("$.control.host", "open only on loopback: add `auth.admins`, or listen on 127.0.0.1")
    if config.redis is not None and config.registries:
        yield ConfigError("$.registries", "give either `redis` or `registries`, not both")
    urls = {f"$.registries.{region}": url for region, url in config.registries.items()}
    if config.redis is not None:
        urls["$.redis"] = config.redis
    for path, url in urls.items():
        yield from _bad_redis(path, url, signed=bool(config.registry.keys))


def _bad_redis(path: str, url: str, *, signed: bool) -> Faults:
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss", "unix"):
        yield ConfigError(path, "not a Redis URL: write redis://HOST:PORT/0, rediss:// or unix://PATH")
    elif not signed and parts.scheme != "unix" and not loopback(parts.hostname or "localhost"):
        yield ConfigError(path, "unsigned workers only with Redis on loopback: add `registry.keys`")


def _listening(config: GatewayConfig) -> Faults:
    clients, operators = config.listen, config.control
    same = clients.host == operators.host or not {clients.host, operators.host}.isdisjoint(EVERYWHERE)
    if clients.port == operators.port != 0 and same:
        yield ConfigError("$.control.port", f"clients have port {clients.port} already (`listen`): take another, or 0")
    taken = [clients.port, operators.port] if same else [clients.port]
    if clients.grpc_port and clients.grpc_port in taken:
        yield ConfigError("$.listen.grpc_port", f"port {clients.grpc_port} is HTTP's already: take another, or 0")


def _bad_keys(config: GatewayConfig) -> Faults:
    for path, ids in (
        ("$.auth.clients", [key.id for key in config.auth.clients]),
        ("$.auth.admins", [key.id for key in config.auth.admins]),
        ("$.registry.keys", [key.id for key in config.registry.keys]),
    ):
        for index, name in enumerate(ids):
            if name in ids[:index]:
                yield ConfigError(f"{path}[{index}].id", "another key has this id: give each its own")
    for index, key in enumerate(config.registry.keys):
        try:
            size = len(base64.b64decode(key.public_key, validate=True))
        except (binascii.Error, ValueError):
            size = 0
        if size != 32:
            yield ConfigError(f"$.registry.keys[{index}].public_key", "not an Ed25519 key: base64 of 32 bytes")
        for place, rule in enumerate(key.addresses):
            try:
                allowed_address(rule)
            except ValueError as error:
                fix = "write a CIDR range such as 10.0.0.0/8 or 10.1.2.0/24:9000"
                yield ConfigError(f"$.registry.keys[{index}].addresses[{place}]", f"{error}: {fix}")


def _bad_routes(config: GatewayConfig) -> Faults:
    if not config.routes:
        yield ConfigError("$.routes", "no route, so that no request could be served: leave it out for the default")
    shipped = presets()
    for name in config.policies:
        if name in shipped:
            yield ConfigError(f"$.policies.{name}", "a preset has this name: choose another")
    known = [*shipped, *config.policies]
    patterns: list[str] = []
    for index, route in enumerate(config.routes):
        path = f"$.routes[{index}]"
        if isinstance(route.policy, str) and route.policy not in known:
            yield ConfigError(
                f"{path}.policy", f"no policy {route.policy!r}: {configfile.suggest(route.policy, known)}"
            )
        if route.shadow is not None and route.shadow not in known:
            yield ConfigError(
                f"{path}.shadow", f"no policy {route.shadow!r}: {configfile.suggest(route.shadow, known)}"
            )
        hidden = next((earlier for earlier in patterns if fnmatch.fnmatchcase(route.match.model, earlier)), None)
        if hidden is not None:
            yield ConfigError(f"{path}.match.model", f"never reached, {hidden!r} above takes it: move it up")
        patterns.append(route.match.model)
        if route.deadline.probability not in CLASSES:
            classes = ", ".join(map(str, CLASSES))
            yield ConfigError(f"{path}.deadline.probability", f"not a known class: write one of {classes}")
        quality = route.quality
        if 0 < quality.want < quality.min:
            fix = "raise it, or leave it out"
            yield ConfigError(f"{path}.quality.want", f"{quality.want:g} is below `min` ({quality.min:g}): {fix}")


def _bad_networks(config: GatewayConfig) -> Faults:
    for index, network in enumerate(config.trusted_peers):
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            yield ConfigError(f"$.trusted_peers[{index}]", f"{error}: write a CIDR range such as 10.0.0.0/8")
    if config.upstream.source_address is not None:
        try:
            ipaddress.ip_address(config.upstream.source_address)
        except ValueError as error:
            yield ConfigError("$.upstream.source_address", str(error))
