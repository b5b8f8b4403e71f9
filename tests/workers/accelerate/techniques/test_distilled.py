"""A student of the user's own."""

import numpy as np
import pytest

from tests.workers.accelerate.techniques.conftest import answers_of
from workers.accelerate.techniques import distilled


def test_what_is_missing_is_named(job, told):
    assert "$.student: needs a module to teach" in distilled.available(job)
    bare = told(student="a:b")
    bare = bare._replace(machine=bare.machine._replace(installed=frozenset()))
    assert "torch, onnxscript not installed" in distilled.available(bare)


@pytest.mark.filterwarnings("ignore")
def test_a_quarter_of_the_network_gives_most_of_the_answers(module_job, tmp_path):
    assert distilled.available(module_job) is None
    built = distilled.build(module_job, tmp_path / "small.distilled")
    found, reference = answers_of(built, module_job)
    assert np.mean(found == reference) > 0.6
    assert built.path.stat().st_size < module_job.source.graph.stat().st_size
