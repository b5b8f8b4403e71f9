"""Where a client is: a trusted peer's word on its address, and a database of networks.

Nothing here fails: no database, a broken or an old one, or an address nobody knows is `UNKNOWN`, and counted.
`refresh` belongs off the request path: it notices a changed file and reads it whole, so that a file overwritten in
place can't disturb lookups.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Sequence

import geoip2.database
import geoip2.errors
import geoip2.models
import maxminddb

from gateway.place import UNKNOWN as UNKNOWN
from gateway.place import Place as Place

CHECK_SECONDS = 1.0
"""How often `refresh` looks at the file."""
CACHED_PLACES = 65_536
"""Networks remembered (a /24 or /48 each); a lookup costs some 30 us, a hit below 1 us."""
CLAIMS = (b"x-forwarded-for", b"forwarded")
"""Headers in which proxies name the client; where both came, the first counts."""
NO_COUNTRIES = frozenset({"AP", "EU", "XX", "ZZ"})
"""What databases write for "somewhere in Asia", "somewhere in Europe" and "nowhere known"."""
MAX_HOPS = 32
"""Proxies in one forwarding header; more is nobody's real chain."""

_MAPPED = b"\0" * 10 + b"\xff\xff"
"""Prefix of IPv4 addresses written as IPv6 (RFC 4291 2.5.5.2)."""
_FORWARDED_FOR = re.compile(rb'(?:^|;)[ \t]*for=(?:"([^"]*)"|([^";,\s]+))', re.IGNORECASE)
_PORT = re.compile(r"\[([^\]]+)\](?::\d+)?|([0-9.]+):\d+")


Lookup = Callable[[str], Place]


