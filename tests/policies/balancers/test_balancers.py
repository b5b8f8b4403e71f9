"""One abstract suite every balancer must pass."""

import random

import numpy as np
import pytest

from policies.balancers import better_of_two, lowest, two_of
from policies.balancers.soonest import FastestTokens, Soonest
from policies.candidates import Candidates
from policies.config import BalancerConfig
from tests.fleets import MODEL, request, router, worker

ALL = [kind().build for kind in BalancerConfig.__args__] + [Soonest, FastestTokens]


def view(names, eligible=None, **fields):
    r = router(*(worker(name) for name in names))
    columns = r.fleet.columns(MODEL)
    asked = request(**fields)
    mask = columns.eligible(asked, 0.0, (), 0.5)
    if eligible is not None:
        mask = mask & np.array([name in eligible for name in names])
    return Candidates(columns, asked, mask, 0.0)


@pytest.mark.parametrize("build", ALL)
def test_only_eligible_nodes_are_picked(build):
    candidates, rng, balancer = view("abcde", eligible="bd"), random.Random(1), build()
    picked = {balancer.pick(candidates, rng) for _ in range(50)}
    assert picked <= {1, 3}


@pytest.mark.parametrize("build", ALL)
def test_nobody_eligible_is_none(build):
    assert build().pick(view("abc", eligible=""), random.Random(1)) is None


@pytest.mark.parametrize("build", ALL)
def test_equal_nodes_share_the_load(build):
    """N = 5 equal nodes, R = 2,000 picks: none gets more than twice its fair share (a binomial with mean 400 and
    standard deviation 18 is 22 deviations away from 800)."""
    candidates, rng, balancer = view("abcde"), random.Random(1), build()
    counts = np.bincount([balancer.pick(candidates, rng) for _ in range(2000)], minlength=5)
    assert counts.max() < 800
    assert counts.min() > 0


@pytest.mark.parametrize("build", ALL)
def test_the_same_seed_picks_the_same(build):
    candidates = view("abcde")
    runs = []
    for _ in range(2):
        rng, balancer = random.Random(7), build()
        runs.append([balancer.pick(candidates, rng) for _ in range(40)])
    assert runs[0] == runs[1]


def test_two_of_are_distinct_and_every_pair_occurs():
    mask, rng = np.array([True, False, True, True]), random.Random(1)
    pairs = {two_of(mask, rng) for _ in range(200)}
    assert pairs == {(a, b) for a in (0, 2, 3) for b in (0, 2, 3) if a != b}
    assert two_of(np.array([False, True]), rng) == (1, 1)
    assert two_of(np.array([False]), rng) is None


def test_better_of_two_never_takes_the_worst_of_three():
    score, rng = np.array([3.0, 1.0, 2.0], np.float32), random.Random(1)
    assert {better_of_two(np.ones(3, np.bool_), score, rng) for _ in range(100)} == {1, 2}


def test_lowest_breaks_ties_at_random():
    score, rng = np.array([1.0, 1.0, 2.0], np.float32), random.Random(1)
    assert {lowest(np.ones(3, np.bool_), score, rng) for _ in range(50)} == {0, 1}
