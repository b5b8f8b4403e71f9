"""Logs of other gateways: the shipped samples, and small ones for each rule."""

from importlib import resources
from pathlib import Path

import pytest

from loadtests.rows import FileError
from loadtests.simulator import foreign, mapping, whatif
from policies.records import MarginalPrice, TokenPrice

SHIPPED = Path(str(resources.files("loadtests") / "scenarios" / "foreign"))
SAMPLES = {
    "litellm.yaml": "litellm_spend_logs.csv",
    "envoy.yaml": "envoy_access.log",
    "envoy_json.yaml": "envoy_access.jsonl",
    "nginx.yaml": "nginx_access.log",
}
MAP = """
fields:
  time: t
  took: {field: d}
  first: {field: f}
  upstream: u
  status: s
  prompt_tokens: {field: p}
  output_tokens: {field: o}
gateway: eu
round_trips_ms: {us: [100, 2]}
upstreams:
  - {match: "eu-*", region: eu, usd_per_hour: 3.6, slots: 4, curve: {base: 0.01, prefill: 0.001, decode: 0.01}}
  - {match: "us-*", region: us, input_usd_per_mtok: 10, output_usd_per_mtok: 20, curve: {base: 0.01, decode: 0.01}}
deadlines: [{first_token_ms: 300, total_ms: 2000}]
"""
HEADER = "t,d,f,u,s,p,o\n"
LINE = "100,1.0,0.2,eu-1,200,50,11\n"


def read(tmp_path, lines, meaning=MAP):
    path, log = tmp_path / "map.yaml", tmp_path / "log.csv"
    path.write_text(meaning)
    log.write_text(HEADER + lines)
    return foreign.history(log, mapping.read(path))


def test_every_shipped_mapping_has_its_sample_and_both_are_found():
    assert {path.name for path in SHIPPED.iterdir()} == {*SAMPLES, *SAMPLES.values(), "README.md"}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_shipped_sample_says_what_isochrone_would_save(name):
    """The samples are round robin over two dear and four cheap workers."""
    history = foreign.history(SHIPPED / SAMPLES[name], mapping.read(SHIPPED / name))
    assert [(group.region, group.count) for group in history.fleet] == [("europe-west4", 2), ("us-central1", 4)]
    fast, slow = (group.serves[0].curve for group in history.fleet)
    for curve, true in ((fast, (0.02, 1 / 12000, 0.008)), (slow, (0.03, 1 / 2500, 0.025))):
        assert curve.base == pytest.approx(true[0], abs=0.008)
        assert curve.prefill == pytest.approx(true[1], rel=0.15)
        assert curve.decode == pytest.approx(true[2], rel=0.05)
    answer = whatif.compare(history, [whatif.named("isochrone"), whatif.named("nearest")], 1)
    was, again = answer.logged, answer.policies[whatif.RESIMULATED]
    assert answer.logged_policy == whatif.CHOICES
    assert again.attainment == pytest.approx(was.attainment, abs=0.02)
    assert again.cost_per_1k == pytest.approx(was.cost_per_1k, rel=0.05)
    assert again.total_p50_s == pytest.approx(was.total_p50_s, rel=0.1)
    assert again.regions == pytest.approx(was.regions, abs=0.02)
    assert answer.policies["isochrone"].cost_per_1k < 0.9 * again.cost_per_1k
    assert answer.policies["nearest"].cost_per_1k > 1.2 * again.cost_per_1k


def test_a_line_is_understood(tmp_path):
    history = read(tmp_path, LINE)
    (one,) = history.past
    assert (one.at, one.first, one.total, one.met) == (100.0, 0.2, 1.0, True)
    assert (one.prompt_tokens, one.output_tokens, one.region, one.served) == (50, 11, "eu", "eu")
    assert (one.kind.first_token_s, one.kind.total_s, one.worker) == (0.3, 2.0, "g0-0")
    # 0.01 + 50 x 0.001 prefill and 10 x 0.01 decode in one of four slots, at 0.001 dollars a second
    assert one.cost == pytest.approx((0.06 + 0.1 / 4) * 0.001)
    assert isinstance(history.fleet[0].price, MarginalPrice)
    assert len(history.fleet) == 1
    assert any("us-*" in note for note in history.notes)


def test_a_price_list_bills_tokens(tmp_path):
    history = read(tmp_path, "100,1.0,0.2,us-1,200,100,50\n")
    assert history.past[0].cost == pytest.approx((100 * 10 + 50 * 20) / 1e6)
    assert history.fleet[0].price == TokenPrice(10, 20)
    assert history.trips["eu", "us"] == (0.1, 0.002)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("100,1.0,0.2,eu-1,404,50,11\n", "4xx"),
        ("100,1.0,0.2,-,503,50,11\n", "never reached"),
        ("100,1.0,0.2,,503,50,11\n", "never reached"),
    ],
)
def test_what_says_nothing_of_the_fleet_is_left_out(tmp_path, line, why):
    history = read(tmp_path, LINE + line)
    assert len(history.past) == 1
    assert any(why in note for note in history.notes)


