import pytest

torch = pytest.importorskip("torch")

from workers.bench import build  # noqa: E402


def test_a_variant_is_a_number_format_and_a_making():
    assert build.parse("int8_weights-skinny") == build.Variant("int8_weights", "skinny")
    assert not build.parse("bf16-eager").captured
    assert build.parse("bf16-graph").captured


@pytest.mark.parametrize("name", ["bf16", "bf17-graph", "bf16-fast", ""])
def test_an_unknown_variant_is_answered_with_the_choices(name):
    with pytest.raises(ValueError, match=r"bf16.*eager"):
        build.parse(name)


def test_only_compiled_variants_change_the_function():
    def function(x):
        return x

    assert build.made(build.parse("bf16-graph"), function) is function
    assert build.made(build.parse("bf16-compiled"), function) is not function


def test_a_model_is_drawn_alike_for_the_same_seed():
    def kind():
        return torch.nn.Linear(4, 4)

    one, same, other = (build.random_model(kind, torch.device("cpu"), seed) for seed in (0, 0, 1))
    assert torch.equal(one.weight, same.weight)
    assert torch.equal(one.bias, same.bias)
    assert not torch.equal(one.weight, other.weight)
    assert one.weight.dtype is torch.bfloat16
    assert torch.get_default_dtype() is torch.float32


def test_a_format_is_given_to_the_layers_and_not_to_the_rest():
    pytest.importorskip("torchao")
    model = torch.nn.ModuleDict(
        {"layers": torch.nn.Sequential(torch.nn.Linear(32, 32)), "head": torch.nn.Linear(32, 8)}
    )
    model = model.bfloat16()
    build.converted(build.parse("int8_weights-graph"), model["layers"], model)
    assert type(model["head"].weight) is torch.nn.Parameter
    assert type(model["layers"][0].weight) is not torch.nn.Parameter


def test_the_error_of_one_product_tells_a_format_from_a_mistake():
    pytest.importorskip("torchao")
    reference = torch.nn.Linear(256, 64).bfloat16().requires_grad_(False)
    exact = torch.nn.Sequential(torch.nn.Linear(256, 64).bfloat16())
    exact.load_state_dict({"0.weight": reference.weight, "0.bias": reference.bias})
    assert build.product_error(exact, reference) < 0.005
    build.converted(build.parse("int8_weights-graph"), exact, exact)
    assert 0.003 < build.product_error(exact, reference) < 0.02
    wrong = torch.nn.Sequential(torch.nn.Linear(256, 64).bfloat16())
    assert build.product_error(wrong, reference) > 0.5
