import io
import json
import math

import msgspec
import pytest
from rich.console import Console

from loadtests.report import Sent, comparison, percentile, requests_table, screen, side_by_side, summarise

HELD = Sent(
    number=0, kind="chat", ok=True, took=0.05, deadline=0.1, worker="eu-a", region="eu", cost=2e-6, predicted=0.04
)
LATE = Sent(number=1, kind="chat", ok=True, took=0.25, deadline=0.1, worker="us-a", region="us", cost=1e-6)
PATIENT = Sent(number=2, kind="embed", ok=True, took=9.0, worker="us-a", region="us", cost=1e-6)
FAILED = Sent(number=3, kind="chat", ok=False, took=0.01, deadline=0.1, status=503, error="no_capacity")


def shown(table) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_a_request_is_in_deadline_when_it_succeeded_in_time():
    assert HELD.in_deadline
    assert not LATE.in_deadline
    assert PATIENT.in_deadline
    assert not FAILED.in_deadline


def test_a_first_byte_may_be_late_alone():
    quick = Sent(number=0, kind="chat", ok=True, took=3.0, first_byte=0.3, first_deadline=0.4)
    assert quick.in_deadline
    assert not msgspec.structs.replace(quick, first_byte=0.5).in_deadline
    assert not msgspec.structs.replace(quick, first_byte=None).in_deadline


def test_summary_counts():
    run = summarise([HELD, LATE, PATIENT, FAILED])
    assert (run.requests, run.ok, run.in_deadline) == (4, 3, 2)
    assert run.cost_usd == pytest.approx(4e-6)
    assert run.by_node == {"eu-a": 1, "us-a": 2}
    assert (run.p50_s, run.p99_s) == (0.25, 9.0)


def test_what_nobody_said_is_a_dash_and_null_never_zero():
    silent = Sent(number=0, kind="chat", ok=True, took=0.05)
    run = summarise([silent, silent])
    (row,) = [line for line in shown(side_by_side({"run": run})).splitlines() if line.startswith("│")]
    assert [cell.strip() for cell in row.split("│")[5:9]] == ["-", "50 ms", "50 ms", "-"]
    (row,) = [line for line in shown(requests_table([silent], "run")).splitlines() if line.startswith("│")]
    assert [cell.strip() for cell in row.split("│")[3:6]] == ["-", "-", "-"]
    assert "0.00" not in row
    assert json.loads(msgspec.json.encode(run))["cost_usd"] is None


def test_a_mean_cost_counts_only_requests_whose_cost_is_known():
    run = summarise([HELD, LATE, FAILED])
    assert (run.cost_usd, run.costed) == (pytest.approx(3e-6), 2)
    assert " 1.50 " in shown(side_by_side({"run": run}))


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.01, 1), (0.5, 2), (0.75, 3), (0.99, 4), (1.0, 4)])
def test_percentile_is_by_nearest_rank(share, value):
    assert percentile([4, 2, 1, 3], share) == value


def test_percentile_of_nothing_is_not_a_number():
    assert math.isnan(percentile([], 0.5))


def test_requests_table_says_who_held_and_who_failed():
    text = shown(requests_table([HELD, LATE, PATIENT, FAILED], "run"))
    rows = [line for line in text.splitlines() if "│" in line]
    assert "eu-a" in rows[0]
    assert "40 ms" in rows[0]
    assert "yes" in rows[0]
    assert "no" in rows[1].split("│")[-2]
    assert "none" in rows[2]
    assert "no_capacity" in rows[3]
    cut = Sent(number=4, kind="stream", ok=False, took=0.1, deadline=0.1, worker="eu-a", error="deadline_exceeded")
    assert "deadline_exceeded" in shown(requests_table([cut], "run"))


def test_side_by_side_has_a_row_per_policy():
    text = shown(side_by_side({"ours": summarise([HELD]), "nearest": summarise([LATE])}))
    assert "ours" in text
    assert "nearest" in text
    assert "eu-a:1" in text


def test_comparison_is_one_json_object():
    result = json.loads(
        comparison(summarise([HELD, LATE]), {"nearest": summarise([HELD]), "lowest_cost": summarise([LATE])})
    )
    assert result["requests"] == 2
    assert result["by_node"] == {"eu-a": 1, "us-a": 1}
    assert result["nearest"] == {"in_deadline": 1, "cost_usd": 2e-6}
    assert result["lowest_cost"] == {"in_deadline": 0, "cost_usd": 1e-6}


def test_in_a_pipe_no_word_is_cut_and_no_row_broken(capsys):
    crowd = [
        Sent(
            number=1000 + number,
            kind="embeddings, any time",
            ok=True,
            took=12.345,
            deadline=10.0,
            worker=f"asia-{number % 6}",
            region="asia-northeast1",
            variant="fp32",
            cost=1.25e-4,
            predicted=10.5,
        )
        for number in range(6000)
    ]
    screen().print(requests_table(crowd[:6], "run"))
    screen().print(side_by_side({"cheapest_in_deadline": summarise(crowd)}))
    lines = capsys.readouterr().out.splitlines()
    assert "…" not in "".join(lines)
    assert len([line for line in lines if "embeddings, any time" in line and "asia-northeast1" in line]) == 6
    assert any("cheapest_in_deadline" in line and "asia-0:1000" in line and "asia-5:1000" in line for line in lines)


def test_the_hours_of_the_fleet_are_the_other_bill():
    run = summarise([HELD, LATE], fleet_usd=0.002)
    text = shown(side_by_side({"run": run, "unknown": summarise([HELD])}))
    assert "fleet $ a million" in text
    assert " 2000.00 " in text, "per request in deadline"
    assert "fleet" not in shown(side_by_side({"run": summarise([HELD])}))
