import re
from pathlib import Path

import pytest

from gateway.config import (
    AuthConfig,
    ClientKey,
    ConfigError,
    Control,
    GatewayConfig,
    GeoConfig,
    Listen,
    Tenant,
    check,
    load,
    loopback,
    notes,
    presets,
)
from gateway.routeconfig import Cost, Deadline, Match, Regions, RouteConfig
from policies.config import PolicyConfig
from policies.request import Infeasible

KEY = "a" * 64
FULL = f"""
id: edge-1
region: eu-west
listen: {{host: 0.0.0.0, port: 80}}
control: {{port: 0}}
registries: {{eu-west: "redis://127.0.0.1:6379/0", us-east: "unix:///run/redis.sock"}}
auth:
  pepper: salt
  clients: [{{id: alice, hash: "{KEY}", tenant: acme, models: ["chat-*"], priorities: [default], regions: ["eu-*"]}}]
  admins: [{{id: root, hash: "{KEY}"}}]
tenants: {{acme: {{weight: 3}}}}
registry:
  keys: [{{id: k1, public_key: "{"A" * 43}=", regions: ["eu-*"]}}]
policies:
  mine: {{balancer: {{kind: p2c}}}}
routes:
  - match: {{model: "chat-*"}}
    policy: mine
    shadow: p2c
    shadow_share: 0.5
    cost: {{carbon_usd_per_kg: 0.1, energy_usd_per_kwh: 0.2}}
    deadline: {{total_ms: 4000, ttft_ms: 400, tpot_ms: 50, probability: 0.98}}
    quality: {{want: 1.0, min: 0.98}}
    regions: {{allow: ["eu-*"], residency: strict, by_country: {{DE: ["eu-*"], NO: ["eu-north*"], default: ["*"]}}}}
    when_infeasible: [degrade, reject]
    patience_s: 5
    max_wait_s: 2
    pure: false
    output_tokens: 32
  - policy: {{balancer: {{kind: nearest}}}}
carbon_g_per_kwh: {{eu-north: 20, "eu-*": 300}}
geoip: {{path: city.mmdb, max_age_s: 864000}}
regions: {{eu-west: {{url: "https://eu.example", latitude: 53.3, longitude: -6.2}}}}
probes: {{interval_s: 0.5}}
health: {{ejection_s: 10}}
limits: {{body_bytes: 1000}}
upstream: {{source_address: 127.0.0.2}}
snapshot: fleet.bin
decision_log: {{path: /var/log/isochrone/decisions.jsonl, sample: 0.5, max_bytes: 100000, keep: 2, tenants: plain}}
decision_headers: always
hosts: [eu.example, "localhost:8080"]
deadline_from: client
trusted_peers: [10.0.0.0/8, "::1/128"]
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(text)
    return path


def refused(tmp_path: Path, text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text))
    return caught.value


def test_every_field_is_read(tmp_path):
    config = load(write(tmp_path, FULL))
    assert set(GatewayConfig.__struct_fields__) - {"redis"} == set(re.findall(r"^(\w+):", FULL, re.MULTILINE))
    first, second = config.routes
    assert first.deadline == Deadline(total_ms=4000, ttft_ms=400, tpot_ms=50, probability=0.98)
    assert first.when_infeasible == (Infeasible.DEGRADE, Infeasible.REJECT)
    assert first.regions.by_country["NO"] == ("eu-north*",)
    assert (first.shadow, first.shadow_share) == ("p2c", 0.5)
    assert first.cost == Cost(carbon_usd_per_kg=0.1, energy_usd_per_kwh=0.2)
    assert second.match.model == "*"
    assert isinstance(second.policy, PolicyConfig)
    assert config.auth.clients[0].tenant == "acme"
    assert config.limits.body_bytes == 1000
    assert config.limits.header_count == 100


def test_the_defaults_are_valid_and_local(tmp_path):
    assert load(write(tmp_path, "")) == GatewayConfig()
    check(GatewayConfig())
    assert loopback(GatewayConfig().listen.host)
    assert loopback(GatewayConfig().control.host)


def test_the_presets_shipped():
    assert {"cheapest_in_deadline", "p2c", "least_loaded", "round_robin", "nearest", "lowest_cost"} <= set(presets())


@pytest.mark.parametrize(
    ("text", "line", "path", "says"),
    [
        ("listen:\n  host: 0.0.0.0\n", 2, "$.listen.host", "open only on loopback"),
        ("control:\n  host: '::'\n", 2, "$.control.host", "open only on loopback"),
        ("redis: redis://cache:6379\n", 1, "$.redis", "registry.keys"),
        ("redis: http://127.0.0.1\n", 1, "$.redis", "redis://HOST:PORT"),
        ("registries:\n  eu: redis://10.0.0.1\n", 2, "$.registries.eu", "registry.keys"),
        ("redis: redis://127.0.0.1\nregistries:\n  eu: redis://127.0.0.1\n", 2, "$.registries", "not both"),
        ("routes:\n- policy: cheapest\n", 2, "$.routes[0].policy", "did you mean `cheapest_in_deadline`?"),
        ("routes:\n- policy: zzz\n", 2, "$.routes[0].policy", "`round_robin`"),
        ("routes: []\n", 1, "$.routes", "no route"),
        ("routes:\n- {}\n- match:\n    model: x\n", 4, "$.routes[1].match.model", "never reached"),
        ("routes:\n- match: {model: a*}\n- match: {model: ab*}\n", 3, "$.routes[1].match.model", "'a*'"),
        ("policies:\n  p2c: {}\n", 2, "$.policies.p2c", "preset"),
        ("routes:\n- deadline: {probability: 0.5}\n", 2, "$.routes[0].deadline.probability", "0.95"),
        ("routes:\n- deadline:\n    total_ms: 0\n", 3, "$.routes[0].deadline.total_ms", "> 0"),
        ("routes:\n- deadline:\n    total: 5\n", 3, "$.routes[0].deadline.total", "`total_ms`"),
        ("routes:\n- deadline:\n    total_ms: 5s\n", 3, "$.routes[0].deadline.total_ms", "`float"),
        ("routes:\n- costs: {}\n", 2, "$.routes[0].costs", "`cost`"),
        ("routes:\n- cost: {carbon_usd_per_kg: -1}\n", 2, "$.routes[0].cost.carbon_usd_per_kg", ">= 0"),
        ("routes:\n- shadow: zzz\n", 2, "$.routes[0].shadow", "`round_robin`"),
        ("routes:\n- shadow_share: 2\n", 2, "$.routes[0].shadow_share", "<= 1"),
        ("carbon_g_per_kwh: {eu: -1}\n", 1, "$.carbon_g_per_kwh.eu", ">= 0"),
        ("routes:\n- regions: {by_country: {Germany: ['eu']}}\n", 2, "$.routes[0].regions.by_country", "bad key"),
        ("routes:\n- regions: {by_country: {DE: []}}\n", 2, "$.routes[0].regions.by_country.DE", "length >= 1"),
        ("routes:\n- regions: {residency: strictly}\n", 2, "$.routes[0].regions.residency", "did you mean `strict`?"),
        ("routes:\n- when_infeasible: [hope]\n", 2, "$.routes[0].when_infeasible[0]", "`best_effort`"),
        ("trusted_peers:\n- 10.0.0.0/8\n- 10.0.0.1/8\n", 3, "$.trusted_peers[1]", "CIDR"),
        ("upstream:\n  source_address: eth0\n", 2, "$.upstream.source_address", "eth0"),
        ("decision_headers: sometimes\n", 1, "$.decision_headers", "`on_request`"),
        ("auth:\n  clients:\n  - {id: a, hash: zz}\n", 3, "$.auth.clients[0].hash", "{64}"),
        ("registry:\n  keys:\n  - {id: a, public_key: zz}\n", 3, "$.registry.keys[0].public_key", "32 bytes"),
        (
            f"registry:\n  keys:\n  - id: a\n    public_key: {'A' * 43}=\n    addresses: [10.0.0.0/8, gpu]\n",
            5,
            "$.registry.keys[0].addresses[1]",
            "10.1.2.0/24:9000",
        ),
        ("regions:\n  eu: {url: 'https://a', latitude: 91, longitude: 0}\n", 2, "$.regions.eu.latitude", "<= 90"),
        ("listen: {port: 9000}\ncontrol:\n  port: 9000\n", 3, "$.control.port", "take another"),
        ("routes:\n- quality: {want: 0.9, min: 0.98}\n", 2, "$.routes[0].quality.want", "below `min` (0.98)"),
        ("snapshot: ''\n", 1, "$.snapshot", "length >= 1"),
    ],
)
def test_mistakes_are_named_by_file_line_path_and_fix(tmp_path, text, line, path, says):
    error = refused(tmp_path, text)
    assert (error.path, error.line) == (path, line), str(error)
    assert says in error.problem
    assert str(error).startswith(f"{tmp_path}/gateway.yaml:{line}: {path}: ")


def test_every_mistake_is_named_at_once(tmp_path):
    error = refused(tmp_path, "redis: http://x\nroutes:\n- policy: zzz\n  quality: {want: 0.5, min: 0.9}\n")
    assert [(one.line, one.path) for one in (error, *error.others)] == [
        (1, "$.redis"),
        (3, "$.routes[0].policy"),
        (4, "$.routes[0].quality.want"),
    ]
    assert len(str(error).splitlines()) == 3


@pytest.mark.parametrize(
    ("clients", "operators"), [(("127.0.0.1", 0), ("127.0.0.1", 0)), (("127.0.0.1", 9), ("127.0.0.2", 9))]
)
def test_ports_that_do_not_meet(clients, operators):
    check(GatewayConfig(listen=Listen(*clients), control=Control(*operators)))


@pytest.mark.parametrize(
    ("listen", "taken"),
    [(Listen(port=9, grpc_port=9), True), (Listen(port=9, grpc_port=8), True), (Listen("127.0.0.2", 9, 8), False),
     (Listen(port=0, grpc_port=0), False)],
)  # fmt: skip
def test_grpc_has_a_port_of_its_own(listen, taken):
    config = GatewayConfig(listen=listen, control=Control("127.0.0.1", 8))
    if taken:
        with pytest.raises(ConfigError, match=r"\$\.listen\.grpc_port"):
            check(config)
    else:
        check(config)


@pytest.mark.parametrize("where", ["clients", "admins"])
def test_two_keys_with_one_id(tmp_path, where):
    key = f"{{id: a, hash: '{KEY}'}}"
    assert refused(tmp_path, f"auth:\n  {where}:\n  - {key}\n  - {key}\n").path == f"$.auth.{where}[1].id"


def test_off_loopback_with_keys(tmp_path):
    check(GatewayConfig(listen=Listen("127.9.9.9"), control=Control("localhost", 1)))
    text = f"listen: {{host: 0.0.0.0}}\nauth: {{clients: [{{id: a, hash: '{KEY}'}}]}}\n"
    assert load(write(tmp_path, text)).listen.host == "0.0.0.0"


def test_residency_is_strict_unless_said_otherwise():
    assert Regions().residency == "strict"


@pytest.mark.parametrize(("host", "local"), [("::1", True), ("10.0.0.1", False), ("example.com", False), ("", False)])
def test_loopback(host, local):
    assert loopback(host) == local


def test_what_comes_after_a_refusal_is_noted():
    fine = RouteConfig(match=Match(model="a"), when_infeasible=(Infeasible.HOLD, Infeasible.REJECT))
    odd = RouteConfig(when_infeasible=(Infeasible.REJECT, Infeasible.HOLD))
    assert notes(GatewayConfig(routes=(fine, odd))) == [
        "$.routes[1].when_infeasible: nothing after `reject` is ever done: move it to the end"
    ]
    assert notes(GatewayConfig()) == []


def test_a_share_for_nobody_is_noted():
    keys = AuthConfig(clients=(ClientKey(id="a", hash="0" * 64, tenant="acme"), ClientKey(id="b", hash="0" * 64)))
    shares = {name: Tenant(weight=2.0) for name in ("acme", "b", "acne")}
    assert notes(GatewayConfig(auth=keys, tenants=shares)) == ["$.tenants.acne: no client key is of this tenant"]


def test_strict_residency_with_nobody_to_tell_countries_is_noted():
    strict = RouteConfig(regions=Regions(by_country={"DE": ("eu",)}))
    (note,) = notes(GatewayConfig(routes=(strict,)))
    assert note.startswith("$.routes[0].regions.by_country: no client's country is known without `geoip`")
    placed = RouteConfig(regions=Regions(by_country={"DE": ("eu",), "unknown": ("eu",)}))
    known = RouteConfig(regions=Regions(by_country={"DE": ("eu",)}, residency="known"))
    assert notes(GatewayConfig(routes=(placed,))) == notes(GatewayConfig(routes=(known,))) == []
    assert notes(GatewayConfig(routes=(strict,), geoip=GeoConfig(path="x.mmdb"))) == []
