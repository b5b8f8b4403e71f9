"""Hedged pairs at the edge: whatever workers, clients and time do, every dispatch is settled once, nothing is left
behind, and each client has exactly one answer."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from policies.hedge import HedgeConfig, Hedging
from policies.request import DrainSet, LoadSeen, WorkerGone, WorkerSeen
from tests.fleets import load, worker
from tests.playbook import ANSWER, CHAT, EVENT, STREAM, Edge, chunk, post, reply, stream_head

NAMES = "abc"
SAYINGS = {
    "answer": reply(ANSWER),
    "half an answer": reply(ANSWER)[:-5],
    "a stream's head": stream_head(),
    "an event": stream_head() + chunk(EVENT),
    "a whole stream": stream_head() + chunk(EVENT) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n",
    "an error": reply(b"{}", status=b"500 Oops"),
    "a refusal": reply(b"{}", b"x-isochrone-executed: 0", status=b"503 Full"),
    "a client error": reply(b"{}", status=b"400 Bad Request"),
    "nonsense": b"\x00 nonsense\r\n\r\n",
}
BUDGETS = [b"x-deadline-ms: 400", b"x-deadline-ms: 520", b"x-deadline-ms: 5000"]

names = st.sampled_from(NAMES)


class Pairs(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.edge = Edge(NAMES)
        self.hedging = Hedging(HedgeConfig(share=1.0, worth=1e6))
        self.edge.router._policies["house"].hedging = self.hedging
        self.states = list(self.edge.router.fleet.workers.values())
        self.seq = 10
        self.dispatched = 0
        self._count_dispatches()
        self.refresh()

    def _count_dispatches(self):
        counted = self.edge.telemetry.dispatched

        def dispatched(dispatch):
            self.dispatched += 1
            counted(dispatch)

        self.edge.telemetry.dispatched = dispatched

    def busy(self, name):
        """The links of a worker that somebody waits on."""
        return [
            link
            for link in self.edge.pools.links
            if link.caller and link._pool.address == f"10.0.0.{self.at(name)}:9000"
        ]

    def at(self, name):
        return NAMES.index(name) + 1

    @rule(budget=st.sampled_from(BUDGETS), stream=st.booleans())
    def ask(self, budget, stream):
        self.edge.connect()
        self.edge.client.data_received(post(STREAM if stream else CHAT, budget))

    @rule(stream=st.booleans())
    def ask_and_wait_for_a_hedge(self, stream):
        self.ask(BUDGETS[1], stream)
        self.wait(0.35)

    @rule(name=names, saying=st.sampled_from(sorted(SAYINGS)), which=st.integers(0, 3))
    def say(self, name, saying, which):
        if links := self.busy(name):
            links[which % len(links)].data_received(SAYINGS[saying])

    @rule(name=names, which=st.integers(0, 3), clean=st.booleans())
    def lose(self, name, which, clean):
        if links := self.busy(name):
            link = links[which % len(links)]
            link.transport.closed = True
            link.connection_lost(None if clean else ConnectionResetError())

    @rule(seconds=st.sampled_from([0.01, 0.05, 0.35, 1.0]))
    def wait(self, seconds):
        self.edge.pass_time(seconds)
        self.refresh()

    @rule(which=st.integers(0, 5))
    def leave(self, which):
        if self.edge.clients:
            connection, transport = self.edge.clients.pop(which % len(self.edge.clients))
            transport.closed = True
            connection.connection_lost(None)

    @rule(name=names)
    def refuse_connections(self, name):
        self.edge.pools.refusing ^= {f"10.0.0.{self.at(name)}:9000"}

    @rule(on=st.booleans())
    @precondition(lambda self: self.edge.pools.refusing == set())
    def hold_connections_back(self, on):
        pools = self.edge.pools
        waiting, pools.waiting = pools.waiting or [], [] if on else None
        for pool in waiting:
            pools.complete(pool)

    @rule(name=names)
    def reboot(self, name):
        self.seq += 1
        record = worker(name, address=f"10.0.0.{self.at(name)}:9000", boot=f"b{self.seq}", seq=self.seq)
        self._observe(WorkerSeen(record))
        self.states.append(self.edge.router.fleet.workers[name])
        self._observe(LoadSeen(load(name, boot=record.boot), 0.0))

    @rule(name=names)
    def deregister(self, name):
        self._observe(WorkerGone(name))

    @rule(name=names, on=st.booleans())
    def drain(self, name, on):
        self._observe(DrainSet(name, on))

    def _observe(self, change):
        self.edge.router.observe(change, self.edge.clock.now)

    def refresh(self):
        self.edge.router.fleet.refresh("chat", self.edge.clock.now)

    @invariant()
    def what_is_reserved_is_what_is_open(self):
        in_flight = sum(state.in_flight for state in set(self.states))
        assert in_flight == self.edge.router.open == self.dispatched - len(self.edge.outcomes)

    @invariant()
    def no_more_hedges_than_requests(self):
        assert self.hedging._balance >= 0.0

    def teardown(self):
        self.edge.pools.refusing.clear()
        self.hold_connections_back(False)
        self.edge.pass_time(70.0, step=1.0)  # nobody says anything more: all runs out of time, best effort last
        self.what_is_reserved_is_what_is_open()
        assert self.edge.router.open == 0
        assert all(state.in_flight == 0 for state in self.states)
        assert not any(link.caller for link in self.edge.pools.links)
        for connection, transport in self.edge.clients:
            assert bytes(transport.sent).count(b"HTTP/1.1 ") == 1, (connection, bytes(transport.sent))


Pairs.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPairs = Pairs.TestCase
