import pytest

torch = pytest.importorskip("torch")

from workers.bench import build, decoder, llama  # noqa: E402
from workers.bench.meter import Meter, Sustained  # noqa: E402

PLAN = decoder.Plan(llama.TINY, prompts=(8, 16), batches=(1, 2), context=8, span=4)


class Quick(Meter):
    def median(self, run, runs=1):
        run()
        return 1.0

    def sustained(self, run, seconds=0):
        return Sustained(0.5, 3.0, 6.0)


@pytest.fixture
def bench():
    with torch.no_grad():
        yield decoder.Bench(Quick(torch.device("cpu")), PLAN)


def test_a_step_moves_the_weights_but_of_the_embedding_and_the_live_cache(bench):
    found = list(bench.measure("bf16-graph"))
    model = bench._model()
    read = 2 * sum(p.numel() for name, p in model.named_parameters() if not name.startswith("embedding"))
    rows = [row for each in found for row in each.get("decode", [])]
    assert [row["bytes"] for row in rows] == [read + batch * PLAN.shape.cache_bytes(10) for batch in (1, 2)]
    assert [row["joules"] for row in rows] == [3.0, 3.0]


def test_every_prompt_is_read_and_the_reference_agrees_with_itself(bench):
    found = list(bench.measure("bf16-eager"))
    prompts = [row for each in found for row in each.get("prompts", [])]
    assert [(row["length"], row["flops"]) for row in prompts] == [(n, PLAN.shape.read_flops(1, n)) for n in (8, 16)]
    assert next(each["agreement"] for each in found if "agreement" in each) == 1.0


def test_decoding_feeds_itself_and_goes_round_in_its_span(bench):
    model = bench._model()
    steps = decoder.Steps(model, 2, PLAN, bench._table, bench._converted(build.parse("bf16-graph"), model))
    seen = []
    for _ in range(6):
        before = steps.tokens.clone()
        chosen = steps.step(steps.tokens, steps.positions)
        assert torch.equal(steps.tokens, chosen)
        assert steps.tokens.shape == before.shape
        seen.append(steps.positions.tolist()[0])
    assert seen == [9, 10, 11, 8, 9, 10]


def test_likeness_is_agreement_of_the_first_choice_and_cosine():
    reference = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = decoder.likeness(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), reference)
    assert found == {"agreement": 0.5, "cosine": 0.5}
