"""Teaching: the losses, and a student that learns from answers alone."""

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.workers.accelerate.techniques.conftest import student  # noqa: E402
from workers.accelerate.techniques import training  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own


def test_probabilities_stay_and_scores_become_some():
    scores = torch.tensor([[2.0, -1.0]])
    assert torch.allclose(training.shares(scores), scores.softmax(-1))
    assert torch.allclose(training.shares(scores.softmax(-1)), scores.softmax(-1))


def test_likeness_is_least_for_the_same_answers():
    wanted = torch.tensor([[0.9, 0.1]])
    assert training.unlike(wanted, wanted, "classification") < training.unlike(wanted.flip(1), wanted, "classification")
    assert training.unlike(wanted * 3, wanted, "embedding").item() == pytest.approx(0, abs=1e-6)


def test_answers_are_the_references(module_job):
    found = training.answers(module_job.source.graph, module_job.training, "probabilities")
    assert found.shape == (100, 4)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_a_student_comes_nearer(module_job):
    wanted = training.answers(module_job.source.graph, module_job.training, "probabilities").argmax(axis=1)
    features = torch.from_numpy(module_job.training.feeds["features"])

    def agreement(module):
        with torch.no_grad():
            return np.mean(module(features=features).argmax(-1).numpy() == wanted)

    module = student()
    before = agreement(module)
    assert agreement(training.taught(module, module_job)) > before + 0.2


def test_divergence_and_other_shapes_are_said(module_job):
    hot = msgspec.structs.replace(module_job.spec.training, learning_rate=1e30)
    job = module_job._replace(spec=msgspec.structs.replace(module_job.spec, training=hot))
    with pytest.raises(ValueError, match=r"training diverged.*lower \$\.training\.learning_rate"):
        training.taught(student(), job)

    class Wide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(32, 5)

        def forward(self, features):
            return self.layer(features)

    with pytest.raises(ValueError, match=r"outputs of shape \[64, 5\], the reference \[100, 4\]"):
        training.taught(Wide(), module_job)


def test_without_data_nothing_can_be_taught(job):
    assert "$.training: needs data to learn from" in training.lacks_data(job)
