"""Plain words: they name the winner, say when seeds cannot tell, and hide no defeat."""

import math

import msgspec
import pytest

from loadtests.simulator import findings
from loadtests.simulator.result import Interval
from loadtests.simulator.statistics import Limit, gather
from tests.loadtests.simulator import specimens


def compared(**attainments: float):
    (made,) = gather(specimens.runs(attainments))
    return made


def test_the_winner_is_named_with_its_lead():
    words = findings.verdict(compared(prequal=0.8, isochrone=0.9, round_robin=0.3, clairvoyant=0.99))
    assert words[0].startswith(
        "Of the policies a gateway can run, isochrone (the shipped policy) kept the most deadlines: 89.8"
    )
    assert words[1].startswith("prequal kept 79.8 %")
    assert "10.0 ± 0.0 points fewer" in words[1]
    assert any(
        "clairvoyant, which sees every queue as it is" in sentence and "9.0 ± 0.0" in sentence for sentence in words
    )


def test_a_defeat_is_said():
    made = compared(prequal=0.9, isochrone=0.8)
    words = findings.verdict(made)
    assert "prequal kept the most deadlines" in words[0]
    assert words[1].startswith("isochrone (the shipped policy) kept")
    assert findings.beaten(made) == ["prequal kept 10.0 ± 0.0 points more deadlines"]


def test_a_clairvoyant_may_come_second():
    """Looking at every queue is no guarantee: FIFO workers in overload punish whoever fills the cheapest first."""
    words = findings.verdict(compared(isochrone=0.9, clairvoyant=0.85))
    assert any("5.0 ± 0.0 points fewer than isochrone" in sentence for sentence in words)


def test_a_lead_within_the_noise_is_called_so():
    runs = [specimens.run("isochrone", seed, attainment=0.9 + 0.01 * (-1) ** seed) for seed in range(1, 5)]
    runs += [specimens.run("prequal", seed, attainment=0.899) for seed in range(1, 5)]
    (made,) = gather(runs)
    assert "these seeds do not tell apart" in findings.verdict(made)[1]
    assert findings.beaten(made) == []


def test_costs_are_compared_in_percent():
    runs = [
        specimens.run(policy, seed, attainment=met, cost_per_1k=cost + seed / 1e6)
        for policy, met, cost in (("isochrone", 0.9, 0.12), ("prequal", 0.8, 0.10))
        for seed in (1, 2, 3)
    ]
    (made,) = gather(runs)
    assert any(
        "$0.1200 under isochrone and $0.1000 under prequal (20 % more)" in text for text in findings.verdict(made)
    )
    assert findings.beaten(made) == ["prequal cost 17 % less per request in deadline"]


def test_infinite_costs_and_lone_policies_make_sentences_too():
    (made,) = gather([specimens.run("isochrone", attainment=0.0, cost_per_1k=math.inf, accepted_share=0.0)])
    assert len(findings.verdict(made)) == 1
    assert "promised" not in " ".join(findings.verdict(made))


def test_the_bound_is_told():
    made = msgspec.structs.replace(compared(isochrone=0.9), limit=Limit(0.97, 0.08, 0.95, 0.09))
    assert "97.0 % in deadline at $0.0800 at least" in findings.verdict(made)[-1]


def test_one_seed_is_sure_of_nothing():
    assert not findings.certain(Interval(0.5, None))
    assert findings.certain(Interval(0.5, 0.4))
    assert not findings.certain(Interval(-0.3, 0.4))


@pytest.mark.parametrize(
    ("what", "part"),
    [
        ("Regions", "3, up to 127 ms apart"),
        ("Fleet", "4 workers: 4 H100 ($3.50 an hour)"),
        ("Deadlines", "tight 75 % (first token 0.4 s); loose 25 % (first token 15 s, end 60 s)"),
        ("Workers", "FIFO queues"),
        ("Control plane", "heartbeats every 1 s, 5 ms to publish, 0 % lost"),
        ("Faults", "none"),
    ],
)
def test_the_world_is_told_as_it_is(what, part):
    assert part in dict(findings.assumptions(specimens.world()))[what]