class Locator:
    """Finds the place of a request. `trusted` are the CIDR ranges whose forwarding headers are believed.

    `max_age` is in seconds; `wall` gives the time of day, which databases are dated by.
    """

    def __init__(
        self,
        path: str | None,
        trusted: Sequence[str] = (),
        max_age: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.failures = 0
        """Times the database could not be used when it was looked at."""
        self.unknown = 0
        """Requests whose place was not found while a database was in use."""
        self._path, self._max_age, self._clock, self._wall = path, max_age, clock, wall
        self._trusted = [_network(text) for text in trusted]
        self._lookup: Lookup | None = None
        self._built = 0.0
        self._file: tuple[int, int, int] | None = None
        self._places: dict[bytes, Place] = {}
        self._checked = -CHECK_SECONDS
        self._look()

    def refresh(self) -> None:
        """Notice a changed file; looks at most once a second, however often it is called."""
        now = self._clock()
        if now - self._checked >= CHECK_SECONDS:
            self._checked = now
            self._look()

    def adopt(self, earlier: Locator) -> None:
        """Count on from an earlier configuration's figures."""
        self.failures += earlier.failures
        self.unknown += earlier.unknown

    def locate(self, peer: str, forwarded: bytes | None) -> Place:
        """Where the client is: `peer` is the address of the connection, `forwarded` the value (joined by commas) of
        `X-Forwarded-For` or `Forwarded`, which counts only when the peer is trusted."""
        lookup = self._lookup
        if lookup is None:
            return UNKNOWN
        address = self._client(peer, forwarded)
        place = UNKNOWN
        if address is not None:
            network = address[:3] if len(address) == 4 else address[:6]
            known = self._places.get(network)
            place = known if known is not None else self._find(lookup, address, network)
        if place is UNKNOWN:
            self.unknown += 1
        return place

    def _find(self, lookup: Lookup, address: bytes, network: bytes) -> Place:
        family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
        try:
            place = lookup(socket.inet_ntop(family, address))
        except (ValueError, KeyError, TypeError, IndexError, maxminddb.InvalidDatabaseError):
            self.failures += 1  # a file that opened well but is broken inside
            place = UNKNOWN
        if len(self._places) >= CACHED_PLACES:
            self._places.clear()
        self._places[network] = place
        return place

    # Whose address.

    def _client(self, peer: str, forwarded: bytes | None) -> bytes | None:
        """The rightmost address that no trusted proxy has: what stands left of it could be forged. Where all are
        proxies', nobody knows the client's: a proxy's own country is not its clients'."""
        address = _packed(peer)
        if address is None or not self._trusts(address):
            return address
        for hop in reversed(_hops(forwarded or b"")[-MAX_HOPS:]):
            address = _packed(hop)
            if address is None or not self._trusts(address):
                return address
        return None

    def _trusts(self, address: bytes) -> bool:
        number, size = int.from_bytes(address, "big"), len(address)
        return any(size == length and number & mask == network for length, mask, network in self._trusted)

    # The database.

    def _look(self) -> None:
        if self._path is None:
            return
        try:
            stat = os.stat(self._path)
            file = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if file != self._file:
                self._places = {}
                self._lookup, self._file = None, file
                self._lookup, self._built = _open(self._path)
            elif self._lookup is None:
                self.failures += 1
        except OSError:
            self._lookup = self._file = None  # looked at again, even if the same file comes back
            self.failures += 1
        except (ValueError, EOFError, maxminddb.InvalidDatabaseError):
            self._lookup = None  # not looked at again before it changes
            self.failures += 1
        if self._lookup is not None and self._max_age is not None and self._wall() - self._built > self._max_age:
            self._lookup = None
            self.failures += 1


def _open(path: str) -> tuple[Lookup, float]:
    """Read a database whole, by the schema it says it has; its build time with it."""
    reader = geoip2.database.Reader(path, mode=maxminddb.MODE_MEMORY)
    metadata = reader.metadata()
    kind, built = metadata.database_type, float(metadata.build_epoch)
    for name, find in (("City", reader.city), ("Enterprise", reader.enterprise)):
        if name in kind:
            return _located(find), built
    if "Country" in kind:
        return _country(reader), built
    reader.close()
    return _flat(maxminddb.open_database(path, maxminddb.MODE_MEMORY)), built


def _located(model: Callable[[str], geoip2.models.City]) -> Lookup:
    def find(address: str) -> Place:
        try:
            found = model(address)
        except geoip2.errors.AddressNotFoundError:
            return UNKNOWN
        return _place(found.country.iso_code, found.location.latitude, found.location.longitude)

    return find


def _country(reader: geoip2.database.Reader) -> Lookup:
    def find(address: str) -> Place:
        try:
            return _place(reader.country(address).country.iso_code, None, None)
        except geoip2.errors.AddressNotFoundError:
            return UNKNOWN

    return find


def _flat(reader: maxminddb.Reader) -> Lookup:
    """The schema of github.com/sapics/ip-location-db, which geoip2 refuses: one level, `country_code`, `latitude`."""

    def find(address: str) -> Place:
        found = reader.get(address)
        if not isinstance(found, dict):
            return UNKNOWN
        return _place(found.get("country_code"), found.get("latitude"), found.get("longitude"))

    return find


def _place(country: object, latitude: object, longitude: object) -> Place:
    """Keep what is plausible; coordinates only in pairs."""
    known = country if isinstance(country, str) and re.fullmatch("[A-Z]{2}", country) else None
    if known in NO_COUNTRIES:
        known = None
    if not (isinstance(latitude, int | float) and isinstance(longitude, int | float)):
        return Place(known) if known else UNKNOWN
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        return Place(known) if known else UNKNOWN
    return Place(known, float(latitude), float(longitude))


# What proxies say.


def claimed(fields: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """What proxies before us claim about the client's address: every value of the header, joined in order. `fields`
    have lower-case names. Who believes it is `locate`'s to decide."""
    values: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        if name in CLAIMS:
            values.setdefault(name, []).append(value)
    return next((b",".join(values[name]) for name in CLAIMS if name in values), None)


# Addresses: four or sixteen bytes, IPv4 always as four.


def _packed(text: str) -> bytes | None:
    try:
        if ":" not in text:
            return socket.inet_pton(socket.AF_INET, text)
        address = socket.inet_pton(socket.AF_INET6, text.partition("%")[0])
    except (OSError, ValueError):
        return None
    return address[12:] if address.startswith(_MAPPED) else address


def _network(text: str) -> tuple[int, int, int]:
    """(address length in bytes, mask, network) of a CIDR range."""
    network = ipaddress.ip_network(text)
    return network.max_prefixlen // 8, int(network.netmask), int(network.network_address)


def _hops(forwarded: bytes) -> list[str]:
    """The addresses of `X-Forwarded-For` or `Forwarded` (RFC 7239), in order; what is not an address stays as it is
    and ends the walk."""
    hops = []
    for element in forwarded.split(b","):
        named = _FORWARDED_FOR.search(element)
        value = (named[1] or named[2] or b"") if named else element.strip()
        text = value.decode("latin-1")
        ported = _PORT.fullmatch(text)
        hops.append((ported[1] or ported[2]) if ported else text)
    return hops
