"""The reference: the source's own graph, unchanged."""

from __future__ import annotations

from pathlib import Path

from workers.accelerate.sources import copied
from workers.accelerate.techniques import Built, Job


def available(job: Job) -> str | None:
    return None


def build(job: Job, out: Path) -> Built:
    return Built(copied(job.source.graph, out.with_name(f"{out.name}.onnx")), job.source.engine)
