from loadtests.simulator.baselines.holding import Patient
from policies.balancers import lowest
from policies.request import Dispatch, Hold, Shed
from tests.loadtests.simulator.baselines.arena import Arena, three


class Gate(Patient):
    shut_until: float | None = 2.0
    asked = 0

    def until(self, candidates):
        self.asked += 1
        return self.shut_until

    def pick(self, candidates, rng):
        return lowest(candidates.eligible, candidates.total, rng)


def test_a_request_is_held_until_the_balancer_lets_it_go():
    gate = Gate()
    arena = Arena(gate, *three())
    assert arena.route(1.0) == Hold(2.0)
    assert arena.router.open == 0
    assert gate.now == 1.0
    gate.shut_until = None
    assert isinstance(arena.route(2.0, arrived=1.0), Dispatch)


def test_without_anybody_to_wait_for_it_is_refused_at_once():
    gate = Gate()
    assert isinstance(Arena(gate).route(1.0), Shed)
    assert isinstance(Arena(gate, *three()).route(1.0, max_cost=1e-12), Hold)
    assert gate.asked == 1
