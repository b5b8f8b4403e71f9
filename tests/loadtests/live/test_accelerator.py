"""The queueing model in wall time, on a loop whose clock jumps: exact, and the same as the simulator's."""

import asyncio
import random
import selectors

import pytest

from loadtests.live.accelerator import Accelerator, Size
from loadtests.live.trial import Listening
from loadtests.simulator.contenders import CONTENDERS
from loadtests.simulator.runs import Simulation
from loadtests.simulator.world import Nodes, Place, Profile, RoundTrip, Serving, World
from loadtests.sizes import Ranges
from loadtests.workload import Class, Demand

PROFILE = Profile(
    accelerator="x", prefill_tokens_per_s=1000, overhead_s=0.1, decode_s=0.01, decode_batch_s=0.01, slots=2
)


class Jump(selectors.DefaultSelector):
    """Instead of waiting, time is said to have passed."""

    now = 0.0

    def select(self, timeout=None):
        self.now += timeout or 0.0
        return super().select(0)


def virtually(work):
    """Run a coroutine in virtual time. The loop rounds its timers up to the clock's resolution."""
    selector = Jump()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now
    loop._clock_resolution = 1e-9
    try:
        return loop.run_until_complete(work(loop.time))
    finally:
        loop.close()


async def served(accelerator, clock, size, at=0.0):
    """When the first and the last token of a request were there, and what it was told to have spent."""
    await asyncio.sleep(max(0.0, at - clock()))
    async with accelerator.serve(size) as job:
        first = clock()
        await accelerator.until(job.ends)
        return first, clock(), job.timings


def test_one_alone_takes_what_the_profile_says():
    async def work(clock):
        return await served(Accelerator(PROFILE, 10, clock), clock, Size(100, 11))

    first, last, spent = virtually(work)
    assert first == pytest.approx(0.2)
    assert last == pytest.approx(0.2 + 10 * 0.02)
    assert (spent.queue, spent.prefill, spent.decode) == pytest.approx((0.0, 0.2, 0.2))
    assert spent.accel == pytest.approx(0.2 + 0.2 / 2)


def test_prefills_are_serial_and_slots_are_few():
    async def work(clock):
        accelerator = Accelerator(PROFILE, 10, clock)
        return await asyncio.gather(*(served(accelerator, clock, Size(100, 11)) for _ in range(3)))

    one, two, three = virtually(work)
    assert two[0] == pytest.approx(0.4)
    # The second decodes beside the first, which ended at 0.4 as well; the third had to wait for that slot.
    assert three[2].queue == pytest.approx(0.4)
    assert three[0] == pytest.approx(0.6)
    assert one[1] == pytest.approx(0.4)


def test_noise_and_company_stretch_times():
    profile = Profile(accelerator="x", prefill_tokens_per_s=1000, decode_s=0.1, slots=2, interference=1.0)

    async def work(clock):
        accelerator = Accelerator(profile, 10, clock)
        return await asyncio.gather(
            served(accelerator, clock, Size(100, 11, 2.0)), served(accelerator, clock, Size(100, 2))
        )

    one, two = virtually(work)
    assert one[0] == pytest.approx(0.2)
    assert two[2].prefill == pytest.approx(0.1 * 1.5)  # one of two slots decodes
    assert one[2].decode == pytest.approx(10 * 0.1 * 2.0)


@pytest.mark.parametrize("after", [0.05, 0.25, 0.3])
def test_who_leaves_frees_his_place(after):
    """While he waits, prefills or decodes: the one behind him gets the accelerator then."""

    async def work(clock):
        accelerator = Accelerator(PROFILE, 10, clock)
        tasks = [asyncio.ensure_future(served(accelerator, clock, Size(100, 100))) for _ in range(3)]
        await asyncio.sleep(after)
        tasks[0].cancel()
        tasks[1].cancel()
        last = await tasks[2]
        assert (accelerator.waiting, accelerator.running, accelerator._decoding) == (0, 0, 0)
        return last

    assert virtually(work)[0] == pytest.approx(after + 0.2)


