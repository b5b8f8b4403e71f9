"""Engines are opened as a worker opens them, and timed by where they compute."""

import time

import pytest

from workers.accelerate import opening
from workers.engines.onnx import OnnxEngine
from workers.manifest import Build

PLAIN = {"tokenizer": None, "context": 1, "max_batch": 1, "device": "cpu"}


def test_a_graph_runs_on_the_calling_threads_time(job):
    engine = opening.opened(job.source.graph, "onnx", Build(), **PLAIN)
    assert isinstance(engine, OnnxEngine)
    assert opening.clock_of(engine) == ("cpu", time.thread_time)


def test_what_computes_elsewhere_is_timed_by_the_wall(job):
    class Elsewhere:
        device = "cuda:0"

    assert opening.clock_of(Elsewhere()) == ("wall", time.monotonic)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.onnx: no such model file"):
        opening.opened(tmp_path / "none.onnx", "onnx", Build(), **PLAIN)
