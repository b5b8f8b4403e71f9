"""Mappings: read strictly, and told of by file and field."""

import pytest

from loadtests.rows import FileError
from loadtests.simulator import mapping
from loadtests.simulator.formats import Format

MINIMAL = """
fields: {time: t, took: {field: d}, upstream: u}
gateway: eu
upstreams: [{match: "*", region: eu, usd_per_hour: 1}]
"""


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "map.yaml"
        path.write_text(text)
        return path

    return write


def test_a_minimal_one_has_defaults(written):
    made = mapping.read(written(MINIMAL))
    assert made.format is Format.ROWS
    assert (made.fields.time_is, made.fields.took.unit, made.fields.output_tokens.value) == ("start", "s", 200.0)
    assert mapping.mapped(made.fields) == [("time", "t"), ("took", "d"), ("upstream", "u")]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("time: t", "tim: t", "tim"),
        ("took: {field: d}", "took: {field: d, unit: weeks}", r"\$\.fields\.took\.unit"),
        ("usd_per_hour: 1", "usd_per_hour: -1", r"\$\.upstreams\[0\]\.usd_per_hour"),
        ("region: eu, usd", "region: mars, usd", r"\$\.upstreams\[0\]\.region: no round trip to 'mars'"),
        ("gateway: eu", "gateway: eu\ndeadlines: [{first_token_ms: 5}]", r"\$\.deadlines\[0\]\.first_token_ms"),
        ("gateway: eu", "gateway: [", "map.yaml"),
        ("gateway: eu", "", "gateway"),
    ],
)
def test_a_mistake_is_told_with_its_place(written, old, new, said):
    with pytest.raises(FileError, match=rf"map\.yaml: .*{said}|{said}"):
        mapping.read(written(MINIMAL.replace(old, new)))


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(FileError, match="nowhere"):
        mapping.read(tmp_path / "nowhere.yaml")
