"""The parent survives whatever its parts do: they are replaced by a script that behaves as its first argument says."""

import json
import sys

import pytest

from workers.bench import gpu

FAKE = """
import json, os, sys, time
mood, variants = sys.argv[1], sys.argv[2:]
def say(variant, found): print(json.dumps({"variant": variant, "found": found}), flush=True)
say("", {"shape": {"layers": 1}})
for variant in variants:
    say(variant, {"begun": True})
    say(variant, {"rows": [{"batch": 1}]})
    if variant == "wedge":
        os._exit(3)
    if variant == "hang":
        time.sleep(60)
    say(variant, {"rows": [{"batch": 2}], "cosine": 1.0})
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    script = tmp_path / "part.py"
    script.write_text(FAKE)
    monkeypatch.setattr(
        gpu, "command", lambda part, variants, scale, until: [sys.executable, str(script), part, *variants]
    )
    return gpu.Run(tmp_path / "out" / "gpu.json", "tiny", 30.0)


def filed(run):
    data = json.loads((run.out).read_text())
    assert data == run.data
    return data["parts"]["encoder"]


def test_what_is_found_is_filed_by_part_and_variant(run):
    run.part("encoder", ("one", "two"))
    part = filed(run)
    assert part["shape"] == {"layers": 1}
    assert part["variants"]["two"] == {"begun": True, "rows": [{"batch": 1}, {"batch": 2}], "cosine": 1.0}


def test_after_a_variant_that_wedges_the_card_a_new_process_does_the_rest(run):
    run.part("encoder", ("one", "wedge", "two"))
    variants = filed(run)["variants"]
    assert variants["wedge"]["failed"] == "the process ended with status 3"
    assert variants["wedge"]["rows"] == [{"batch": 1}]
    assert "cosine" in variants["one"]
    assert "cosine" in variants["two"]


def test_a_variant_without_a_word_is_killed_and_the_rest_is_done(run, monkeypatch):
    monkeypatch.setattr(gpu, "PATIENCE_SECONDS", 2.0)
    run.part("encoder", ("hang", "two"))
    variants = filed(run)["variants"]
    assert "killed" in variants["hang"]["failed"]
    assert "cosine" in variants["two"]


def test_what_does_not_fit_into_the_time_is_said_to_be_left_out(tmp_path):
    run = gpu.Run(tmp_path / "gpu.json", "tiny", 0.0)
    run.part("encoder", ("one",))
    assert filed(run)["variants"] == {"one": {"skipped": "out of time"}}


def test_a_part_that_cannot_even_start_is_filed(run, monkeypatch):
    monkeypatch.setattr(gpu, "command", lambda *_: [sys.executable, "-c", "raise SystemExit(1)"])
    run.part("encoder", ("one", "two"))
    variants = filed(run)["variants"]
    assert variants["one"]["failed"] == variants["two"]["failed"] == "the process ended with status 1"


def test_the_variants_planned_can_be_parsed():
    build = pytest.importorskip("workers.bench.build", exc_type=ImportError)
    for part, variants in gpu.PLAN:
        for name in variants:
            assert part in ("front", "batching") or build.parse(name)


def test_without_torch_or_a_card_it_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "has no torch: make bench-gpu PYTHON=" in capsys.readouterr().err
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: True)
    said = json.dumps({"variant": "", "found": {"failed": "torch sees no CUDA device"}})
    monkeypatch.setattr(gpu, "command", lambda *_: [sys.executable, "-c", f"print({said!r}); raise SystemExit(4)"])
    with pytest.raises(SystemExit):
        gpu.main(["--out", str(tmp_path / "gpu.json")])
    assert "torch sees no CUDA device" in capsys.readouterr().err
