import json
import shutil
import sys
import time

import msgspec
import numpy as np
import pytest

from workers import loading, manifest
from workers.allocation import Allotment
from workers.catalog import TENSOR, TEXT
from workers.engines.embed import Embedded
from workers.engines.text import Sampling
from workers.forming import Alone
from workers.manifest import ManifestError
from workers.queue import Result
from workers.runners import Batched, Slotted

DIGITS = manifest.packaged("digits")


def test_every_variant_of_a_manifest_is_served_with_its_quality():
    catalog = loading.catalog([DIGITS])
    assert list(catalog.models["digits"]) == ["fp32", "int8"]
    entry = catalog.find("digits", "int8", TENSOR)
    assert isinstance(entry.runner, Batched)
    assert (entry.endpoint.quality, entry.endpoint.task) == (
        manifest.read(DIGITS).variant("int8").quality,
        "classification",
    )
    assert entry.inputs[0].datatype == "FP32"


def test_the_curve_is_fitted_to_this_machine_alone_and_in_company(monkeypatch):
    """The fp32 digits of a machine where one takes twice what the manifest says, and full batches the same."""
    told = manifest.read(DIGITS).variant("fp32").curve
    factors = iter([2.0, 0.5])
    monkeypatch.setattr(loading.calibrate, "factor", lambda *_: next(factors))
    entry = loading.catalog([DIGITS], ["fp32"]).entries()[0]
    curve = entry.endpoint.curve
    assert curve.base == pytest.approx(2 * told.base)
    assert curve.seconds(items=32) == pytest.approx(told.seconds(items=32))


def test_trials_are_made_in_company_where_an_engine_call_takes_several(monkeypatch):
    tried = []
    monkeypatch.setattr(loading.calibrate, "factor", lambda predicted, trial, *_: tried.append(trial()) or 1.0)
    loading.catalog([DIGITS], ["fp32"])
    assert [len(each["probabilities"]) for each in tried] == [1, 32]


def test_the_named_variants_are_served_in_their_order():
    assert list(loading.catalog([DIGITS], ["int8", "fp32"]).models["digits"]) == ["int8", "fp32"]
    assert list(loading.catalog([DIGITS], ["int4", "int8"]).models["digits"]) == ["int8"]


def test_a_model_without_any_of_the_named_variants_says_which_it_has():
    with pytest.raises(ManifestError, match=r"none of --variants int4.*fp32, int8"):
        loading.catalog([DIGITS], ["int4"])


def test_tensors_of_several_requests_are_one_call_and_come_back_to_their_owners():
    entry = loading.catalog([DIGITS], ["fp32"]).entries()[0]
    rng = np.random.default_rng(1)
    works = [{"pixels": rng.random((rows, 64), np.float32)} for rows in (1, 3, 2)]
    together = entry.runner._attempt(works)
    alone = [entry.runner._attempt([work])[0] for work in works]
    assert all(isinstance(event, Result) for event in together)
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.value["probabilities"], other.value["probabilities"], atol=1e-5)


def test_sentences_of_several_requests_keep_their_vectors_and_their_tokens():
    class Lengths:
        def embed(self, texts):
            return Embedded(np.array([[len(text)] for text in texts], np.float32), sum(map(len, texts)))

        def count(self, text):
            return len(text)

    (first, second) = loading.run_sentences(Lengths(), [["a", "bb"], ["ccc"]])
    assert (first[0].tolist(), first[1]) == ([[1.0], [2.0]], 3)
    assert (second[0].tolist(), second[1]) == ([[3.0]], 3)
    assert loading.run_sentences(Lengths(), [["a", "bb"]])[0][1] == 3


def test_a_text_model_has_as_many_slots_as_its_manifest_says():
    catalog = loading.catalog([manifest.packaged("tinychat")], ["int8"])
    entry = catalog.find("tinychat", "", TEXT)
    assert isinstance(entry.runner, Slotted)
    assert entry.runner.slots == entry.endpoint.max_batch
    assert entry.context == manifest.read(manifest.packaged("tinychat")).context


