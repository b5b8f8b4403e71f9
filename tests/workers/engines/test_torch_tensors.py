"""Exported torch programs as tensor models: what they describe, answer and refuse. On CUDA see `make bench-gpu`."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from workers.engines import TensorSpec  # noqa: E402
from workers.engines import torch_tensors as engines  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own


class Scores(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down, self.norm = torch.nn.Linear(64, 128), torch.nn.Linear(128, 10), torch.nn.LayerNorm(64)

    def forward(self, pixels, ids):
        x = self.norm(pixels) + ids.to(pixels.dtype)[:, None]
        return {"probabilities": torch.softmax(self.down(torch.relu(self.up(x))), -1), "kind": ids}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Scores().eval()


def exported(model, path, dtype=torch.float32):
    batch = torch.export.Dim("batch", min=1, max=1024)
    example = (torch.randn(2, 64, dtype=dtype), torch.ones(2, dtype=torch.int64))
    program = torch.export.export(model, example, dynamic_shapes={"pixels": {0: batch}, "ids": {0: batch}})
    torch.export.save(program, path)
    return path


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    return exported(model, tmp_path_factory.mktemp("torch") / "scores.pt2")


def feeds(rows):
    rng = np.random.default_rng(rows)
    return {"pixels": rng.standard_normal((rows, 64)).astype(np.float32), "ids": np.arange(rows)}


def expected(model, given):
    with torch.no_grad():
        outputs = model.float()(*(torch.from_numpy(given[name]) for name in ("pixels", "ids")))
    return {name: value.numpy() for name, value in outputs.items()}


def test_it_describes_the_program_in_protocol_terms(path):
    engine = engines.TorchEngine(path, device="cpu")
    assert engine.inputs == (TensorSpec("pixels", "FP32", (-1, 64)), TensorSpec("ids", "INT64", (-1,)))
    assert engine.outputs == (TensorSpec("probabilities", "FP32", (-1, 10)), TensorSpec("kind", "INT64", (-1,)))


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_it_answers_as_the_module_does(path, model, rows):
    engine = engines.TorchEngine(path, device="cpu", max_batch=8)
    given = feeds(rows)
    for name, value in expected(model, given).items():
        np.testing.assert_allclose(engine.run(given)[name], value, atol=1e-6)


@pytest.mark.parametrize(("form", "compiled"), [("int8", False), ("int8_weights", False), ("", True)])
def test_a_number_format_or_a_compiler_changes_little(path, model, form, compiled):
    if form:
        pytest.importorskip("torchao")
    engine = engines.TorchEngine(path, form=form, compiled=compiled, device="cpu", max_batch=8)
    given = feeds(5)
    found, wanted = engine.run(given)["probabilities"], expected(model, given)["probabilities"]
    np.testing.assert_allclose(found, wanted, atol=0.01)
    assert (np.abs(found - wanted).max() > 1e-5) == bool(form), "the format was applied"


def test_bfloat16_stays_inside(model, tmp_path):
    path = exported(Scores().eval().bfloat16(), tmp_path / "half.pt2", torch.bfloat16)
    engine = engines.TorchEngine(path, device="cpu")
    assert engine.inputs[0].datatype == engine.outputs[0].datatype == "FP32"
    assert engine.run(feeds(2))["probabilities"].dtype == np.float32


def test_a_bad_input_is_refused_by_name(path):
    engine = engines.TorchEngine(path, device="cpu")
    with pytest.raises(ValueError, match="input 'pixels' must be FP32, not float64"):
        engine.run(feeds(1) | {"pixels": np.zeros((1, 64))})
    with pytest.raises(ValueError, match="input 'ids' is missing"):
        engine.run({"pixels": np.zeros((1, 64), np.float32)})


def test_a_file_that_cannot_be_served_is_named(path, tmp_path):
    broken = tmp_path / "broken.pt2"
    broken.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"broken\.pt2: torch cannot load it"):
        engines.TorchEngine(broken, device="cpu")
    with pytest.raises(ValueError, match=r"scores\.pt2: .*CUDA"):
        engines.TorchEngine(path, form="fp8", device="cpu")


def test_buckets_reach_the_largest_batch_with_little_padding():
    assert engines.buckets(1) == [1]
    assert engines.buckets(6) == [1, 2, 4, 6]
    assert engines.buckets(8) == [1, 2, 4, 8]


def test_a_batch_is_padded_to_its_bucket_and_cut_again(path, model):
    """As on CUDA, with graphs that only call: what an earlier batch left beyond the rows does not matter."""
    engine = engines.TorchEngine(path, device="cpu", max_batch=4)
    engine._graphs = {size: engines.Graph(engine._function, engine._buffers(size)) for size in (1, 4)}
    assert engine.buckets == [1, 4]
    for rows in (4, 2, 3):
        given = feeds(rows)
        found = engine.run(given)
        assert found["probabilities"].shape == (rows, 10)
        np.testing.assert_allclose(found["probabilities"], expected(model, given)["probabilities"], atol=1e-6)
