"""Which gateway is nearest to a client, by great-circle distance: what `/admin/steer` and `x-gateway-nearest` say.

Only a recommendation to the client. Between nodes, measured latency decides, never distance.
"""

from collections.abc import Mapping

import msgspec

from gateway.config import Site
from gateway.place import Place, distance

CACHED_ANSWERS = 4096
"""Places whose order is remembered; a city database has a few thousand busy ones."""


class Near(msgspec.Struct, frozen=True):
    """One gateway, with its distance where that is known."""

    region: str
    url: str
    kilometres: float | None


class Steering:
    """Orders the gateways of the configuration's `regions`."""

    def __init__(self, regions: Mapping[str, Site]) -> None:
        self._regions = dict(regions)
        self._unplaced = [Near(region, site.url, None) for region, site in self._regions.items()]
        self._orders: dict[tuple[float, float], list[Near]] = {}

    def nearest(self, place: Place) -> list[Near]:
        """Gateways, the nearest first; in the configuration's order when nobody knows where the client is."""
        if place.latitude is None or place.longitude is None:
            return self._unplaced
        key = (place.latitude, place.longitude)
        order = self._orders.get(key)
        if order is None:
            if len(self._orders) >= CACHED_ANSWERS:
                self._orders.clear()
            order = self._orders[key] = self._order(*key)
        return order

    def _order(self, latitude: float, longitude: float) -> list[Near]:
        found = [
            Near(region, site.url, distance(latitude, longitude, site.latitude, site.longitude))
            for region, site in self._regions.items()
        ]
        return sorted(found, key=lambda near: near.kilometres or 0.0)

    def header(self, place: Place) -> bytes | None:
        """The value of `x-gateway-nearest`: the nearest gateway's URL, or None when that is not known."""
        if place.latitude is None or not self._regions:
            return None
        return self.nearest(place)[0].url.encode()
