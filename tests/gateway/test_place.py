import pytest

from gateway.place import UNKNOWN, Place, distance


@pytest.mark.parametrize(
    ("one", "other", "kilometres"),
    [
        ((0, 0), (0, 0), 0),
        ((0, 0), (0, 90), 10_007.5),
        ((0, 0), (0, 180), 20_015.1),
        ((90, 0), (-90, 0), 20_015.1),
        ((36.12, -86.67), (33.94, -118.40), 2_886.4),  # Nashville to Los Angeles airports, the usual worked example
        ((10, 179.9), (10, -179.9), 21.9),
    ],
)
def test_great_circle_distance(one, other, kilometres):
    assert distance(*one, *other) == pytest.approx(kilometres, abs=0.1)
    assert distance(*other, *one) == pytest.approx(distance(*one, *other))


def test_unknown_knows_nothing():
    assert Place() == UNKNOWN
    assert (UNKNOWN.country, UNKNOWN.latitude, UNKNOWN.longitude) == (None, None, None)
