"""Fractions are of measured limits, and a variant that failed says why in its row."""

import pytest

from workers.bench import report

DATA = {
    "parts": {
        "ceilings": {"copy_bytes_per_s": 2e12, "operations_per_s": {"bf16": 8e14, "fp8": 1.6e15, "int8": "no kernel"}},
        "encoder": {
            "variants": {
                "bf16-graph": {
                    "cosine": 1.0,
                    "weights_bytes": 2e9,
                    "rows": [
                        {"batch": 1, "seconds": 0.01, "median_s": 0.009, "flops": 1e12, "joules": None},
                        {"batch": 8, "seconds": 0.02, "median_s": 0.02, "flops": 8e12, "joules": 4.0},
                    ],
                },
                "fp8-compiled": {"failed": "FormatError: no such kernel"},
            }
        },
        "decoder": {
            "variants": {
                "fp8-compiled": {
                    "agreement": 0.5,
                    "cosine": 0.9,
                    "decode": [{"batch": 2, "seconds": 0.004, "bytes": 4e9, "joules": 1.0}],
                    "prompts": [{"length": 512, "seconds": 0.01, "flops": 8e12}],
                }
            }
        },
    }
}


def test_an_encoder_is_shown_at_its_best_batch_beside_the_matrix_limit():
    best, failed = report.encoder_rows(DATA, "encoder")
    assert best[:3] == ["bf16-graph", "400", "8"]
    assert best[5] == "50 %"
    assert best[6] == "2.00"
    assert failed == ["fp8-compiled", "FormatError: no such kernel"]


def test_decoding_is_shown_beside_the_bandwidth_limit():
    [row] = report.decode_rows(DATA, "decoder")
    assert row[:4] == ["fp8-compiled", "2", "500", "4.00"]
    assert row[5] == "50 %"


def test_prompts_are_measured_by_the_units_their_format_runs_on():
    [row] = report.prompt_rows(DATA, "decoder")
    assert row[5] == "50 %"  # of the fp8 rate


@pytest.mark.parametrize(
    ("variant", "rate"),
    [("bf16-graph", 8e14), ("int8_weights-skinny", 8e14), ("fp8-compiled", 1.6e15), ("int8-graph", None)],
)
def test_formats_of_weights_alone_multiply_in_bf16(variant, rate):
    assert report.ceiling(DATA["parts"]["ceilings"], variant) == rate


def test_the_table_of_an_empty_run_can_be_printed():
    assert "copy 0.00 TB/s" in report.table({"parts": {}})


def test_the_table_keeps_failures_whole():
    assert "FormatError: no such kernel" in report.table(DATA)
