"""A place on earth: what `geo.py` finds for a client, and what `steer.py` measures distances from."""

import math

import msgspec

EARTH_KM = 6371.0
"""Mean radius (IUGG)."""


class Place(msgspec.Struct, frozen=True):
    """Where a client is thought to be, as far as known."""

    country: str | None = None
    """ISO 3166 alpha-2."""
    latitude: float | None = None
    longitude: float | None = None


UNKNOWN = Place()


def distance(latitude: float, longitude: float, to_latitude: float, to_longitude: float) -> float:
    """Great-circle distance in kilometres: the haversine formula, which stays exact for small distances
    (R. W. Sinnott, "Virtues of the Haversine", Sky and Telescope 68, 1984)."""
    phi, to_phi = math.radians(latitude), math.radians(to_latitude)
    half_phi, half_lambda = (to_phi - phi) / 2, math.radians(to_longitude - longitude) / 2
    h = math.sin(half_phi) ** 2 + math.cos(phi) * math.cos(to_phi) * math.sin(half_lambda) ** 2
    return 2 * EARTH_KM * math.asin(min(1.0, math.sqrt(h)))
