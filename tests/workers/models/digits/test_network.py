"""The torch twin of the committed graph."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from workers.engines.onnx import OnnxEngine  # noqa: E402
from workers.manifest import packaged  # noqa: E402
from workers.models.digits import network  # noqa: E402


def test_the_reference_is_the_committed_graph():
    folder = packaged("digits").parent
    with np.load(folder / "held.npz") as kept:
        pixels = kept["pixels"][:50].astype(np.float32)
    with torch.no_grad():
        found = network.reference().eval()(torch.from_numpy(pixels)).numpy()
    expected = OnnxEngine(folder / "digits.fp32.onnx").run({"pixels": pixels})["probabilities"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_student_is_small_and_always_the_same():
    first, second = network.student(), network.student()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    sizes = [sum(p.numel() for p in each.parameters()) for each in (first, network.reference())]
    assert sizes[0] < sizes[1] / 10
