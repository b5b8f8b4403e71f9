from policies.choice import Choice, crowded_out, hopeless, worth_trying
from policies.reason import Reason
from policies.request import Hold, Infeasible, LoadSeen, Shed, Status
from tests.fleets import load, request, router, worker


def considered(backlog=0.0, **wishes):
    r = router(worker("w"))
    r.observe(LoadSeen(load("w", 2, waiting=9, running=1, backlog=backlog), 0.0), 0.0)
    return r.consider(request(**wishes), 0.0)


def test_only_a_queue_in_the_way_is_crowding_out():
    behind, impossible = considered(5.0, deadline=1.0), considered(deadline=0.001)
    assert (behind.status, impossible.status) == (Status.BEST_EFFORT, Status.BEST_EFFORT)
    assert crowded_out(behind, 0.0)
    assert not crowded_out(impossible, 0.0)
    assert not crowded_out(considered(deadline=9.0), 0.0)
    assert crowded_out(Hold(1.0), 0.0)
    assert crowded_out(Shed(Reason.DEADLINE_INFEASIBLE, retry_after=2.0), 0.0)
    assert not crowded_out(Shed(Reason.DEADLINE_INFEASIBLE), 0.0)


def test_hopeless_is_what_nobody_can_serve_in_time():
    assert hopeless(considered(deadline=0.001))
    assert hopeless(Shed(Reason.DEADLINE_INFEASIBLE))
    assert not hopeless(considered(deadline=9.0))
    assert not hopeless(Shed(Reason.QUALITY_FLOOR))
    found = considered(deadline=9.0)
    assert not hopeless(Choice(found.candidates, found.slot, Status.BEST_EFFORT)), "its balancer did not look"


def test_best_effort_is_worth_trying_where_it_may_be_tried_and_will_most_likely_do():
    both = (Infeasible.HOLD, Infeasible.BEST_EFFORT)
    assert worth_trying(considered(deadline=9.0, when_infeasible=both).candidates, 0.0)
    assert not worth_trying(considered(deadline=9.0, when_infeasible=(Infeasible.HOLD,)).candidates, 0.0)
    assert not worth_trying(considered(5.0, deadline=1.0).candidates, 0.0)
