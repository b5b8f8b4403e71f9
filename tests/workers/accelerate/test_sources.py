"""What can be accelerated, and what is said of the rest."""

import shutil

import msgspec
import onnx
import pytest

from workers import memory
from workers.accelerate import sources, spec
from workers.accelerate.machine import Machine
from workers.accelerate.spec import SpecError
from workers.manifest import digest

BARE = Machine(frozenset({"onnx"}), frozenset())


def opened(told, folder, found=BARE, **changed):
    read = msgspec.structs.replace(spec.read(folder / "accelerate.yaml"), **changed)
    return sources.opened(str(told), read, folder / "accelerate.yaml", {}, folder, found)


def test_a_graph_is_taken_as_it_is(folder):
    source = opened(folder / "small.onnx", folder)
    assert (source.engine, source.output, source.module) == ("onnx", "probabilities", None)
    assert source.sha256 == digest(folder / "small.onnx")
    assert [spec.shape for spec in source.inputs] == [(-1, 32)]


@pytest.mark.parametrize(
    ("told", "changed", "message"),
    [
        ("accelerate.onnx", {}, r"accelerate\.onnx: .*cannot load it"),
        ("small.onnx", {"output": "scores"}, r"\$\.output: the model has no output 'scores': choose among probabil"),
        ("small.onnx", {"task": "embedding"}, r"\$\.tokenizer: .*tokenizer\.json is missing"),
        ("", {}, r"config\.json is missing: a Hugging Face folder has it"),
    ],
)
def test_what_cannot_be_opened_is_named(folder, told, changed, message):
    shutil.copy(folder / "accelerate.yaml", folder / "accelerate.onnx")
    with pytest.raises(SpecError, match=message):
        opened(folder / told, folder, **changed)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("none.onnx", r"none\.onnx: no such file: give an ONNX file, a folder, or package"),
        ("model.bin", r"model\.bin: neither a folder nor an \.onnx file"),
    ],
)
def test_what_is_not_there_is_said_first(told, message):
    with pytest.raises(SpecError, match=message):
        sources.exists(told)


def test_what_is_there_may_be_opened(folder):
    for told in (folder, folder / "small.onnx", "package.module:callable"):
        sources.exists(str(told))


def test_a_callable_needs_torch(folder):
    with pytest.raises(SpecError, match="nets:make: a torch module: torch, onnxscript not installed: pip install"):
        opened("nets:make", folder)


def test_a_folder_is_of_sentences(folder):
    hugging = folder / "hugging"
    hugging.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (hugging / name).write_text("{}")
    with pytest.raises(SpecError, match=r"\$\.task: a folder is opened for embedding; for classification give"):
        opened(hugging, folder)
    (hugging / "model.safetensors").write_bytes(b"x")
    with pytest.raises(SpecError, match=r"torch, transformers, onnxscript not installed.*or give an ONNX file"):
        opened(hugging, folder, task="embedding")


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("no.such.module:make", r"\$\.student: 'no\.such\.module:make' cannot be had \(No module named 'no'\)"),
        ("workers.manifest:nothing", "cannot be had .*has no attribute 'nothing'"),
        ("workers.manifest:SCHEMA", "is not callable: it must return a torch module"),
    ],
)
def test_a_callable_that_is_none_is_named(told, message):
    with pytest.raises(SpecError, match=message):
        sources.named(told, "accelerate.yaml: $.student")


def test_a_model_larger_than_memory_is_refused_before_it_is_read(folder, monkeypatch):
    size = (folder / "small.onnx").stat().st_size
    monkeypatch.setattr(memory, "available", lambda: 3 * size)
    with pytest.raises(SpecError, match=r"small\.onnx: its weights are .*about 4 times that; .* of memory is free"):
        opened(folder / "small.onnx", folder)


def test_two_outputs_need_a_choice(folder):
    model = onnx.load(folder / "small.onnx")
    model.graph.output.append(onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["n", 4]))
    onnx.save(model, folder / "two.onnx")
    with pytest.raises(SpecError, match="choose among probabilities, scores"):
        opened(folder / "two.onnx", folder)
    assert opened(folder / "two.onnx", folder, output="scores").output == "scores"


def test_named_makes_the_module_anew_for_inference():
    make = sources.named("tests.workers.accelerate.test_sources:Module")
    assert make() is not make()
    assert make().inferring


class Module:
    inferring = False

    def eval(self):
        self.inferring = True
        return self
