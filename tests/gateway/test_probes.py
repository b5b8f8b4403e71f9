"""Probes against real workers' sockets: the delay that was put in is the delay that is measured."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import web

from gateway import probes as module
from gateway.app import end
from gateway.probes import Probes
from policies.probing import BURST
from policies.records import encode_load
from policies.request import Change, LoadSeen, ProbeFailed, RoundTrip
from tests.gateway.members import load, worker


class Stub:
    """A worker's HTTP side that answers after `delay`, and counts its connections."""

    def __init__(self) -> None:
        self.delay = 0.0
        self.status = 200
        self.body = b""
        self.close = False
        self.asked = 0
        self.peers: set[tuple[str, int]] = set()
        self.address = ""
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.address = f"127.0.0.1:{self._runner.addresses[0][1]}"

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        peer = request.transport.get_extra_info("peername") if request.transport else None
        self.peers.add(peer)
        await asyncio.sleep(self.delay)
        answer = web.Response(body=self.body, status=self.status)
        if self.close:
            answer.force_close()
        return answer

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()


class Watch:
    """Probes at work and what they reported."""

    def __init__(self, **options: object) -> None:
        self.changes: list[Change] = []
        self.counts: Counter[str] = Counter()
        self._news = asyncio.Event()
        self.probes = Probes(self._report, self._count, 0.1, **options)  # type: ignore[arg-type]

    def _report(self, change: Change, now: float) -> None:
        self.changes.append(change)
        self._news.set()

    def _count(self, name: str) -> None:
        self.counts[name] += 1
        self._news.set()

    async def until(self, true: Callable[[], bool], seconds: float = 5.0) -> None:
        async with asyncio.timeout(seconds):
            while not true():
                self._news.clear()
                await self._news.wait()

    def rtts(self, worker_id: str = "w1") -> list[float]:
        return [c.seconds for c in self.changes if isinstance(c, RoundTrip) and c.worker_id == worker_id]

    def failures(self) -> int:
        return sum(isinstance(c, ProbeFailed) for c in self.changes)


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    stub = Stub()
    await stub.start()
    yield stub
    await stub.stop()


@pytest.fixture
async def watch() -> AsyncIterator[Watch]:
    watch = Watch()
    running = asyncio.ensure_future(watch.probes.run())
    yield watch
    assert not running.done()
    await end([running])


