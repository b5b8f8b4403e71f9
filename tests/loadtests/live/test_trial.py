"""A world run both ways."""

import json
from statistics import fmean

import msgspec
import pytest

from loadtests.live import trial
from loadtests.live.emulated import NOISE_HEADER, OUTPUT_HEADER, PROMPT_HEADER
from loadtests.report import Sent
from loadtests.simulator import definitions, runs
from policies.decision import Actual, Attempted, Decided, Predicted


@pytest.fixture(scope="module")
def world():
    """The committed one, for a few seconds and at a rate that any machine keeps up with."""
    whole = definitions.read("versus").cases[0].world
    return msgspec.structs.replace(whole, full_rate=10.0, seconds=6.0, warm_up=1.0)


def test_the_plan_is_one_and_the_weather_another(world):
    one, again, other = (trial.simulate(world, "cheapest_in_deadline", 1, weather) for weather in (1, 1, 2))
    assert one == again
    assert len(one.seen) == len(other.seen)
    assert [seen.total for seen in one.seen] != [seen.total for seen in other.seen]


def test_the_parts_of_an_answer_add_up(world):
    observed = trial.simulate(world, "cheapest_in_deadline", 1, 1)
    totals = [seen.total for seen in observed.seen if seen.total is not None]
    parts = [p.network + p.queue + p.prefill + p.decode + p.earlier + p.gateway for p in observed.parts]
    assert sorted(parts) == pytest.approx(sorted(totals))


def test_the_network_is_the_worlds(world):
    made = trial.scenario(world)
    for trip in world.round_trips:
        a, b = trip.between
        assert made.round_trip(a, b)[0] == pytest.approx(trip.avg_ms / 1e3)
        assert made.drawn(a, b).min_ms == trip.min_ms
    assert len(made.workers) == 9
    assert made.gateways == world.gateways


def test_a_request_says_its_size_to_the_gateway_and_its_cost_to_the_worker(world):
    planned = next(one for one in runs.planned(world, 1) if one.kind.name == "ordinary")
    message = trial.message(planned, 1.25)
    headers, body = dict(message.headers), json.loads(message.body)
    assert len(body["prompt"]) == 4 * planned.prompt_tokens
    assert "max_tokens" not in body
    assert (headers["x-deadline-ms"], headers["x-slo-ttft-ms"]) == ("3000", "1000")
    assert headers[PROMPT_HEADER] == str(planned.prompt_tokens)
    assert (headers[OUTPUT_HEADER], headers[NOISE_HEADER]) == (str(planned.output_tokens), "1.250000")


def test_what_came_before_the_warm_up_ended_does_not_count(world):
    plan = runs.planned(world, 1)[:30]
    sent = [
        Sent(number=one.number, kind=one.kind.name, ok=True, took=0.2, first_byte=0.1, worker="r-n-0", attempts=1)
        for one in plan
    ]
    decided = [
        Decided(
            at=1000.0 + one.at - plan[0].at, model="llm", took=0.21,
            attempts=(
                Attempted(
                    node="r-n-0/llm:v", region="r", predicted=Predicted(0, 0.3, 0, 0, 0.4), cost=0.01,
                    actual=Actual(0.1, 0.2, 0.03, 0.05, 0.02, 0.06),
                ),
            ),
        )
        for one in plan
    ]  # fmt: skip
    observed = trial.observe(world, plan, sent, decided)
    counted = sum(one.at >= world.warm_up for one in plan)
    assert 0 < counted < len(plan)
    assert len(observed.seen) == len(observed.parts) == counted
    assert observed.seen[0] == (0.1, 0.2, True, 1, pytest.approx(0.01), "r-n")
    assert observed.parts[0] == pytest.approx((0.1, 0.03, 0.05, 0.02, 0.0, 0.01, 0.3, 0.4))


def test_a_late_first_token_is_a_miss(world):
    plan = [one for one in runs.planned(world, 1) if one.at >= world.warm_up and one.kind.name == "tight"][:1]
    late = Sent(
        number=plan[0].number,
        kind="tight",
        ok=True,
        took=0.6,
        first_byte=0.5,
        first_deadline=plan[0].kind.first_token_s,
    )
    lost = msgspec.structs.replace(late, ok=False)
    for sent, seen in ((late, (0.5, 0.6, False)), (lost, (None, None, False))):
        (one,) = trial.observe(world, plan, [sent], [Decided(at=0.0, model="llm")]).seen
        assert one[:3] == seen


def test_a_short_trial_in_processes(world):
    """Few requests on idle workers: everybody is answered, by the model, over the WAN."""
    said = []
    observed = trial.run(world, "cheapest_in_deadline", 1, said.append)
    simulated = trial.simulate(world, "cheapest_in_deadline", 1, 1)
    assert len(observed.seen) == len(simulated.seen)
    assert all(seen.total is not None for seen in observed.seen)
    assert sum(line.startswith("gateway") for line in said) == 2
    assert len(observed.parts) == len(observed.seen)
    # The noise is the plan's, so where a request went to the same kind of node it took the same.
    assert fmean(p.decode for p in observed.parts) == pytest.approx(fmean(p.decode for p in simulated.parts), rel=0.5)
    assert sum(seen.cost for seen in observed.seen) > 0
