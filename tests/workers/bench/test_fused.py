"""The fused step, run by Triton's interpreter on the CPU, gives what the plain layers give: same logits, same cache."""

import os

import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from workers.bench import build, fused, llama  # noqa: E402
from workers.engines import torch_skinny  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
SHAPE = llama.Shape(layers=2, hidden=128, heads=4, cached_heads=2, inner=256, vocabulary=192)


class Fixed:
    """The kernel in one configuration: there is no card to tune on."""

    fn = torch_skinny._multiply.fn

    def __getitem__(self, grid):
        chosen = {"COLUMNS": 32, "DEPTH": 64}
        return lambda *arguments, **constants: self.fn[grid(chosen)](*arguments, **constants, **chosen)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(torch_skinny, "_multiply", Fixed())
    monkeypatch.setattr(torch_skinny, "CONFIGS", [torch_skinny.triton.Config({"COLUMNS": 32, "DEPTH": 64})])
    monkeypatch.setitem(torch_skinny.STORED, "bf16", torch.float16)  # the interpreter multiplies no bfloat16


def model():
    made = build.random_model(lambda: llama.Decoder(SHAPE), torch.device("cpu")).half()
    for name, parameter in made.named_parameters():
        if "norm" in name:
            parameter.uniform_(0.5, 1.5)
    return made


def filled(made, positions):
    torch.manual_seed(3)
    cache = made.cache(len(positions), 96)
    for keys, values in cache:
        keys.normal_()
        values.normal_()
    return cache


@pytest.mark.parametrize("form", ["bf16", "int8_weights"])
def test_a_fused_step_is_the_plain_one(form, small):
    positions, tokens = torch.tensor([0, 40, 95]), torch.tensor([3, 7, 190])
    table = llama.turns(SHAPE, 96, torch.device("cpu"), torch.float16)
    with torch.no_grad():
        plain = model()
        cache = filled(plain, positions)
        wanted = plain.logits(plain.step(tokens, positions, table, cache)).float()
        other = fused.Fused(model(), form)
        own = filled(plain, positions)
        found = other.step(tokens, positions, table, own).float()
    bound = 0.01 if form == "bf16" else 0.05
    assert (found - wanted).norm() / wanted.norm() < bound
    for (keys, values), (own_keys, own_values) in zip(cache, own, strict=True):
        torch.testing.assert_close(own_keys, keys, atol=0.05, rtol=0.02)
        torch.testing.assert_close(own_values, values, atol=0.05, rtol=0.02)


def test_a_norm_s_gain_in_the_weights_changes_nothing():
    torch.manual_seed(0)
    norm, linear, x = torch.nn.RMSNorm(64, 1e-5), torch.nn.Linear(64, 32, bias=False), torch.randn(3, 64)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        wanted = linear(norm(x))
        fused.fold(norm, linear)
        torch.testing.assert_close(linear(norm(x)), wanted)
        assert (norm.weight == 1).all()
