"""Int8 weights and activations (QDQ), one scale per output channel; activations' ranges come of calibration data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from workers.accelerate.techniques import Built, Job, quieted

CALIBRATED = ["Conv", "Gemm", "MatMul", "Relu", "MaxPool", "Gather"]
"""Attention's own products have no constant side and stay float; so do norms and softmax, whose ranges are wide."""
CHUNK = 32
"""Items per calibration run: what it takes does not grow with the data."""


def available(job: Job) -> str | None:
    if job.calibration is None:
        return f"{job.place}: $.calibration: needs data that are like what it will serve: give a file"
    return job.machine.lacks("onnx")


def build(job: Job, out: Path) -> Built:
    assert job.calibration is not None
    path = out.with_name(f"{out.name}.onnx")
    quantize(job.source.graph, path, job.calibration.feeds)
    return Built(path, job.source.engine)


class Feeds:
    """The calibration data, a few items at a time, once."""

    def __init__(self, feeds: Mapping[str, np.ndarray]) -> None:
        rows = len(next(iter(feeds.values())))
        self._parts: Iterator[dict[str, np.ndarray]] = iter(
            {name: value[start : start + CHUNK] for name, value in feeds.items()} for start in range(0, rows, CHUNK)
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._parts, None)


def quantize(source: Path, target: Path, feeds: Mapping[str, np.ndarray]) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    CalibrationDataReader.register(Feeds)
    with quieted():
        quantize_static(
            str(source),
            str(target),
            Feeds(feeds),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=CALIBRATED,
            extra_options={"MatMulConstBOnly": True},
        )
