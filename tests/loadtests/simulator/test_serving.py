"""What all workers have in common: records, reports, bills, and what goes wrong."""

import pytest

from loadtests.simulator.batching import Batching
from loadtests.simulator.call import OVER
from loadtests.simulator.queueing import Queueing
from loadtests.simulator.serving import reply_bytes
from loadtests.simulator.world import CostMode, Profile, Serving
from policies import records
from policies.records import MarginalPrice, ReservedPrice, TokenPrice
from tests.loadtests.simulator.worlds import Alone

PROFILE = Profile(
    accelerator="x", prefill_tokens_per_s=1000, overhead_s=0.1, decode_s=0.01, slots=2, power_watts=500, idle_watts=100
)
KINDS = pytest.mark.parametrize("kind", [Queueing, Batching])


def test_its_record_is_one_that_a_registry_takes():
    worker = Alone(Queueing, PROFILE, cloud="gcp").worker
    first, second = worker.record(), worker.record()
    opened = records.open_worker(records.seal_worker(first), None)
    assert opened == first
    assert (first.boot, first.seq, second.seq) == ("b1", 1, 2)
    assert first.cloud == "gcp"


@pytest.mark.parametrize(
    ("fields", "price"),
    [
        ({"usd_per_hour": 3.6}, MarginalPrice(3.6)),
        ({"cost": CostMode.RESERVED}, ReservedPrice(3.6)),
        ({"cost": CostMode.TOKEN, "input_usd_per_mtok": 1, "output_usd_per_mtok": 2}, TokenPrice(1, 2)),
    ],
)  # fmt: skip
def test_its_price_is_what_using_it_costs(fields, price):
    assert Alone(Queueing, PROFILE, **fields).worker.record().price == price


@KINDS
def test_its_load_says_what_waits_and_runs_and_can_be_read(kind):
    alone = Alone(kind, PROFILE)
    for _ in range(4):
        alone.send(0.0, 300, 50)
    alone.run(until=0.5)
    load = alone.worker.load()
    assert records.decode_load(records.encode_load(load)) == load
    assert load.waiting + load.running == load.arrived == 4
    assert load.tokens_waiting == 300 * load.waiting
    assert load.backlog > 0.1
    assert 0.0 < load.kv_use <= 1.0
    assert alone.worker.load().seq == load.seq + 1


def test_an_answer_is_billed_by_accelerator_seconds_by_tokens_or_not_at_all():
    def bill(**fields):
        alone = Alone(Queueing, PROFILE, **fields)
        alone.send(0.0, 400, 11)
        (job,) = alone.run()
        return job.call.usd

    assert bill(usd_per_hour=3.6) == pytest.approx(0.001 * (0.5 + 0.1 / 2))
    assert bill(cost=CostMode.TOKEN, input_usd_per_mtok=2.0, output_usd_per_mtok=4.0) == pytest.approx(844e-6)
    assert bill(cost=CostMode.RESERVED) == 0.0


def test_energy_and_carbon_are_what_the_work_adds_to_idling():
    alone = Alone(Queueing, PROFILE)
    alone.send(0.0, 900, 1)
    (job,) = alone.run()
    assert job.call.joules == pytest.approx(400 * 1.0)
    assert job.call.grams == pytest.approx(400 / 3.6e6 * alone.worker.place.carbon_g_per_kwh)


def test_an_event_stream_is_many_times_its_text():
    assert reply_bytes(100, stream=True) > 10 * reply_bytes(100, stream=False)


@KINDS
def test_a_cached_beginning_is_not_computed_again(kind):
    alone = Alone(kind, PROFILE)
    alone.send(0.0, 2048, 1, prefix=(1, 2, 3))
    alone.send(10.0, 2048, 1, prefix=(1, 2, 4))
    first, second = alone.run()
    assert (first.prompt, second.prompt) == (2048, 1024)
    assert second.first - second.started < 0.6 * (first.first - first.started)


def test_whatever_was_called_back_before_it_came_is_not_worked_on():
    alone = Alone(Queueing, PROFILE)
    job = alone.send(1.0, 100)
    alone.worker.cancel(job)
    alone.run()
    assert (job.stage, job.accelerator, alone.heard) == (OVER, 0.0, [])


@KINDS
def test_a_crash_loses_all_that_was_there_and_charges_what_was_done(kind):
    alone = Alone(kind, PROFILE)
    for _ in range(5):
        alone.send(0.0, 300, 50)
    alone.timeline.at(0.6, lambda _: alone.worker.crash())
    late = alone.send(0.7, 10)
    jobs = alone.run()
    ends = {number: what for what, number, _ in alone.heard if what != "began"}
    assert ends == dict.fromkeys(range(5), "lost") | {late.call.number: "connect_failed"}
    assert (alone.worker.running, alone.worker.waiting, alone.worker.queued_tokens) == (0, 0, 0)
    assert sum(job.call.usd for job in jobs) > 0.0
    alone.worker.start()
    assert alone.worker.record().boot == "b2"


@KINDS
def test_a_frozen_worker_never_answers_and_is_seen_to_run_what_it_holds(kind):
    alone = Alone(kind, PROFILE)
    held = [alone.send(0.0, 300, 50) for _ in range(3)]
    alone.run(until=0.35)
    alone.worker.silent = True
    alone.worker.freeze()
    alone.worker.judge()
    before = len(alone.heard)
    alone.send(0.4, 10)
    alone.run()
    assert len(alone.heard) == before
    assert (alone.worker.load().running, alone.worker.load().waiting) == (4, 0)
    alone.worker.cancel(held[0])
    assert alone.worker.load().running == 3


@pytest.mark.parametrize(("trouble", "answer"), [("draining", "refused"), ("black_hole", "failed")])
def test_a_draining_worker_refuses_and_a_black_hole_fails_in_a_millisecond(trouble, answer):
    alone = Alone(Queueing, PROFILE)
    setattr(alone.worker, trouble, True)
    alone.worker.judge()
    job = alone.send(1.0, 100)
    alone.run()
    assert [what for what, _, _ in alone.heard] == [answer]
    assert alone.heard[0][2] == pytest.approx(1.0, abs=2e-3)
    assert job.accelerator == 0.0
    assert alone.worker.load().draining == (trouble == "draining")


def test_beside_answers_it_sends_its_load_where_the_world_wants_that():
    alone = Alone(Queueing, PROFILE, Serving(noise=0))
    alone.worker.reports = True
    job = alone.send(0.0, 100, 1)
    alone.run()
    assert job.report is not None
    assert job.report.running == 0
