import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway import auth
from gateway.auth import LOCAL, Client, Keys, Verifier, key_hash, make_client_key, make_worker_key, verifier
from gateway.config import AdminKey, AuthConfig, ClientKey, GatewayConfig, RegistryConfig, WorkerKey
from policies.reason import Reason
from policies.records import Curve, Endpoint, MarginalPrice, Rejected, Scope, Worker, open_worker, seal_worker
from policies.request import Shed

PEPPER = "salt"
ALICE, ALICE_HASH = make_client_key("alice", PEPPER)
BOB, BOB_HASH = make_client_key("b.o-b_2", PEPPER)
ROOT, ROOT_HASH = make_client_key("root", PEPPER)


@pytest.fixture
def keys() -> Keys:
    alice = ClientKey(id="alice", hash=ALICE_HASH, tenant="acme", models=("chat-*",), priorities=("default", "bulk"))
    bob = ClientKey(id="b.o-b_2", hash=BOB_HASH, regions=("eu-*",))
    admins = (AdminKey(id="root", hash=ROOT_HASH),)
    return Keys(GatewayConfig(auth=AuthConfig(pepper=PEPPER, clients=(alice, bob), admins=admins)))


def bearer(key: str) -> bytes:
    return f"Bearer {key}".encode()


def test_a_key_finds_its_client(keys):
    client = keys.client(bearer(ALICE), loopback=False)
    assert client == Client("alice", "acme", ("chat-*",), ("default", "bulk"), ())
    assert keys.client(b"bearer  " + BOB.encode(), loopback=False).regions == ("eu-*",)
    assert keys.client(None, False, BOB.encode()).tenant == "b.o-b_2"


def test_authorization_wins_over_x_api_key(keys):
    assert keys.client(bearer(ALICE), False, BOB.encode()).id == "alice"
    assert isinstance(keys.client(b"Basic eDp5", False, BOB.encode()), Shed)


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Basic " + ALICE.encode(),
        ALICE.encode(),
        bearer(ALICE + "x"),
        bearer(ALICE[:-1]),
        bearer(ALICE) + b" ",
        bearer("bob." + ALICE.partition(".")[2]),
        bearer("alice." + BOB.rpartition(".")[2]),
        bearer("nobody." + "x" * 43),
        bearer(ROOT),
        bearer("alice." + "x" * 10_000),
        b"Bearer \xff\xfe." + b"x" * 43,
    ],
)
@pytest.mark.parametrize("loopback", [True, False])
def test_anything_else_is_refused_once_there_are_keys(keys, authorization, loopback):
    shed = keys.client(authorization, loopback)
    assert isinstance(shed, Shed)
    assert shed.reason is Reason.INVALID_API_KEY


def test_admin_keys_are_their_own(keys):
    assert keys.admin(bearer(ROOT), False).id == "root"
    assert isinstance(keys.admin(bearer(ALICE), False), Shed)
    assert isinstance(keys.admin(None, True), Shed)


def test_without_keys_only_this_machine_may_ask():
    keys = Keys(GatewayConfig())
    assert keys.client(None, loopback=True) is LOCAL
    assert keys.client(b"Bearer whatever-a-client-library-sends", loopback=True) is LOCAL
    assert keys.admin(None, loopback=True) is LOCAL
    assert isinstance(keys.client(None, loopback=False), Shed)
    assert isinstance(keys.admin(None, loopback=False), Shed)


def test_an_unknown_id_is_compared_like_a_known_one(keys, monkeypatch):
    compared = []
    real = auth.hmac.compare_digest
    monkeypatch.setattr(auth.hmac, "compare_digest", lambda a, b: compared.append((len(a), len(b))) or real(a, b))
    keys.client(bearer("nobody." + "x" * 43), False)
    keys.client(bearer("alice." + "x" * 43), False)
    assert compared == [(32, 32), (32, 32)]


def test_the_pepper_matters():
    secret = ALICE.partition(".")[2]
    assert key_hash(secret, PEPPER) == ALICE_HASH
    assert key_hash(secret, "other") != ALICE_HASH


def test_what_a_client_may_do():
    client = Client("a", models=("chat-*", "digits"), priorities=("bulk",))
    assert client.may_use("chat-1")
    assert client.may_use("digits")
    assert not client.may_use("minilm")
    assert client.may_claim("bulk")
    assert not client.may_claim("priority")
    assert Client("a").may_use("anything")


# Workers' signatures.


def signing() -> tuple[Ed25519PrivateKey, str]:
    pem, public = make_worker_key()
    private = load_pem_private_key(pem, None)
    assert isinstance(private, Ed25519PrivateKey)
    return private, public


def config(public: str, **scope: tuple[str, ...]) -> GatewayConfig:
    return GatewayConfig(registry=RegistryConfig(keys=(WorkerKey(id="k1", public_key=public, **scope),)))


def test_no_keys_no_verifier():
    assert verifier(GatewayConfig()) is None


def test_signatures():
    private, public = signing()
    verify = verifier(config(public, regions=("eu-*",), addresses=("10.0.0.0/8",)))
    assert verify is not None
    good = private.sign(b"record")
    assert verify("k1", b"record", good) == Scope(("*",), ("eu-*",), ("*",), ("10.0.0.0/8",))
    assert verify("k1", b"recorD", good) is None
    assert verify("k2", b"record", good) is None
    assert verify("k1", b"record", b"") is None
    assert verify("k1", b"record", good[:-1]) is None
    assert verify("k1", b"record", bytes(64)) is None


def test_a_good_signature_is_computed_once_and_a_bad_one_every_time():
    private, public = signing()
    verify = Verifier(config(public))
    good = private.sign(b"record")
    for _ in range(3):
        assert verify("k1", b"record", good) is not None
    assert verify.checked == 1
    for _ in range(3):
        assert verify("k1", b"record", bytes(64)) is None
    assert verify.checked == 4


def test_the_memory_for_signatures_is_bounded(monkeypatch):
    monkeypatch.setattr(auth, "VERIFIED_RECORDS", 2)
    private, public = signing()
    verify = Verifier(config(public))
    messages = [b"%d" % number for number in range(3)]
    for message in messages:
        assert verify("k1", message, private.sign(message)) is not None
    assert verify("k1", messages[2], private.sign(messages[2])) is not None
    assert verify.checked == 3
    assert verify("k1", messages[0], private.sign(messages[0])) is not None
    assert verify.checked == 4


def test_records_within_and_outside_a_keys_scope():
    private, public = signing()
    verify = verifier(config(public, regions=("eu-*",), models=("digits",)))

    def record(region: str, model: str) -> bytes:
        endpoint = Endpoint(model=model, variant="fp32", quality=1.0, curve=Curve(0.01))
        price = MarginalPrice(1.0)
        worker = Worker(id="w", boot="b", seq=1, address="h:1", region=region, price=price, endpoints=(endpoint,))
        return seal_worker(worker, "k1", private.sign)

    assert isinstance(open_worker(record("eu-west", "digits"), verify), Worker)
    for sealed in (record("us-east", "digits"), record("eu-west", "minilm")):
        rejected = open_worker(sealed, verify)
        assert isinstance(rejected, Rejected)
        assert rejected.kind == "scope"


def test_public_keys_are_32_bytes_in_base64():
    assert len(base64.b64decode(make_worker_key()[1], validate=True)) == 32
