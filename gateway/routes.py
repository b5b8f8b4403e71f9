"""Routes: which policy and defaults a model gets, and how headers, body, key and country become one `Request`.

Merging order is header, then body, then route. Constraints are different: of what the route, the key, the country and
the client allow, all must hold. Pure and free of sockets, because `/admin/explain` asks the same question.
"""

from __future__ import annotations

import fnmatch
import random

from msgspec.structs import replace

from gateway import config as configuration
from gateway.auth import Client
from gateway.body import Body, Kind, beginning
from gateway.config import GatewayConfig
from gateway.openai.headers import Asked
from gateway.routeconfig import DEFAULT, UNKNOWN, Regions, RouteConfig
from policies import cost
from policies.cost import Terms
from policies.fleet import Fleet
from policies.lengths import Length, Lengths
from policies.reason import Reason
from policies.records import Worker
from policies.request import ANY, INFINITE, Infeasible, Request, Selection, Shed, Sort
from policies.router import Policy
from policies.shadow import Shadow

CACHED_MODELS = 4096
"""Model names whose route is remembered. Clients choose the names, so the memory for them is bounded."""
CACHED_SELECTIONS = 4096
NO_TERMS = Terms()

FLEX, PRIORITY = "flex", "priority"
"""OpenAI's `service_tier` values that mean something here; the others ask for the default."""

Groups = tuple[tuple[str, ...], ...]


class _Route:
    """One route of the configuration, with its durations in seconds."""

    def __init__(self, config: RouteConfig, policy: str) -> None:
        self.config = config
        self.policy = policy
        deadline = config.deadline
        self.total = _seconds(deadline.total_ms)
        self.ttft = _seconds(deadline.ttft_ms)
        self.tpot = _seconds(deadline.tpot_ms)
        self.shadow: Shadow | None = None
        self.terms = Terms(config.cost.energy_usd_per_kwh, config.cost.carbon_usd_per_kg)


def _or_infinite(seconds: float | None) -> float:
    return INFINITE if seconds is None else seconds


def _seconds(milliseconds: float | None) -> float:
    return INFINITE if milliseconds is None else milliseconds / 1e3


class Plan:
    """What requests with the same head, client, country and model have in common; a body makes one of them."""

    __slots__ = (
        "_by_prefix",
        "_country",
        "_from_client",
        "_length",
        "_likeness",
        "_model",
        "_routes",
        "_tier",
        "_unlike",
    )

    def __init__(
        self,
        routes: Routes,
        likeness: Request,
        country: str | None,
        length: Length,
        from_client: bool,
        by_prefix: bool,
        body: Body,
    ) -> None:
        """`likeness` is a request that came at time 0; `length` is expected of an answer where nobody says. With
        `by_prefix`, prompts that begin alike belong together."""
        self._routes = routes
        self._likeness = likeness
        self._country = country
        self._length = length
        self._from_client = from_client
        self._by_prefix = by_prefix
        self._model = body.model
        self._tier = body.service_tier
        self._unlike = body.provider is not None or bool(body.variants)
        """Made for a body with constraints of its own, so for no other."""

    def suits(self, routes: Routes, body: Body, country: str | None) -> bool:
        """Whether these routes would make the same plan for another body under the same head."""
        return (
            routes is self._routes
            and body.model == self._model
            and body.service_tier == self._tier
            and country == self._country
            and not self._unlike
            and body.provider is None
            and not body.variants
        )

    def request(self, body: Body, request_id: str, arrived: float, client_rtt: float, raw: bytes = b"") -> Request:
        """Fill in what differs from request to request. `raw` is the body as it was sent."""
        likeness = self._likeness
        start = arrived - client_rtt if self._from_client else arrived
        tokens, deviation = _output(self._length, body) if body.kind.generates else (0.0, 0.0)
        affinity = likeness.affinity or body.affinity
        if self._by_prefix and not affinity and body.kind.generates:
            affinity = beginning(raw)
        return replace(
            likeness,
            id=request_id,
            arrived=arrived,
            deadline=start + likeness.deadline,
            first_token_deadline=start + likeness.first_token_deadline,
            prompt_tokens=body.prompt_tokens,
            output_tokens=tokens,
            output_deviation=deviation,
            items=body.items,
            reply_bytes=_reply_bytes(body, tokens),
            stream=body.stream,
            affinity=affinity,
        )

    def answered(self, body: Body, tokens: int) -> None:
        """The answer to a body had so many tokens, over all choices."""
        self._length.observe(tokens / (body.choices * body.items), body.max_tokens)


