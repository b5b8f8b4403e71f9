import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from workers.bench import batching, llama  # noqa: E402
from workers.bench.decoder import Texts  # noqa: E402
from workers.bench.meter import Meter  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


def test_every_sequence_gets_all_its_tokens():
    plan = Texts(llama.TINY, sequences=(1, 3), prompt=4, tokens=5)
    bench = batching.Batches(Meter(torch.device("cpu")), plan)
    rows = [row for found in bench.measure("bf16") for row in found.get("rows", [])]
    assert [row["sequences"] for row in rows] == [1, 3]
    for row in rows:
        assert row["tokens_per_s"] * row["first_token_s"] < 5 * row["sequences"], "the first comes before the last"
