"""Figures from rows: hand-made ones whose figures can be counted on fingers."""

import math
from types import SimpleNamespace

import pytest

from loadtests.simulator.ledger import Ledger, fair_shares, jain, reliability
from loadtests.simulator.machine import Herd
from loadtests.simulator.world import Fault, FaultKind, Nodes
from loadtests.workload import Class, Planned
from policies.request import Status
from tests import fleets
from tests.loadtests.simulator.worlds import FAST, REGIONS, world

KIND, OTHER = Class(name="kind"), Class(name="other")


def worker(region="east", **fields):
    nodes = Nodes(name="n", region=region, profiles=("fast",), **({"usd_per_hour": 3.6} | fields))
    return SimpleNamespace(
        nodes=nodes, region=region, place=REGIONS[region], herd=Herd(1.0, 0.0), accelerator="fast", busy_s=4.0,
        main=SimpleNamespace(profile=FAST), waiting=3,
    )  # fmt: skip


EAST, WEST = worker(), worker("west")


class Book:
    """A ledger and a way to fill it."""

    def __init__(self, **fields):
        self.emptied = 0
        self.ledger = Ledger(world(**fields), [1.0] * 1000, self._emptied)
        self.rows = 0

    def _emptied(self):
        self.emptied += 1

    def row(
        self, at, *, met=True, first=0.2, total=1.0, usd=0.001, by=EAST, kind=KIND, origin="east", tenant="t",
        tried=1, status=Status.FEASIBLE, predicted=0.9, close=True,
    ):  # fmt: skip
        planned = Planned(self.rows, at, kind, 100, 10, 1, 0, origin, tenant)
        self.rows += 1
        call = self.ledger.open(planned, at)
        call.request = fleets.request(arrived=at)
        call.status, call.predicted, call.predicted_met = status, predicted, met
        call.tried, call.attempts = ["w"] * tried, tried
        call.usd, call.met = usd, met
        if by is not None:
            self.ledger.begin(call, at + first)
            call.worker, call.ended, call.variant_quality = by, at + total, 0.98
        if close:
            self.ledger.close(call)
        return call

    def figures(self, *workers):
        return self.ledger.figures(workers or (EAST, WEST))

    def detail(self, *workers):
        return self.ledger.detail(workers or (EAST, WEST), messages=100)


def test_a_row_is_closed_once_and_whoever_waits_hears_when_none_is_open():
    book = Book()
    one, two = book.row(1.0, close=False), book.row(2.0, by=None, close=False)
    assert (book.ledger.open_calls, book.ledger.unbegun) == (2, 1)
    book.ledger.close(one)
    assert book.emptied == 0
    book.ledger.close(two)
    assert (book.emptied, book.ledger.open_calls, book.ledger.unbegun) == (1, 0, 0)
    with pytest.raises(AssertionError):
        book.ledger.close(one)


def test_misses_and_refusals_count_against_attainment_and_their_cost_counts():
    book = Book()
    book.row(0.5, usd=99.0)  # in the warm-up of 2 s
    for _ in range(3):
        book.row(3.0, usd=0.001)
    book.row(3.0, met=False, usd=0.002)
    book.row(3.0, met=False, usd=0.0, by=None, tried=0, status=None, predicted=-1.0)
    figures = book.figures()
    assert figures.attainment == pytest.approx(3 / 5)
    assert figures.cost_per_1k == pytest.approx(0.005 / 3 * 1000)
    assert figures.rejected == pytest.approx(1 / 5)
    assert figures.accepted_share == pytest.approx(4 / 5)
    assert figures.miss_rate_accepted == pytest.approx(1 / 4)
    # Two nodes of 3.6 dollars an hour, for the 8 s that count.
    assert figures.fleet_cost_per_1k == pytest.approx(2 * 0.008 / 3 * 1000)


def test_a_node_that_comes_later_is_paid_from_then_on():
    book = Book()
    book.row(3.0)
    assert book.figures(worker(from_s=6.0)).fleet_cost_per_1k == pytest.approx(0.004 * 1000)


def test_best_effort_is_no_promise():
    book = Book()
    book.row(3.0, met=False, status=Status.BEST_EFFORT)
    book.row(3.0, status=Status.DEGRADED)
    figures = book.figures()
    assert (figures.accepted_share, figures.miss_rate_accepted) == (0.5, 0.0)
    assert book.detail().degraded == 0.5


def test_quantiles_are_of_the_time_to_the_first_token():
    book = Book()
    for number in range(101):
        book.row(3.0, first=number / 100, total=number / 10)
    figures, detail = book.figures(), book.detail()
    assert (figures.p50_s, figures.p99_s) == (pytest.approx(0.5), pytest.approx(0.99))
    assert (detail.total_p50_s, detail.total_p99_s) == (pytest.approx(5.0), pytest.approx(9.9))


