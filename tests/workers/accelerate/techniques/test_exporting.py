"""From torch modules to files: names, free batches, and what cannot be exported."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from tests.workers.accelerate.conftest import true_labels  # noqa: E402
from workers.accelerate import machine, pipeline, spec  # noqa: E402
from workers.accelerate.techniques import exporting  # noqa: E402
from workers.engines.embed import Embedder  # noqa: E402
from workers.engines.onnx import OnnxEngine  # noqa: E402
from workers.manifest import Build  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own


def test_a_module_becomes_a_source(module_job):
    """Exported, it answers what its weights say, at any batch size."""
    engine = OnnxEngine(module_job.source.graph)
    features = module_job.held.feeds["features"]
    for rows in (1, 3, 300):
        found = engine.run({"features": features[:rows]})["probabilities"]
        np.testing.assert_array_equal(found.argmax(axis=1), true_labels(features[:rows]))


def test_an_archive_names_its_output_and_keeps_the_module(module_job, tmp_path):
    module = module_job.source.module()
    built = exporting.archived(module_job, tmp_path / "x", torch.float32, Build(), module)
    program = torch.export.load(built.path)
    assert program.graph_signature.user_inputs == ("features",)
    assert program.call_spec.out_spec.context == ["probabilities"]


def test_the_output_is_found_by_name():
    tensor = torch.zeros(1)
    assert exporting.tensor_of({"a": tensor, "b": 1}, "a") is tensor
    with pytest.raises(ValueError, match=r"returns a, no 'b': correct \$\.output"):
        exporting.tensor_of({"a": tensor}, "b")
    with pytest.raises(ValueError, match="returns a tuple, not a tensor"):
        exporting.tensor_of((tensor,), "a")


def test_lengths_of_texts_are_free():
    assert exporting.free("input_ids", torch.zeros(2, 3)).keys() == {0, 1}
    assert exporting.free("pixels", torch.zeros(2, 3)).keys() == {0}


def test_sentences_are_averaged_without_their_padding():
    class Encoder(torch.nn.Module):
        def forward(self, input_ids, attention_mask, token_type_ids):
            states = torch.nn.functional.one_hot(input_ids, 3).float()
            return type("Output", (), {"last_hidden_state": states})

    encoder = exporting.SentenceEncoder(Encoder())
    ids, mask = torch.tensor([[1, 2, 0]]), torch.tensor([[1, 1, 0]])
    found = encoder(ids, mask, torch.zeros_like(ids))
    assert found[0].tolist() == pytest.approx([0, 0.5**0.5, 0.5**0.5])


@pytest.fixture
def hugging(tmp_path):
    """A Hugging Face style folder: a tiny BERT with random weights, and a tokenizer of five words."""
    transformers = pytest.importorskip("transformers")
    import tokenizers

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, "[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    words.save(str(tmp_path / "bert" / "tokenizer.json"))
    return tmp_path / "bert"


WORDS = ("[UNK]", "the", "sun", "is", "a", "star")


def test_a_folder_becomes_a_graph_that_embeds_sentences(hugging, tmp_path):
    place = tmp_path / "accelerate.yaml"
    place.write_text("model: bert\ntask: embedding\nevaluation: {file: texts.txt}\n")
    (tmp_path / "texts.txt").write_text("the sun\nthe sun is a star\na star\n")
    job = pipeline.prepared(str(hugging), spec.read(place), place, tmp_path, machine.found())
    assert (job.source.engine, job.source.output) == ("embed", "embeddings")
    found = Embedder(job.source.graph, job.source.tokenizer, 16).embed(job.held.texts).vectors
    module = job.source.module()
    with torch.no_grad():
        expected = module(**{name: torch.from_numpy(value) for name, value in job.held.feeds.items()})
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
