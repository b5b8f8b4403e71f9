"""Who may ask: client and admin keys, the keys workers sign their records with, and how all of them are made.

A key is `id.secret`; the configuration keeps `HMAC-SHA256(pepper, secret)` only. Every check costs the same whether
the id is known or not. Without keys the gateway is open to its own machine and to nobody else.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import hmac
import re
import secrets
from typing import NamedTuple

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gateway.config import AuthConfig, GatewayConfig
from policies.reason import Reason
from policies.records import Scope, Verify
from policies.request import Shed

MAX_KEY_BYTES = 256
VERIFIED_RECORDS = 4096
"""Signatures remembered as good: gateways read every record again and again, and a check costs 81 us."""

_KEY = re.compile(rb"([A-Za-z0-9][A-Za-z0-9._-]{0,63})\.([A-Za-z0-9_-]{16,128})")
"""Secrets contain no dot, so that the last dot separates, whatever the id."""
_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +(.+)")


class Client(msgspec.Struct, frozen=True):
    """Who sends a request, and what its key allows."""

    id: str
    tenant: str = ""
    models: tuple[str, ...] = ("*",)
    priorities: tuple[str, ...] = ("*",)
    regions: tuple[str, ...] = ()
    """Patterns; empty for anywhere."""

    def may_use(self, model: str) -> bool:
        return _matches(model, self.models)

    def may_claim(self, priority: str) -> bool:
        return _matches(priority, self.priorities)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return patterns == ("*",) or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


LOCAL = Client("local")
"""Anybody on this machine, while no keys are configured."""
_REFUSED = Shed(Reason.INVALID_API_KEY, "Send `Authorization: Bearer KEY` or `x-api-key: KEY`.")


class _Known(NamedTuple):
    digest: bytes
    client: Client


class Keys:
    """The client and admin keys of one configuration."""

    def __init__(self, config: GatewayConfig) -> None:
        auth: AuthConfig = config.auth
        self._pepper = auth.pepper.encode()
        self._clients = {
            key.id.encode(): _Known(
                bytes.fromhex(key.hash),
                Client(key.id, key.tenant or key.id, key.models, key.priorities, key.regions),
            )
            for key in auth.clients
        }
        self._admins = {key.id.encode(): _Known(bytes.fromhex(key.hash), Client(key.id)) for key in auth.admins}
        self._nobody = _Known(secrets.token_bytes(32), LOCAL)

    def client(self, authorization: bytes | None, loopback: bool, api_key: bytes | None = None) -> Client | Shed:
        """Who sends this: by the values of `Authorization` and `x-api-key`, of which the first wins."""
        return self._find(self._clients, authorization, api_key, loopback)

    def admin(self, authorization: bytes | None, loopback: bool, api_key: bytes | None = None) -> Client | Shed:
        return self._find(self._admins, authorization, api_key, loopback)

    def _find(
        self, known: dict[bytes, _Known], authorization: bytes | None, api_key: bytes | None, loopback: bool
    ) -> Client | Shed:
        if not known:
            return LOCAL if loopback else _REFUSED
        if authorization is not None:
            bearer = _BEARER.fullmatch(authorization)
            api_key = bearer[1] if bearer else None
        parts = _KEY.fullmatch(api_key) if api_key is not None and len(api_key) <= MAX_KEY_BYTES else None
        if parts is None:
            return _REFUSED
        entry = known.get(parts[1], self._nobody)  # an unknown id is compared too, with a digest nobody has
        if not hmac.compare_digest(entry.digest, hmac.digest(self._pepper, parts[2], "sha256")):
            return _REFUSED
        return entry.client


# Signatures of worker records.


class _Signer(NamedTuple):
    key: Ed25519PublicKey
    scope: Scope


class Verifier:
    """Checks signatures against the configured keys; good ones are remembered, so that unchanged records are cheap."""

    def __init__(self, config: GatewayConfig) -> None:
        self._signers = {
            key.id: _Signer(
                Ed25519PublicKey.from_public_bytes(base64.b64decode(key.public_key, validate=True)),
                Scope(key.workers, key.regions, key.models, key.addresses),
            )
            for key in config.registry.keys
        }
        self._good: dict[bytes, None] = {}
        self.checked = 0
        """Signatures computed, for telemetry."""

    def __call__(self, key_id: str, message: bytes, signature: bytes) -> Scope | None:
        signer = self._signers.get(key_id)
        if signer is None:
            return None
        name = key_id.encode()
        seen = hashlib.sha256(b"%d:%b%d:%b%b" % (len(name), name, len(signature), signature, message)).digest()
        if seen in self._good:
            return signer.scope
        self.checked += 1
        try:
            signer.key.verify(signature, message)
        except InvalidSignature:
            return None
        if len(self._good) >= VERIFIED_RECORDS:
            del self._good[next(iter(self._good))]
        self._good[seen] = None
        return signer.scope


def verifier(config: GatewayConfig) -> Verify | None:
    """What `records.open_worker` takes: None while no keys are configured, which lets unsigned records pass."""
    return Verifier(config) if config.registry.keys else None


# Making keys, for `isochrone keys new`.


def key_hash(secret: str, pepper: str = "") -> str:
    """The `hash` of a client's or an admin's secret."""
    return hmac.digest(pepper.encode(), secret.encode(), "sha256").hex()


def make_client_key(key_id: str, pepper: str = "") -> tuple[str, str]:
    """A new key for a client or an admin: (what its holder sends, the `hash` for the configuration)."""
    secret = secrets.token_urlsafe(32)
    return f"{key_id}.{secret}", key_hash(secret, pepper)


def make_worker_key() -> tuple[bytes, str]:
    """A new signing key: (PEM for the worker's `--key` file, the `public_key` for the configuration). The key's id is
    the file's name without its ending."""
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return pem, base64.b64encode(public).decode()