async def test_the_delay_put_in_is_measured_on_one_reused_connection(stub: Stub, watch: Watch) -> None:
    stub.delay = 0.05
    watch.probes.follow(worker(address=stub.address))
    await watch.until(lambda: len(watch.rtts()) >= 5)
    assert watch.counts["probes.warmed"] == 1  # the connection's first request is not a figure
    assert len(stub.peers) == 1
    assert 0.05 <= min(watch.rtts()) < 0.06
    assert sorted(watch.rtts())[len(watch.rtts()) // 2] < 0.07


async def test_a_new_worker_is_measured_at_once(stub: Stub, watch: Watch) -> None:
    started = time.monotonic()
    watch.probes.follow(worker(address=stub.address))
    await watch.until(lambda: bool(watch.rtts()))
    assert time.monotonic() - started < 0.5


async def test_a_worker_that_closes_each_connection_is_alive_but_never_timed(stub: Stub, watch: Watch) -> None:
    stub.close = True
    watch.probes.follow(worker(address=stub.address))
    await watch.until(lambda: watch.counts["probes.warmed"] >= 4)
    assert watch.rtts() == []
    assert watch.failures() == 0


async def test_our_own_workers_load_comes_along(stub: Stub, watch: Watch) -> None:
    stub.body = encode_load(load(seq=9, waiting=4))
    stub.delay = 0.04
    watch.probes.follow(worker(address=stub.address))
    await watch.until(lambda: len(watch.rtts()) >= 2)
    seen = [c for c in watch.changes if isinstance(c, LoadSeen)]
    assert seen[-1].load == load(seq=9, waiting=4)
    assert seen[-1].age == pytest.approx(0.02, abs=0.01)


async def test_a_draining_worker_answers_and_a_foreign_engines_body_means_nothing(stub: Stub, watch: Watch) -> None:
    stub.body, stub.status = encode_load(load()), 503
    watch.probes.follow(worker(address=stub.address))
    await watch.until(lambda: bool(watch.rtts()))
    assert watch.failures() == 0
    watch.probes.follow(worker("engine", address=stub.address, engine="vllm"))
    await watch.until(lambda: watch.failures() > 0)
    assert not any(isinstance(c, LoadSeen) and c.load.worker == "engine" for c in watch.changes)


async def test_another_worker_at_the_address_is_a_failure(stub: Stub, watch: Watch) -> None:
    stub.body = encode_load(load("impostor"))
    watch.probes.follow(worker(address=stub.address))
    await watch.until(lambda: watch.failures() > 0)
    assert watch.rtts() == []


async def test_failures_and_recovery(stub: Stub, watch: Watch) -> None:
    watch.probes.follow(worker("dead", address="127.0.0.1:1"))
    await watch.until(lambda: watch.failures() >= 2)
    stub.status = 500
    watch.probes.follow(worker(address=stub.address))
    await watch.until(lambda: any(isinstance(c, ProbeFailed) and c.worker_id == "w1" for c in watch.changes))
    stub.status = 200
    await watch.until(lambda: bool(watch.rtts()))


async def test_a_giant_answer_is_a_failure(stub: Stub, watch: Watch) -> None:
    stub.body = b"x" * 1_000_000
    watch.probes.follow(worker(address=stub.address))
    await watch.until(lambda: watch.failures() > 0)


async def test_silence_fails_after_the_timeout(stub: Stub, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_TIMEOUT", 0.1)
    stub.delay = 30.0
    watch.probes.follow(worker(address=stub.address))
    await watch.until(lambda: watch.failures() >= 1, 2.0)


async def test_a_forgotten_worker_is_asked_no_more(stub: Stub, watch: Watch) -> None:
    watch.probes.follow(worker(address=stub.address))
    await watch.until(lambda: bool(watch.rtts()))
    watch.probes.forget("w1")
    asked, reported = stub.asked, len(watch.changes)
    other = Stub()
    await other.start()
    watch.probes.follow(worker("w2", address=other.address))
    await watch.until(lambda: len(watch.rtts("w2")) >= 4)
    assert stub.asked <= asked + 1
    assert len([c for c in watch.changes[reported:] if isinstance(c, RoundTrip) and c.worker_id == "w1"]) == 0
    await other.stop()


async def test_doubt_is_answered_at_once(stub: Stub) -> None:
    watch = Watch()
    watch.probes._interval = 60.0
    running = asyncio.ensure_future(watch.probes.run())
    watch.probes.follow(worker(address=stub.address))
    await watch.until(lambda: len(watch.rtts()) == 1)
    watch.probes.verify(["w1", "unknown"])
    await watch.until(lambda: len(watch.rtts()) == 2, 1.0)
    await end([running])


async def test_connections_leave_from_the_configured_address(stub: Stub) -> None:
    watch = Watch(source_address="127.0.0.9")
    running = asyncio.ensure_future(watch.probes.run())
    watch.probes.follow(worker(address=stub.address))
    await watch.until(lambda: bool(watch.rtts()))
    assert {peer[0] for peer in stub.peers} == {"127.0.0.9"}
    await end([running])


async def test_a_fault_in_the_report_does_not_end_the_probing(stub: Stub) -> None:
    counts: Counter[str] = Counter()
    twice = asyncio.Event()

    def count(name: str) -> None:
        counts[name] += 1
        if counts["loop.faults"] >= 2:
            twice.set()

    def report(change: Change, now: float) -> None:
        raise RuntimeError("a bug")

    probes = Probes(report, count, 0.05)
    running = asyncio.ensure_future(probes.run())
    probes.follow(worker(address=stub.address))
    async with asyncio.timeout(3):
        await twice.wait()
    await end([running])


async def test_a_thousand_silent_workers_neither_stall_the_loop_nor_hide_a_living_one(stub: Stub) -> None:
    watch = Watch()
    running = asyncio.ensure_future(watch.probes.run())
    for index in range(1000):
        watch.probes.follow(worker(f"dead{index}", address=f"127.0.0.1:{index % 9 + 1}"))
    watch.probes.follow(worker(address=stub.address))
    assert watch.probes.pace() == pytest.approx(1001 / module.PROBES_PER_SECOND)
    worst = 0.0
    while not watch.rtts():
        before = time.thread_time()  # CPU of our own: how busy the machine is does not count
        await asyncio.sleep(0.005)
        worst = max(worst, time.thread_time() - before)
    assert worst < 0.25
    await end([running])


class Asking:
    """Probes that are paced so slowly that all but the first of each worker was asked for."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.watch = Watch(clock=lambda: self.now)
        self.watch.probes._interval = 3600.0
        self.watch.counts.clear()

    def count(self, kind: str) -> int:
        return self.watch.counts[f"probing.{kind}"]

    async def idle(self) -> None:
        """Until no asked-for probe is under way: the last one tells nobody of its end."""
        async with asyncio.timeout(5):
            while self.watch.probes._asking:  # noqa: ASYNC110 - it must not be told, as nobody is in production
                await asyncio.sleep(0.001)


@pytest.fixture
async def asking(stub: Stub) -> AsyncIterator[Asking]:
    """`w1` is at the stub and has been probed once."""
    asking = Asking()
    running = asyncio.ensure_future(asking.watch.probes.run())
    asking.watch.probes.follow(worker(address=stub.address))
    await asking.watch.until(lambda: len(asking.watch.rtts()) == 1)
    yield asking
    assert not running.done()
    await end([running])


async def test_who_asks_gets_the_load_and_the_schedule_stays(stub: Stub, asking: Asking) -> None:
    watch, probes = asking.watch, asking.watch.probes
    due = probes._targets["w1"].due
    stub.body = encode_load(load(seq=9, waiting=4))
    probes.ask(["w1", "unknown"])
    await watch.until(lambda: any(isinstance(c, LoadSeen) and c.load.waiting == 4 for c in watch.changes))
    assert (asking.count("periodic"), asking.count("asked"), asking.count("dropped")) == (1, 1, 0)
    assert probes._targets["w1"].due == due
    assert len(watch.rtts()) == 2
    assert len(stub.peers) == 1, "over the pooled connection"


async def test_one_worker_is_asked_twenty_times_a_second_at_most(stub: Stub, asking: Asking) -> None:
    for _ in range(128):
        asking.watch.probes.ask(["w1"])
        await asking.idle()
        asking.now += 1 / 128
    assert asking.count("asked") == 19, "every seventh: the first that is 0.05 s after the last"
    assert asking.count("dropped") == 128 - 19


async def test_all_together_are_asked_within_the_budget(stub: Stub, asking: Asking) -> None:
    watch, probes = asking.watch, asking.watch.probes
    names = [f"n{index}" for index in range(300)]
    for name in names:
        probes.follow(worker(name, address=stub.address))
    await watch.until(lambda: all(watch.rtts(name) for name in names), 20.0)
    for _ in range(10):
        probes.ask(names[:100])
        await asking.idle()
        asking.now += 1 / 8
    assert asking.count("asked") == 10 * BURST, "an eighth of a second makes up for each"
    assert asking.count("dropped") == 1000 - 10 * BURST


async def test_a_silent_worker_is_asked_a_few_times_at_once_and_not_condemned(stub: Stub, asking: Asking) -> None:
    watch, probes = asking.watch, asking.watch.probes
    stub.delay = 30.0
    for _ in range(10):
        probes.ask(["w1"])
        asking.now += 1.0
    assert (asking.count("asked"), asking.count("dropped")) == (module.ASKED_AT_ONCE, 10 - module.ASKED_AT_ONCE)
    await asking.idle()
    assert watch.counts["probes.failed"] == module.ASKED_AT_ONCE
    assert watch.failures() == 0
    assert probes._targets["w1"].asking == 0


async def test_asking_is_for_nothing_while_nothing_runs(stub: Stub) -> None:
    asking = Asking()
    asking.watch.probes.follow(worker(address=stub.address))
    asking.watch.probes.ask(["w1"])
    assert asking.count("dropped") == 1
    running = asyncio.ensure_future(asking.watch.probes.run())
    await asking.watch.until(lambda: bool(asking.watch.rtts()))
    stub.delay = 30.0
    asking.watch.probes.ask(["w1"])
    await end([running])
    assert asking.watch.probes._asking == 0, "a probe that is cut off is over too"
    asking.watch.probes.ask(["w1"])
    assert asking.count("dropped") == 2
