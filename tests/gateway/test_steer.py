import pytest

from gateway import steer
from gateway.config import Site
from gateway.place import UNKNOWN, Place
from gateway.steer import Near, Steering

SITES = {
    "us-east": Site(url="https://us.example", latitude=39.0, longitude=-77.5),
    "eu-west": Site(url="https://eu.example", latitude=53.3, longitude=-6.3),
    "ap-east": Site(url="https://ap.example", latitude=35.7, longitude=139.7),
}
PARIS = Place("FR", 48.9, 2.4)
OSAKA = Place("JP", 34.7, 135.5)


@pytest.mark.parametrize(
    ("place", "regions"),
    [(PARIS, ["eu-west", "us-east", "ap-east"]), (OSAKA, ["ap-east", "eu-west", "us-east"])],
)
def test_nearest_first(place, regions):
    order = Steering(SITES).nearest(place)
    assert [near.region for near in order] == regions
    assert order[0].kilometres < order[1].kilometres < order[2].kilometres


def test_the_header_is_the_nearest_url():
    steering = Steering(SITES)
    assert steering.header(PARIS) == b"https://eu.example"
    assert steering.header(OSAKA) == b"https://ap.example"


@pytest.mark.parametrize("place", [UNKNOWN, Place("FR")])
def test_an_unknown_place_keeps_the_configured_order(place):
    steering = Steering(SITES)
    assert steering.nearest(place)[0] == Near("us-east", "https://us.example", None)
    assert steering.header(place) is None


def test_no_sites():
    assert Steering({}).nearest(PARIS) == []
    assert Steering({}).header(PARIS) is None


def test_orders_are_remembered_and_bounded(monkeypatch):
    monkeypatch.setattr(steer, "CACHED_ANSWERS", 2)
    steering = Steering(SITES)
    assert steering.nearest(PARIS) is steering.nearest(PARIS)
    for latitude in range(5):
        steering.nearest(Place("FR", float(latitude), 0.0))
    assert steering.nearest(PARIS)[0].region == "eu-west"
    assert len(steering._orders) <= 2
