"""`isochrone accelerate`: makes the wanted variants of one source, examines and measures each, writes the manifest.

A technique that cannot be done, or fails, costs the others nothing: it is in the manifest with its reason. Files appear
under their names as they are made, the manifest last.
"""

from __future__ import annotations

import glob
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from workers.accelerate import (
    data,
    energy,
    evaluate,
    machine,
    measure,
    opening,
    probe,
    sources,
    spec,
    techniques,
    verdict,
)
from workers.accelerate.data import Place
from workers.accelerate.techniques import REFERENCE, Built, Job
from workers.engines import Engine
from workers.engines.embed import Embedder
from workers.manifest import SCHEMA, Absent, Energy, Eval, Manifest, Variant, encode

TIMED_TOKENS = 32
"""Length of the texts that the latencies of an encoder are measured on: what a worker's trial has, too."""
Say = Callable[[str, str], None]
"""Told which variant is at which step."""


class Opened(NamedTuple):
    """A variant's file, and its engine."""

    built: Built
    engine: Engine | Embedder


def accelerate(
    told: str, place: Path, out: Path, variants: Sequence[str], price: float | None = None, say: Say = lambda *_: None
) -> Path:
    """The manifest's path. `variants`: none means all techniques. Raises SpecError."""
    chains = {name: techniques.chain(name) for name in variants or techniques.TECHNIQUES}
    sources.exists(told)
    read = spec.read(place)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".work-") as work:
        say(REFERENCE, "opening the source")
        job = prepared(told, read, place, Path(work), machine.found())
        bench = Bench(job, out, Path(work), price, say)
        reference = bench.reference()
        others = [bench.variant(name, chain) for name, chain in chains.items() if name != REFERENCE]
    made = [reference, *(one for one in others if isinstance(one, Variant))]
    absent = tuple(one for one in others if isinstance(one, Absent))
    path = out / f"{read.model}.manifest.json"
    temporary = path.with_suffix(".part")
    temporary.write_bytes(encode(manifest(bench, made, absent, price)))
    os.replace(temporary, path)
    return path


def prepared(told: str, read: spec.Spec, place: Path, work: Path, found: machine.Machine) -> Job:
    """Source and data, each checked against the other. Raises SpecError."""
    tokenizer = sources.tokenizer_of(told, read, place)
    at = Place(place, "evaluation.file")
    held = data.read(read, read.evaluation, at, tokenizer)
    if read.inputs:
        held = data.fitted(held, data.declared(read.inputs), at)
    source = sources.opened(told, read, place, held.feeds, work, found)

    def other(file: spec.DataFile | spec.Training | None, field: str) -> data.Data | None:
        if file is None:
            return None
        where = Place(place, f"{field}.file")
        return data.fitted(data.read(read, file, where, tokenizer), source.inputs, where)

    return Job(
        read, place, source, found,
        held=data.fitted(held, source.inputs, at),
        calibration=other(read.calibration, "calibration"),
        training=other(read.training, "training"),
    )  # fmt: skip


