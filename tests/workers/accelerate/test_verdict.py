"""Verdicts: who is served, and who makes whom pointless."""

from policies.records import Curve
from workers.accelerate import verdict
from workers.manifest import Latency, Variant


def one(name, quality=1.0, ms=10.0, size=100, throughput=100.0, agreement=1.0):
    times = Latency(ms, ms, ms)
    return Variant(
        variant=name, engine="onnx", file="f", sha256="0" * 64, bytes=size, score=quality, ci95=(quality, quality),
        quality=quality, agreement=agreement, latency_ms={"1": times}, curve=Curve(base=ms / 1e3), max_batch=1,
        throughput=throughput,
    )  # fmt: skip


def judged(*variants, floor=0.98):
    return {each.variant: each.verdict for each in verdict.judged(variants, floor)}


def test_the_reference_is_served_whatever_else_there_is():
    found = judged(one("fp32"), one("int8", ms=1, size=10, throughput=900))
    assert found["fp32"].served
    assert found["int8"].served


def test_below_the_floor_is_not_served():
    found = judged(one("fp32"), one("int4", quality=0.9, ms=1, size=1))["int4"]
    assert (found.served, found.reason, found.by) == (False, "quality 0.9 is below the floor of 0.98", "")


def test_no_faster_smaller_or_cheaper_is_not_served():
    found = judged(one("fp32"), one("pruned", quality=0.99, ms=9.9, size=99, throughput=101))["pruned"]
    assert (found.served, found.by) == (False, "fp32")
    assert found.reason.startswith("no faster, smaller or cheaper than fp32, of no worse quality (9.9 ms")


def test_one_gain_is_enough():
    for gain in ({"ms": 5}, {"size": 50}, {"throughput": 200}):
        assert judged(one("fp32"), one("other", quality=0.985, **gain))["other"].served


def test_quality_beyond_the_references_is_luck():
    """fp16 is as good as int8 that happened to have one item more right, and smaller."""
    found = judged(one("fp32"), one("int8", quality=1.004, ms=5, size=50), one("fp16", size=40))
    assert found["int8"].served
    assert found["fp16"].served


def test_of_equal_quality_the_agreement_counts():
    """int8 finds as many right neighbours, and other ones; fp16 is slower, but the reference's twin at half size."""
    fast = one("int8", quality=1.007, ms=4, size=25, throughput=300, agreement=0.987)
    assert judged(one("fp32"), one("fp16", size=50), fast)["fp16"].served
    assert not judged(one("fp32"), one("fp16", size=50, agreement=0.98), fast)["fp16"].served


def test_a_worse_variant_does_not_refuse_a_better_one():
    found = judged(one("fp32"), one("better", quality=0.995, ms=8), one("worse", quality=0.985, ms=5, size=50))
    assert found["better"].served
    assert found["worse"].served


def test_of_two_alike_the_earlier_is_served():
    found = judged(one("fp32"), one("a", ms=5), one("b", ms=5.01))
    assert found["a"].served
    assert found["b"].by == "a"


def test_a_verdict_names_a_variant_that_is_served():
    found = judged(one("fp32"), one("worst", ms=9), one("middle", ms=5, size=50), one("best", ms=2, size=20))
    assert found["worst"].by == found["middle"].by == "best"


def test_a_front_keeps_what_none_beats():
    points = [one("fp32"), one("int8", quality=0.99), one("bad", quality=0.985), one("tiny", quality=0.95)]
    assert verdict.front(points, [10, 5, 6, 1]) == [3, 1, 0]
