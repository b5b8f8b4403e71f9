import random

import msgspec
import pytest

from gateway import routes as routes_module
from gateway.auth import LOCAL, Client
from gateway.body import Body, Kind, Provider
from gateway.config import GatewayConfig
from gateway.openai.headers import NOTHING, Asked
from gateway.routes import Plan, Routes
from policies.cost import UNKNOWN_GRAMS
from policies.reason import Reason
from policies.request import ANY, INFINITE, Infeasible, Request, Shed, Sort
from policies.router import Policy
from tests.gateway.members import worker

CHAT = Body(kind=Kind.CHAT, model="chat-1", bytes=100, prompt_tokens=10.0)
STRICT = {"allow": ["eu-*"], "by_country": {"DE": ["eu-*"], "US": ["us-*"]}}


def routes(*each: dict, **config: object) -> Routes:
    listed = {"routes": list(each)} if each else {}
    return Routes(msgspec.convert({**listed, **config}, GatewayConfig))


def ask(
    table: Routes | None = None,
    asked: Asked = NOTHING,
    body: Body = CHAT,
    client: Client = LOCAL,
    country: str | None = None,
    client_rtt: float = 0.0,
) -> Request | Shed:
    return (table or routes()).request(
        asked=asked,
        body=body,
        arrived=1000.0,
        request_id="id-1",
        client=client,
        country=country,
        client_rtt=client_rtt,
    )


def request(*args: object, **kwargs: object) -> Request:
    result = ask(*args, **kwargs)  # type: ignore[arg-type]
    assert isinstance(result, Request), result
    return result


def refused(*args: object, **kwargs: object) -> Shed:
    result = ask(*args, **kwargs)  # type: ignore[arg-type]
    assert isinstance(result, Shed), result
    return result


def body(**changes: object) -> Body:
    return msgspec.structs.replace(CHAT, **changes)


# Defaults.


def test_the_embedded_default_is_patient():
    made = request()
    assert made.patient
    assert (made.id, made.model, made.policy, made.arrived) == ("id-1", "chat-1", "cheapest_in_deadline", 1000.0)
    assert (made.prompt_tokens, made.output_tokens) == (10.0, 200.0)
    assert made.selection is ANY
    assert (made.tenant, made.priority, made.affinity) == ("local", "default", "")
    assert made.when_infeasible == (Infeasible.DEGRADE, Infeasible.BEST_EFFORT)


def test_the_first_matching_route_wins():
    table = routes(
        {"match": {"model": "chat-*"}, "policy": "p2c", "pure": False},
        {"match": {"model": "digits"}, "policy": {"balancer": {"kind": "nearest"}}},
        {"policy": "mine"},
        policies={"mine": {}},
    )
    assert request(table).policy == "p2c"
    assert request(table, body=body(model="digits")).policy == "routes-1"
    assert request(table, body=body(model="x")).policy == "mine"
    assert not table.pure("chat-2")
    assert table.pure("digits")
    built = table.policies()
    assert {"p2c", "routes-1", "mine", "cheapest_in_deadline"} <= set(built)
    assert all(isinstance(policy, Policy) for policy in built.values())


def test_a_model_no_route_takes():
    table = routes({"match": {"model": "digits"}})
    shed = refused(table)
    assert (shed.reason, shed.param) == (Reason.MODEL_NOT_FOUND, "model")
    assert table.pure("chat-1")


def test_the_memory_for_models_is_bounded(monkeypatch):
    monkeypatch.setattr(routes_module, "CACHED_MODELS", 3)
    table = routes()
    for index in range(10):
        assert isinstance(ask(table, body=body(model=f"m{index}")), Request)
    assert len(table._by_model) <= 3


# Deadlines.

TIMED = {"deadline": {"total_ms": 4000, "ttft_ms": 400, "tpot_ms": 50, "probability": 0.98}}


def test_durations_become_instants():
    made = request(routes(TIMED))
    assert (made.deadline, made.first_token_deadline, made.token_interval) == (1004.0, 1000.4, 0.05)
    assert made.probability == 0.98


def test_headers_beat_the_route_one_by_one():
    made = request(routes(TIMED), asked=Asked(deadline=1.0, probability=0.9))
    assert (made.deadline, made.first_token_deadline, made.probability) == (1001.0, 1000.4, 0.9)
    made = request(routes(TIMED), asked=Asked(deadline=INFINITE, ttft=0.2, tpot=0.01, max_wait=0.5))
    assert (made.deadline, made.first_token_deadline, made.token_interval) == (INFINITE, 1000.2, 0.01)
    assert made.max_wait == 0.5


def test_a_deadline_of_zero_is_a_deadline():
    assert request(asked=Asked(deadline=0.0)).deadline == 1000.0


