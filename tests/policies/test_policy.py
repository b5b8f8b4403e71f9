from policies.admission import CROWDED_GAIN, AdmissionConfig
from policies.config import PolicyConfig
from tests.fleets import request


def crowded(**admission):
    """A policy in overload, whose tenant `hog` has had more than its share."""
    policy = PolicyConfig(admission=AdmissionConfig(**admission)).build({"heavy": 50.0})
    for _ in range(int(3 / CROWDED_GAIN)):
        policy.overload.routed(crowded_out=True)
    for tenant in ("hog", "heavy"):
        policy.shares.count(tenant, 9.0, 0.0, asked=True, served=True)
    policy.shares.count("small", 4.0, 0.0, asked=True, served=False)
    return policy


def test_in_overload_unlikely_attempts_are_refused_and_a_hogs_whatever_their_chance():
    policy = crowded()
    assert policy.refuses_early(request(tenant="small"), 0.5, 0.1)
    assert not policy.refuses_early(request(tenant="small"), 0.99, 0.1)
    assert policy.refuses_early(request(tenant="hog"), 0.99, 0.1)
    assert policy.over_share(request(tenant="hog"), 0.1)
    assert not policy.over_share(request(tenant="heavy"), 0.1), "its weight is a larger share"


def test_both_can_be_turned_off():
    assert not crowded(fair=False).refuses_early(request(tenant="hog"), 0.99, 0.1)
    assert not crowded(early_rejection=False).refuses_early(request(tenant="small"), 0.1, 0.1)


def test_without_overload_nobody_is_refused():
    policy = PolicyConfig().build()
    policy.shares.count("hog", 9.0, 0.0, asked=True, served=True)
    policy.shares.count("small", 4.0, 0.0, asked=True, served=False)
    assert not policy.refuses_early(request(tenant="hog"), 0.0, 0.1)
