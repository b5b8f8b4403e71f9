"""Number formats: what is refused and why, what is stored, and that the weights remain near what they were."""

import pytest

torch = pytest.importorskip("torch")

from workers.engines import torch_precision as precision  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # torchao's own


def module():
    torch.manual_seed(0)
    layers = [torch.nn.Linear(256, 256, bias=False), torch.nn.ReLU(), torch.nn.Linear(256, 128, bias=False)]
    return torch.nn.Sequential(*layers).bfloat16()


@pytest.mark.parametrize("form", ["int8", "int8_weights"])
def test_eight_bits_take_half_the_bytes_and_answer_alike(form):
    pytest.importorskip("torchao")
    before, after = module(), module()
    precision.convert(after, form)
    full, small = precision.stored_bytes(before), precision.stored_bytes(after)
    assert small < 0.55 * full
    x = torch.randn(16, 256, dtype=torch.bfloat16)
    with torch.no_grad():
        likeness = torch.nn.functional.cosine_similarity(before(x).float(), after(x).float(), dim=-1)
    assert 0.99 < likeness.min() < 0.99999


def test_bf16_is_what_is_there():
    model = module()
    weight = model[0].weight
    precision.convert(model, "bf16")
    assert model[0].weight is weight


@pytest.mark.skipif(torch.cuda.is_available(), reason="these can be had here")
@pytest.mark.parametrize("form", ["fp8", "fp8_weights", "int4_weights", "sparse24"])
def test_what_needs_a_gpu_says_so_and_changes_nothing(form):
    model = module()
    with pytest.raises(precision.FormatError, match=f"{form}: .*CUDA"):
        precision.convert(model, form)
    assert all(type(linear.weight) is torch.nn.Parameter for _, linear in precision.linears(model))


def test_an_unknown_format_is_answered_with_those_there_are():
    with pytest.raises(precision.FormatError, match="choose among bf16, fp8"):
        precision.convert(module(), "fp3")


def test_of_every_four_weights_the_larger_two_stay():
    weight = torch.tensor([[1.0, -4.0, 3.0, 2.0, 0.0, 0.0, -1.0, 5.0]])
    assert (weight * precision.keep_two_of_four(weight)).tolist() == [[0, -4, 3, 0, 0, 0, -1, 5]]
