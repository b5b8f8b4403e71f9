"""Decision logs read back, and replayed: what is known of the log's world must come out again."""

import pytest

from loadtests.rows import FileError
from loadtests.simulator import replay
from policies.decision import Actual, Attempted, Decided, Group, Opened, Predicted, Served, Surveyed, encode
from policies.records import Curve, MarginalPrice
from tests.loadtests.simulator import logs

OPENED = Opened(at=0.0, gateway="gw", region="eu", sample=0.5)
CURVE = Curve(0.01, prefill=0.0001, decode=0.002)


def surveyed(count=2, at=1.0):
    group = Group(region="eu", count=count, price=MarginalPrice(1.0), serves=(Served("m", "int8", CURVE, 4),))
    return Surveyed(at=at, groups=(group,), round_trips={"eu": (0.02, 0.002)})


def attempt(**fields):
    known = {"node": "w/m:int8", "region": "eu", "predicted": Predicted(0, 0, 0, 0, 0), "output_tokens": 20,
             "actual": Actual(0.05, 0.1, 0.0, 0.02, 0.04, 0.03), "cost": 0.001, "started": 0.001}  # fmt: skip
    return Attempted(**(known | fields))


def decided(at=10.0, **fields):
    known = {"model": "m", "attempts": (attempt(),), "prompt_tokens": 100.0, "output_tokens": 50.0, "in_deadline": True}
    return Decided(at=at, **(known | {"first_token": 0.4, "stream": True} | fields))


@pytest.fixture
def log(tmp_path):
    """Writes lines; the log's path."""
    path = tmp_path / "log.jsonl"

    def write(*lines, to=path):
        to.write_bytes(b"".join(line if isinstance(line, bytes) else encode(line) for line in lines))
        return path

    return write


def test_a_request_is_read_as_it_was_served(log):
    history = replay.history([log(OPENED, surveyed(), decided())])
    (one,) = history.past
    assert (one.at, one.region, one.stands_for, one.output_tokens, one.met) == (10.0, "eu", 2.0, 20.0, True)
    assert (one.first, one.total) == pytest.approx((0.051, 0.101))
    assert (one.kind.model, one.kind.first_token_s, one.kind.total_s, one.served) == ("m", 0.4, None, "eu")
    assert history.trips == {("eu", "eu"): (0.02, 0.002)}
    assert history.gateways == ("eu",)


def test_older_files_come_first_and_logs_of_several_gateways_together(log, tmp_path):
    other = tmp_path / "other.jsonl"
    log(OPENED, surveyed(), decided(30.0), to=tmp_path / "log.jsonl")
    log(OPENED, surveyed(), decided(20.0), to=tmp_path / "log.jsonl.1")
    log(OPENED, surveyed(), decided(10.0), to=tmp_path / "log.jsonl.2")
    log(Opened(at=0.0, gateway="gw2", region="us", sample=1.0), decided(15.0), to=other)
    assert [path.name for path in replay.files(tmp_path / "log.jsonl")] == ["log.jsonl.2", "log.jsonl.1", "log.jsonl"]
    history = replay.history([tmp_path / "log.jsonl", other])
    assert [(one.at, one.region, one.stands_for) for one in history.past] == [
        (10.0, "eu", 2.0), (15.0, "us", 1.0), (20.0, "eu", 2.0), (30.0, "eu", 2.0),
    ]  # fmt: skip
    assert history.gateways == ("eu", "us")


def test_what_no_policy_could_change_is_left_out_and_said(log):
    history = replay.history(
        [
            log(
                OPENED, surveyed(), decided(),
                decided(refused="quality_floor", attempts=(), in_deadline=False),
                decided(attempts=(attempt(outcome="client_gone"),), in_deadline=False),
                decided(attempts=(attempt(outcome="client_error"),), in_deadline=False),
                decided(model="nobody's"),
                decided(refused="deadline_infeasible", attempts=(), in_deadline=False),
                decided(refused="upstream_lost", attempts=(attempt(outcome="upstream_lost"),), in_deadline=False),
            )
        ]
    )  # fmt: skip
    assert [(one.met, one.refused, one.total is None) for one in history.past] == [
        (True, False, False), (False, True, True), (False, False, True),
    ]  # fmt: skip
    assert any("4 of 7" in note for note in history.notes)


