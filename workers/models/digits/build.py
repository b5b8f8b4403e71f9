"""Builds digits: trains a small network on scikit-learn's handwritten digits, writes fp32 and int8, measures both.

Run `python -m workers.models.digits.build` with the `models` extra (torch is needed here only). Seeds and the split are
fixed; the 719 held-out images are used for the figures in the manifest and for nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from workers.accelerate import evaluate, measure
from workers.accelerate.data import Data
from workers.accelerate.techniques import int8_static
from workers.engines.onnx import OnnxEngine
from workers.manifest import SCHEMA, Eval, Manifest, Variant, encode, load

HERE = Path(__file__).parent
SEED = 7
EPOCHS = 60
BATCH = 64
CHANNELS = (32, 64)
HIDDEN = 128
CALIBRATION_IMAGES = 256
SAMPLES = 20
MAX_BATCH = 32
SECONDS = 0.5
"""For the latency of one batch size."""
FULL_SCALE = 16.0
"""The data's pixels run from 0 to 16."""


class Split(NamedTuple):
    """Images as rows of 64 pixels (float32, 0 to 16) and their labels."""

    train_pixels: np.ndarray
    train_labels: np.ndarray
    held_pixels: np.ndarray
    held_labels: np.ndarray


def split() -> Split:
    """1078 images to train on and 719 held out, the same ones every time, all digits equally in both."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    train_x, held_x, train_y, held_y = train_test_split(
        data.data.astype(np.float32), data.target, test_size=0.4, random_state=SEED, stratify=data.target
    )
    return Split(train_x, train_y, held_x, held_y)


def train(pixels: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Train the reference network with torch; returns its weights by name."""
    import torch
    from torch import nn

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    first, second = CHANNELS
    network = nn.Sequential(
        nn.Conv2d(1, first, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.4),
        nn.Linear(second * 16, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, 10),
    )
    images = torch.from_numpy(pixels / FULL_SCALE).view(-1, 1, 8, 8)
    wanted = torch.from_numpy(labels)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
    steps = EPOCHS * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(images)).split(BATCH):
            # Moving by up to one pixel is what makes a thousand images enough.
            shift = tuple(int(s) for s in torch.randint(-1, 2, (2,)))
            batch = torch.roll(images[chosen], shift, (2, 3))
            loss = nn.functional.cross_entropy(network(batch), wanted[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    names = ("conv1", "conv2", "hidden", "output")
    layers = [layer for layer in network if isinstance(layer, nn.Conv2d | nn.Linear)]
    weights = {}
    for name, layer in zip(names, layers, strict=True):
        weights[f"{name}.weight"] = layer.weight.detach().numpy()
        weights[f"{name}.bias"] = layer.bias.detach().numpy()
    return weights


def graph(weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """`pixels` [batch, 64], 0 to 16, to `probabilities` [batch, 10]."""
    constants = weights | {
        "scale": np.float32(1 / FULL_SCALE).reshape(()),
        "image": np.array([-1, 1, 8, 8], np.int64),
        "flat": np.array([-1, CHANNELS[1] * 16], np.int64),
    }

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(op, inputs, [output], output, **attributes)

    same: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        node("Mul", ["pixels", "scale"], "scaled"),
        node("Reshape", ["scaled", "image"], "images"),
        node("Conv", ["images", "conv1.weight", "conv1.bias"], "conv1", **same),
        node("Relu", ["conv1"], "relu1"),
        node("Conv", ["relu1", "conv2.weight", "conv2.bias"], "conv2", **same),
        node("Relu", ["conv2"], "relu2"),
        node("MaxPool", ["relu2"], "pooled", kernel_shape=[2, 2], strides=[2, 2]),
        node("Reshape", ["pooled", "flat"], "features"),
        node("Gemm", ["features", "hidden.weight", "hidden.bias"], "hidden", transB=1),
        node("Relu", ["hidden"], "relu3"),
        node("Gemm", ["relu3", "output.weight", "output.bias"], "scores", transB=1),
        node("Softmax", ["scores"], "probabilities", axis=-1),
    ]
    made = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(made, opset_imports=opset, producer_name="isochrone", ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def measured(path: Path, name: str, data: Split, reference: evaluate.Paper | None) -> tuple[Variant, evaluate.Paper]:
    """Run a variant over the held-out images and the clock; `reference` is None for the reference itself."""
    engine = OnnxEngine(path)
    paper = evaluate.classified(engine, Data({"pixels": data.held_pixels}, data.held_labels), "probabilities")

    def prepared(rows: int) -> Callable[[], object]:
        feeds = {"pixels": data.held_pixels[:rows]}
        return lambda: engine.run(feeds)

    timing = measure.by_batch(prepared, MAX_BATCH, SECONDS)
    made = measure.variant(
        path,
        name,
        "onnx",
        quality=evaluate.compared(paper, reference or paper),
        **timing.figures,
        max_batch=MAX_BATCH,
        calibration_error=paper.calibration_error,  # the smoothed labels made it less sure than it may be
    )
    return made, paper


def write_data(folder: Path, data: Split) -> None:
    """Samples for demonstrations, and what accelerate.yaml names: the held-out images, and the others unlabelled."""
    pixels, labels = data.held_pixels.astype(np.uint8), data.held_labels.astype(np.uint8)
    np.savez_compressed(folder / "samples.npz", pixels=pixels[:SAMPLES], labels=labels[:SAMPLES])
    np.savez_compressed(folder / "held.npz", pixels=pixels, labels=labels)
    np.savez_compressed(folder / "unlabelled.npz", pixels=data.train_pixels.astype(np.uint8))


def main() -> None:
    data = split()
    fp32, int8 = HERE / "digits.fp32.onnx", HERE / "digits.int8.onnx"
    onnx.save(graph(train(data.train_pixels, data.train_labels)), fp32)
    int8_static.quantize(fp32, int8, {"pixels": data.train_pixels[:CALIBRATION_IMAGES]})
    reference, paper = measured(fp32, "fp32", data, None)
    write_data(HERE, data)
    manifest = Manifest(
        schema=SCHEMA,
        model="digits",
        task="classification",
        licence="Apache-2.0 (weights); data: UCI Optical Recognition of Handwritten Digits, CC BY 4.0",
        source="scikit-learn load_digits, trained by workers/models/digits/build.py",
        eval=Eval("scikit-learn load_digits", len(data.held_labels), "accuracy", "held-out, stratified"),
        agreement_metric=evaluate.AGREEMENT["classification"],
        host=measure.host(),
        classes=tuple("0123456789"),
        variants=(reference, measured(int8, "int8", data, paper)[0]),
    )
    path = HERE / "digits.manifest.json"
    path.write_bytes(encode(manifest))
    for variant in load(path).variants:
        print(f"{variant.variant}: accuracy {variant.score:.4f}, agreement {variant.agreement}, {variant.latency_ms}")


if __name__ == "__main__":
    main()
