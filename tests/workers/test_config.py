from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from policies.records import MarginalPrice, ReservedPrice, Scope, TokenPrice, Worker, open_worker, seal_worker
from tests.workers.fakes import endpoint
from workers import config
from workers.config import ConfigError, Placement
from workers.forming import Alone, FixedDelay, FixedWindow, Slack


def record(address="127.0.0.1:80", **place):
    return config.record(Placement(region="eu-1", **place), boot="b", address=address, endpoints=(endpoint(),))


def test_a_record_says_what_was_told():
    worker = record(id="w1", zone="a", cloud="c", price=MarginalPrice(usd_per_hour=2.5), egress_usd_per_gb=0.1)
    assert (worker.id, worker.region, worker.zone, worker.cloud) == ("w1", "eu-1", "a", "c")
    assert (worker.address, worker.price.usd_per_hour, worker.egress_usd_per_gb) == ("127.0.0.1:80", 2.5, 0.1)
    assert (worker.health_path, worker.variant_header, worker.engine) == ("/healthz", True, "isochrone")


def test_the_advertised_address_wins():
    assert record(advertise="example.org:443").address == "example.org:443"


def test_the_grpc_address_stands_on_the_advertised_host_unless_it_is_advertised_itself():
    def advertised(**place):
        told = Placement(region="r", **place)
        return config.record(
            told, boot="b", address="0.0.0.0:80", endpoints=(endpoint(),), grpc_address="0.0.0.0:81"
        ).grpc_address

    assert record().grpc_address is None
    assert advertised(advertise="[fd00::1]:9000") == "[fd00::1]:81"
    assert advertised(advertise="w1:9000", advertise_grpc="w1:9001") == "w1:9001"
    assert record(advertise_grpc="triton:8001").grpc_address == "triton:8001"


@pytest.mark.parametrize(
    ("place", "field"),
    [({"id": "a b"}, "$.id"), ({"advertise": "nowhere"}, "$.address"), ({"power_watts": -1.0}, "$.power_watts")],
)
def test_what_the_registry_would_refuse_is_refused_at_start(place, field):
    with pytest.raises(ConfigError) as error:
        record(**place)
    assert field in str(error.value)


def test_the_default_id_is_stable_valid_and_tells_two_ports_apart():
    first, second = config.default_id("127.0.0.1:8000"), config.default_id("[::1]:8001")
    assert first.endswith("-8000")
    assert second.endswith("-8001")
    assert record().id == config.default_id("127.0.0.1:80")
    assert config.default_id("gpu-7.example:8000") == "gpu-7.example-8000"
    assert len(record(address=f"{'h' * 100}:80").id) == 64


@pytest.mark.parametrize("address", ["0.0.0.0:80", "[::]:80"])
def test_an_address_that_nobody_can_reach_is_not_registered(address):
    with pytest.raises(ConfigError, match="--advertise"):
        record(address=address, redis="redis://r")
    assert record(address=address, redis="redis://r", advertise="w1:80").address == "w1:80"


def test_prices_are_by_the_hour_or_by_the_token():
    assert config.price(3.0, None, None) == MarginalPrice(usd_per_hour=3.0)
    assert config.price(None, None, None) == MarginalPrice(usd_per_hour=0.0)
    assert config.price(3.0, None, None, reserved=True) == ReservedPrice(usd_per_hour=3.0)
    with pytest.raises(config.ConfigError, match="give the price"):
        config.price(None, None, None, reserved=True)
    assert config.price(None, 0.5, 1.5) == TokenPrice(input_usd_per_mtok=0.5, output_usd_per_mtok=1.5)
    with pytest.raises(ConfigError, match="exclude each other"):
        config.price(3.0, 0.5, None)


def test_model_names_may_name_what_the_engine_calls_it():
    assert config.named("chat") == ("chat", "chat")
    assert config.named("chat=org/Chat-7B") == ("chat", "org/Chat-7B")


def test_a_guessed_curve_inverts_the_speeds():
    curve = config.guessed_curve(1000, 50)
    assert (curve.base, curve.prefill, curve.decode) == (0.0, 0.001, 0.02)
    with pytest.raises(ConfigError, match="above 0"):
        config.guessed_curve(0, 50)


def written(path: Path, private) -> Path:
    path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


def test_a_key_file_signs_what_its_public_key_verifies_under_the_files_name(tmp_path):
    private = Ed25519PrivateKey.generate()
    key_id, sign = config.load_key(written(tmp_path / "team.w1.pem", private))

    def verify(name, message, signature):
        private.public_key().verify(signature, message)
        return Scope() if name == "team.w1" else None

    opened = open_worker(seal_worker(record(), key_id, sign), verify)
    assert isinstance(opened, Worker)


def test_a_bad_key_file_says_how_to_make_one(tmp_path):
    (tmp_path / "text.pem").write_text("no key")
    written(tmp_path / "curve.pem", ec.generate_private_key(ec.SECP256R1()))
    for name in ("text.pem", "curve.pem", "absent.pem"):
        with pytest.raises(ConfigError, match=rf"{name}.*isochrone keys new worker"):
            config.load_key(tmp_path / name)


@pytest.mark.parametrize(
    ("rule", "batching"),
    [
        ("slack", Slack()),
        ("none", Alone()),
        ("fixed_window:5", FixedWindow(ms=5.0)),
        ("fixed_delay:0.5", FixedDelay(ms=0.5)),
    ],
)
def test_batching_rules(rule, batching):
    assert config.batching(rule) == batching


@pytest.mark.parametrize("rule", ["", "fast", "slack:5", "fixed_delay", "fixed_delay:", "fixed_delay:-1", "none:0"])
def test_other_batching_rules_are_refused(rule):
    with pytest.raises(ConfigError, match=r"--batching .* give slack, none, fixed_window:MS or fixed_delay:MS"):
        config.batching(rule)


def test_a_weight_is_a_variant_and_a_number_above_zero():
    assert config.weighed("int8=2.5") == ("int8", 2.5)
    for wrong in ("int8", "int8=", "=2", "int8=0", "int8=-1", "int8=inf", "int8=many"):
        with pytest.raises(ConfigError, match="VARIANT=WEIGHT"):
            config.weighed(wrong)
