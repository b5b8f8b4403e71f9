import pytest

from loadtests.simulator.bench import measure, watched
from tests.loadtests.simulator.worlds import world


def test_speed_is_requests_over_cpu_time_and_the_shares_name_router_and_parts():
    speed = measure(world(seconds=20.0, full_rate=100.0))
    assert speed.requests_per_minute == pytest.approx(speed.requests / speed.cpu_s * 60)
    assert sum(speed.share_of_time.values()) == pytest.approx(1.0)
    assert {"router_route", "observe"} <= set(speed.share_of_time)


def test_nobody_looks_any_more_afterwards():
    with watched() as seen:
        pass
    before = dict(seen)
    sum(i * i for i in range(300_000))
    assert dict(seen) == before
