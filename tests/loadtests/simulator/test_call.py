from loadtests.simulator.call import ON_THE_WAY
from loadtests.simulator.queueing import Queueing
from loadtests.workload import Class
from policies.request import INFINITE
from tests.loadtests.simulator.worlds import FAST, Alone


def job(**fields):
    return Alone(Queueing, FAST).send(5.0, 100, 10, Class(name="x", **fields))


def test_deadlines_are_instants_and_what_is_granted_without_end_is_infinite():
    call = job(first_token_s=0.5, total_s=2.0).call
    assert (call.first_deadline, call.deadline, call.due) == (5.5, 7.0, 5.5)
    patient = job().call
    assert (patient.first_deadline, patient.deadline, patient.due) == (INFINITE, INFINITE, INFINITE)


def test_a_total_deadline_alone_is_when_the_first_token_is_wanted_at_the_latest():
    assert job(total_s=2.0).due == 7.0


def test_a_job_begins_on_the_way_with_its_whole_prompt():
    one = job()
    assert (one.stage, one.prompt, one.generated, one.settled) == (ON_THE_WAY, 100, 0, False)
    assert one.worker.id in repr(one)
