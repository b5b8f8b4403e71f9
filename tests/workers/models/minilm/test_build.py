"""minilm's build: idempotent, and picky about what it downloads."""

from pathlib import Path

import pytest

from workers.manifest import cache, encode, packaged, read
from workers.models.minilm import build


@pytest.fixture(scope="module")
def manifest_path() -> Path:
    """The build in the user's cache, made now if it is not there yet."""
    return build.build(cache() / "minilm")


def test_a_second_build_touches_nothing(manifest_path: Path):
    before = manifest_path.stat().st_mtime_ns
    assert build.build(cache() / "minilm") == manifest_path
    assert manifest_path.stat().st_mtime_ns == before


def test_a_damaged_or_older_build_is_not_fresh(manifest_path: Path, tmp_path: Path):
    assert build.fresh(manifest_path.parent)
    assert not build.fresh(tmp_path)
    for path in manifest_path.parent.glob("*"):
        if path.suffix in (".onnx", ".json"):
            (tmp_path / path.name).symlink_to(path)
    assert build.fresh(tmp_path)
    (tmp_path / "minilm.int8.onnx").unlink()
    (tmp_path / "minilm.int8.onnx").write_bytes(b"cut off")
    assert not build.fresh(tmp_path)


def test_another_recipe_is_built_anew(manifest_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(build, "SOURCE", "recipe of tomorrow")
    assert not build.fresh(manifest_path.parent)


def test_weights_that_are_not_the_published_ones_are_refused():
    with pytest.raises(SystemExit, match=r"model\.safetensors has sha256"):
        build._checked(b"something else")


def test_the_committed_manifest_is_of_this_recipe(manifest_path: Path):
    committed, cached = read(packaged("minilm")), read(manifest_path)
    assert committed.source == cached.source == build.SOURCE
    for ours, theirs in zip(committed.variants, cached.variants, strict=True):
        assert ours.quality == pytest.approx(theirs.quality, abs=0.01)
        assert ours.fidelity == pytest.approx(theirs.fidelity, abs=0.02)
    assert read(packaged("minilm")) == committed
    assert packaged("minilm").read_bytes() == encode(committed)


def test_the_exam_asks_for_each_fact_in_other_words():
    filed, asked, wanted = build.exam()
    assert len(asked) == len(wanted) >= 1000
    assert len(set(filed)) == len(filed)
    assert not set(filed) & set(asked)
    assert wanted.max() == len(filed) - 1
