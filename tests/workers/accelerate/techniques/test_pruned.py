"""Channels that are pruned are gone."""

import math

import numpy as np
import onnx
import pytest

from tests.workers.accelerate.techniques.conftest import answers_of
from workers.accelerate.techniques import pruned


def weights_in(path):
    return sum(math.prod(tensor.dims) for tensor in onnx.load(path).graph.initializer if tensor.dims)


def test_encoders_are_not_pruned(told):
    assert "attention ties channels to heads" in pruned.available(told(task="embedding"))


@pytest.mark.filterwarnings("ignore")
def test_half_of_the_channels_go_and_the_answers_stay(module_job, tmp_path):
    assert pruned.available(module_job) is None
    built = pruned.build(module_job, tmp_path / "small.pruned")
    assert weights_in(built.path) == pytest.approx(weights_in(module_job.source.graph) / 2, rel=0.05)  # biases stay
    found, reference = answers_of(built, module_job)
    assert np.mean(found == reference) > 0.6


@pytest.mark.filterwarnings("ignore")
def test_outputs_stay_and_hidden_channels_come_in_eights(module_job):
    import torch

    module = module_job.source.module()
    pruned.prune(module, {"features": torch.zeros(2, 32)}, 0.7)
    assert (module.first.out_features, module.last.in_features, module.last.out_features) == (40, 40, 4)


@pytest.mark.filterwarnings("ignore")
def test_where_nothing_can_go_it_says_so(module_job):
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    with pytest.raises(ValueError, match="no layer has 8 channels to spare"):
        pruned.prune(module, {"input": torch.zeros(2, 4)}, 0.5)
    with pytest.raises(ValueError, match="no linear or convolutional layer"):
        pruned.last_layer(torch.nn.Identity(), {"input": torch.zeros(2, 4)})
