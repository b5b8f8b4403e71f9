"""The whole of it on a small classifier: what is made, measured, refused and said."""

import msgspec
import numpy as np
import pytest

from tests.workers.accelerate.conftest import laid
from workers import loading
from workers.accelerate import pipeline
from workers.accelerate.spec import SpecError
from workers.manifest import ManifestError, load, read

WANTED = ("int8_dynamic", "int8_static", "fp8", "distilled", "tensorrt", "int4+int8_static")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = laid(tmp_path_factory.mktemp("small"))
    steps = []
    path = pipeline.accelerate(
        str(folder / "small.onnx"), folder / "accelerate.yaml", folder / "out", WANTED, 0.36, lambda *s: steps.append(s)
    )
    return path, read(path), steps


def test_the_whole(made):
    path, manifest, steps = made
    reference, *others = manifest.variants
    assert (manifest.schema, manifest.model, manifest.floor, manifest.price_per_hour) == (2, "small", 0.98, 0.36)
    assert (manifest.eval.n, manifest.eval.metric) == (300, "accuracy")
    assert (reference.variant, reference.quality, reference.score) == ("fp32", 1.0, 0.9)
    assert [one.variant for one in others][:2] == ["int8_dynamic", "int8_static"]
    assert manifest.classes == ("north", "east", "south", "west")
    assert ("fp32", "measuring") in steps
    assert sorted(each.name for each in path.parent.iterdir()) == sorted(
        ["small.manifest.json", *(one.file for one in manifest.variants)]
    )


def test_every_variant_is_measured_in_full(made):
    _, manifest, _ = made
    for one in manifest.variants:
        assert next(iter(one.latency_ms)) == "1"
        assert one.max_batch == int(list(one.latency_ms)[-1]) <= 4
        assert one.throughput is not None
        assert one.cost_per_1k == pytest.approx(0.36 / 3600 / one.throughput * 1000, rel=1e-3)
        assert one.memory_bytes is not None
        assert one.memory_bytes > 10e6
        assert one.energy is not None
        assert one.load is not None
        assert one.calibration_error > 0  # a tenth of the labels are wrong
        low, high = one.quality_ci95
        assert low <= one.quality <= high
    assert manifest.variants[0].effort is None
    assert all(one.effort.seconds > 0 for one in manifest.variants[1:])


def test_what_cannot_be_done_says_why(made):
    _, manifest, _ = made
    reasons = {absent.technique: absent.reason for absent in manifest.absent}
    assert set(reasons) >= {"fp8", "distilled", "tensorrt"}
    assert "no CUDA device of capability 8.9" in reasons["fp8"]
    assert "$.student: needs a module" in reasons["distilled"]
    assert "no TensorrtExecutionProvider (it has" in reasons["tensorrt"]


def test_a_worker_serves_what_the_verdicts_leave(made):
    path, manifest, _ = made
    entries = list(loading.catalog([path]).entries())
    assert [entry.endpoint.variant for entry in entries] == [one.variant for one in manifest.served()]
    for one in manifest.variants:
        if not one.verdict.served:
            with pytest.raises(ManifestError, match="is not served: "):
                load(path, [one.variant])


def test_a_technique_that_fails_costs_the_others_nothing(folder, monkeypatch):
    from workers.accelerate.techniques import int8_dynamic

    def fails(source, target):
        target.write_bytes(b"half a file")
        raise RuntimeError("out of luck\nand more")

    monkeypatch.setattr(int8_dynamic, "quantize", fails)
    path = pipeline.accelerate(
        str(folder / "small.onnx"), folder / "accelerate.yaml", folder / "out", ["int8_dynamic", "fp16"]
    )
    manifest = read(path)
    assert [one.variant for one in manifest.variants] == ["fp32", "fp16"]
    assert manifest.absent[0].reason == "int8_dynamic failed: RuntimeError: out of luck"
    assert not (folder / "out" / "small.int8_dynamic.onnx").exists()
    assert manifest.price_per_hour is None
    assert manifest.variants[1].cost_per_1k is None


def test_a_variant_below_the_floor_stays_with_its_verdict(folder, monkeypatch):
    import onnx
    from onnx import numpy_helper

    from workers.accelerate.techniques import int8_dynamic

    def spoiled(source, target):
        model = onnx.load(source)
        up = model.graph.initializer[0]
        up.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(up), up.name))
        onnx.save(model, target)

    monkeypatch.setattr(int8_dynamic, "quantize", spoiled)
    path = pipeline.accelerate(str(folder / "small.onnx"), folder / "accelerate.yaml", folder / "out", ["int8_dynamic"])
    manifest = read(path)
    assert not manifest.variants[1].verdict.served
    assert "below the floor of 0.98" in manifest.variants[1].verdict.reason
    assert manifest.variants[1].quality < 0.9


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        (["int7"], "--variants: no technique 'int7': choose among fp32, fp16, bf16"),
        (["fp32+int4"], r"--variants: fp32\+int4: fp32 is what every technique starts from"),
    ],
)
def test_unknown_techniques_are_refused_before_anything_is_done(folder, variants, message):
    with pytest.raises(SpecError, match=message):
        pipeline.accelerate(str(folder / "small.onnx"), folder / "accelerate.yaml", folder / "out", variants)
    assert not (folder / "out").exists()


def test_calibration_of_another_shape_is_refused_by_its_field(folder):
    np.savez(folder / "calibration.npz", features=np.zeros((10, 31), np.float32))
    with pytest.raises(
        SpecError, match=r"\$\.calibration\.file: array 'features' has shape \[10, 31\], the model takes"
    ):
        pipeline.accelerate(str(folder / "small.onnx"), folder / "accelerate.yaml", folder / "out", ["int8_static"])


def test_labels_of_something_else_are_noticed(folder):
    with np.load(folder / "held.npz") as kept:
        np.savez(folder / "held.npz", features=kept["features"], labels=kept["labels"] * 0 + 99)
    with pytest.raises(SpecError, match=r"\$\.evaluation\.labels: the source has none of 300 items right"):
        pipeline.accelerate(str(folder / "small.onnx"), folder / "accelerate.yaml", folder / "out", ["fp32"])


def test_declared_inputs_are_checked_against_the_data(folder):
    place = folder / "accelerate.yaml"
    place.write_text(place.read_text() + "inputs: {features: {shape: [31]}}\n")
    with pytest.raises(SpecError, match=r"\$\.evaluation\.file: array 'features' has shape \[300, 32\], .* \[-1, 31\]"):
        pipeline.accelerate(str(folder / "small.onnx"), place, folder / "out", ["fp32"])


def test_the_manifest_survives_its_own_schema(made):
    path, manifest, _ = made
    assert msgspec.json.decode(path.read_bytes())["variants"][1]["verdict"].keys() == {"served", "reason", "by"}
    assert read(path) == manifest
