import random

import pytest

from workers.forming import Service
from workers.learning import DOUBTED, ENOUGH, LEAST_CAUTION, MEMORY, OUTLIER, Learned, Rate

PRIOR = Service(0.008, 0.001)


def taught(truth, sizes, noise=0.0, prior=PRIOR, seed=1):
    rng, learned = random.Random(seed), Learned(prior, 16)
    for items in sizes:
        learned.observe(items, truth.seconds(items) * rng.lognormvariate(0.0, noise))
    return learned.service


def near(service, truth, share=0.1):
    return all(service.seconds(n) == pytest.approx(truth.seconds(n), rel=share) for n in (1, 4, 16))


def test_it_starts_as_the_manifest_says():
    assert near(Learned(PRIOR, 16).service, PRIOR, 1e-6)
    assert Learned(PRIOR, 16).service.caution == 1.0 + LEAST_CAUTION


@pytest.mark.parametrize("truth", [Service(0.004, 0.0005), Service(0.002, 0.004), Service(0.03, 0.0001)])
def test_it_finds_the_curve_of_its_traffic(truth):
    sizes = [1 + n % 16 for n in range(3 * MEMORY)]
    assert near(taught(truth, sizes, noise=0.1), truth)


def test_while_all_batches_are_of_one_size_the_shape_is_kept_and_the_scale_learned():
    doubled = Service(2 * PRIOR.fixed, 2 * PRIOR.each)
    assert near(taught(doubled, [3] * 2 * MEMORY), doubled)


def test_a_batch_of_one_item_in_a_curve_of_nothing_is_still_a_curve():
    service = Learned(Service(0.0, 0.0), 1).service
    assert service.fixed > 0
    assert service.each > 0


def test_where_batching_gains_nothing_an_item_costs_all():
    service = taught(Service(0.0, 0.003), [1 + n % 16 for n in range(3 * MEMORY)])
    assert 0 < service.fixed < 1e-3
    assert service.each == pytest.approx(0.003, rel=0.1)


def test_caution_is_the_mean_error():
    sizes = [1 + n % 16 for n in range(5 * MEMORY)]
    assert taught(PRIOR, sizes, noise=0.02).caution == 1.0 + LEAST_CAUTION
    assert taught(PRIOR, sizes, noise=0.25).caution == pytest.approx(1.2, abs=0.06)


def test_a_pause_of_the_machine_is_no_slow_model():
    learned = Learned(PRIOR, 16)
    for _ in range(50):
        learned.observe(4, PRIOR.seconds(4))
    learned.observe(4, 60.0)
    assert learned.service.seconds(4) < 1.2 * PRIOR.seconds(4)
    assert OUTLIER > 1


def test_a_few_batches_are_not_worth_telling():
    learned = Learned(PRIOR, 16)
    for _ in range(ENOUGH):
        assert not learned.sure
        learned.observe(4, PRIOR.seconds(4))
    learned.observe(4, PRIOR.seconds(4))
    learned.observe(4, PRIOR.seconds(4))
    assert learned.sure, "old ones count a little less"


def test_a_wrong_curve_does_not_refuse_for_ever():
    learned = Learned(PRIOR, 16)
    for _ in range(MEMORY):
        learned.observe(4, 3 * PRIOR.seconds(4))
    for _ in range(DOUBTED - 1):
        learned.refused()
    assert learned.service.seconds(4) > 2.8 * PRIOR.seconds(4)
    learned.refused()
    assert learned.service.seconds(4) == pytest.approx(PRIOR.seconds(4))


def test_refusals_among_batches_are_overload_and_change_nothing():
    learned = Learned(PRIOR, 16)
    for _ in range(100):
        learned.observe(4, 3 * PRIOR.seconds(4))
        for _ in range(DOUBTED // 2):
            learned.refused()
    assert learned.service.seconds(4) > 2.8 * PRIOR.seconds(4)


def test_the_rate_is_that_of_the_last_arrivals():
    rate = Rate()
    assert rate.at(5.0) == 0.0
    for n in range(100):
        rate.arrived(n * 0.01)
    assert rate.at(0.991) == pytest.approx(100.0)
    for n in range(100):
        rate.arrived(1.0 + n * 0.001)
    assert rate.at(1.0991) == pytest.approx(1000.0, rel=0.2)


def test_a_gap_that_is_still_open_counts_once_it_is_longer():
    rate = Rate()
    for n in range(100):
        rate.arrived(n * 0.01)
    assert rate.at(0.99 + 2.0) == pytest.approx(0.5)


def test_one_arrival_says_nothing():
    rate = Rate()
    rate.arrived(1.0)
    assert rate.at(1.5) == 0.0
