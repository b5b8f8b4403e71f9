"""The source's graph, compiled by OpenVINO through ONNX Runtime while it is loaded."""

from __future__ import annotations

from pathlib import Path

from workers.accelerate.sources import copied
from workers.accelerate.techniques import Built, Job, lacks_provider
from workers.manifest import Build


def available(job: Job) -> str | None:
    return lacks_provider(job, "openvino", "onnxruntime-openvino")


def build(job: Job, out: Path) -> Built:
    path = copied(job.source.graph, out.with_name(f"{out.name}.onnx"))
    return Built(path, job.source.engine, Build(provider="openvino"))