def test_backlog_is_what_is_queued_and_the_turns_of_those_without_a_slot():
    async def work(clock):
        accelerator = Accelerator(PROFILE, 11, clock)
        assert accelerator.backlog() == 0.0
        tasks = [asyncio.ensure_future(served(accelerator, clock, Size(100, 11))) for _ in range(3)]
        await asyncio.sleep(0.1)
        told = accelerator.backlog(), accelerator.waiting, accelerator.running
        await asyncio.gather(*tasks)
        return told

    backlog, waiting, running = virtually(work)
    assert (waiting, running) == (2, 1)
    assert backlog == pytest.approx(max(0.1 + 2 * 0.2, 2 * 11 * 0.03 / 2))


def test_an_idle_one_has_no_backlog_whatever_was_queued():
    """A remainder of rounding below zero would be no valid load record, and cost the worker its lease."""

    async def work(clock):
        accelerator = Accelerator(PROFILE, 11, clock)
        rng = random.Random(1)
        for _ in range(30):
            sizes = [Size(rng.uniform(1, 500), 1) for _ in range(7)]
            await asyncio.gather(*(served(accelerator, clock, size) for size in sizes))
            assert accelerator.backlog() == 0.0

    virtually(work)


def test_it_is_the_simulators_model():
    """The same 600 requests through both, with queues, full slots, company and noise: the same times each."""
    profile = Profile(
        accelerator="x", prefill_tokens_per_s=4000, overhead_s=0.01, decode_s=0.01, decode_batch_s=0.001, slots=6,
        interference=0.4,
    )  # fmt: skip
    world = World(
        name="one", regions={"r": Place(latitude=0, longitude=0)}, profiles={"p": profile}, gateways=("r",),
        round_trips=(RoundTrip(between=("r", "r"), min_ms=0.0, avg_ms=1e-9),),
        nodes=(Nodes(name="n", region="r", profiles=("p",), usd_per_hour=1.0),), serving=Serving(noise=0.2),
        demand=Demand(
            classes=(Class(name="any"),), sizes=Ranges(prompt_tokens=(50, 400), output_tokens=(2, 60)),
        ),
        full_rate=11.0, load=1.0, seconds=55.0, warm_up=0.0,
    )  # fmt: skip
    plan = world.demand.plan(11.0, 55.0, world.origins(), 3)
    made = []

    def make(setting):
        made.append(Listening(CONTENDERS["round_robin"](setting)))
        return made[-1]

    simulation = Simulation(world, make, 3, plan)
    simulation.run()
    noise = {call.number: call.noise for call in simulation.ledger.calls}
    simulated = {int(dispatch.request.id): outcome for dispatch, outcome in made[0].reported}

    async def work(clock):
        accelerator = Accelerator(profile, 30, clock)
        return await asyncio.gather(
            *(
                served(accelerator, clock, Size(one.prompt_tokens, one.output_tokens, noise[one.number]), one.at)
                for one in plan
            )
        )

    assert len(plan) > 500
    assert max(outcome.queue for outcome in simulated.values()) > 0.5
    for planned, (first, last, spent) in zip(plan, virtually(work), strict=True):
        theirs = simulated[planned.number]
        assert (spent.queue, spent.prefill, spent.decode, spent.accel) == pytest.approx(
            (theirs.queue, theirs.prefill, theirs.decode, theirs.accelerator), abs=1e-6
        )
        assert first - planned.at == pytest.approx(theirs.first_byte, abs=1e-6)
        assert last - planned.at == pytest.approx(theirs.total, abs=1e-6)


def test_a_late_timer_makes_nothing_later_than_it_must():
    """The loop wakes 3 ms late each time; ten prefills in a row still end when they should, but for the last wake."""

    async def work(clock):
        rng = random.Random(1)

        def late():
            return clock() + rng.choice((0.0, 0.003))

        accelerator = Accelerator(PROFILE, 10, late)
        jobs = await asyncio.gather(*(served(accelerator, late, Size(100, 1)) for _ in range(10)))
        return max(last for _, last, _ in jobs)

    assert virtually(work) == pytest.approx(10 * 0.2, abs=0.0061)
