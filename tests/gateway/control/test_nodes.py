"""Rows for operators."""

from __future__ import annotations

import random

from gateway.config import Site
from gateway.control.nodes import rows, steer
from gateway.place import UNKNOWN, Place
from gateway.steer import Steering
from policies.fleet import Fleet
from policies.records import Curve, Endpoint, TokenPrice, Worker
from policies.request import DrainSet, LoadSeen, RoundTrip, WorkerSeen
from tests.gateway.members import load, worker


def test_a_row_shows_what_the_router_decides_with() -> None:
    fleet = Fleet(random.Random(1))
    fleet.apply(WorkerSeen(worker("a")), 10.0)
    [row] = rows(fleet, 10.0)
    assert (row["rtt_ms"], row["waiting"], row["load_age_ms"]) == (None, None, None)
    fleet.apply(RoundTrip("a", 0.004), 10.0)
    fleet.apply(LoadSeen(load("a", waiting=3), 0.5), 11.0)
    fleet.apply(DrainSet("a", True), 11.0)
    [row] = rows(fleet, 12.0)
    assert (row["rtt_ms"], row["waiting"], row["load_age_ms"]) == (4.0, 3, 1500.0)
    assert (row["state"], row["drained"], row["accepts"]) == ("draining", True, False)
    assert (row["price"], row["price_in"]) == (1.0, None)


def test_token_prices_have_columns_of_their_own() -> None:
    fleet = Fleet(random.Random(1))
    record = Worker(
        id="api", boot="b", seq=1, address="h:1", region="us", price=TokenPrice(3.0, 15.0),
        endpoints=(Endpoint(model="m", variant="v", quality=1.0, curve=Curve(0.1)),),
    )  # fmt: skip
    fleet.apply(WorkerSeen(record), 0.0)
    [row] = rows(fleet, 0.0, "m")
    assert (row["price"], row["price_in"], row["price_out"]) == (None, 3.0, 15.0)
    assert rows(fleet, 0.0, "other") == []


def test_steering_orders_by_distance_where_it_is_known() -> None:
    steering = Steering(
        {
            "us": Site(url="http://us", latitude=38.9, longitude=-77.4),
            "eu": Site(url="http://eu", latitude=50.1, longitude=8.7),
        }
    )
    told = steer(steering, "192.0.2.1", Place("FR", 48.9, 2.4))
    assert [near["region"] for near in told["gateways"]] == ["eu", "us"]
    assert told["gateways"][0]["distance_km"] < 600
    unknown = steer(steering, "192.0.2.1", UNKNOWN)
    assert [near["distance_km"] for near in unknown["gateways"]] == [None, None]
