import os
from pathlib import Path

import maxminddb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from gateway import geo
from gateway.geo import UNKNOWN, Locator, Place

PROXY = "10.0.0.1"
TRUSTED = ("10.0.0.0/8", "fd00::/8", "5.6.8.0/24")
BERLIN = Place("DE", 52.5, 13.4)
NETWORKS = {"81.2.69.0/24": "DE", "5.6.7.0/24": "US", "5.6.8.0/24": "US", "2001:db8::/32": "JP"}
SPOTS = {"DE": (52.5, 13.4), "US": (39.0, -77.5), "JP": (35.7, 139.7)}


def nested(country: str) -> dict:
    latitude, longitude = SPOTS[country]
    return {"country": {"iso_code": country}, "location": {"latitude": latitude, "longitude": longitude}}


def flat(country: str) -> dict:
    latitude, longitude = SPOTS[country]
    return {"country_code": country, "latitude": latitude, "longitude": longitude}


def write(path: Path, kind: str = "GeoLite2-City", record=nested, networks=NETWORKS) -> Path:
    """A database as an operator's updater leaves it: written beside, then renamed over."""
    writer = MMDBWriter(6, kind, ipv4_compatible=True, languages=["en"])
    for network, country in networks.items():
        writer.insert_network(IPSet([network]), record(country))
    beside = path.with_suffix(".new")
    writer.to_db_file(str(beside))
    os.replace(beside, path)
    return path


@pytest.fixture
def database(tmp_path) -> str:
    return str(write(tmp_path / "city.mmdb"))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        self.now += 2.0
        return self.now


# Databases.


@pytest.mark.parametrize(
    ("kind", "record", "expected"),
    [
        ("GeoLite2-City", nested, BERLIN),
        ("GeoIP2-Enterprise", nested, BERLIN),
        ("GeoLite2-Country", nested, Place("DE")),
        ("DBIP-Country", nested, Place("DE")),
        ("city ipv4", flat, BERLIN),
        ("country ipvAll", lambda country: {"country_code": country}, Place("DE")),
    ],
)
def test_each_schema(tmp_path, kind, record, expected):
    locator = Locator(str(write(tmp_path / "x.mmdb", kind, record)))
    assert locator.locate("81.2.69.142", None) == expected
    assert locator.locate("2001:db8::1", None).country == "JP"
    assert locator.locate("::ffff:81.2.69.142", None) == expected
    assert locator.locate("9.9.9.9", None) is UNKNOWN
    assert (locator.unknown, locator.failures) == (1, 0)


def test_no_database_is_unknown_and_no_failure():
    locator = Locator(None)
    locator.refresh()
    assert locator.locate("81.2.69.142", None) is UNKNOWN
    assert locator.failures == 0


@pytest.mark.parametrize("content", [None, b"", b"junk", b"\xab\xcd\xefMaxMind.com" * 3, "half", "torn"])
def test_a_missing_or_broken_database_is_unknown_and_counted(tmp_path, content):
    path = tmp_path / "x.mmdb"
    if content == "half":
        whole = write(path).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif content == "torn":  # opens well, but its data is gone
        whole = write(path).read_bytes()
        start = whole.rindex(b"\xab\xcd\xefMaxMind.com")
        path.write_bytes(whole[: start - 200] + bytes([0xFF]) * 200 + whole[start:])
    elif content is not None:
        path.write_bytes(content)
    locator = Locator(str(path))
    assert locator.locate("81.2.69.142", None) is UNKNOWN
    assert locator.failures >= 1


def test_values_that_make_no_sense_are_left_out(tmp_path):
    def odd(country: str) -> dict:
        return {"country_code": "Germany", "latitude": 1000.0, "longitude": 0.0}

    locator = Locator(str(write(tmp_path / "x.mmdb", "city ipv4", odd)))
    assert locator.locate("81.2.69.142", None) is UNKNOWN


@pytest.mark.parametrize("code", ["EU", "AP", "ZZ"])
def test_a_code_that_is_no_country_is_none(tmp_path, code):
    locator = Locator(str(write(tmp_path / "x.mmdb", "country ipv4", lambda country: {"country_code": code})))
    assert locator.locate("81.2.69.142", None) is UNKNOWN


def test_an_old_database_says_nothing(tmp_path):
    path = str(write(tmp_path / "x.mmdb"))
    with maxminddb.open_database(path) as reader:
        built = reader.metadata().build_epoch
    fresh = Locator(path, max_age=100.0, wall=lambda: built + 99.0)
    old = Locator(path, max_age=100.0, wall=lambda: built + 101.0)
    assert fresh.locate("81.2.69.142", None) == BERLIN
    assert old.locate("81.2.69.142", None) is UNKNOWN
    assert (fresh.failures, old.failures) == (0, 1)


# Swapping the file.


def test_a_swapped_database_is_noticed(tmp_path):
    path = write(tmp_path / "x.mmdb")
    locator = Locator(str(path), clock=Clock())
    assert locator.locate("81.2.69.142", None).country == "DE"
    write(path, networks={"81.2.69.0/24": "US"})
    assert locator.locate("81.2.69.142", None).country == "DE"
    locator.refresh()
    assert locator.locate("81.2.69.142", None).country == "US"