class Bench:
    """Makes and measures variants of one source, each beside its reference."""

    def __init__(self, job: Job, out: Path, work: Path, price: float | None, say: Say) -> None:
        """`work` holds what is only passed on."""
        self.job, self.out = job, out
        self._work, self._price, self._say = work, price, say
        self._paper: evaluate.Paper | None = None
        self._throughput: float | None = None
        self.clocks: set[str] = set()
        """Of the variants measured so far."""

    def reference(self) -> Variant:
        """Raises SpecError when the source itself cannot be examined."""
        job = self.job
        built = techniques.technique(REFERENCE).build(job, self._stem(REFERENCE))
        opened = Opened(built, self._open(built))
        try:
            self._paper = self._examined(opened)
        except ValueError as error:
            raise spec.SpecError(f"{job.source.name}: {error}") from error
        if self._paper.right is not None and not self._paper.right.any():
            raise spec.SpecError(
                f"{job.place}: $.evaluation.labels: the source has none of {job.held.rows} items right: wrong labels?"
            )
        return self._measured(REFERENCE, [REFERENCE], opened, 0.0)

    def variant(self, name: str, chain: Sequence[str]) -> Variant | Absent:
        """One variant, or why there is none."""
        try:
            self._say(name, "making")
            began = self._spent()
            built = self._built(name, chain)
            if isinstance(built, Absent):
                return built
            opened = Opened(built, self._open(built))
            if built.build.compiled or built.build.provider:
                opened.engine.run(self._feeds(1))  # it is compiled now
            took = self._spent() - began
            return self._measured(name, chain, opened, took)
        except spec.SpecError:
            raise
        except Exception as error:  # whatever a library throws, the other techniques go on
            for path in self.out.glob(f"{glob.escape(self._stem(name).name)}.*"):
                if path.suffix in (".onnx", ".pt2"):
                    path.unlink()
            return Absent(chain[-1], f"{name} failed: {_first_line(error)}")

    def _built(self, name: str, chain: Sequence[str]) -> Built | Absent:
        job, built = self.job, None
        for index, each in enumerate(chain):
            if built is not None:
                job = techniques.after(job, built)
            technique = techniques.technique(each)
            why = technique.available(job)
            if why is not None:
                return Absent(each, why if len(chain) == 1 else f"{name}: {why}")
            last = index == len(chain) - 1
            built = technique.build(job, self._stem(name) if last else self._work / f"{name}.{each}")
        assert built is not None
        return built

    def _measured(self, name: str, chain: Sequence[str], opened: Opened, took: float) -> Variant:
        job, (built, engine) = self.job, opened
        self._say(name, "evaluating")
        assert self._paper is not None
        paper = self._paper if name == REFERENCE else self._examined(opened)
        self._say(name, "measuring")
        clock, now = opening.clock_of(engine)
        self.clocks.add(clock)
        timing = measure.by_batch(self._prepared(engine), job.spec.max_batch, job.spec.seconds, now)
        throughput = timing.throughput
        reference, self._throughput = self._throughput, self._throughput or throughput
        return measure.variant(
            built.path, name, built.engine,
            quality=evaluate.compared(paper, self._paper),
            calibration_error=paper.calibration_error,
            **timing.figures,
            max_batch=timing.largest,
            build=built.build,
            techniques=tuple(chain),
            memory_bytes=self._memory(built, timing.largest),
            energy=self._energy(engine, clock, timing),
            cost_per_1k=None if self._price is None else measure.usd_per_1k(throughput, self._price),
            effort=None if reference is None else measure.effort(took, self._price, throughput, reference),
        )  # fmt: skip

    def _examined(self, opened: Opened) -> evaluate.Paper:
        return evaluate.examined(opened.engine, self.job.held, self.job.source.output)

    def _prepared(self, engine: Engine | Embedder) -> Callable[[int], Callable[[], object]]:
        def prepare(rows: int) -> Callable[[], object]:
            feeds = self._feeds(rows)
            return lambda: engine.run(feeds)

        return prepare

    def _feeds(self, rows: int) -> dict[str, np.ndarray]:
        feeds = data.cycled(self.job.held.feeds, rows)
        if self.job.source.engine != "embed":
            return feeds
        words = np.resize(self.job.held.feeds["input_ids"].ravel(), (rows, TIMED_TOKENS))
        return {"input_ids": words, "attention_mask": np.ones_like(words), "token_type_ids": np.zeros_like(words)}

    def _energy(self, engine: Engine | Embedder, clock: str, timing: measure.Timing) -> Energy | None:
        card = self.job.machine.card
        counter = energy.rapl() if clock == "cpu" else None if card is None else energy.of_card(card)
        run = self._prepared(engine)(timing.best)
        counted = None if counter is None else energy.counted(counter, run, timing.best)
        return counted or (energy.estimated(1 / timing.throughput) if clock == "cpu" else None)

    def _memory(self, built: Built, rows: int) -> int | None:
        with tempfile.NamedTemporaryFile(dir=self.out, suffix=".npz") as kept:
            np.savez(kept, **self._feeds(rows))  # type: ignore[arg-type]
            kept.flush()
            return probe.asked(
                probe.Ask(
                    str(built.path), built.engine, built.build, str(self.job.source.tokenizer or ""),
                    self.job.spec.context, rows, self._device(built), kept.name,
                )
            )  # fmt: skip

    def _open(self, built: Built) -> Engine | Embedder:
        job = self.job
        return opening.opened(
            built.path, built.engine, built.build, tokenizer=job.source.tokenizer, context=job.spec.context,
            max_batch=job.spec.max_batch, device=self._device(built),
        )  # fmt: skip

    def _device(self, built: Built) -> str:
        return self.job.machine.device if built.engine == "torch" else "cpu"

    def _stem(self, name: str) -> Path:
        return self.out / f"{self.job.spec.model}.{name.replace('+', '-')}"

    def _spent(self) -> float:
        """Seconds: of this process's CPU time and its children's, or on an accelerator the wall's."""
        if self.job.machine.device != "cpu":
            return time.monotonic()
        children = os.times()
        return time.process_time() + children.children_user + children.children_system


def manifest(bench: Bench, made: Sequence[Variant], absent: tuple[Absent, ...], price: float | None) -> Manifest:
    """The whole of it, verdicts included."""
    job, read, card = bench.job, bench.job.spec, bench.job.machine.card
    extra: dict[str, Any] = {}
    if job.source.tokenizer is not None:
        target = bench.out / "tokenizer.json"
        if job.source.tokenizer.resolve() != target.resolve():
            sources.copied(job.source.tokenizer, target)
        extra = {"tokenizer": measure.described(target), "context": read.context}
    labelled = job.held.labels is not None or bool(job.held.matches)
    return Manifest(
        schema=SCHEMA,
        model=read.model,
        task=read.task,
        licence=read.licence,
        source=read.source or job.source.name,
        source_sha256=job.source.sha256,
        eval=Eval(read.dataset or read.evaluation.file, job.held.rows, METRICS[read.task, labelled], "held-out"),
        agreement_metric=evaluate.AGREEMENT[read.task],
        host=measure.host("+".join(sorted(bench.clocks)), card.name if card else ""),
        price_per_hour=price,
        floor=read.floor,
        classes=read.classes,
        features=read.features,
        variants=verdict.judged(made, read.floor),
        absent=absent,
        **extra,
    )


METRICS = {
    ("classification", True): "accuracy",
    ("classification", False): "agreement with the reference",
    ("embedding", True): "top-1 retrieval of the text that belongs to it",
    ("embedding", False): "agreement with the reference on the nearest text",
}
"""By task, and whether right answers are known."""


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"[:300]
