"""The table of techniques and how they join."""

import logging
from pathlib import Path

import pytest

from workers.accelerate import techniques
from workers.accelerate.spec import SpecError
from workers.accelerate.techniques import TECHNIQUES, Built


@pytest.mark.parametrize("name", TECHNIQUES)
def test_each_says_whether_it_can_be_done_here(name, job):
    """Without torch, none may fail for want of it."""
    why = techniques.technique(name).available(job)
    assert why is None or len(why) > 20


def test_techniques_join():
    assert techniques.chain("pruned+int8_static") == ["pruned", "int8_static"]
    with pytest.raises(SpecError, match="no technique 'magic': choose among fp32"):
        techniques.chain("pruned+magic")


def test_the_next_starts_from_the_graph_before(job):
    after = techniques.after(job, Built(Path("x.onnx"), "onnx"))
    assert (after.source.graph, after.source.module) == (Path("x.onnx"), None)
    with pytest.raises(ValueError, match=r"x\.pt2 is made while it is loaded: nothing can come after it"):
        techniques.after(job, Built(Path("x.pt2"), "torch"))


def test_a_missing_provider_is_named_with_its_package(job):
    assert "install the thing" in techniques.lacks_provider(job, "cuda", "the thing")
    there = job.machine._replace(providers=frozenset({"CUDAExecutionProvider"}))
    assert techniques.lacks_provider(job._replace(machine=there), "cuda", "the thing") is None


def test_advice_of_the_quantizers_is_quieted():
    before = logging.getLogger().level
    with techniques.quieted():
        assert logging.getLogger().level == logging.ERROR
    assert logging.getLogger().level == before