def test_a_manifest_that_lacks_what_its_engine_needs_says_so(tmp_path):
    shutil.copytree(DIGITS.parent, tmp_path / "digits", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    path = tmp_path / "digits" / DIGITS.name
    for engine, needed in (("slots", "chat"), ("embed", "context")):
        told = json.loads(DIGITS.read_text())
        for variant in told["variants"]:
            variant["engine"] = engine
        path.write_text(json.dumps(told))
        with pytest.raises(ManifestError, match=needed):
            loading.catalog([path])


@pytest.fixture
def copied(tmp_path):
    """The digits where a test may spoil them: their manifest, as a dict to be changed and written."""
    folder = tmp_path / "digits"
    shutil.copytree(DIGITS.parent, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    return folder / DIGITS.name


def test_a_missing_file_is_named_with_its_field(copied):
    (copied.parent / "digits.int8.onnx").unlink()
    with pytest.raises(
        ManifestError, match=r"digits\.manifest\.json: \$\.variants\[int8\]\.file: .*int8\.onnx is missing"
    ):
        loading.catalog([copied])
    assert list(loading.catalog([copied], ["fp32"]).models["digits"]) == ["fp32"], "the others are served"


def test_a_model_larger_than_memory_is_refused_before_it_is_loaded(copied, monkeypatch):
    monkeypatch.setattr(loading.memory, "available", lambda: 100_000)
    with pytest.raises(
        ManifestError, match=r"\$\.variants\[fp32\]\.file: .* takes about 1 MB .* 0 MB is free: serve fewer"
    ):
        loading.catalog([copied], ["fp32"])


@pytest.mark.parametrize("fault", [MemoryError(), ValueError("ONNX Runtime cannot load it: std::bad_alloc")])
def test_memory_that_runs_out_while_loading_is_no_broken_file(monkeypatch, fault):
    def builder(*_):
        raise fault

    monkeypatch.setitem(loading.BUILDERS, "onnx", builder)
    with pytest.raises(ManifestError, match=r"\$\.variants\[fp32\]\.file: there is not enough memory .*: serve fewer"):
        loading.catalog([DIGITS], ["fp32"])


def test_a_file_that_the_engine_cannot_read_is_named_with_its_field(copied):
    broken = copied.parent / "digits.fp32.onnx"
    broken.write_bytes(b"no graph")
    told = json.loads(copied.read_text())
    told["variants"][0]["sha256"] = manifest.digest(broken)
    copied.write_text(json.dumps(told))
    with pytest.raises(ManifestError, match=r"\$\.variants\[fp32\]\.file: .*cannot load it"):
        loading.catalog([copied], ["fp32"])


def test_batching_is_as_told():
    entry = loading.catalog([DIGITS], ["fp32"], Alone()).entries()[0]
    assert entry.runner._batching == Alone()


def test_an_engine_whose_library_is_not_installed_says_what_to_do(copied, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "workers.engines.torch_tensors", raising=False)
    told = json.loads(copied.read_text())
    told["variants"][0]["engine"] = "torch"
    copied.write_text(json.dumps(told))
    with pytest.raises(ManifestError, match=r"\$\.variants\[fp32\]\.engine: torch needs torch: install it"):
        loading.catalog([copied], ["fp32"])


def test_variants_that_do_not_fit_on_the_device_together_are_refused_before_they_are_loaded(copied):
    with pytest.raises(ManifestError, match=r"digits:fp32 .*, digits:int8 .*may have 0 MB.*--memory-gb"):
        loading.catalog([copied], allotment=Allotment("cuda", 10_000))


def test_a_weight_for_a_variant_that_is_not_served_is_a_mistake():
    with pytest.raises(ManifestError, match="'int4', which is not served: fp32, int8 are"):
        loading.catalog([DIGITS], allotment=Allotment(weights={"int4": 2.0}))


def written(folder, model, engine, file, max_batch, **more):
    """A manifest of one variant of an engine of PyTorch."""
    told = json.loads(DIGITS.read_text())
    variant = told["variants"][0] | {
        "engine": engine, "file": file.name, "sha256": manifest.digest(file), "bytes": file.stat().st_size,
        "max_batch": max_batch,
    }  # fmt: skip
    path = folder / f"{model}.manifest.json"
    path.write_text(json.dumps(told | {"model": model, "variants": [variant]} | more))
    return path


@pytest.mark.filterwarnings("ignore")
def test_an_exported_program_is_served_as_tensors(tmp_path):
    torch = pytest.importorskip("torch")
    batch = torch.export.Dim("batch", min=1, max=64)
    model = torch.nn.Sequential(torch.nn.Linear(4, 2)).eval()
    program = torch.export.export(model, (torch.ones(2, 4),), dynamic_shapes={"input": {0: batch}})
    torch.export.save(program, tmp_path / "scores.pt2")
    path = written(tmp_path, "scores", "torch", tmp_path / "scores.pt2", 8)
    entry = loading.catalog([path]).find("scores", "fp32", TENSOR)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    [result] = entry.runner._attempt([{"input": x}])
    with torch.no_grad():
        np.testing.assert_allclose(result.value["output_0"], model(torch.from_numpy(x)).numpy(), atol=1e-6)
    assert entry.runner.clock is time.monotonic, "the thread only waits for the device"


@pytest.mark.filterwarnings("ignore")
def test_a_llama_is_served_as_text(tmp_path):
    transformers = pytest.importorskip("transformers")
    save_file = pytest.importorskip("safetensors.torch").save_file
    chat = manifest.packaged("tinychat")
    told = json.loads(chat.read_text())
    tokenizer = shutil.copy(chat.parent / told["tokenizer"]["file"], tmp_path)
    vocabulary = len(json.loads(chat.parent.joinpath(told["tokenizer"]["file"]).read_text())["model"]["vocab"]) + 64
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    model = transformers.LlamaForCausalLM(config)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, tmp_path / "m.safetensors")
    own = tmp_path / "config.json"
    file = {"file": own.name, "sha256": manifest.digest(own), "bytes": own.stat().st_size}
    more = {"task": "text", "chat": told["chat"], "tokenizer": told["tokenizer"], "context": 128}
    path = written(tmp_path, "llama", "transformers", tmp_path / "m.safetensors", 4, config=file, **more)
    assert tokenizer
    entry = loading.catalog([path]).find("llama", "", TEXT)
    try:
        assert (entry.runner.slots, entry.context, entry.runner.clock) == (4, 128, time.monotonic)
        engine = entry.runner._engine
        engine.start(entry.text.encode("hello"), Sampling(temperature=0, max_tokens=3, ignore_eos=True))
        steps = []
        while engine.active:
            steps += engine.step()
        assert [step.done for step in steps] == [None, None, "length"]
    finally:
        entry.close()
    del more["chat"]
    path = written(tmp_path, "llama", "transformers", tmp_path / "m.safetensors", 4, **more)
    with pytest.raises(ManifestError, match=r"\$\.config is needed for transformers"):
        loading.catalog([path])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"classes": ("odd", "even")}, r"digits: \$\.classes: names 2, but 'probabilities' has shape \[-1, 10\]"),
        ({"features": ("dark", "light")}, r"digits: \$\.features: names 2, but 'pixels' has shape \[-1, 64\]"),
    ],
)
def test_names_that_are_not_as_many_as_what_they_name_are_refused(tmp_path, names, message):
    changed = msgspec.structs.replace(manifest.read(DIGITS), **names)
    for variant in changed.variants:
        shutil.copy(DIGITS.parent / variant.file, tmp_path)
    path = tmp_path / "digits.manifest.json"
    path.write_bytes(manifest.encode(changed))
    with pytest.raises(ManifestError, match=message):
        loading.catalog([path], ["fp32"])


def test_an_entry_knows_its_classes_and_how_far_its_probabilities_are_off():
    (entry,) = loading.catalog([DIGITS], ["int8"]).entries()
    assert entry.classes == tuple("0123456789")
    assert entry.calibration_error == manifest.read(DIGITS).variant("int8").calibration_error > 0