def test_without_answers_there_is_no_latency_and_no_division_by_zero():
    book = Book()
    book.row(3.0, met=False, by=None)
    figures = book.figures()
    assert math.isnan(figures.p50_s)
    assert figures.attainment == 0.0
    assert book.detail().answered == 0


def test_fairness_is_over_tenants_or_over_regions_when_there_is_one():
    book = Book()
    book.row(3.0, origin="east")
    book.row(3.0, origin="west", met=False)
    assert book.figures().jain == pytest.approx(0.5)
    book.row(3.0, origin="west", tenant="u")
    assert book.figures().jain == pytest.approx(1.0), "t got one of its two, u its only one: as much"


def test_a_tenants_fair_part_is_what_the_others_leave_it_and_never_more_than_it_asks_for():
    book = Book()
    calls = [book.row(3.0, tenant="hog", met=number < 3) for number in range(4)]
    calls += [book.row(3.0, tenant="small", met=number < 1) for number in range(2)]
    assert fair_shares(calls) == {"hog": 1.5, "small": 0.5}
    assert book.figures().jain == pytest.approx(jain([1.5, 0.5]))
    calls += [book.row(3.0, tenant="tiny")]
    assert fair_shares(calls)["tiny"] == 1.0
    assert fair_shares([book.row(3.0, tenant=name, met=False) for name in "ab"]) == {"a": 0.0, "b": 0.0}


@pytest.mark.parametrize(
    ("shares", "index"), [([1, 1, 1], 1.0), ([1, 0, 0, 0], 0.25), ([0.9, 0.6], 2.25 / 2.34), ([0, 0], 1.0)]
)
def test_jain(shares, index):
    assert jain(shares) == pytest.approx(index)


def test_flows_classes_and_queues():
    book = Book()
    book.row(3.0, by=EAST)
    book.row(3.0, by=WEST, kind=OTHER, met=False)
    book.row(3.0, by=WEST, origin="west")
    book.ledger.sample(1.0, [EAST, WEST, worker("west")])
    book.ledger.sample(2.0, [EAST, WEST])
    detail = book.detail()
    assert detail.flows == {"east": {"east": 1, "west": 1}, "west": {"west": 1}}
    assert detail.by_class == {"kind": 1.0, "other": 0.0}
    assert detail.by_region == {"east": 0.5, "west": 1.0}
    assert (detail.queue_times, detail.queues["west"]) == ((1.0, 2.0), (6.0, 3.0))
    assert detail.messages_per_request == pytest.approx(100 / 3)
    assert detail.utilisation == {"fast": pytest.approx(0.4)}
    assert detail.mean_quality == pytest.approx(0.98)


def test_retries_are_attempts_beyond_the_first():
    book = Book()
    for tried in (0, 1, 2, 3):
        book.row(3.0, tried=tried)
    assert book.detail().retries == 3


def test_idle_nodes_draw_power_too():
    book = Book()
    call = book.row(3.0)
    call.joules, call.grams = 50.0, 1.0
    detail = book.detail(EAST)
    assert detail.energy_j_per_request == pytest.approx(50.0 + FAST.idle_watts * 8.0)
    assert detail.co2_g_per_request == pytest.approx(1.0 + FAST.idle_watts * 8.0 / 3.6e6 * 400)


def test_a_prediction_is_reliable_when_it_comes_true_as_often_as_it_says():
    book = Book()
    for number in range(100):
        book.row(3.0, predicted=0.8, met=number < 80)
        book.row(3.0, predicted=0.3, met=number < 50)
    bins, brier, ece = reliability(book.ledger.calls)
    assert [(row.predicted, row.observed, row.requests) for row in bins] == [
        (pytest.approx(0.3), 0.5, 100), (pytest.approx(0.8), 0.8, 100),
    ]  # fmt: skip
    assert ece == pytest.approx(0.1)
    assert brier == pytest.approx((0.8 * 0.04 + 0.2 * 0.64 + 0.5 * 0.49 + 0.5 * 0.09) / 2)
    assert reliability([]) == ((), 0.0, 0.0)


def test_recovery_is_when_the_last_bad_second_after_the_last_fault_is_over():
    faults = (Fault(kind=FaultKind.OUTAGE, at=5.0, target=("east",)),)

    def recovery(bad):
        book = Book(faults=faults, seconds=12.0)
        for second in range(2, 12):
            for part in range(10):
                book.row(second + part / 10, met=not (second in bad and part < 5))
        return book.detail().recovery_s

    assert recovery({5, 6, 7}) == 3.0
    assert recovery(set()) == 0.0
    assert recovery(set(range(5, 12))) is None, "it never came back"
    assert Book().ledger.detail((EAST,), 0).recovery_s is None, "there was no fault"
