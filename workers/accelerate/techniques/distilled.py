"""A student of the user's own, taught by the reference on data that need no labels."""

from __future__ import annotations

from pathlib import Path

from workers.accelerate import sources
from workers.accelerate.techniques import Built, Job


def available(job: Job) -> str | None:
    if not job.spec.student:
        return f"{job.place}: $.student: needs a module to teach: give package.module:callable"
    if why := job.machine.lacks("torch", "onnxscript"):
        return why
    from workers.accelerate.techniques import training

    return training.lacks_data(job)


def build(job: Job, out: Path) -> Built:
    from workers.accelerate.techniques import exporting, training

    student = sources.named(job.spec.student, f"{job.place}: $.student")()
    path = out.with_name(f"{out.name}.onnx")
    exporting.to_onnx(training.taught(student, job), job.held.feeds, job.source.output, path)
    return Built(path, job.source.engine)