@pytest.mark.parametrize(("deadline_from", "expected"), [("edge", 1004.0), ("client", 1003.9)])
def test_the_clients_own_leg(deadline_from, expected):
    made = request(routes(TIMED, deadline_from=deadline_from), client_rtt=0.1)
    assert made.deadline == pytest.approx(expected)
    assert made.arrived == 1000.0


def test_flex_gives_up_the_routes_deadlines_and_takes_the_cheapest():
    made = request(routes(TIMED), body=body(service_tier="flex"))
    assert made.patient
    assert (made.sort, made.priority) == (Sort.PRICE, "flex")


def test_flex_keeps_what_the_client_itself_asked():
    provider = Provider(sort=Sort.LATENCY)
    made = request(routes(TIMED), asked=Asked(deadline=2.0), body=body(service_tier="flex", provider=provider))
    assert (made.deadline, made.first_token_deadline, made.sort) == (1002.0, INFINITE, Sort.LATENCY)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Infeasible.DEGRADE, (Infeasible.DEGRADE, Infeasible.BEST_EFFORT)),
        (Infeasible.HOLD, (Infeasible.HOLD, Infeasible.BEST_EFFORT)),
        (Infeasible.BEST_EFFORT, (Infeasible.BEST_EFFORT,)),
        (Infeasible.REJECT, (Infeasible.REJECT,)),
        (None, (Infeasible.REJECT, Infeasible.HOLD)),
    ],
)
def test_what_if_none_can(asked, expected):
    table = routes({"when_infeasible": ["reject", "hold"]})
    assert request(table, asked=Asked(when_infeasible=asked)).when_infeasible == expected


@pytest.mark.parametrize(("asked", "route", "most"), [(None, None, INFINITE), (0.5, 2.0, 0.5), (3.0, 2.0, 2.0)])
def test_the_shorter_wait_counts(asked, route, most):
    assert request(routes({"max_wait_s": route}), asked=Asked(max_wait=asked)).max_wait == most


def test_policies_know_the_tenants_shares():
    table = routes(tenants={"acme": {"weight": 3.0}})
    for policy in table.policies().values():
        assert (policy.shares.weight("acme"), policy.shares.weight("other")) == (3.0, 1.0)


# Quality, money, importance.


@pytest.mark.parametrize(
    ("asked", "wanted", "floor"), [(None, 0.99, 0.9), (0.95, 0.99, 0.95), (1.0, 1.0, 1.0), (0.1, 0.99, 0.9)]
)
def test_quality(asked, wanted, floor):
    made = request(routes({"quality": {"want": 0.99, "min": 0.9}}), asked=Asked(min_quality=asked))
    assert (made.quality, made.min_quality) == (wanted, floor)


def test_cost_and_affinity():
    made = request(asked=Asked(max_cost=0.01, affinity="header"), body=body(affinity="body"))
    assert (made.max_cost, made.affinity) == (0.01, "header")
    assert request(body=body(affinity="body")).affinity == "body"
    assert request().max_cost == INFINITE


@pytest.mark.parametrize(
    ("asked", "tier", "expected"),
    [("", "", "default"), ("", "priority", "priority"), ("", "auto", "default"), ("bulk", "priority", "bulk")],
)
def test_priority(asked, tier, expected):
    assert request(asked=Asked(priority=asked), body=body(service_tier=tier)).priority == expected


@pytest.mark.parametrize(
    ("client", "asked", "tier", "param"),
    [
        (Client("a", models=("digits",)), NOTHING, "", "model"),
        (Client("a", priorities=("default",)), Asked(priority="bulk"), "", "x-priority"),
        (Client("a", priorities=("default",)), NOTHING, "priority", "service_tier"),
    ],
)
def test_what_a_key_does_not_cover(client, asked, tier, param):
    shed = refused(asked=asked, client=client, body=body(service_tier=tier))
    assert (shed.reason, shed.param) == (Reason.FORBIDDEN, param)


def test_a_key_need_not_list_the_default_class():
    assert request(client=Client("a", "acme", priorities=("bulk",))).tenant == "acme"


# Which nodes.


def test_provider_becomes_constraints_and_preferences():
    provider = Provider(
        max_prompt=1.0,
        max_completion=2.0,
        quantizations=("int8",),
        only=("eu",),
        ignore=("w1",),
        order=("w2",),
        sort=Sort.THROUGHPUT,
        allow_fallbacks=False,
    )
    made = request(body=body(provider=provider))
    selection = made.selection
    assert (selection.variants, selection.only, selection.ignore) == (("int8",), ("eu",), ("w1",))
    assert (selection.max_input_usd_per_mtok, selection.max_output_usd_per_mtok) == (1.0, 2.0)
    assert (made.order, made.sort, made.allow_fallbacks) == (("w2",), Sort.THROUGHPUT, False)


