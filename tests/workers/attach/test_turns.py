import asyncio
import math

from workers.attach.turns import Turn, Turns


def soon(seconds):
    return asyncio.get_running_loop().time() + seconds


async def waiters(turns, **deadlines):
    """Tasks that wait for a turn, and the order in which they got it."""
    order = []

    async def wait(name, deadline):
        turn = await turns.take(deadline)
        order.append(name)
        return turn

    tasks = {name: asyncio.ensure_future(wait(name, deadline)) for name, deadline in deadlines.items()}
    await asyncio.sleep(0)
    return tasks, order


async def test_the_earliest_deadline_goes_first():
    turns = Turns(1, 3, asyncio.get_running_loop().time)
    assert await turns.take() is Turn.TAKEN
    tasks, order = await waiters(turns, never=math.inf, late=soon(90), early=soon(50))
    assert (turns.waiting, turns.running) == (3, 1)
    for _ in range(3):
        turns.leave()
        await asyncio.sleep(0.001)
    assert order == ["early", "late", "never"]
    assert [await task for task in tasks.values()] == [Turn.TAKEN] * 3
    turns.leave()
    assert (turns.waiting, turns.running) == (0, 0)


async def test_what_expires_in_the_line_never_gets_a_turn():
    turns = Turns(1, 3, asyncio.get_running_loop().time)
    assert await turns.take() is Turn.TAKEN
    assert await turns.take(soon(0.01)) is Turn.EXPIRED
    assert await turns.take(soon(-1)) is Turn.EXPIRED
    assert (turns.waiting, turns.running) == (0, 1)


async def test_the_line_is_bounded():
    turns = Turns(1, 1, asyncio.get_running_loop().time)
    assert await turns.take() is Turn.TAKEN
    tasks, _ = await waiters(turns, one=math.inf)
    assert await turns.take() is Turn.FULL
    tasks["one"].cancel()
    await asyncio.wait(tasks.values())
    assert turns.waiting == 0


async def test_a_turn_given_to_one_who_left_in_that_moment_goes_on():
    turns = Turns(1, 3, asyncio.get_running_loop().time)
    assert await turns.take() is Turn.TAKEN
    tasks, order = await waiters(turns, gone=soon(50), next=soon(90))
    turns.leave()
    tasks["gone"].cancel()
    assert await tasks["next"] is Turn.TAKEN
    assert order == ["next"]
    turns.leave()
    assert (turns.waiting, turns.running) == (0, 0)
