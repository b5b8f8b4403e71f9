import math

import msgspec
import pytest

from policies import decision
from policies.decision import Actual, Decided, Group, Opened, Predicted, Served, Surveyed
from policies.reason import Reason
from policies.records import Curve, MarginalPrice, TokenPrice
from policies.request import Dispatch, Eta, Infeasible, Outcome, Request, Selection, Shed, Status
from tests.fleets import router, worker

ARRIVED = 100.0
PLAIN = Served("m", "int8", Curve(0.1))
FULL = Served("m", "bf16", Curve(0.1), 8, 0.9, 1.2, 0.5)
EVERYTHING = (
    Opened(at=1.5, gateway="gw", region="eu", sample=0.1),
    Surveyed(
        at=2.0,
        groups=(
            Group(region="eu", count=3, accelerator="L4", price=MarginalPrice(0.2), serves=(PLAIN,)),
            Group(region="us", count=1, price=TokenPrice(1.0, 2.0), serves=(FULL,)),
        ),
        round_trips={"eu": (0.001, 0.0005)},
        requests=7,
    ),
    Decided(at=3.0, model="m"),
)  # fmt: skip


def asked(**fields):
    return Request(**({"id": "r", "model": "m", "policy": "p", "arrived": ARRIVED} | fields))


def sent(request, attempt=1, at=ARRIVED + 0.001):
    node = router(worker("w1", region="eu")).fleet.nodes()[0]
    eta = Eta(network=0.0200001, wait=0.01, prefill=0.03, decode=0.04, spread=0.005)
    return Dispatch(
        request=request, node=node, at=at, attempt=attempt, status=Status.DEGRADED, eta=eta, cost=0.00012345678
    )


def record(request, attempts, **fields):
    known = {"at": 5.0, "finished": ARRIVED + 0.2, "tenant": "t", "shed": None, "status": 200}
    return decision.decided(request, attempts, **(known | fields))


@pytest.mark.parametrize("line", EVERYTHING, ids=lambda line: type(line).__name__)
def test_lines_survive_the_file(line):
    raw = decision.encode(line)
    assert raw.endswith(b"\n")
    assert raw.count(b"\n") == 1
    assert decision.decode(raw) == line


def test_a_reader_ignores_keys_it_does_not_know_and_names_those_that_are_wrong():
    assert decision.decode(b'{"t":"d","at":1,"m":"x","new":[1]}') == Decided(at=1, model="x")
    with pytest.raises(msgspec.ValidationError, match=r"\$\.at"):
        decision.decode(b'{"t":"d","at":"soon","m":"x"}')
    with pytest.raises(msgspec.ValidationError, match="nonsense"):
        decision.decode(b'{"t":"nonsense"}')


def test_a_request_is_told_with_its_prediction_and_what_came():
    request = asked(
        deadline=ARRIVED + 4, first_token_deadline=ARRIVED + 0.4, prompt_tokens=50.04, output_tokens=200, stream=True,
        when_infeasible=(Infeasible.REJECT,), quality=1.0, min_quality=0.9, probability=0.98,
    )  # fmt: skip
    outcome = Outcome(
        first_byte=0.05, total=0.15, queue=0.01, prefill=0.02, decode=0.1, accelerator=0.03, output_tokens=9
    )
    told = record(request, [(sent(request), outcome, 0.0002)])
    assert (told.first_token, told.total, told.token_interval) == (0.4, 4.0, None)
    assert (told.prompt_tokens, told.output_tokens, told.when_infeasible) == (50.0, 200.0, ("reject",))
    (tried,) = told.attempts
    assert tried.node.startswith("w1/")
    assert (tried.region, tried.promise, tried.outcome, tried.output_tokens) == ("eu", "degraded", "ok", 9)
    assert tried.started == 0.001
    assert tried.predicted == Predicted(0.02, 0.01, 0.03, 0.04, 0.005)
    assert tried.actual == Actual(0.05, 0.15, 0.01, 0.02, 0.1, 0.03)
    assert (told.cost, tried.expected_cost) == (0.0002, 0.000123457)
    assert (told.in_deadline, told.took) == (True, 0.2)
    assert len(decision.encode(told)) < 500


def test_workers_that_differ_in_name_and_place_only_have_one_mark():
    one = worker("w1", region="eu")
    assert decision.mark(one) == decision.mark(
        worker("w2", region="eu", address="127.0.0.9:1", zone="b", boot="b9", seq=4)
    )
    assert decision.mark(one) != decision.mark(worker("w1", region="us"))
    assert decision.mark(one) != decision.mark(worker("w1", region="eu", usd_per_hour=9.0))
    (told,) = record(asked(), [(sent(asked()), None, 0.0)]).attempts
    assert told.mark == decision.mark(one)


def test_every_attempt_is_told_and_only_the_last_keeps_a_deadline():
    request = asked(deadline=ARRIVED + 1)
    lost = (sent(request), Outcome(reason=Reason.UPSTREAM_LOST, total=0.1), 0.001)
    answered = (sent(request, 2, ARRIVED + 0.1), Outcome(total=0.1), 0.002)
    told = record(request, [lost, answered])
    assert [tried.outcome for tried in told.attempts] == ["upstream_lost", "ok"]
    assert told.cost == pytest.approx(0.003)
    assert told.in_deadline


def test_a_refusal_has_its_reason_and_no_attempts():
    told = record(asked(), [], shed=Shed(Reason.DEADLINE_INFEASIBLE), status=429)
    assert (told.refused, told.status, told.attempts, told.in_deadline) == ("deadline_infeasible", 429, (), False)


def test_constraints_are_told_of_but_not_told():
    assert not record(asked(), []).tied
    for tied in ({"selection": Selection(only=("w9",))}, {"order": ("w9",)}, {"max_cost": 0.1}):
        told = record(asked(**tied), [])
        assert told.tied
        assert b"w9" not in decision.encode(told)


def test_no_figure_is_beyond_json():
    request = asked(deadline=math.inf)
    seen = Outcome(total=0.1, first_byte=0.1, queue=0.0, prefill=0.1, decode=0.0, accelerator=0.1)
    assert b"null" not in decision.encode(record(request, [(sent(request), seen, 0.0)]))
