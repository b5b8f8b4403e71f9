"""Sentence embeddings of the real model: known similarities, unit vectors, batching and cutting."""

from pathlib import Path

import numpy as np
import pytest

from workers.engines.embed import MAX_ROWS, Embedder
from workers.manifest import bundled, cache, load
from workers.models.minilm import build


@pytest.fixture(scope="module")
def folder() -> Path:
    """The build in the user's cache, made now if it is not there yet."""
    build.build(cache() / "minilm")
    return bundled("minilm").parent


@pytest.fixture(scope="module")
def fp32(folder: Path) -> Embedder:
    return Embedder(folder / "minilm.fp32.onnx", folder / "tokenizer.json", build.CONTEXT)


@pytest.fixture(scope="module")
def int8(folder: Path) -> Embedder:
    return Embedder(folder / "minilm.int8.onnx", folder / "tokenizer.json", build.CONTEXT)


def test_similarities_are_those_sentence_transformers_documents(fp32: Embedder):
    """The example of https://www.sbert.net/docs/quickstart.html, computed there with this model and torch."""
    sentences = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    vectors = fp32.embed(sentences).vectors
    documented = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
    np.testing.assert_allclose(vectors @ vectors.T, documented, atol=2e-4)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_like_sentences_are_nearer_than_unlike_ones(precision: str, request: pytest.FixtureRequest):
    embedder: Embedder = request.getfixturevalue(precision)
    a, b, c = embedder.embed(
        ["I forgot my password.", "How do I reset my login credentials?", "Bananas are rich in potassium."]
    ).vectors
    assert a @ b > 0.5 > 0.2 > max(a @ c, b @ c)


def test_vectors_have_unit_length_and_the_published_width(fp32: Embedder):
    embedded = fp32.embed(["a", "a longer sentence about nothing", ""])
    assert embedded.vectors.shape == (3, 384)
    assert embedded.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embedded.vectors, axis=1), 1, atol=1e-5)


def test_order_and_company_do_not_matter(fp32: Embedder):
    texts = [" ".join(["word"] * n) for n in (1, 30, 2, 9, 17)] * (MAX_ROWS // 4)
    together = fp32.embed(texts)
    alone = [fp32.embed([text]) for text in texts[:5]]
    np.testing.assert_allclose(together.vectors[:5], np.concatenate([one.vectors for one in alone]), atol=1e-5)
    np.testing.assert_allclose(together.vectors[:5], together.vectors[5:10], atol=1e-5)
    assert together.tokens == sum(one.tokens for one in alone) * (MAX_ROWS // 4)


def test_padding_is_not_counted_as_tokens(fp32: Embedder):
    assert fp32.count("hello world") == 4  # with [CLS] and [SEP]
    assert fp32.embed(["hello world", "hello"]).tokens == 7


def test_a_long_text_is_cut_at_the_context(fp32: Embedder):
    long = fp32.embed(["word " * 1000])
    assert long.tokens == build.CONTEXT
    np.testing.assert_allclose(long.vectors, fp32.embed(["word " * 254]).vectors, atol=1e-5)


def test_no_texts_give_no_rows(fp32: Embedder):
    assert fp32.embed([]).vectors.shape == (0, 384)


def test_int8_points_the_same_way(fp32: Embedder, int8: Embedder):
    filed, asked, _ = build.exam()
    texts = (filed + asked)[::20]
    cosine = (fp32.embed(texts).vectors * int8.embed(texts).vectors).sum(axis=1)
    assert cosine.mean() > 0.99
    assert cosine.min() > 0.97


def test_the_cached_manifest_describes_the_cached_files(folder: Path):
    manifest = load(folder / "minilm.manifest.json")
    assert [variant.engine for variant in manifest.variants] == ["embed", "embed"]
    assert manifest.context == build.CONTEXT
