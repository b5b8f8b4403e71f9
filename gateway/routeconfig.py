"""What a route is: which requests it takes, and what they get that ask for nothing themselves.

Frozen structs and their defaults; the checks that span fields, and the rest of `gateway.yaml`, are config.py's.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from policies.config import PolicyConfig
from policies.request import Infeasible

PositiveMs = Annotated[float, Meta(gt=0, le=86_400_000)]
PositiveS = Annotated[float, Meta(gt=0, le=86_400)]
Pattern = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9._*?-]+\Z", max_length=64)]
"""A region name or shell-style pattern, with the characters `x-allow-regions` takes."""
DEFAULT, UNKNOWN = "default", "unknown"
"""The rows of `by_country` for other countries than those named, and for clients whose country nobody knows."""
Country = Annotated[str, Meta(pattern=r"\A([A-Z]{2}|default|unknown)\Z")]
Glob = Annotated[str, Meta(min_length=1, max_length=128)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of the file: immutable, and strict about names."""


class Match(Section, frozen=True):
    model: Glob = "*"


class Deadline(Section, frozen=True):
    """What a request gets that asks for nothing itself. Without any of them it is patient."""

    total_ms: PositiveMs | None = None
    ttft_ms: PositiveMs | None = None
    tpot_ms: PositiveMs | None = None
    probability: float = 0.95
    """One of `CLASSES`."""


class Quality(Section, frozen=True):
    """Relative to the reference variant (1.0)."""

    want: Annotated[float, Meta(ge=0, le=2)] = 0.0
    """Preferred while some node can make the deadline with it."""
    min: Annotated[float, Meta(ge=0, le=2)] = 0.0
    """Never below this."""


class Regions(Section, frozen=True):
    """Where a route's requests may run. `allow`, the client's key and header, and its country's row must all agree."""

    allow: tuple[Pattern, ...] = ()
    by_country: dict[Country, Annotated[tuple[Pattern, ...], Meta(min_length=1)]] = {}
    """ISO 3166 country of the client, `default` for every other country, `unknown` for a client nobody can place."""
    residency: Literal["strict", "known"] = "strict"
    """`strict` refuses a client that no row speaks of (fail closed); `default` does not speak of the unknown, who may
    be from any country. `known` binds those whose country has a row; `default`, else `allow`, is for all others."""


class Cost(Section, frozen=True):
    """What is weighed beside the nodes' own prices, by their power and their region's electricity."""

    carbon_usd_per_kg: Annotated[float, Meta(ge=0, le=1e3)] = 0.0
    energy_usd_per_kwh: Annotated[float, Meta(ge=0, le=1e3)] = 0.0


class RouteConfig(Section, frozen=True):
    match: Match = Match()
    policy: str | PolicyConfig = "cheapest_in_deadline"
    """A preset, a name under `policies:`, or a policy written out."""
    shadow: str | None = None
    """A policy that is asked what it would do and decides nothing: a preset, or a name under `policies:`."""
    shadow_share: Annotated[float, Meta(gt=0, le=1)] = 0.1
    """Share of the requests it is asked about; each costs about what a decision costs."""
    deadline: Deadline = Deadline()
    quality: Quality = Quality()
    cost: Cost = Cost()
    regions: Regions = Regions()
    when_infeasible: Annotated[tuple[Infeasible, ...], Meta(min_length=1)] = (
        Infeasible.DEGRADE,
        Infeasible.BEST_EFFORT,
    )
    patience_s: PositiveS = 60.0
    """Longest predicted wait that a request without any deadline is sent behind."""
    max_wait_s: Annotated[float, Meta(ge=0, le=86_400)] | None = None
    """Longest a request may be held (`hold`), from its first byte; without it, while its deadline can still be met. Of
    this and the client's `x-max-wait-ms` the shorter counts."""
    affinity: Literal["declared", "prefix"] = "declared"
    """Which requests belong on one node, price and deadline permitting: those with the same `x-session-id`,
    `prompt_cache_key` or `user`; with `prefix` also those without any whose prompts begin alike."""
    pure: bool = True
    """Whether an attempt that may have been executed may be repeated elsewhere."""
    output_tokens: Annotated[float, Meta(ge=0, le=1e6)] = 200.0
    """Answer length expected of a request that says nothing: the mean of the 12,910 conversation answers in Azure's
    2023 inference trace is 202 tokens."""
