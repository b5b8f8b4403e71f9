import random

from policies.balancers.soonest import FastestTokens, Soonest
from policies.candidates import Candidates
from policies.records import Curve
from tests.fleets import MODEL, endpoint, request, router, worker


def test_soonest_answer_and_fastest_tokens_differ():
    quick_start = worker("quick", endpoints=(endpoint(curve=Curve(0.01, decode=0.01)),))
    quick_pace = worker("pace", endpoints=(endpoint(curve=Curve(0.5, decode=0.001)),))
    columns = router(quick_start, quick_pace).fleet.columns(MODEL)
    asked = request(output_tokens=10)
    candidates = Candidates(columns, asked, columns.eligible(asked, 0.0, (), 0.5), 0.0)
    rng = random.Random(1)
    assert columns.nodes[Soonest().pick(candidates, rng)].worker.id == "quick"
    assert columns.nodes[FastestTokens().pick(candidates, rng)].worker.id == "pace"