def test_a_pinned_version_is_the_variant():
    made = request(body=body(kind=Kind.TENSOR, variants=("int8",)))
    assert made.selection.variants == ("int8",)


def test_every_region_constraint_is_a_group_of_its_own():
    client = Client("a", regions=("eu-*", "us-*"))
    made = request(routes({"regions": STRICT}), asked=Asked(regions=("eu-west",)), client=client, country="DE")
    assert made.selection.regions == (("eu-*",), ("eu-*", "us-*"), ("eu-*",), ("eu-west",))


def test_equal_selections_are_one_object(monkeypatch):
    monkeypatch.setattr(routes_module, "CACHED_SELECTIONS", 2)
    table = routes()
    asked = Asked(regions=("eu-*",))
    assert request(table, asked=asked).selection is request(table, asked=asked).selection
    for index in range(9):
        request(table, asked=Asked(regions=(f"r{index}",)))
    assert len(table._selections) <= 2


@pytest.mark.parametrize(
    ("residency", "rows", "country", "expected"),
    [
        ("strict", {"DE": ["eu-*"]}, "DE", ("eu-*",)),
        ("strict", {"DE": ["eu-*"]}, "FR", None),
        ("strict", {"DE": ["eu-*"]}, None, None),
        ("strict", {"DE": ["eu-*"], "default": ["us-*"]}, "FR", ("us-*",)),
        ("strict", {"DE": ["eu-*"], "default": ["us-*"]}, None, None),  # who cannot be placed may be German
        ("strict", {"default": ["us-*"], "unknown": ["eu-*"]}, None, ("eu-*",)),
        ("strict", {"unknown": ["eu-*"]}, "FR", None),
        ("known", {"DE": ["eu-*"], "default": ["us-*"]}, None, ("us-*",)),
        ("known", {"DE": ["eu-*"], "default": ["us-*"], "unknown": ["eu-*"]}, None, ("eu-*",)),
        ("known", {"DE": ["eu-*"]}, "DE", ("eu-*",)),
        ("known", {"DE": ["eu-*"]}, "FR", ()),
        ("known", {"DE": ["eu-*"]}, None, ()),
        ("strict", {}, None, ()),
    ],
)
def test_residency_fails_closed(residency, rows, country, expected):
    table = routes({"regions": {"residency": residency, "by_country": rows}})
    if expected is None:
        assert refused(table, country=country).reason is Reason.REGION_LOCKED
    else:
        assert request(table, country=country).selection.regions == ((expected,) if expected else ())


def test_a_refusal_for_residency_says_what_is_missing():
    table = routes({"regions": {"by_country": {"DE": ["eu-*"]}}})
    assert "which country" in refused(table).detail
    assert "clients in FR" in refused(table, country="FR").detail


def test_the_country_binds_whatever_the_client_asks_for():
    table = routes({"regions": {"by_country": {"DE": ["eu-*"]}}})
    asked = Asked(regions=("us-*",))
    preferred = body(provider=Provider(order=("us-east",), only=("us-east",)))
    assert request(table, asked=asked, country="DE").selection.regions == (("eu-*",), ("us-*",))
    assert request(table, body=preferred, country="DE").selection.regions == (("eu-*",),)


@pytest.mark.parametrize(
    ("affinity", "asked", "changes", "expected"),
    [
        ("prefix", NOTHING, {}, True),
        ("declared", NOTHING, {}, False),
        ("prefix", Asked(affinity="s"), {}, "s"),
        ("prefix", NOTHING, {"affinity": "k"}, "k"),
        ("prefix", NOTHING, {"kind": Kind.EMBEDDING}, False),
    ],
)
def test_prompts_that_begin_alike_belong_together_where_the_route_says_so(affinity, asked, changes, expected):
    table = routes({"affinity": affinity})
    raw = b'{"model": "chat-1", "messages": [{"role": "system", "content": "%b"' % (b"word " * 300)
    keys = {
        table.request(
            asked=asked, body=body(**changes), arrived=0.0, request_id="r", client=LOCAL, country=None, raw=raw + end
        ).affinity
        for end in (b"one", b"two")
    }
    assert len(keys) == 1
    key = keys.pop()
    assert key == expected if isinstance(expected, str) else bool(key) is expected


# What is weighed beside the price.


def test_a_routes_terms_are_counted_by_power_and_the_regions_electricity():
    priced = {"match": {"model": "chat-*"}, "cost": {"carbon_usd_per_kg": 1.0, "energy_usd_per_kwh": 0.1}}
    table = routes(priced, {}, carbon_g_per_kwh={"eu-north": 20.0, "eu-*": 300.0})

    def extra(model: str, region: str) -> float:  # dollars an hour at a kilowatt
        record = msgspec.structs.replace(worker("w", region), power_watts=1000.0)
        return table.extra(model, record) * 3600.0

    assert extra("chat-1", "eu-north") == pytest.approx(0.1 + 0.02)
    assert extra("chat-1", "eu-west") == pytest.approx(0.1 + 0.3)
    assert extra("chat-1", "us-east") == pytest.approx(0.1 + UNKNOWN_GRAMS / 1e3), "unknown is not clean"
    assert extra("other", "eu-west") == 0.0
    assert routes({"match": {"model": "a"}}).extra("b", worker("w", "eu")) == 0.0