@pytest.mark.parametrize("status", ["502", "0", "failure"])
def test_a_failure_is_a_miss(tmp_path, status):
    history = read(tmp_path, f"100,1.0,0.2,eu-1,{status},50,11\n" + LINE)
    failed = history.past[0]
    assert (failed.met, failed.total, failed.output_tokens, failed.served) == (False, None, None, "")


@pytest.mark.parametrize(("first", "took", "met"), [(0.3, 2.0, True), (0.31, 1.0, False), (0.2, 2.1, False)])
def test_deadlines_are_the_mappings(tmp_path, first, took, met):
    assert read(tmp_path, f"100,{took},{first},eu-1,200,50,11\n").past[0].met is met


def test_of_several_upstreams_the_last_answered(tmp_path):
    history = read(tmp_path, '100,1.0,"-, 0.2","us-1, eu-2",200,50,11\n' + LINE)
    one = next(one for one in history.past if one.attempts == 2)
    assert (one.first, one.served) == (0.2, "eu")
    assert {one.worker for one in history.past} == {"g0-0", "g0-1"}


def test_what_is_written_at_its_end_came_earlier(tmp_path):
    history = read(tmp_path, LINE, MAP.replace("time: t", "time: t\n  time_is: end"))
    assert history.past[0].at == 99.0


def test_tokens_are_told_from_bytes_or_are_the_same_for_all(tmp_path):
    meaning = MAP.replace("{field: p}", "{field: p, bytes_per_token: 4, overhead_bytes: 10}").replace(
        "{field: o}", "{value: 33}"
    )
    (one,) = read(tmp_path, LINE, meaning).past
    assert (one.prompt_tokens, one.output_tokens) == (10, 33)


def test_slots_are_those_seen_at_once(tmp_path):
    lines = "".join(f"{at},1.0,0.2,us-1,200,50,11\n" for at in (100.0, 100.5, 100.9, 102.0))
    history = read(tmp_path, lines)
    assert history.fleet[0].serves[0].slots == 3
    assert any("3 slots" in note for note in history.notes)


def test_a_speed_is_fitted_to_what_did_not_wait(tmp_path):
    """A third waited up to two seconds; no time of the first token is known."""
    meaning = MAP.replace(", curve: {base: 0.01, prefill: 0.001, decode: 0.01}", "").replace(
        "first: {field: f}\n  ", ""
    )
    meaning = meaning.replace("first_token_ms: 300, ", "")
    lines = []
    for number in range(200):
        prompt, output = 100 + 37 * (number % 11), 10 + 7 * (number % 13)
        took = 0.001 + 0.05 + 0.0005 * prompt + 0.02 * output + (number % 3 == 0) * (1 + number % 2)
        lines.append(f"{100 + number},{took:.4f},,eu-1,200,{prompt},{output}\n")
    curve = read(tmp_path, "".join(lines), meaning).fleet[0].serves[0].curve
    assert (curve.base, curve.prefill, curve.decode) == pytest.approx((0.05, 0.0005, 0.02), rel=0.02)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("yesterday,1.0,0.2,eu-1,200,50,11\n", r"log\.csv:2: t: a time"),
        (LINE + "100,long,0.2,eu-1,200,50,11\n", r"log\.csv:3: d: a number"),
        ("100,-1,0.2,eu-1,200,50,11\n", r"log\.csv:2: d: -1 is out of range"),
        ("100,1.0,0.2,mars-1,200,50,11\n", r"log\.csv:2: u: no upstream of the mapping matches 'mars-1'"),
        ("100,1.0,0.2,eu-1,200,many,11\n", r"log\.csv:2: p: a number"),
        ("100,1.0,0.2,-,200,50,11\n", "no request in it that reached an upstream"),
    ],
)
def test_a_bad_line_is_told_with_file_line_and_field(tmp_path, lines, said):
    with pytest.raises(FileError, match=said):
        read(tmp_path, lines)


def test_an_instant_before_the_request_is_told(tmp_path):
    with pytest.raises(FileError, match=r"log\.csv:2: d: 99 s before"):
        read(tmp_path, LINE, MAP.replace("took: {field: d}", "took: {field: d, unit: instant}"))


def test_a_field_no_line_has_is_told_with_those_there_are(tmp_path):
    with pytest.raises(FileError, match=r"no line has a field 'uu' \(fields\.upstream of the mapping\).* u"):
        read(tmp_path, LINE, MAP.replace("upstream: u", "upstream: uu"))


def test_too_few_answers_to_fit_a_speed_to_is_told(tmp_path):
    with pytest.raises(FileError, match=r"\$\.upstreams\[0\]\.curve: fewer than 20 answers"):
        read(tmp_path, LINE, MAP.replace(", curve: {base: 0.01, prefill: 0.001, decode: 0.01}", ""))
