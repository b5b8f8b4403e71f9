"""The rules of membership, with passed-in time and no I/O."""

from __future__ import annotations

import base64
import random

import msgspec
import pytest

from gateway.roster import DOUBT_SECONDS, FATAL_PROBES, SHARED, Roster
from policies import records
from policies.records import LEASE_SECONDS, Scope, open_worker, seal_worker
from policies.request import Change, DrainSet, LoadSeen, WorkerGone, WorkerSeen
from tests.gateway.members import endpoint, load, worker

BEAT = 0.25
REGION = "eu-west"


class Seat:
    """A roster with everything it says written down."""

    def __init__(self, sources: tuple[str, ...] = (SHARED,), verify: records.Verify | None = None) -> None:
        self.changes: list[Change] = []
        self.counts: list[str] = []
        self.asked: list[str] = []
        self.roster = Roster(
            sources, verify, lambda change, _now: self.changes.append(change), self.counts.append, self.asked.extend
        )

    def join(self, *worker_ids: str, now: float = 0.0) -> None:
        for worker_id in worker_ids:
            assert self.roster.record(REGION, None, seal_worker(worker(worker_id)), now)

    def beat(self, *worker_ids: str, seq: int, now: float) -> None:
        for worker_id in worker_ids:
            self.roster.load(REGION, load(worker_id, seq), 0.0, now)

    def gone(self) -> list[str]:
        return [change.worker_id for change in self.changes if isinstance(change, WorkerGone)]

    def run(self, ids: set[str], start: float, until: float, silent: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        """Heartbeats of all but the silent, and sweeps, as time goes by; phases spread over one beat."""
        rng, now, seq = random.Random(7), start, int(start * 100) + 1
        phases = {worker_id: rng.uniform(0, BEAT) for worker_id in sorted(ids)}
        while now < until:
            for worker_id in sorted(ids - silent):
                self.beat(worker_id, seq=seq, now=now + phases[worker_id])
            seq += 1
            now += BEAT
            self.roster.sweep(SHARED, now)


def test_a_record_makes_a_member_once() -> None:
    seat = Seat()
    seat.join("a")
    seat.join("a")
    assert seat.changes[0] == WorkerSeen(worker("a"))
    raw = seal_worker(worker("a"))
    seat.roster.record(REGION, "a", raw, 1.0)
    assert len([c for c in seat.changes if isinstance(c, WorkerSeen)]) == 2  # published twice, read without effect
    assert seat.roster.sealed() == [raw]


def test_sequence_never_goes_backwards_even_after_it_left() -> None:
    seat = Seat()
    newer, older = seal_worker(worker("a", seq=9)), seal_worker(worker("a", seq=8))
    seat.roster.record(REGION, None, newer, 0.0)
    seat.roster.record(REGION, None, older, 0.0)
    assert seat.counts == ["records.replayed"]
    seat.roster.left("a", 1.0)
    assert not seat.roster.record(REGION, "a", older, 2.0)
    assert seat.roster.record(REGION, "a", newer, 2.0)


def test_a_load_needs_its_record_and_a_newer_sequence() -> None:
    seat = Seat()
    assert not seat.roster.load(REGION, load("a"), 0.0, 0.0)  # read its record first
    seat.join("a")
    assert seat.roster.load(REGION, load("a", 5), 0.0, 0.1)
    assert seat.roster.load(REGION, load("a", 5), 0.0, 0.2)
    assert seat.roster.load(REGION, load("a", 4), 0.0, 0.3)
    assert [c for c in seat.changes if isinstance(c, LoadSeen)] == [LoadSeen(load("a", 5), 0.0)]
    assert seat.counts == ["loads.replayed"]
    assert not seat.roster.load(REGION, load("a", 1, boot="b2"), 0.0, 0.4)  # it restarted: its record must be read
    assert seat.roster.load("us-east", load("a", 6), 0.0, 0.5)
    assert seat.counts[-1] == "loads.misplaced"


def test_a_new_boot_starts_a_new_sequence() -> None:
    seat = Seat()
    seat.join("a")
    seat.beat("a", seq=50, now=0.1)
    seat.roster.record(REGION, None, seal_worker(worker("a", seq=2, boot="b2")), 0.2)
    assert seat.roster.load(REGION, load("a", 1, boot="b2"), 0.0, 0.3)
    assert seat.changes[-1] == LoadSeen(load("a", 1, boot="b2"), 0.0)


def test_one_silent_worker_leaves_when_its_lease_lapses() -> None:
    seat, ids = Seat(), {"a", "b", "c"}
    seat.join(*ids)
    seat.run(ids, 0.0, 5.0)
    seat.run(ids, 5.0, 5.0 + LEASE_SECONDS - BEAT, silent={"b"})
    assert seat.gone() == []
    seat.run(ids, 5.0 + LEASE_SECONDS - BEAT, 5.0 + LEASE_SECONDS + 2 * BEAT, silent={"b"})
    assert seat.gone() == ["b"]
    assert "registry.shrinks" not in seat.counts


@pytest.mark.parametrize("size", [1, 2, 6, 40])
def test_when_all_fall_silent_at_once_nobody_leaves(size: int) -> None:
    seat, ids = Seat(), {f"w{i}" for i in range(size)}
    seat.join(*ids)
    seat.run(ids, 0.0, 2.0)
    seat.run(ids, 2.0, 60.0, silent=ids)
    assert seat.gone() == []
    assert set(seat.asked) == ids
    assert set(seat.roster.doubted) == ids
    assert "registry.shrinks" in seat.counts
    seat.beat(*ids, seq=10_000, now=60.0)
    assert seat.roster.doubted == []


def test_a_doubted_worker_leaves_when_its_probes_fail_too() -> None:
    seat, ids = Seat(), {"a", "b"}
    seat.join(*ids)
    seat.run(ids, 0.0, 10.0, silent=ids)
    for _ in range(FATAL_PROBES - 1):
        seat.roster.probed("a", False)
    seat.roster.probed("a", True)
    for _ in range(FATAL_PROBES):
        seat.roster.probed("b", False)
    seat.roster.sweep(SHARED, 11.0)
    assert seat.gone() == ["b"]


def test_probes_alone_never_end_a_lease() -> None:
    seat = Seat()
    seat.join("a", "b", "c")
    for _ in range(10):
        seat.roster.probed("a", False)
    seat.roster.sweep(SHARED, 0.5)
    assert seat.gone() == []


def test_a_read_that_lost_most_of_the_fleet_is_doubted() -> None:
    seat, ids = Seat(), {"a", "b", "c"}
    seat.join(*ids)
    seat.roster.compare(SHARED, {"a"}, 1.0, 1.0)
    assert seat.counts == ["registry.shrinks"]
    assert set(seat.asked) == {"b", "c"}
    assert seat.gone() == []


def test_a_read_begun_before_a_worker_was_heard_says_nothing_about_it() -> None:
    seat = Seat()
    seat.join("a", now=5.0)
    seat.roster.compare(SHARED, set(), 4.9, 5.1)
    assert seat.counts == []


def test_doubt_ends_when_the_registry_shows_most_again() -> None:
    seat, ids = Seat(), {"a", "b", "c"}
    seat.join(*ids)
    seat.roster.compare(SHARED, set(), 1.0, 1.0)
    seat.beat("a", "b", seq=3, now=2.0)
    seat.roster.compare(SHARED, {"a", "b"}, 3.0, 3.0)
    assert seat.gone() == []  # c may only be slow to come back
    seat.roster.compare(SHARED, {"a", "b"}, 2.0 + DOUBT_SECONDS, 2.0 + DOUBT_SECONDS)
    assert seat.gone() == ["c"]


def test_each_registry_is_judged_for_itself() -> None:
    seat = Seat(("eu-west", "us-east"))
    seat.join("a", "b")
    assert seat.roster.record("us-east", None, seal_worker(worker("z", "us-east")), 0.0)
    seat.beat("a", "b", seq=2, now=4.0)
    seat.roster.sweep("us-east", 4.1)
    assert seat.roster.doubted == ["z"]
    assert not seat.roster.record("ap-south", None, seal_worker(worker("q", "ap-south")), 0.0)
    assert seat.counts[-1] == "records.misplaced"


def test_the_record_must_stand_where_it_says() -> None:
    seat = Seat()
    assert not seat.roster.record("us-east", "a", seal_worker(worker("a")), 0.0)
    assert not seat.roster.record(REGION, "b", seal_worker(worker("a")), 0.0)
    assert seat.counts == ["records.misplaced"] * 2


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"", "blank"),
        (b"{", "parse"),
        (b"null", "parse"),
        (b"[1]", "parse"),
        (b"\xff\xfe", "parse"),
        (b"x" * (records.MAX_RECORD_BYTES + 1), "size"),
        (msgspec.json.encode({"record": '{"id":"a","price":NaN}'}), "parse"),
        (msgspec.json.encode({"record": seal_worker(worker("a")).decode()}), "parse"),
    ],
)
def test_a_bad_record_is_counted_once_and_costs_the_others_nothing(raw: bytes, kind: str) -> None:
    seat = Seat()
    seat.join("good")
    for _ in range(3):
        assert not seat.roster.record(REGION, "a", raw, 0.0)
    assert seat.counts == [f"records.{kind}"]
    assert list(seat.roster.members) == ["good"]


