import numpy as np
import pytest

from loadtests.simulator.baselines.prequal import DELTA, FEWEST, OLDEST_S, POOL, PROBES, Answer, Prequal
from policies.records import Curve
from policies.request import WorkerGone
from tests.fleets import endpoint, worker
from tests.loadtests.simulator.baselines.arena import ENDPOINT, Arena

MANY = tuple(worker(f"w{number}", endpoints=(ENDPOINT,)) for number in range(20))


def stocked(*answers: Answer, workers=MANY, **fields) -> tuple[Arena, Prequal]:
    balancer = Prequal()
    arena = Arena(balancer, *workers, **fields)
    balancer._pool.extend(answers)
    balancer._levels.extend(answer.in_flight for answer in answers)
    return arena, balancer


def answer(number: int, in_flight: float = 0.1, wait: float = 0.0, at: float = 0.0, uses: int = 9) -> Answer:
    return Answer(f"w{number}", in_flight, wait, at, uses)


def test_every_request_probes_three_others_and_is_sent_by_earlier_answers():
    balancer = Prequal()
    arena = Arena(balancer, *MANY)
    arena.send()
    probes = arena.router.probes()
    assert len(set(probes)) == PROBES
    assert arena.router.probes() == []
    for worker_id in probes:
        arena.loaded(worker_id, 0.1, waiting=1, running=3, backlog=0.2)
    assert [entry.worker for entry in balancer._pool] == probes
    assert [entry.in_flight for entry in balancer._pool] == [0.5] * PROBES  # 4 of 8 slots
    assert arena.send(0.2).node.worker.id in probes


def test_reports_nobody_asked_for_are_not_answers():
    balancer = Prequal()
    arena = Arena(balancer, *MANY)
    arena.send()
    unasked = next(record.id for record in MANY if record.id not in arena.router.probes())
    arena.loaded(unasked, 0.1)
    assert balancer._pool == []


def test_the_soonest_of_the_cold_not_the_hot_one_that_is_sooner():
    cold = [answer(number, 0.1, 0.5 + number) for number in range(8)]
    arena, _ = stocked(*cold, answer(9, 0.9, 0.0))
    assert arena.send(0.1).node.worker.id == "w0"


def test_only_hot_ones_are_compared_by_what_is_in_flight():
    arena, balancer = stocked(answer(1, 0.8, 0.0), answer(2, 0.7, 5.0))
    balancer._levels.clear()
    balancer._levels.extend([0.1] * 100)
    assert arena.send(0.1).node.worker.id == "w2"


def test_distance_and_prefill_are_part_of_latency():
    near, far = worker("w0", endpoints=(ENDPOINT,)), worker("w1", endpoints=(ENDPOINT,))
    slow = worker("w2", endpoints=(endpoint(curve=Curve(0.01, prefill=1e-3, decode=0.01), max_batch=8),))
    answers = answer(0, wait=0.2), answer(1, wait=0.0), answer(2, wait=0.0)
    arena, _ = stocked(*answers, workers=(near, far, slow), rtt={"w1": 0.3})
    assert arena.send(0.1).node.worker.id == "w0"


def test_a_use_is_remembered_and_used_up():
    used = answer(1, 0.1, 0.0, at=0.05, uses=2)
    spares = [answer(number, 0.1, 9.0) for number in range(3, 8)]  # for the removals
    arena, balancer = stocked(used, answer(2, 0.1, 0.05, at=0.05), *spares)
    balancer._levels.extend([0.9] * 100)  # nobody is hot
    assert arena.send(0.1).node.worker.id == "w1"
    assert used.in_flight == pytest.approx(0.1 + 1 / 8)
    assert used.wait == pytest.approx(0.11)
    assert used.uses == 1
    assert arena.send(0.1).node.worker.id == "w2"
    assert arena.send(0.1).node.worker.id == "w1"
    assert used not in balancer._pool


def test_the_reuse_budget_is_the_papers():
    balancer = Prequal()
    arena = Arena(balancer, *MANY)
    arena.send()
    budget = (1 + DELTA) / ((1 - POOL / 20) * PROBES - 1)
    assert budget < 0  # probes do not keep up with removals: answers may be used as often as the pool is large
    assert balancer._uses() == POOL
    balancer._replicas = 110
    mean = sum(balancer._uses() for _ in range(4000)) / 4000
    assert mean == pytest.approx((1 + DELTA) / ((1 - POOL / 110) * PROBES - 1), abs=0.03)


def test_old_answers_go_and_few_are_not_trusted():
    arena, balancer = stocked(*[answer(number) for number in range(5)])
    places = {arena.send(OLDEST_S + 0.5).node.worker.id for _ in range(40)}
    assert balancer._pool == []
    assert len(places) > 10


def test_the_pool_holds_sixteen_and_sheds_the_worst_and_the_oldest():
    arena, balancer = stocked(*[answer(number, 0.1, 0.1 * number, at=0.01 * number) for number in range(POOL)])
    balancer._asked.add("w19")
    balancer._slots["w19"] = 8
    balancer._chance = arena.router._rng
    arena.loaded("w19", 0.5)
    assert len(balancer._pool) == POOL
    assert "w0" not in {entry.worker for entry in balancer._pool}
    idle, usable = np.zeros(20, np.float32), [(number, entry) for number, entry in enumerate(balancer._pool)]
    balancer._tidy(usable, idle)
    assert "w1" not in {entry.worker for entry in balancer._pool}
    idle[7] = 9.0  # it is far away
    balancer._tidy(usable, idle)
    assert len(balancer._pool) == POOL - 2
    assert balancer._pool == [entry for _, entry in usable]
    gone = {f"w{number}" for number in range(1, POOL)} - {entry.worker for entry in balancer._pool}
    assert len(gone) == 2
    del usable[FEWEST:], balancer._pool[FEWEST:]
    balancer._tidy(usable, idle)
    assert len(balancer._pool) == FEWEST


def test_answers_of_who_left_are_not_used():
    arena, _ = stocked(answer(1), answer(2), answer(3, wait=9.0))
    arena.router.observe(WorkerGone("w1"), 0.1)
    arena.router.observe(WorkerGone("w0"), 0.1)
    assert arena.send(0.2).node.worker.id == "w2"
