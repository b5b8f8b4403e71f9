"""Builds fraud: tabular scoring as a bank would do it, on a bundled data set that stands in for transactions.

Run `python -m workers.models.fraud.build` with the `models` extra; it takes seconds and no torch. Nobody may pass real
transactions on, so the data are scikit-learn's breast cancer table: 30 measurements of a sample, two classes, one of
them rarer and dear to miss. The classes keep the names they have there.
A logistic regression, whose scaling is folded into its weights. int8 was measured and does not pay (the verdict in the
manifest says why): columns from 0.001 to 4,000 need their scaling before anything is rounded. The 228 held-out rows are
used for the figures and for nothing else.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import onnx

from workers.accelerate import evaluate, measure
from workers.accelerate.data import Data
from workers.accelerate.techniques import int8_static
from workers.engines.onnx import OnnxEngine
from workers.manifest import SCHEMA, Eval, Manifest, Variant, Verdict, encode, load
from workers.models.writer import Writer, floats

HERE = Path(__file__).parent
SEED = 7
CLASSES = ("benign", "malignant")
"""The second is what is looked for. scikit-learn numbers them the other way round."""
MAX_BATCH = 256
SECONDS = 0.5
"""For the latency of one batch size."""
SAMPLES = 20
OPSET, IR_VERSION = 17, 8


class Split(NamedTuple):
    """Rows of measurements (float32) and their classes."""

    train_rows: np.ndarray
    train_labels: np.ndarray
    held_rows: np.ndarray
    held_labels: np.ndarray
    features: tuple[str, ...]


def split() -> Split:
    """341 rows to train on and 228 held out, the same ones every time, both classes equally in both."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.model_selection import train_test_split

    data = load_breast_cancer()
    labels = 1 - data.target
    train_x, held_x, train_y, held_y = train_test_split(
        data.data.astype(np.float32), labels, test_size=0.4, random_state=SEED, stratify=labels
    )
    return Split(train_x, train_y, held_x, held_y, tuple(str(name) for name in data.feature_names))


class Weights(NamedTuple):
    """Of the score of the second class, over scaled measurements."""

    mean: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: float


def train(rows: np.ndarray, labels: np.ndarray) -> Weights:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(rows.astype(np.float64))
    model = LogisticRegression(max_iter=1000).fit(scaler.transform(rows.astype(np.float64)), labels)
    return Weights(scaler.mean_, scaler.scale_, model.coef_[0], float(model.intercept_[0]))


def folded(weights: Weights) -> Weights:
    """The same score over raw measurements: one product, nothing before it."""
    weight = weights.weight / weights.scale
    plain = np.zeros_like(weight), np.ones_like(weight)
    return Weights(*plain, weight, weights.bias - float(weight @ weights.mean))


def graph(weights: Weights) -> onnx.ModelProto:
    """`features` [batch, 30] to `probabilities` [batch, 2]."""
    writer = Writer()
    rows = "features"
    if weights.mean.any():
        rows = writer.add("Sub", [rows, writer.put("mean", weights.mean.astype(np.float32))], "centred")
        rows = writer.add("Div", [rows, writer.put("scale", weights.scale.astype(np.float32))], "scaled")
    both = np.stack([np.zeros_like(weights.weight), weights.weight], axis=1).astype(np.float32)
    bias = writer.put("bias", np.array([0.0, weights.bias], np.float32))
    scores = writer.add("Gemm", [rows, writer.put("weight", both), bias], "scores")
    writer.add("Softmax", [scores], "probabilities", axis=-1)
    inputs = [floats("features", "batch", len(weights.weight))]
    model = writer.model("fraud", inputs, [floats("probabilities", "batch", 2)], OPSET, IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model


def measured(path: Path, name: str, data: Split, reference: evaluate.Paper | None) -> tuple[Variant, evaluate.Paper]:
    """Run a variant over the held-out rows and the clock; `reference` is None for the reference itself."""
    engine = OnnxEngine(path)
    paper = evaluate.classified(engine, Data({"features": data.held_rows}, data.held_labels), "probabilities")

    def prepared(rows: int) -> Callable[[], object]:
        feeds = {"features": np.resize(data.held_rows, (rows, data.held_rows.shape[1]))}
        return lambda: engine.run(feeds)

    timing = measure.by_batch(prepared, MAX_BATCH, SECONDS)
    made = measure.variant(
        path,
        name,
        "onnx",
        quality=evaluate.compared(paper, reference or paper),
        **timing.figures,
        max_batch=MAX_BATCH,
        calibration_error=paper.calibration_error,
    )
    return made, paper


def judged(variant: Variant, reference: Variant) -> Variant:
    """With the verdict that it is no faster and no smaller, if so: a product of 30 by 2 has little to save."""
    ours, theirs = (each.latency_ms["1"].p50 * 1e3 for each in (variant, reference))
    if ours < theirs or variant.bytes < reference.bytes:
        return variant
    reason = f"{ours:.1f} us for one item against {theirs:.1f}, {variant.bytes} bytes against {reference.bytes}"
    return msgspec.structs.replace(variant, verdict=Verdict(False, reason, reference.variant))


def write_data(folder: Path, data: Split) -> None:
    """Samples for demonstrations, and what accelerate.yaml names: the held-out rows, and the others unlabelled."""
    np.savez_compressed(
        folder / "samples.npz", features=data.held_rows[:SAMPLES], labels=data.held_labels[:SAMPLES].astype(np.uint8)
    )
    np.savez_compressed(folder / "held.npz", features=data.held_rows, labels=data.held_labels.astype(np.uint8))
    np.savez_compressed(folder / "unlabelled.npz", features=data.train_rows)


def main() -> None:
    data = split()
    fp32, int8 = HERE / "fraud.fp32.onnx", HERE / "fraud.int8.onnx"
    weights = train(data.train_rows, data.train_labels)
    onnx.save(graph(folded(weights)), fp32)
    with tempfile.TemporaryDirectory() as folder:
        scaled = Path(folder) / "scaled.onnx"
        onnx.save(graph(weights), scaled)
        int8_static.quantize(scaled, int8, {"features": data.train_rows})
    write_data(HERE, data)
    reference, paper = measured(fp32, "fp32", data, None)
    manifest = Manifest(
        schema=SCHEMA,
        model="fraud",
        task="classification",
        licence="Apache-2.0 (weights); data: UCI Breast Cancer Wisconsin (Diagnostic), CC BY 4.0",
        source="scikit-learn load_breast_cancer, trained by workers/models/fraud/build.py",
        eval=Eval("scikit-learn load_breast_cancer", len(data.held_labels), "accuracy", "held-out, stratified"),
        agreement_metric=evaluate.AGREEMENT["classification"],
        host=measure.host(),
        classes=CLASSES,
        features=data.features,
        variants=(reference, judged(measured(int8, "int8", data, paper)[0], reference)),
    )
    path = HERE / "fraud.manifest.json"
    path.write_bytes(encode(manifest))
    for variant in load(path).variants:
        print(f"{variant.variant}: accuracy {variant.score:.4f}, off by {variant.calibration_error}: {variant.verdict}")
        print(f"  {variant.latency_ms}")


if __name__ == "__main__":
    main()