def test_numbers_out_of_range_are_refused() -> None:
    seat = Seat()
    good = msgspec.to_builtins(worker("a"))
    for field, value in (("power_watts", 1e308), ("power_watts", -1), ("seq", -1), ("endpoints", []), ("address", "x")):
        raw = msgspec.json.encode({"record": msgspec.json.encode({**good, field: value}).decode()})
        assert not seat.roster.record(REGION, None, raw, 0.0), field
    assert seat.counts == ["records.parse"] * 5


def test_signatures_and_scope() -> None:
    def sign(message: bytes) -> bytes:
        return b"signed:" + message[:8]

    def verify(key: str, message: bytes, signature: bytes) -> Scope | None:
        return Scope(workers=("eu-*",)) if key == "k" and signature == sign(message) else None

    seat = Seat(verify=verify)
    signed = seal_worker(worker("eu-1"), "k", sign)
    forged = msgspec.json.encode(
        {"record": msgspec.json.encode(worker("eu-1", price=0)).decode(), "key": "k",
         "sig": base64.b64encode(b"signed:nonsense").decode()}
    )  # fmt: skip
    assert not seat.roster.record(REGION, None, seal_worker(worker("eu-1")), 0.0)
    assert not seat.roster.record(REGION, None, forged, 0.0)
    assert not seat.roster.record(REGION, None, seal_worker(worker("us-1"), "k", sign), 0.0)
    assert seat.roster.record(REGION, None, signed, 0.0)
    assert seat.counts == ["records.unsigned", "records.signature", "records.scope"]
    assert isinstance(open_worker(seat.roster.sealed()[0], verify), records.Worker)