class Routes:
    """The routes of one configuration; a reload makes a new one."""

    def __init__(self, config: GatewayConfig) -> None:
        self._named = {**configuration.presets(), **config.policies}
        self._routes: list[_Route] = []
        for index, route in enumerate(config.routes):
            policy = route.policy
            if not isinstance(policy, str):
                inline = f"routes-{index}"
                self._named[inline], policy = policy, inline
            self._routes.append(_Route(route, policy))
        self._weights = {name: tenant.weight for name, tenant in config.tenants.items()}
        self._from_client = config.deadline_from == "client"
        self._carbon = config.carbon_g_per_kwh
        self._lengths = Lengths()
        self._by_model: dict[str, _Route | None] = {}
        self._selections: dict[tuple[Groups, tuple[str, ...], bool], Selection] = {}

    def adopt(self, earlier: Routes) -> None:
        """Keep what was learned under an earlier configuration."""
        self._lengths = earlier._lengths
        known = earlier.shadows()
        for key, shadow in self.shadows().items():
            if key in known and known[key].name == shadow.name:
                shadow.adopt(known[key])

    def policies(self) -> dict[str, Policy]:
        """Every policy that can be named, built: the presets, those of the configuration, those inside routes."""
        return {name: policy.build(self._weights) for name, policy in self._named.items()}

    def shadowed(self, fleet: Fleet, rng: random.Random) -> bool:
        """Make the routes' shadows; whether there are any."""
        for route in self._routes:
            name = route.config.shadow
            if name is not None:
                chance = random.Random(rng.random())  # noqa: S311 (its own: it moves nothing of the router's)
                route.shadow = Shadow(
                    name, self._named[name].build(self._weights), fleet, route.config.shadow_share, chance
                )
        return any(route.shadow is not None for route in self._routes)

    def shadow(self, model: str) -> Shadow | None:
        """The second policy of a model's route."""
        route = self._find(model)
        return None if route is None else route.shadow

    def shadows(self) -> dict[tuple[str, str], Shadow]:
        """By the pattern of their route, and its policy."""
        return {
            (route.config.match.model, route.policy): route.shadow for route in self._routes if route.shadow is not None
        }

    def extra(self, model: str, worker: Worker) -> float:
        """US dollars per accelerator second that a model's route counts beside a worker's price."""
        route = self._find(model)
        if route is None or route.terms == NO_TERMS:
            return 0.0
        return cost.drawn(worker, route.terms, self._grams(worker.region))

    def _grams(self, region: str) -> float | None:
        """Of CO2 per kilowatt-hour in a region, where the configuration says."""
        table = self._carbon.items()
        return next((grams for pattern, grams in table if fnmatch.fnmatchcase(region, pattern)), None)

    def pure(self, model: str) -> bool:
        """Whether an attempt that may have been executed may be repeated."""
        route = self._find(model)
        return route is None or route.config.pure

    def request(
        self,
        *,
        asked: Asked,
        body: Body,
        arrived: float,
        request_id: str,
        client: Client,
        country: str | None,
        client_rtt: float = 0.0,
        raw: bytes = b"",
    ) -> Request | Shed:
        """Merge everything known about one request. `arrived` is on the router's clock, `client_rtt` in seconds."""
        plan = self.plan(asked, body, client, country)
        return plan if isinstance(plan, Shed) else plan.request(body, request_id, arrived, client_rtt, raw)

    def plan(self, asked: Asked, body: Body, client: Client, country: str | None) -> Plan | Shed:
        """What holds for every request with these headers, from this client, for this model."""
        route = self._find(body.model)
        if route is None:
            return Shed(Reason.MODEL_NOT_FOUND, "No route of this gateway takes it.", "model")
        priority = asked.priority or (body.service_tier if body.service_tier in (FLEX, PRIORITY) else "")
        refused = _forbidden(client, body.model, priority, asked)
        if refused is not None:
            return refused
        selection = self._selection(route, asked, body, client, country)
        if isinstance(selection, Shed):
            return selection
        config, flex, provider = route.config, body.service_tier == FLEX, body.provider
        floor = max(config.quality.min, asked.min_quality or 0.0)  # a client may raise the owner's floor only
        likeness = Request(
            id="",
            model=body.model,
            policy=route.policy,
            arrived=0.0,
            deadline=_asked_or(asked.deadline, route.total, flex),
            first_token_deadline=_asked_or(asked.ttft, route.ttft, flex),
            token_interval=_asked_or(asked.tpot, route.tpot, flex),
            probability=asked.probability or config.deadline.probability,
            patience=config.patience_s,
            max_wait=min(_or_infinite(asked.max_wait), _or_infinite(config.max_wait_s)),
            quality=max(config.quality.want, floor),
            min_quality=floor,
            max_cost=INFINITE if asked.max_cost is None else asked.max_cost,
            selection=selection,
            order=provider.order if provider else (),
            allow_fallbacks=provider.allow_fallbacks if provider else True,
            sort=(provider.sort if provider else None) or (Sort.PRICE if flex else None),
            when_infeasible=_FALLBACKS[asked.when_infeasible] if asked.when_infeasible else config.when_infeasible,
            client_retries=asked.retry_count,
            priority=priority or "default",
            tenant=client.tenant or client.id,
            affinity=asked.affinity,
        )
        length = self._lengths.of(likeness.tenant, body.model, config.output_tokens)
        by_prefix = config.affinity == "prefix"
        return Plan(self, likeness, country, length, self._from_client, by_prefix, body)

    def _find(self, model: str) -> _Route | None:
        try:
            return self._by_model[model]
        except KeyError:
            found = next((r for r in self._routes if fnmatch.fnmatchcase(model, r.config.match.model)), None)
            if len(self._by_model) >= CACHED_MODELS:
                self._by_model.clear()
            self._by_model[model] = found
            return found

    def _selection(
        self, route: _Route, asked: Asked, body: Body, client: Client, country: str | None
    ) -> Selection | Shed:
        """Which nodes may serve it. Equal ones are one object, so that the fleet's cache finds them fast."""
        at_home = _residency(route.config.regions, country)
        if at_home is None:
            return Shed(Reason.REGION_LOCKED, _HOMELESS if country is None else _NO_HOME.format(country))
        regions = tuple(
            group for group in (route.config.regions.allow, client.regions, at_home, asked.regions) if group
        )
        provider = body.provider
        variants = body.variants or (provider.quantizations if provider else ())
        if not regions and not variants and provider is None and not body.grpc:
            return ANY
        key = (regions, variants, body.grpc)
        selection = self._selections.get(key)
        if selection is None:
            if len(self._selections) >= CACHED_SELECTIONS:
                self._selections.clear()
            selection = self._selections[key] = Selection(variants=variants, regions=regions, grpc=body.grpc)
        if provider is None:
            return selection
        return replace(
            selection,
            only=provider.only,
            ignore=provider.ignore,
            max_input_usd_per_mtok=provider.max_prompt,
            max_output_usd_per_mtok=provider.max_completion,
        )


