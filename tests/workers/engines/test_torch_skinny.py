"""The kernel for few rows, run by Triton's interpreter on the CPU, against plain products in higher precision."""

import os

import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

from workers.engines import torch_skinny as skinny  # noqa: E402
from workers.engines.torch_precision import FormatError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
INNER = 1024


def multiplied(layer, x, columns=32, depth=256):
    out = x.new_full((x.shape[0], layer.weight.shape[0]), float("nan"))
    grid = (triton.cdiv(out.shape[1], columns),)
    scale = x if layer.scale is None else layer.scale
    skinny._multiply.fn[grid](
        x, layer.weight, scale, out, len(x), out.shape[1], INNER, SCALED=layer.scale is not None,
        HALF=layer.weight.dtype is torch.float8_e4m3fn, ROWS=skinny.ROWS,
        COLUMNS=columns, DEPTH=depth,
    )  # fmt: skip
    return out


@pytest.mark.parametrize("width", [64, 80], ids=["whole", "ragged"])
@pytest.mark.parametrize("form", ["int8_weights", "fp8_weights"])
def test_products_of_few_rows_are_exact_to_rounding(form, width):
    torch.manual_seed(width)
    layer = skinny.SkinnyLinear(torch.randn(width, INNER, dtype=torch.bfloat16), form)
    x = torch.randn(5, INNER, dtype=torch.float16)  # the interpreter multiplies no bfloat16
    wanted = x.double() @ (layer.weight.double() * layer.scale.double()[:, None]).T
    error = (multiplied(layer, x).double() - wanted).norm() / wanted.norm()
    assert error < 1e-3


@pytest.mark.parametrize(("form", "bound"), [("int8_weights", 0.01), ("fp8_weights", 0.04)])
def test_stored_weights_are_near_those_given(form, bound):
    torch.manual_seed(0)
    weight = torch.randn(64, INNER, dtype=torch.bfloat16)
    layer = skinny.SkinnyLinear(weight, form)
    kept = layer.weight.float() * layer.scale[:, None]
    assert 0 < (kept - weight.float()).norm() / weight.float().norm() < bound
    x = torch.randn(skinny.ROWS + 1, INNER, dtype=torch.bfloat16)  # many rows: the library's product
    torch.testing.assert_close(layer(x).float(), x.float() @ kept.T, atol=1.0, rtol=0.02)


def test_layers_it_cannot_hold_are_refused_before_anything_changes():
    model = torch.nn.Sequential(torch.nn.Linear(512, 64, bias=False), torch.nn.Linear(64, 64, bias=False)).bfloat16()
    with pytest.raises(FormatError, match="int8_weights: 1 has a bias"):
        skinny.replace(model, "int8_weights")
    assert type(model[0]) is torch.nn.Linear
    with pytest.raises(FormatError, match="int4"):
        skinny.replace(model, "int4")
