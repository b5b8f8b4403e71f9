"""The tensor engine: what it describes, runs and refuses."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from workers.engines import StoppedError, TensorSpec
from workers.engines import onnx as engines
from workers.engines.onnx import OnnxEngine, open_session
from workers.manifest import packaged

MODEL = packaged("digits").parent / "digits.fp32.onnx"


@pytest.fixture(scope="module")
def engine() -> OnnxEngine:
    return OnnxEngine(MODEL)


def test_it_describes_the_model_in_protocol_terms(engine: OnnxEngine):
    assert engine.inputs == (TensorSpec("pixels", "FP32", (-1, 64)),)
    assert engine.outputs == (TensorSpec("probabilities", "FP32", (-1, 10)),)


def test_a_batch_gives_the_same_as_its_items_alone(engine: OnnxEngine):
    pixels = np.random.default_rng(0).uniform(0, 16, (5, 64)).astype(np.float32)
    together = engine.run({"pixels": pixels})["probabilities"]
    alone = np.concatenate([engine.run({"pixels": pixels[i : i + 1]})["probabilities"] for i in range(5)])
    assert together.shape == (5, 10)
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "input 'pixels' is missing"),
        ({"pixels": np.zeros((1, 64), np.float64)}, "input 'pixels' must be FP32, not float64"),
        ({"pixels": np.zeros((1, 63), np.float32)}, r"input 'pixels' must have shape \[-1, 64\], not \[1, 63\]"),
        ({"pixels": np.zeros(64, np.float32)}, r"must have shape \[-1, 64\], not \[64\]"),
        ({"pixels": np.zeros((0, 64), np.float32)}, "input 'pixels' is empty"),
        ({"pixels": np.zeros((1, 64), np.float32), "x": np.zeros(1)}, "unknown input 'x': the model takes pixels"),
    ],
)
def test_a_bad_input_is_refused_by_name(engine: OnnxEngine, feeds: dict, message: str):
    with pytest.raises(ValueError, match=message):
        engine.run(feeds)


def test_a_session_uses_one_thread():
    options = open_session(MODEL).get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)


def test_a_file_that_is_no_graph_is_named(tmp_path: Path):
    path = tmp_path / "broken.onnx"
    with pytest.raises(ValueError, match=r"broken\.onnx: no such model file"):
        OnnxEngine(path)
    path.write_bytes(b"not a graph")
    with pytest.raises(ValueError, match=r"broken\.onnx: ONNX Runtime cannot load it"):
        OnnxEngine(path)


@pytest.fixture
def counter(tmp_path: Path) -> OnnxEngine:
    """A model that counts up to its input, one operator at a time: 10**12 takes days."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still_going"]),
            helper.make_node("Add", ["sum", "one"], ["next_sum"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.INT64, [1]),
        ],
        [
            helper.make_tensor_value_info("still_going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next_sum", TensorProto.INT64, [1]),
        ],
        [helper.make_tensor("one", TensorProto.INT64, [1], [1])],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Squeeze", ["times"], ["n"]),
            helper.make_node("Loop", ["n", "", "zero"], ["counted"], body=body),
        ],
        "counter",
        [helper.make_tensor_value_info("times", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("counted", TensorProto.INT64, [1])],
        [helper.make_tensor("zero", TensorProto.INT64, [1], [0])],
    )
    path = tmp_path / "counter.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return OnnxEngine(path)


def test_a_run_is_stopped_in_its_midst_and_the_next_one_is_not(counter: OnnxEngine):
    before = counter._running
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(counter.run, {"times": np.array([10**12])})
        while counter._running is before:
            time.sleep(0.001)
        time.sleep(0.02)
        assert not running.done()
        counter.stop()
        with pytest.raises(StoppedError):
            running.result()
    assert counter.run({"times": np.array([5])})["counted"] == [5]
    counter.stop()
    assert counter.run({"times": np.array([6])})["counted"] == [6]


def test_a_device_s_providers_are_used_where_they_are_installed(monkeypatch, caplog):
    """What ONNX Runtime is asked for; the CPU's is always the last resort."""
    there = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(engines.ort, "get_available_providers", lambda: there)
    limited = ("CUDAExecutionProvider", {"gpu_mem_limit": "1000"})
    assert engines.chosen(("tensorrt", "cuda"), 1000) == [limited, "CPUExecutionProvider"]
    assert "no TensorrtExecutionProvider" in caplog.text
    there.insert(0, "TensorrtExecutionProvider")
    assert engines.chosen(("tensorrt", "cuda"), None)[0] == "TensorrtExecutionProvider"
    assert engines.chosen((), 1000) == ["CPUExecutionProvider"]


def test_without_a_device_it_computes_on_the_cpu(engine: OnnxEngine):
    assert engine.on_cpu
