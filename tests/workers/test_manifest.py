"""Manifests: what they refuse and say, and what a worker registers from them."""

import shutil
from pathlib import Path

import msgspec
import pytest

from policies.records import Endpoint
from workers.manifest import (
    Manifest,
    ManifestError,
    Verdict,
    bundled,
    cache,
    encode,
    json_schema,
    load,
    packaged,
    read,
    to_endpoints,
)

DOCS = Path(__file__).parents[2] / "docs"
BUNDLED = packaged("digits")


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the digits model that a test may spoil."""
    shutil.copytree(BUNDLED.parent, tmp_path / "digits", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "digits" / BUNDLED.name


def test_the_committed_manifests_match_their_files():
    for name in ("digits", "tinychat"):
        manifest = load(bundled(name))
        assert manifest.model == name
        assert manifest.variants[0].quality == manifest.variants[0].agreement == 1.0


def test_every_committed_manifest_has_measured_figures():
    for name in ("digits", "tinychat", "minilm"):
        manifest = read(packaged(name))
        assert [variant.variant for variant in manifest.variants] == ["fp32", "int8"]
        for variant in manifest.variants:
            assert {"1", "8"} <= variant.latency_ms.keys()
            assert variant.ci95[0] <= variant.score <= variant.ci95[1]
            assert variant.curve.base + variant.curve.decode > 0
            assert all(times.p50 <= times.p90 <= times.p99 for times in variant.latency_ms.values())
        assert manifest.eval.n >= 300


def test_committed_artifacts_stay_small():
    files = [path for name in ("digits", "tinychat") for path in packaged(name).parent.glob("*.onnx")]
    assert sum(path.stat().st_size for path in files) < 12e6


def test_a_manifest_survives_encoding(tmp_path: Path):
    manifest = read(BUNDLED)
    path = tmp_path / "x.manifest.json"
    path.write_bytes(encode(manifest))
    assert read(path) == manifest


def test_a_missing_manifest_is_named(tmp_path: Path):
    with pytest.raises(ManifestError, match=r"none\.manifest\.json: cannot be read .*give the path"):
        load(tmp_path / "none.manifest.json")


def test_a_missing_file_is_named_with_its_field(copied: Path):
    (copied.parent / "digits.int8.onnx").unlink()
    with pytest.raises(ManifestError, match=r"variants\[int8\]\.file: .*digits\.int8\.onnx is missing: build"):
        load(copied)
    assert load(copied, ["fp32"]).model == "digits"


def test_an_altered_file_is_refused(copied: Path):
    path = copied.parent / "digits.fp32.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ManifestError, match=r"digits\.fp32\.onnx has sha256 .* the manifest says .* altered"):
        load(copied)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"schema": 2', '"schema": 9', r"\$\.schema is 9, this version reads 1 and 2: build the model again"),
        ('"engine": "onnx"', '"engine": "magic"', r"at `\$\.variants\[0\]\.engine`"),
        ('"file": "digits.fp32.onnx"', '"file": "../up.onnx"', r"at `\$\.variants\[0\]\.file`"),
        ('"licence"', '"license"', r"unknown field `license`"),
        ('"quality": 1.0', '"quality": "good"', r"at `\$\.variants\[0\]\.quality`"),
        ("{", "[", "correct the field or build the model again"),
    ],
)
def test_a_bad_field_is_named_with_its_path(copied: Path, old: str, new: str, message: str):
    copied.write_text(copied.read_text().replace(old, new, 1))
    with pytest.raises(ManifestError, match=message):
        read(copied)


def test_endpoints_carry_what_was_measured():
    manifest = read(packaged("tinychat"))
    endpoints = to_endpoints(manifest)
    assert [(e.model, e.variant, e.task) for e in endpoints] == [
        ("tinychat", "fp32", "text"),
        ("tinychat", "int8", "text"),
    ]
    for endpoint, variant in zip(endpoints, manifest.variants, strict=True):
        assert endpoint.curve == variant.curve
        assert (endpoint.quality, endpoint.agreement) == (variant.quality, variant.agreement)
        assert endpoint.max_batch == variant.max_batch
        assert endpoint.curve.prefill > 0
        assert endpoint.curve.decode > 0
        assert msgspec.json.decode(msgspec.json.encode(endpoint), type=Endpoint) == endpoint


def test_endpoints_of_chosen_variants_only():
    manifest = read(BUNDLED)
    assert [e.variant for e in to_endpoints(manifest, ["int8"])] == ["int8"]
    with pytest.raises(ManifestError, match="digits has no variant 'int4': choose among fp32, int8"):
        to_endpoints(manifest, ["int4"])


@pytest.fixture
def refused(copied: Path) -> Path:
    """A manifest whose int8 has a verdict against it."""
    manifest = read(copied)
    fp32, int8 = manifest.variants
    against = msgspec.structs.replace(int8, verdict=Verdict(served=False, reason="no faster", by="fp32"))
    copied.write_bytes(encode(msgspec.structs.replace(manifest, variants=(fp32, against))))
    return copied


def test_a_variant_with_a_verdict_against_it_is_not_served(refused: Path):
    assert [e.variant for e in to_endpoints(load(refused))] == ["fp32"]
    wanted = r"\$\.variants\[int8\]\.verdict: int8 is not served: no faster: choose among fp32, or set its `served`"
    with pytest.raises(ManifestError, match=wanted):
        load(refused, ["int8"])
    refused.write_text(refused.read_text().replace('"served": false', '"served": true'))
    assert [e.variant for e in to_endpoints(load(refused, ["int8"]), ["int8"])] == ["int8"]


def test_a_file_of_a_variant_that_is_not_served_may_be_missing(refused: Path):
    (refused.parent / "digits.int8.onnx").unlink()
    assert load(refused).served()[0].variant == "fp32"


def test_schema_1_is_still_read(copied: Path):
    written = read(copied)
    copied.write_text(copied.read_text().replace('"schema": 2', '"schema": 1'))
    assert read(copied) == msgspec.structs.replace(written, schema=1)


def test_the_json_schema_in_the_documentation_is_this_one():
    assert (DOCS / "manifest.schema.json").read_bytes() == json_schema()


def test_the_documentation_names_every_field():
    page = (DOCS / "manifest.md").read_text()
    for part in msgspec.json.schema(Manifest)["$defs"].values():
        missing = [name for name in part["properties"] if f"`{name}`" not in page]
        assert not missing, missing


def test_an_unknown_bundled_name_lists_the_known_ones():
    with pytest.raises(ManifestError, match="no bundled model 'gpt': choose among digits, fraud, tinychat, minilm"):
        bundled("gpt")


def test_minilm_is_looked_for_in_the_cache_and_says_how_to_get_there(tmp_path: Path):
    environment = {"ISOCHRONE_CACHE": str(tmp_path)}
    with pytest.raises(ManifestError, match=r"make models-minilm.*python -m workers\.models\.minilm\.build"):
        bundled("minilm", environment)
    (tmp_path / "minilm").mkdir()
    wanted = tmp_path / "minilm" / "minilm.manifest.json"
    wanted.write_bytes(packaged("minilm").read_bytes())
    assert bundled("minilm", environment) == wanted


def test_the_cache_is_the_users_own_by_default():
    assert cache({}) == Path.home() / ".cache" / "isochrone"