def test_a_removed_database_is_unknown_until_it_comes_back(tmp_path):
    path = write(tmp_path / "x.mmdb")
    locator = Locator(str(path), clock=Clock())
    away = tmp_path / "away"
    os.rename(path, away)
    locator.refresh()
    assert locator.locate("81.2.69.142", None) is UNKNOWN
    os.rename(away, path)
    locator.refresh()
    assert locator.locate("81.2.69.142", None) == BERLIN


def test_a_broken_database_is_replaced_by_a_good_one(tmp_path):
    path = write(tmp_path / "x.mmdb")
    locator = Locator(str(path), clock=Clock())
    path.write_bytes(b"half written")
    locator.refresh()
    locator.refresh()
    assert locator.locate("81.2.69.142", None) is UNKNOWN
    assert locator.failures == 2
    write(path)
    locator.refresh()
    assert locator.locate("81.2.69.142", None) == BERLIN


def test_a_file_overwritten_in_place_does_not_disturb_lookups(tmp_path):
    path = write(tmp_path / "x.mmdb")
    locator = Locator(str(path), clock=Clock())
    path.write_bytes(b"")
    assert locator.locate("81.2.69.142", None) == BERLIN


def test_the_file_is_looked_at_once_a_second_at_most(tmp_path):
    now = [100.0]
    path = write(tmp_path / "x.mmdb")
    locator = Locator(str(path), clock=lambda: now[0])
    locator.refresh()
    path.unlink()
    now[0] += 0.5
    locator.refresh()
    assert locator.failures == 0
    now[0] += 0.6
    locator.refresh()
    assert locator.failures == 1


def test_places_are_remembered_by_network_and_bounded(database, monkeypatch):
    monkeypatch.setattr(geo, "CACHED_PLACES", 2)
    locator = Locator(database)
    assert locator.locate("81.2.69.1", None) is locator.locate("81.2.69.200", None)
    for third in range(5):
        locator.locate(f"9.9.{third}.1", None)
    assert len(locator._places) <= 2
    assert locator.locate("81.2.69.1", None) == BERLIN


# Whose address.


@pytest.mark.parametrize(
    ("peer", "forwarded", "country"),
    [
        ("81.2.69.142", None, "DE"),
        ("81.2.69.142", b"5.6.7.8", "DE"),  # not a trusted peer: what it forwards is not believed
        (PROXY, None, None),
        (PROXY, b"81.2.69.142", "DE"),
        (PROXY, b"5.6.7.8, 81.2.69.142", "DE"),  # the client wrote the left one itself
        (PROXY, b"81.2.69.142, 10.0.0.9", "DE"),
        (PROXY, b"81.2.69.142,10.0.0.9,10.0.0.8", "DE"),
        (PROXY, b"5.6.7.8, junk, 10.0.0.9", None),
        (PROXY, b"", None),
        (PROXY, b"81.2.69.142,", None),
        (PROXY, b"10.0.0.5, 10.0.0.6", None),
        ("5.6.8.1", None, None),  # a proxy with a country, and a client that it does not name
        ("5.6.8.1", b"5.6.8.1", None),
        ("5.6.8.1", b"2001:db8::1", "JP"),
        (PROXY, b"81.2.69.142:4711", "DE"),
        (PROXY, b"[2001:db8::1]:4711", "JP"),
        (PROXY, b"2001:db8::1", "JP"),
        (PROXY, b"for=81.2.69.142", "DE"),
        (PROXY, b'for="[2001:db8::1]:80";proto=https', "JP"),
        (PROXY, b"proto=https;For=81.2.69.142, for=10.0.0.9", "DE"),
        (PROXY, b"for=81.2.69.142, for=unknown", None),
        (PROXY, b"for=81.2.69.142, for=_hidden", None),
        ("fd00::1", b"81.2.69.142", "DE"),
        ("::ffff:10.0.0.1", b"81.2.69.142", "DE"),
        ("not an address", b"81.2.69.142", None),
        ("81.2.69.142\0", None, None),
        (PROXY, b"81.2.69.142, " + b"10.0.0.9, " * 100 + b"10.0.0.9", None),
    ],
)
def test_the_rightmost_untrusted_address_counts(database, peer, forwarded, country):
    assert Locator(database, TRUSTED).locate(peer, forwarded).country == country


@pytest.mark.parametrize(
    "forwarded", [b"\xff" * 50, b"," * 500, b'for="', b"for=", b"[::1", b"%", b"1.2.3.4.5", b"1" * 5000]
)
def test_nonsense_is_unknown(database, forwarded):
    assert Locator(database, TRUSTED).locate(PROXY, forwarded) is UNKNOWN


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=30), st.binary(max_size=60) | st.text('0123456789.:,[]"for=; ', max_size=60).map(str.encode))
def test_no_input_raises(database, peer, forwarded):
    locator = Locator(database, TRUSTED)
    assert isinstance(locator.locate(peer, forwarded), Place)
    assert isinstance(locator.locate(PROXY, forwarded), Place)
