"""Quality: the arithmetic of papers, and examinations of real engines."""

import numpy as np
import pytest

from tests.workers.accelerate.conftest import true_labels
from workers.accelerate import evaluate
from workers.accelerate.data import Data
from workers.accelerate.evaluate import Paper


def marks(right, wrong):
    return np.array([True] * right + [False] * wrong)


def test_the_interval_matches_the_published_one():
    """Agresti and Coull 1998 give Wilson's interval for 15 of 20 as 0.531 to 0.888."""
    assert evaluate.wilson(15, 20) == pytest.approx((0.531, 0.888), abs=5e-4)
    low, high = evaluate.wilson(50, 50)
    assert 0.9 < low < high == 1


def test_quality_is_a_ratio_on_the_same_items():
    reference = Paper(np.arange(200), marks(180, 20))
    worse = Paper(np.r_[np.arange(190), np.zeros(10, int)], marks(171, 29))
    found = evaluate.compared(worse, reference)
    assert (found.score, found.quality, found.agreement) == (0.855, 0.95, 0.95)
    assert found.quality_ci95[0] < 0.95 < found.quality_ci95[1] < 1
    assert found.ci95 == evaluate.wilson(171, 200)


def test_pairing_tells_apart_what_unpaired_intervals_cannot():
    """Nine more mistakes in 1000, on items the reference has right: certain, though the two intervals overlap."""
    _, high = evaluate.paired(marks(891, 109), marks(900, 100))
    assert high < 1
    assert evaluate.wilson(891, 1000)[1] > evaluate.wilson(900, 1000)[0]


def test_the_reference_beside_itself_is_one():
    paper = Paper(np.arange(50), marks(45, 5), np.eye(50), np.arange(500).reshape(50, 10))
    found = evaluate.compared(paper, paper)
    assert (found.quality, found.agreement, found.quality_ci95) == (1, 1, (1, 1))
    assert found.fidelity == {"cosine": 1, "recall_at_10": 1}


def test_without_labels_the_reference_is_right():
    found = evaluate.compared(Paper(np.array([1, 2, 3, 4]), None), Paper(np.array([1, 2, 3, 9]), None))
    assert found.score == found.quality == found.agreement == 0.75


def test_retrieval_counts_the_nearest_and_the_neighbours():
    scores = np.array([[0.9, 0.1, 0.2], [0.3, 0.2, 0.8]])
    paper = evaluate.retrieved(np.eye(2), scores, np.array([0, 1]))
    assert paper.right.tolist() == [True, False]
    assert paper.near.tolist() == [[0, 2], [2, 0]]
    other = evaluate.retrieved(np.eye(2), np.array([[0.1, 0.9, 0.2], scores[1]]), np.array([0, 1]))
    assert evaluate.compared(other, paper).fidelity["recall_at_2"] == 0.75


class Answering:
    """An engine that gives what it was told to."""

    def __init__(self, scores):
        self.scores, self.batches = scores, []

    def run(self, feeds):
        rows = len(feeds["x"])
        start = sum(self.batches)
        self.batches.append(rows)
        return {"probabilities": self.scores[start : start + rows]}


def test_a_classifier_is_examined_in_parts():
    scores = np.random.default_rng(0).random((600, 3))
    engine = Answering(scores)
    paper = evaluate.classified(engine, Data({"x": np.zeros((600, 1))}, scores.argmax(axis=1)), "probabilities")
    assert engine.batches == [256, 256, 88]
    assert paper.right.all()


@pytest.mark.parametrize(
    ("scores", "message"),
    [(np.zeros(3), "one score per class"), (np.full((3, 2), np.nan), "numbers that are none")],
)
def test_answers_that_are_none_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        evaluate.classified(Answering(scores), Data({"x": np.zeros((3, 1))}), "probabilities")


def test_a_real_classifier_has_right_what_it_should(job):
    from workers.engines.onnx import OnnxEngine

    paper = evaluate.examined(OnnxEngine(job.source.graph), job.held, "probabilities")
    np.testing.assert_array_equal(paper.answers, true_labels(job.held.feeds["features"]))
    assert paper.right.mean() == 0.9


def test_a_real_encoder_finds_what_belongs_together(minilm):
    from workers.engines.embed import Embedder

    folder = minilm.parent
    embedder = Embedder(folder / "minilm.int8.onnx", folder / "tokenizer.json", 64)
    texts = ["What is the capital of France?", "How do I bake bread?", "Who wrote Hamlet?"]
    matches = ["Paris is the capital of France", "bread is baked in an oven", "Shakespeare wrote Hamlet"]
    paper = evaluate.examined(embedder, Data({}, None, texts, matches), "embeddings")
    assert paper.right.all()
    alone = evaluate.examined(embedder, Data({}, None, [*texts, "the capital city of France"]), "embeddings")
    assert alone.answers[0] == 3
    assert alone.right is None


@pytest.fixture
def minilm():
    from workers.manifest import cache
    from workers.models.minilm import build

    return build.build(cache() / "minilm")


def test_calibration_error_is_the_gap_between_confidence_and_right_answers():
    sure = np.tile([[0.9, 0.1]], (100, 1))
    labels = np.array([0] * 9 + [1]).repeat(10)
    assert evaluate.calibration_error(sure, np.tile(labels[::10], 10)) == pytest.approx(0.0, abs=1e-6)
    assert evaluate.calibration_error(sure, np.zeros(100, int)) == pytest.approx(0.1)
    assert evaluate.calibration_error(sure, np.ones(100, int)) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("scores", "labels", "off"),
    [([[0.75, 0.25]] * 20, [0] * 20, 0.25), ([[3.0, -1.0]] * 20, [0] * 20, None), ([[0.75, 0.25]] * 20, None, None)],
)
def test_only_probabilities_of_known_answers_are_held_to_them(scores, labels, off):
    class Fixed:
        def run(self, feeds):
            return {"y": np.array(scores)}

    data = Data({"x": np.zeros((20, 1))}, None if labels is None else np.array(labels))
    assert evaluate.classified(Fixed(), data, "y").calibration_error == off