def test_new_keys_are_tried_on_records_refused_before() -> None:
    seat = Seat(verify=lambda key, message, signature: None)
    raw = seal_worker(worker("a"), "k", lambda message: b"s")
    assert not seat.roster.record(REGION, "a", raw, 0.0)
    seat.roster.trust(lambda key, message, signature: Scope())
    assert seat.roster.record(REGION, "a", raw, 1.0)


def test_the_number_of_members_is_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_WORKERS", 3)
    seat = Seat()
    seat.join("a", "b", "c")
    assert not seat.roster.record(REGION, "d", seal_worker(worker("d")), 0.0)
    assert seat.counts == ["records.full"]
    assert seat.roster.record(REGION, "a", seal_worker(worker("a", seq=2)), 0.0)  # members may still change


def test_drains_follow_the_set_and_new_members() -> None:
    seat = Seat()
    seat.join("a", "b")
    seat.roster.drains(REGION, {"a", "later"}, 1.0)
    assert seat.changes[-1] == DrainSet("a", True)
    seat.join("later", now=2.0)
    assert seat.changes[-1] == DrainSet("later", True)
    seat.roster.drain("b", True, 3.0)
    assert seat.roster.drained[REGION] == {"a", "b", "later"}
    seat.roster.drains(REGION, set(), 4.0)
    assert set(seat.changes[-3:]) == {DrainSet(w, False) for w in ("a", "b", "later")}


def test_a_snapshot_is_served_until_somebody_knows_better() -> None:
    seat = Seat()
    raw = [seal_worker(worker(w)) for w in ("a", "b", "c")]
    assert seat.roster.restore([*raw, b"{"], 0.0) == 3
    assert seat.asked == ["a", "b", "c"]
    assert seat.counts == ["records.parse"]
    assert set(seat.roster.doubted) == {"a", "b", "c"}
    seat.beat("a", "b", seq=1, now=1.0)
    for _ in range(FATAL_PROBES):
        seat.roster.probed("c", False)
    seat.roster.sweep(SHARED, 1.5)
    assert seat.gone() == ["c"]


def test_leases_grow_with_the_fleet() -> None:
    seat = Seat()
    seat.join(*(f"w{i}" for i in range(10)))
    assert seat.roster.lease() == LEASE_SECONDS
    seat.roster.members.update({f"x{i}": seat.roster.members["w0"] for i in range(4000)})
    assert seat.roster.lease() == pytest.approx(3 * 4010 / 2000)


def test_endpoints_may_change_within_a_boot_without_losing_the_sequence() -> None:
    seat = Seat()
    seat.join("a")
    seat.beat("a", seq=7, now=0.5)
    changed = worker("a", seq=2, endpoints=(endpoint(variant="int8"),))
    seat.roster.record(REGION, None, seal_worker(changed), 1.0)
    seat.beat("a", seq=6, now=1.1)
    assert seat.counts == ["loads.replayed"]
