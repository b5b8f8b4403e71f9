from tests.fleets import request, router, worker


def test_the_tier_is_five_percent_wide():
    r = router(worker("a", usd_per_hour=1.0), worker("b", usd_per_hour=1.04), worker("c", usd_per_hour=1.06))
    assert {r.route(request(), 0.0).node.worker.id for _ in range(50)} == {"a", "b"}


def test_inside_the_tier_the_sooner_of_two():
    r = router(*(worker(n) for n in "abc"), rtt={"a": 0.3, "b": 0.01, "c": 0.02})
    assert {r.route(request(deadline=9.0), 0.0).node.worker.id for _ in range(50)} == {"b", "c"}
