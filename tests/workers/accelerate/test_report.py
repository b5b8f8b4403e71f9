"""The page: whole in itself, and its figures are the manifest's."""

import json
import re

import msgspec
import pytest

from workers.accelerate import report
from workers.manifest import Absent, Effort, Verdict, packaged, read


@pytest.fixture
def manifest():
    found = read(packaged("digits"))
    fp32, int8 = found.variants
    int8 = msgspec.structs.replace(int8, effort=Effort(3.2, None, 12_345), throughput=90_000.0)
    fp32 = msgspec.structs.replace(fp32, throughput=40_000.0)
    worse = msgspec.structs.replace(
        int8, variant="worse", quality=0.9, effort=Effort(1.0), verdict=Verdict(served=False, reason="<b>bad</b>")
    )
    return msgspec.structs.replace(
        found, variants=(fp32, int8, worse), floor=0.98, absent=(Absent("fp8", "no such card"),)
    )


def test_the_page_needs_no_network(manifest, tmp_path):
    page = report.write(tmp_path / "x.html", manifest).read_text()
    own = page[: page.index("<script>")] + page[page.index("<main>") :]
    assert "http" not in own
    assert "no such card" in own
    assert "<b>bad</b>" not in own
    for slot in json.loads(re.search(r'id="figures">(.*?)</script>', own).group(1)):
        assert f'<div class="figure" id="{slot}">' in own


def test_quality_stands_against_latency_with_its_front(manifest):
    figure = report.figures(manifest)["latency"]
    line, *points = figure["data"]
    assert [(point["name"], point["y"][0]) for point in points] == [("fp32", 1.0), ("int8", 1.0), ("worse", 0.9)]
    assert line["x"] == [manifest.variants[1].latency_ms["1"].p50]
    assert [point["marker"]["symbol"] for point in points] == ["circle", "circle", "circle-open"]
    assert figure["layout"]["shapes"][0]["y0"] == 0.98


def test_cost_is_money_where_there_is_a_price_and_seconds_where_not(manifest):
    across, unit = report.costs(manifest)
    assert (across[0], unit) == (pytest.approx(0.025), "accelerator seconds per 1,000 items")
    priced = tuple(msgspec.structs.replace(one, cost_per_1k=0.5) for one in manifest.variants)
    assert report.costs(msgspec.structs.replace(manifest, variants=priced)) == ([0.5] * 3, "US dollars per 1,000 items")


def test_payback_names_who_never_pays(manifest):
    figure = report.figures(manifest)["payback"]
    assert (figure["data"][0]["y"], figure["data"][0]["x"]) == (["int8"], [12_345])
    assert figure["data"][0]["text"] == ["12,345 requests for 3.2 s"]
    assert figure["layout"]["annotations"][0]["text"] == "never: worse"


def test_logarithmic_axes_have_readable_ticks():
    assert report.ticks([0.3, 4])["ticktext"] == ["0.2", "0.5", "1", "2", "5"]


def test_batches_are_the_manifests(manifest):
    first = report.figures(manifest)["batches"]["data"][0]
    assert (first["x"], len(first["y"])) == ([1, 8, 32], 3)
