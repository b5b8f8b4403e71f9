"""The page: one file, no network, safe with any name, and every case and policy in it."""

import json
import re
from html.parser import HTMLParser

import pytest

from loadtests.simulator import page
from loadtests.simulator.page import Report
from loadtests.simulator.statistics import gather
from tests.loadtests.simulator import specimens

POLICIES = {"isochrone": 0.9, "prequal": 0.8}


@pytest.fixture(scope="module")
def rendered() -> str:
    comparisons = gather(run for load in (0.5, 0.7) for run in specimens.runs(POLICIES, case={"load": load}))
    report = Report(
        title="A <b>world",
        comparisons=comparisons,
        worlds=[specimens.world()] * 2,
        definition="# source: <here>",
        focus=1,
    )
    return page.render(report)


def without_plotly(text: str) -> str:
    return text.replace(page.get_plotlyjs(), "")


def figures(text: str):
    return json.loads(re.search(r'id="figures">(.*?)</script>', text, re.DOTALL)[1])


class Addresses(HTMLParser):
    """Everything a browser would fetch."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href") and not value.startswith("data:")]


def test_nothing_is_fetched(rendered):
    parser = Addresses()
    parser.feed(without_plotly(rendered))
    assert parser.found == []
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|https?://", without_plotly(rendered))
    assert rendered.count("plotly.js v") == page.get_plotlyjs().count("plotly.js v")


def test_the_script_finds_what_the_page_gives_it(rendered):
    book = figures(rendered)
    assert len(book["cases"]) == 2
    assert (book["focus"], book["policy"]) == (1, "isochrone")
    assert set(book["overview"]) == {"attainment", "cost_per_1k"}
    for case in book["cases"]:
        assert set(case["policies"]) == set(POLICIES)
        for slot in [*case["figures"], *case["policies"]["prequal"], *book["overview"]]:
            assert f'id="{slot}"' in rendered, slot
    labels = re.search(r"data-labels='([^']*)'", rendered)[1].replace("&quot;", '"')
    assert json.loads(labels) == [{"load": 0.5}, {"load": 0.7}]
    assert '<option value="0.7" selected>' in rendered


def test_words_and_tables_speak_of_every_case(rendered):
    for case in figures(rendered)["cases"]:
        assert "isochrone (the shipped policy) kept the most deadlines" in case["words"]
        assert case["table"].count("<tr") == 3
        assert "4 H100" in case["world"]


def test_names_are_text_and_never_markup(rendered):
    assert "A &lt;b&gt;world" in rendered
    assert "# source: &lt;here&gt;" in rendered
    comparisons = gather(specimens.runs({"</script><script>alert(1)": 0.9}))
    text = page.render(Report(title="t", comparisons=comparisons, worlds=[specimens.world()]))
    assert "<script>alert(1)" not in without_plotly(text)


def test_a_single_case_has_no_overview_and_tenants_show_when_there_are_some():
    comparisons = gather([specimens.run(by_tenant={"hog": 0.2, "small": 0.9})])
    text = page.render(Report(title="t", comparisons=comparisons, worlds=[specimens.world()]))
    assert figures(text)["overview"] == {}
    assert 'id="cost_per_1k"' not in text
    assert figures(text)["cases"][0]["figures"]["tenants"]["data"][0]["x"] == ["hog", "small"]


def test_it_is_written_where_it_was_asked_for(tmp_path):
    target = tmp_path / "deep" / "report.html"
    page.write(target, Report(title="t", comparisons=gather([specimens.run()]), worlds=[specimens.world()]))
    assert target.read_text().startswith("<!doctype html>")