def test_the_fleet_that_was_for_longest_is_replayed(log):
    """Three workers for 70 s, though they are only once in five surveys: members come and go in between."""
    surveys = [
        surveyed(1, at=1.0),
        surveyed(2, at=12.0),
        surveyed(1, at=13.0),
        surveyed(3, at=20.0),
        surveyed(2, at=90.0),
    ]
    history = replay.history([log(OPENED, *surveys, decided(10.0), decided(100.0))])
    assert history.fleet[0].count == 3
    assert any("between 1 and 3 workers; it is replayed with 3, as it was for 78%" in note for note in history.notes)


def test_what_a_replay_cannot_keep_is_said(log):
    history = replay.history([log(OPENED, surveyed(), decided(tied=True), decided(when_infeasible=("reject",)))])
    assert any("tied" in note for note in history.notes)
    assert any("refused than late" in note for note in history.notes)
    assert any("0.5" in note for note in history.notes)


def test_pace_is_a_deadline_too(log):
    """20 tokens in 50 ms after the first."""
    fast, slow = decided(token_interval=0.003), decided(token_interval=0.002)
    history = replay.history([log(OPENED, surveyed(), fast, slow)])
    assert [one.met for one in history.past] == [True, False]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "no decision"),
        ([OPENED, decided()], "no survey"),
        ([OPENED, surveyed()], "no decision"),
        ([decided()], r"log.jsonl:1: t:"),
        ([OPENED, surveyed(), b'{"t":"d","at":"soon","m":"m"}\n', decided()], r"log.jsonl:3: .*\$\.at"),
        ([b'{"t":"log","at":1,"gw":"g","r":"eu","sample":2}\n'], r"log.jsonl:1: sample"),
        ([b'{"t":"log","at":1,"gw":"g","r":"eu","sample":1,"v":99}\n'], "newer"),
        ([b"not json\n"], "log.jsonl:1"),
        ([OPENED, surveyed(), decided(model="other")], "any policy could serve"),
    ],
)
def test_a_bad_log_is_told_with_line_and_field(log, lines, said):
    with pytest.raises(FileError, match=said):
        replay.history([log(*lines)])


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(FileError, match="nowhere"):
        replay.history([tmp_path / "nowhere"])


def test_a_last_line_torn_by_a_kill_is_left_out(log):
    history = replay.history([log(OPENED, surveyed(), decided(), b'{"t":"d","at":1')])
    assert len(history.past) == 1
    assert any("unfinished" in note for note in history.notes)


def test_distances_scatter_and_prices_come_from_the_answers(tmp_path):
    """A simulated fleet's own logs: what it was made of must be found in them."""
    world = logs.small_world(seconds=20.0, rate=30.0)
    paths, _ = logs.write(tmp_path, world)
    history = replay.history(paths)
    assert history.gateways == ("eu", "us")
    for trip in world.round_trips:
        a, b = trip.between
        pair = (a, b) if (a, b) in history.trips else (b, a)
        assert history.trips[pair][0] == pytest.approx(trip.avg_ms / 1e3, rel=0.05)
    assert history.noise == pytest.approx(world.serving.noise, rel=0.2)
    for group, nodes in zip(history.fleet, world.nodes, strict=True):
        profile, curve = world.profiles[nodes.profiles[0]], group.serves[0].curve
        assert (group.region, group.count) == (nodes.region, nodes.count)
        assert (curve.base, curve.decode) == pytest.approx((profile.overhead_s, profile.decode_s), rel=0.05)
        assert curve.prefill == pytest.approx(1 / profile.prefill_tokens_per_s, rel=0.05)
    assert all(share == pytest.approx(1.0, rel=0.02) for share in history.billed.values())
