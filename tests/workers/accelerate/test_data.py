"""Data files: what comes of them, and what is refused by file and field."""

import numpy as np
import pytest

from workers.accelerate import data, spec
from workers.accelerate.data import Data, Place
from workers.accelerate.spec import DataFile, Input, SpecError
from workers.engines import TensorSpec

FEATURES = TensorSpec("features", "FP32", (-1, 3))


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "accelerate.yaml", "calibration.file")


@pytest.fixture
def classes(folder):
    return spec.read(folder / "accelerate.yaml")


def test_arrays_and_their_labels(classes, folder):
    found = data.read(classes, classes.evaluation, Place(folder / "accelerate.yaml", "evaluation.file"), None)
    assert found.rows == 300
    assert list(found.feeds) == ["features"]
    assert found.labels is not None
    assert found.labels.dtype == np.int64


def test_only_the_first_rows(classes, folder):
    file = DataFile("held.npz", "labels", rows=7)
    assert data.read(classes, file, Place(folder / "accelerate.yaml", "evaluation.file"), None).rows == 7


def test_a_table_makes_one_input(classes, tmp_path, place):
    (tmp_path / "t.csv").write_text("a,b,kind\n1,2,0\n3,4.5,1\n")
    found = data.read(classes, DataFile("t.csv", "kind"), place, None)
    np.testing.assert_array_equal(found.feeds["features"], [[1, 2], [3, 4.5]])
    np.testing.assert_array_equal(found.labels, [0, 1])


@pytest.mark.parametrize(
    ("name", "text", "labels", "message"),
    [
        ("none.npz", None, "", r"\$\.calibration\.file: .*none\.npz is missing"),
        ("t.csv", "a,b\n1,x\n", "", r"t\.csv: every cell must be a number"),
        ("t.csv", "a,b\n", "", r"t\.csv has no rows"),
        ("t.csv", "a,b\n1,2\n", "kind", r"t\.csv has no 'kind': correct `labels`, it has a, b"),
        ("t.txt", "words\n", "", r"t\.txt is no kind of data for classification: give a \.npz or a \.csv"),
        ("t.npz", "not zip", "", r"t\.npz is no \.npz of plain arrays"),
    ],
)
def test_a_bad_file_is_named_with_its_field(classes, tmp_path, place, name, text, labels, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(SpecError, match=message):
        data.read(classes, DataFile(name, labels), place, None)


def test_arrays_of_different_lengths_are_refused(classes, tmp_path, place):
    np.savez(tmp_path / "t.npz", a=np.zeros((2, 1)), b=np.zeros((3, 1)))
    with pytest.raises(SpecError, match=r"as many rows as each other, and some: \{'a': 2, 'b': 3\}"):
        data.read(classes, DataFile("t.npz"), place, None)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"pixels": np.zeros((2, 3))}, r"\$\.calibration\.file: no array 'features' .* it has pixels"),
        ({"features": np.zeros((2, 4))}, r"'features' has shape \[2, 4\], the model takes \[-1, 3\]"),
        ({"features": np.zeros((2, 3), complex)}, r"'features' is complex128, the model takes float32"),
    ],
)
def test_data_that_do_not_fit_the_model_are_refused(place, feeds, message):
    with pytest.raises(SpecError, match=message):
        data.fitted(Data(feeds), [FEATURES], place)


def test_data_that_fit_become_the_models_type(place):
    found = data.fitted(Data({"features": np.ones((2, 3), np.uint8), "spare": np.ones(2)}), [FEATURES], place)
    assert {name: value.dtype for name, value in found.feeds.items()} == {"features": np.float32}


def test_declared_inputs_in_protocol_terms():
    assert data.declared({"features": Input((3,))}) == (FEATURES,)


def test_a_batch_goes_round():
    feeds = data.cycled({"a": np.array([[1, 2], [3, 4]])}, 3)
    np.testing.assert_array_equal(feeds["a"], [[1, 2], [3, 4], [1, 2]])


def test_texts_and_their_matches(tmp_path, place, tokenizer):
    (tmp_path / "t.csv").write_text("text,match\nthe sun,a star\nsun,star\n")
    read = spec.Spec(model="m", task="embedding", evaluation=DataFile("t.csv", "match"))
    found = data.read(read, read.evaluation, place, tokenizer)
    assert (found.texts, found.matches) == (["the sun", "sun"], ["a star", "star"])
    np.testing.assert_array_equal(found.feeds["attention_mask"], [[1, 1], [1, 0]])
    (tmp_path / "t.txt").write_text("the sun\n\nsun\n")
    assert data.read(read, DataFile("t.txt"), place, tokenizer).texts == ["the sun", "sun"]
    with pytest.raises(SpecError, match="no column 'twin': it has text, match"):
        data.read(read, DataFile("t.csv", "twin"), place, tokenizer)
    with pytest.raises(SpecError, match=r"\$\.tokenizer: embeddings need"):
        data.read(read, read.evaluation, place, None)


@pytest.fixture
def tokenizer(tmp_path):
    import tokenizers

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "the": 1, "sun": 2}, "[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"