# Sizes.


@pytest.mark.parametrize(
    ("changes", "tokens"),
    [
        ({}, 200),
        ({"max_tokens": 64}, 64),
        ({"max_tokens": 5000}, 200),
        ({"output_tokens": 30.0}, 30),
        ({"output_tokens": 30.0, "max_tokens": 10}, 10),
        ({"max_tokens": 10, "choices": 3}, 30),
        ({"kind": Kind.COMPLETION, "items": 4, "max_tokens": 10}, 40),
        ({"kind": Kind.EMBEDDING}, 0),
        ({"kind": Kind.TENSOR}, 0),
    ],
)
def test_expected_output(changes, tokens):
    assert request(body=body(**changes)).output_tokens == tokens


def test_the_routes_own_prior():
    assert request(routes({"output_tokens": 20})).output_tokens == 20


def taught(table: Routes, *answers: int, **changes: object) -> None:
    plan = table.plan(NOTHING, body(**changes), LOCAL, None)
    assert isinstance(plan, Plan)
    for tokens in answers:
        plan.answered(body(**changes), tokens)


def test_answers_teach_how_long_answers_are():
    table = routes()
    taught(table, *[10, 30] * 50)
    learned = request(table)
    assert learned.output_tokens == pytest.approx(22, abs=2)
    assert learned.output_deviation == pytest.approx(17, abs=8)
    assert request(table, client=Client("other")).output_tokens == pytest.approx(22, abs=2), "the model's own"
    assert request(table, body=body(model="chat-2")).output_tokens == 200


def test_what_the_client_says_beats_what_was_learned():
    table = routes()
    taught(table, *[100] * 100)
    sure = request(table, body=body(output_tokens=30.0))
    assert (sure.output_tokens, sure.output_deviation) == (30.0, 0.0)
    capped = request(table, body=body(max_tokens=10))
    assert (capped.output_tokens, capped.output_deviation) == (10.0, 0.0)
    loose = request(table, body=body(max_tokens=105))
    assert loose.output_tokens + loose.output_deviation <= 105


def test_several_answers_are_learned_from_one_by_one():
    table = routes()
    taught(table, *[90] * 100, choices=3)
    assert request(table).output_tokens == pytest.approx(30, abs=3)
    assert request(table, body=body(choices=3)).output_tokens == pytest.approx(90, abs=9)


def test_an_embedding_has_no_length_whatever_was_learned():
    table = routes()
    taught(table, *[100] * 20)
    made = request(table, body=body(kind=Kind.EMBEDDING))
    assert (made.output_tokens, made.output_deviation) == (0.0, 0.0)


def test_a_reload_keeps_what_was_learned():
    old, new = routes(), routes({"output_tokens": 50})
    taught(old, *[10] * 100)
    new.adopt(old)
    assert request(new).output_tokens == pytest.approx(10, abs=2)


def test_a_plan_suits_other_bodies_of_its_kind_only():
    table = routes()
    plan = table.plan(NOTHING, CHAT, LOCAL, "DE")
    assert isinstance(plan, Plan)
    assert plan.suits(table, body(prompt_tokens=99.0, max_tokens=3), "DE")
    assert not plan.suits(routes(), CHAT, "DE"), "a reload"
    assert not plan.suits(table, CHAT, "FR")
    for changes in ({"model": "m"}, {"service_tier": "flex"}, {"provider": Provider()}, {"variants": ("int8",)}):
        assert not plan.suits(table, body(**changes), "DE")
    own = table.plan(NOTHING, body(provider=Provider()), LOCAL, None)
    assert isinstance(own, Plan)
    assert not own.suits(table, CHAT, None), "it has that body's constraints"


def test_reply_sizes_grow_with_what_is_asked():
    def reply(**changes: object) -> float:
        return request(body=body(**changes)).reply_bytes

    assert reply(stream=True) > 10 * reply()
    assert reply(kind=Kind.EMBEDDING, items=10) > 5 * reply(kind=Kind.EMBEDDING)
    assert reply(kind=Kind.TENSOR, items=100) > 10 * reply(kind=Kind.TENSOR)


def test_merging_is_a_function_of_its_arguments():
    rng = random.Random(7)
    table = routes(TIMED)
    for _ in range(50):
        asked = Asked(deadline=rng.random(), min_quality=rng.random(), regions=("eu-*",))
        assert ask(table, asked=asked) == ask(routes(TIMED), asked=asked)
