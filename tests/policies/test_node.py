import pytest

from policies.node import LEARN_EVERY, SETTLED_SAMPLES
from policies.records import Curve
from policies.request import LoadSeen, Outcome
from tests.fleets import MODEL, endpoint, load, only_node, request, worker


def test_eta_parts():
    _, node = only_node()
    eta = node.eta(request(prompt_tokens=100, output_tokens=20), 0.0)
    assert eta.network == pytest.approx(0.1, rel=0.01)
    assert eta.wait == 0.0
    assert eta.prefill == pytest.approx(0.12)
    assert eta.decode == pytest.approx(0.2)
    assert eta.spread > 0.1 * 0.32, "at least the prior error of the compute"


def test_an_uncertain_length_widens_the_spread_and_nothing_else():
    _, node = only_node()
    sure, unsure = (node.eta(request(output_tokens=20, output_deviation=d), 0.0) for d in (0.0, 5.0))
    assert unsure.total == sure.total
    assert unsure.spread - sure.spread == pytest.approx(5 * 0.01)


def test_spread_grows_with_the_age_of_the_load():
    _, node = only_node()
    spreads = [node.eta(request(), now).spread for now in (0.0, 0.5, 2.0)]
    assert spreads == sorted(spreads)
    assert spreads[0] < spreads[2]


def test_company_slows_decoding_by_the_curve():
    chat = endpoint(curve=Curve(base=0.02, decode=0.01, decode_batch=0.002), max_batch=64)
    r, node = only_node(worker("w", endpoints=(chat,)))
    assert node.eta(request(output_tokens=10), 0.0).decode == pytest.approx(0.1)
    r.observe(LoadSeen(load("w", 2, waiting=0, running=10), 0.0), 0.0)
    assert node.eta(request(output_tokens=10), 0.0).decode == pytest.approx(0.3)
    assert r.fleet.columns(MODEL).output[0] == pytest.approx(0.03)


def test_speed_and_charge_are_learned_from_reports():
    r, node = only_node()
    asked = request(prompt_tokens=100, output_tokens=20, stream=True)  # 0.32 s by the curve
    for i in range(60):
        now = float(i)
        r.observe(LoadSeen(load("w", i + 2), 0.0), now)
        dispatch = r.route(asked, now)
        outcome = Outcome(
            first_byte=0.36, total=0.8, queue=0.0, prefill=0.24, decode=0.4, accelerator=0.16, output_tokens=20
        )
        r.report(dispatch, outcome, now + 0.8)
    assert node.speed.factor == pytest.approx(2.0, rel=0.05)
    charged = 0.12 + 0.01 * 20 / 4
    assert node.pace.factor == pytest.approx(2.0, rel=0.1), "19 tokens after the first"
    assert node.charge.factor == pytest.approx(0.16 / charged, rel=0.05)
    eta = node.eta(asked, 60.0)
    assert eta.prefill + eta.decode == pytest.approx(0.64, rel=0.05)
    assert eta.network == pytest.approx(0.12, abs=0.01), "round trip plus 20 ms of overhead"


def test_foreign_engines_are_learned_from_the_whole():
    r, node = only_node(worker("w", endpoints=(endpoint(curve=Curve(0.1), max_batch=1),)))
    for i in range(60):
        dispatch = r.route(request(), float(i))
        r.report(dispatch, Outcome(first_byte=0.29, total=0.3), i + 0.3)
    assert node.speed.factor == pytest.approx(2.0, rel=0.05)


def test_what_was_learned_fades_without_answers():
    r, node = only_node()
    for i in range(30):
        dispatch = r.route(request(output_tokens=20), float(i))
        r.report(
            dispatch, Outcome(first_byte=0.3, total=1.0, queue=0.0, prefill=0.2, decode=2.0, output_tokens=20), i + 0.5
        )
    slow = node.speed.factor
    assert slow > 4.0
    cost = node.columns.output[0]
    for i in range(60):
        r.tick(30.0 + i)
    assert 1.0 < node.speed.factor < slow**0.6, "one half-life: about the square root is left"
    assert node.columns.output[0] < cost


def test_a_busy_node_is_learned_from_a_hundred_times_a_second():
    r, node = only_node()
    for i in range(SETTLED_SAMPLES + 100):
        now = i * LEARN_EVERY / 10
        dispatch = r.route(request(prompt_tokens=100, output_tokens=20, stream=True), now)
        r.report(dispatch, Outcome(first_byte=0.1, total=0.3, queue=0.0, prefill=0.1, decode=0.2), now)
    assert SETTLED_SAMPLES + 9 <= node.speed.samples <= SETTLED_SAMPLES + 11
