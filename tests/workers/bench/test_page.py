"""The page says what the files say: targets met or missed by the worst figure, and what was not measured."""

import copy
import json

import pytest

from tests.workers.bench.test_report import DATA
from workers.bench import page

RUN = DATA | {
    "measured": "2026-11-25T17:00:00+00:00",
    "software": {"torch": "2.11.0"},
    "parts": DATA["parts"]
    | {
        "ceilings": DATA["parts"]["ceilings"] | {"device": {"name": "Card", "power_limit_watts": 700.0}},
        "front": {
            "clients": 96,
            "variants": {
                "bf16": {
                    "turns": [
                        {"way": "direct", "per_second": 400.0, "p50": 0.2},
                        {"way": "gateway", "per_second": 398.0, "p50": 0.2},
                    ],
                    "requests_per_s": {"direct": 400.0, "gateway": 398.0},
                    "p50_s": {"direct": 0.2, "gateway": 0.2},
                    "loss": 0.005,
                }
            },
        },
    },
}


def test_every_table_and_verdict_comes_from_the_file():
    text = page.page([RUN])
    assert "| copy | 2.00 TB/s |" in text
    assert "Encoder: bf16-graph reaches 50.0 % of the matrix limit of its format (50 % wanted: met)." in text
    assert "costs 0.5 % of its throughput (under 1 % wanted: met); direct 400.0 requests a second" in text
    assert "Not measured: encoder fp8-compiled: FormatError: no such kernel." in text
    assert "| fp8-compiled | 2 | 500 | 4.00 |" in text


def test_a_target_is_met_by_the_worst_batch():
    run = copy.deepcopy(RUN)
    decode = [{"batch": 1, "seconds": 0.004, "bytes": 5.6e9, "joules": None}]
    run["parts"]["decoder"]["variants"]["bf16-graph"] = {"decode": decode}
    assert "decodes at 70.0 % to 70.0 % of the bandwidth limit at batch 1 to 1 (60 % wanted: met)" in page.page([run])
    decode.append({"batch": 2, "seconds": 0.004, "bytes": 4.72e9, "joules": None})
    assert "decodes at 59.0 % to 70.0 % of the bandwidth limit at batch 1 to 2 (60 % wanted: missed)" in page.page(
        [run]
    )


def test_of_several_runs_the_later_wins_variant_by_variant_beside_its_own_limits():
    later = copy.deepcopy(RUN)
    later["parts"]["ceilings"]["copy_bytes_per_s"] = 1e12
    later["parts"]["decoder"]["variants"] = {"bf16-graph": {"skipped": "out of time"}}
    text = page.page([RUN, later])
    assert "| fp8-compiled | 2 | 500 | 4.00 | 4.00 | 50 % |" in text, "of the limit it was measured beside"
    assert "decoder bf16-graph: out of time" in text
    again = copy.deepcopy(later)
    again["parts"]["decoder"]["variants"] = copy.deepcopy(DATA["parts"]["decoder"]["variants"])
    assert "| fp8-compiled | 2 | 500 | 4.00 | 4.00 | 100 % |" in page.page([RUN, again])


def test_without_limits_there_is_no_page(tmp_path, capsys):
    with pytest.raises(ValueError, match="limits"):
        page.page([RUN | {"parts": {}}])
    assert page.main([]) == 2
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps(RUN))
    assert page.main([str(path)]) == 0
    assert capsys.readouterr().out.startswith("# On a data-centre GPU")