_FALLBACKS = {
    # A header names the first thing to try. Only `reject` asks for a refusal, so the others end in an attempt.
    Infeasible.DEGRADE: (Infeasible.DEGRADE, Infeasible.BEST_EFFORT),
    Infeasible.HOLD: (Infeasible.HOLD, Infeasible.BEST_EFFORT),
    Infeasible.BEST_EFFORT: (Infeasible.BEST_EFFORT,),
    Infeasible.REJECT: (Infeasible.REJECT,),
}


def _forbidden(client: Client, model: str, priority: str, asked: Asked) -> Shed | None:
    if not client.may_use(model):
        return Shed(Reason.FORBIDDEN, "It does not cover this model.", "model")
    if priority and not client.may_claim(priority):
        param = "x-priority" if asked.priority else "service_tier"
        return Shed(Reason.FORBIDDEN, "It does not cover this priority class.", param)
    return None


_HOMELESS = "This model's data stay near its client, and nobody here can tell which country this client is in."
_NO_HOME = "This model's data stay near its client, and no region is allowed for clients in {}."


def _residency(regions: Regions, country: str | None) -> tuple[str, ...] | None:
    """The country's row: () when it binds nobody, None when the request must not run anywhere (fail closed)."""
    rows, strict = regions.by_country, regions.residency == "strict"
    if not rows:
        return ()
    if country is not None:
        row = rows.get(country) or rows.get(DEFAULT)
    else:
        row = rows.get(UNKNOWN) or (None if strict else rows.get(DEFAULT))
    return row if row is not None or strict else ()


def _asked_or(asked: float | None, default: float, flex: bool) -> float:
    """What the client asked for beats the route; `flex` gives up the route's deadlines, not the client's own."""
    if asked is not None:
        return asked
    return INFINITE if flex else default


# Sizes of answers, for egress and for time. Only their scale matters.

TEXT_BYTES_PER_TOKEN = 4.0
"""As in `openai/sizes.py`: English text."""
EVENT_BYTES = 220.0
"""One SSE event with one token: `data: `, ids, and some 200 bytes of JSON around it."""
ENVELOPE_BYTES = 600.0
"""Head and JSON of an answer without its content."""
VECTOR_BYTES = 8192.0
"""One embedding: 384 numbers in decimal, or 1,536 as base64 of float32; both are 8 KiB."""
ROW_BYTES = 512.0
"""One row of a tensor answer or of a ranking."""

_ITEM_BYTES = {Kind.EMBEDDING: VECTOR_BYTES, Kind.RERANK: ROW_BYTES, Kind.TENSOR: ROW_BYTES, Kind.OTHER: ROW_BYTES}


def _output(length: Length, body: Body) -> tuple[float, float]:
    """Expected tokens over all choices, and their deviation: the client's guess (of which it is sure) or what was
    learned, and never above the client's bound."""
    given, most = body.output_tokens, body.max_tokens
    each, deviation = length.expected() if given is None else (given, 0.0)
    if most is not None and most < each + deviation:
        each = min(each, most)
        deviation = most - each
    answers = body.choices * body.items
    return each * answers, deviation * answers


def _reply_bytes(body: Body, tokens: float) -> float:
    if body.kind.generates:
        return ENVELOPE_BYTES + tokens * (EVENT_BYTES if body.stream else TEXT_BYTES_PER_TOKEN)
    return ENVELOPE_BYTES + body.items * _ITEM_BYTES[body.kind]
