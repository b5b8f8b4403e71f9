"""A module on PyTorch's own engine."""

import numpy as np
import pytest

from tests.workers.accelerate.techniques.conftest import answers_of
from workers.accelerate.techniques import bf16


def test_without_torch_it_says_what_to_install(job):
    bare = job._replace(machine=job.machine._replace(installed=frozenset({"onnx"})))
    assert bf16.available(bare) == "torch not installed: pip install 'isochrone[accelerate-torch]'"


def test_a_graph_alone_is_no_start(job):
    pytest.importorskip("torch")
    assert "needs a torch module to start from" in bf16.available(job)


@pytest.mark.filterwarnings("ignore")
def test_it_answers_as_the_reference_does(module_job, tmp_path):
    assert bf16.available(module_job) is None
    built = bf16.build(module_job, tmp_path / "small.bf16")
    found, reference = answers_of(built, module_job)
    assert np.mean(found == reference) > 0.97
