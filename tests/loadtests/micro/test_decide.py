import json

from loadtests.micro import decide


def test_every_size_and_verb_is_measured_and_written_down(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(decide, "RESULT", tmp_path / "bench" / "decide.json")
    monkeypatch.setattr(decide, "SIZES", (8, 64))
    assert decide.main(rounds=20) == 0
    written = json.loads((tmp_path / "bench" / "decide.json").read_text())
    assert set(written["p50_us"]) == {"8", "64"}
    assert all(value > 0 for value in (*written["p50_us"].values(), written["report_us"], written["observe_us"]))
    assert json.loads(capsys.readouterr().out) == written


def test_its_requests_find_cheap_and_dear_nodes():
    rng = decide.random.Random(1)
    router = decide.fleet(64, rng)
    chosen = {router.route(request, 0.05).node.worker.price.usd_per_hour for request in decide.requests(rng)}
    assert len(chosen) > 5
