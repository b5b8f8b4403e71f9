import numpy as np
import pytest

from policies.candidates import LEAST_SPREADS, Candidates
from policies.request import LoadSeen
from tests.fleets import MODEL, load, request, router, worker


def test_lateness_is_what_feasibility_goes_by():
    r = router(worker("near"), worker("far"), rtt={"near": 0.02, "far": 0.2})
    columns = r.fleet.columns(MODEL)
    asked = request(deadline=0.1, first_token_deadline=0.3, token_interval=0.01)
    candidates = Candidates(columns, asked, columns.eligible(asked, 0.0, (), 0.5), 0.0)
    whole, first, pace = candidates.lateness(0.0)
    assert whole[0] < 0 < whole[1]
    assert (first < 0).all()
    assert (pace < 0).all()
    assert candidates.fit.tolist() == [True, False]


def test_only_a_queue_can_drain():
    r = router(worker("near"), rtt={"near": 0.02})
    asked = request(deadline=0.01)
    columns = r.fleet.columns(MODEL)
    assert Candidates(columns, asked, columns.accepts, 0.0).drained(0.0) == float("inf")
    r.observe(LoadSeen(load("near", seq=2, waiting=30, running=1, backlog=3.0), 0.0), 0.0)
    columns, asked = r.fleet.columns(MODEL), request(deadline=1.0)
    assert Candidates(columns, asked, columns.accepts, 0.0).drained(0.0) == pytest.approx(2.0, abs=0.3)


@pytest.mark.parametrize("probability", [0.5, 0.9, 0.99])
def test_the_spread_is_that_of_the_columns(probability, monkeypatch):
    r = router(worker("near"), worker("far"), rtt={"near": 0.02, "far": 0.2})
    columns = r.fleet.columns(MODEL)
    z = columns.calibration.total.quantile(probability)
    monkeypatch.setattr(type(columns.calibration), "whole", lambda *_: (z, True))
    asked = request(deadline=0.5, prompt_tokens=900.0, output_tokens=50.0, output_deviation=9.0, items=3)
    candidates = Candidates(columns, asked, columns.accepts, 0.0)
    total, spread, _ = columns.evaluate(asked, 50.0)
    assert (abs(z) >= LEAST_SPREADS) is (probability > 0.5), "both ways are taken"
    assert candidates.total == pytest.approx(total)
    assert candidates.spread == pytest.approx(spread, rel=1e-4)
    assert candidates.spread.dtype == np.float32
