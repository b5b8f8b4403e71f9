"""A small classifier as an ONNX file, its data, and jobs made of them."""

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from workers.accelerate import machine, pipeline, spec

FEATURES, HIDDEN, CLASSES = 32, 64, 4
SPEC = """
model: small
task: classification
evaluation: {file: held.npz, labels: labels}
calibration: {file: calibration.npz}
max_batch: 4
classes: [north, east, south, west]
seconds: 0.01
"""


def weights(hidden=HIDDEN):
    rng = np.random.default_rng(0)
    return rng.standard_normal((FEATURES, hidden), np.float32) / 6, rng.standard_normal((hidden, CLASSES), np.float32)


def graph(hidden=HIDDEN):
    up, down = weights(hidden)
    nodes = [
        helper.make_node("MatMul", ["features", "up"], ["grown"]),
        helper.make_node("Relu", ["grown"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "down"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=-1),
    ]
    made = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", FEATURES])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(up, "up"), numpy_helper.from_array(down, "down")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def true_labels(features):
    up, down = weights()
    return (np.maximum(features @ up, 0) @ down).argmax(axis=1)


def laid(folder):
    """small.onnx, its spec, and data of which the model has nine tenths right."""
    onnx.save(graph(), folder / "small.onnx")
    rng = np.random.default_rng(1)
    held = rng.standard_normal((300, FEATURES), np.float32)
    labels = true_labels(held)
    labels[:30] = (labels[:30] + 1) % CLASSES
    np.savez(folder / "held.npz", features=held, labels=labels)
    np.savez(folder / "calibration.npz", features=rng.standard_normal((100, FEATURES), np.float32))
    (folder / "accelerate.yaml").write_text(SPEC)
    return folder


@pytest.fixture
def folder(tmp_path):
    return laid(tmp_path)


@pytest.fixture
def job(folder):
    place = folder / "accelerate.yaml"
    return pipeline.prepared(str(folder / "small.onnx"), spec.read(place), place, folder, machine.found())


@pytest.fixture
def told(job):
    """The job with another spec: `told(floor=0.5)`."""
    return lambda **changed: job._replace(spec=msgspec.structs.replace(job.spec, **changed))
