"""From manifests to a catalog: opens every chosen variant's engine and fits its curve to this machine.

The only file that knows which engine serves which kind of model. Runs once, before anything is served; every fault is
a `ManifestError` or ValueError that names the file.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from policies.records import Endpoint
from workers import calibrate, memory
from workers.allocation import Allotment, Budget
from workers.catalog import EMBEDDING, TENSOR, TEXT, Catalog, Entry
from workers.engines import Engine
from workers.engines.embed import Embedder
from workers.engines.onnx import OnnxEngine
from workers.engines.slots import SlotEngine
from workers.engines.text import Sampling, Text
from workers.forming import Batching, Slack
from workers.manifest import Manifest, ManifestError, Variant, load, read, to_endpoints
from workers.runners import Batched, Slotted, lane_of
from workers.tensors import DTYPES

if TYPE_CHECKING:
    from workers.engines.transformers_text import ContinuousEngine

TRIAL_PROMPT = 20
TRIAL_TOKENS = 16
"""Tokens read and written by a text trial: like the prompts that manifests are measured with."""
TRIAL_TEXT = " ".join(["the"] * 30)
TRIAL_LENGTH = 32
"""Its tokens, with the two that frame a text: what manifests of encoders are measured with."""
COPIES = 2
"""Times its file that a model takes while it is loaded: ONNX Runtime reads the graph and lays the weights out anew."""

FEWER = "serve fewer variants (--variants), or a smaller one"


class Built(NamedTuple):
    """A loaded engine: what it is tried with, and how it becomes an entry once its curve is fitted."""

    predicted: float
    """Seconds the trial should take."""
    trial: Callable[[], object]
    entry: Callable[[Endpoint, Batching], Entry]
    together: Callable[[int], object] | None = None
    """A trial of so many items in one batch, where an engine call takes several."""
    clock: Callable[[], float] = time.thread_time
    """What the engine's work is measured by: CPU time of the calling thread, where it computes there."""


def catalog(
    manifests: Sequence[Path],
    variants: Sequence[str] = (),
    batching: Batching | None = None,
    allotment: Allotment | None = None,
) -> Catalog:
    """Load the chosen variants (in this order of preference; default: all) of every manifest."""
    chosen = [_choose(path, variants) for path in manifests]
    count = sum(len(names) for _, names in chosen)
    loaded = [(path, load(path, names), names) for path, names in chosen]
    budgets = _budgets([(manifest, names) for _, manifest, names in loaded], allotment or Allotment())
    entries: list[Entry] = []
    for path, manifest, names in loaded:
        share = calibrate.TOTAL_SECONDS / count
        for endpoint in to_endpoints(manifest, names):
            built = _built(path, manifest, endpoint.variant, budgets[lane_of(endpoint)])
            entries.append(built.entry(_fitted(built, endpoint, share), batching or Slack()))
    return Catalog(entries)


def _choose(path: Path, variants: Sequence[str]) -> tuple[Path, list[str]]:
    """Those of the wanted variants that this model has, by default all that are served; a model with none of them is
    a mistake."""
    manifest = read(path)
    offered = [variant.variant for variant in manifest.variants]
    names = [name for name in variants if name in offered] if variants else [v.variant for v in manifest.served()]
    if not names:
        raise ManifestError(f"{path}: has none of --variants {','.join(variants)}: it has {', '.join(offered)}")
    return path, names


def _budgets(loaded: Sequence[tuple[Manifest, Sequence[str]]], allotment: Allotment) -> dict[str, Budget]:
    """What each endpoint may use, by lane. Raises ManifestError when they do not fit together."""
    needs = {
        lane_of(endpoint): (endpoint.variant, manifest.variant(endpoint.variant).bytes)
        for manifest, names in loaded
        for endpoint in to_endpoints(manifest, names)
    }
    try:
        return allotment.budgets(needs)
    except ValueError as error:
        raise ManifestError(str(error)) from error


def _built(path: Path, manifest: Manifest, name: str, budget: Budget) -> Built:
    """Open a variant's engine. Raises ManifestError that names its field."""
    variant = manifest.variant(name)
    field = f"{path}: $.variants[{name}].file"
    needed, free = variant.bytes * COPIES, memory.available()
    if free is not None and needed > free:
        raise ManifestError(
            f"{field}: {variant.file} takes about {memory.said(needed)} of memory to load, {memory.said(free)} is free:"
            f" {FEWER}"
        )
    try:
        return BUILDERS[variant.engine](path.parent, manifest, variant, budget)
    except ManifestError:
        raise
    except ImportError as error:
        raise ManifestError(
            f"{path}: $.variants[{name}].engine: {variant.engine} needs {error.name}: "
            "install it, or serve other variants"
        ) from error
    except (ValueError, MemoryError) as error:
        if isinstance(error, MemoryError) or "bad_alloc" in str(error):
            raise ManifestError(f"{field}: there is not enough memory to load it: {FEWER}") from error
        raise ManifestError(f"{field}: {error}: build the model again or restore the file") from error


def _fitted(built: Built, endpoint: Endpoint, budget: float) -> Endpoint:
    """The endpoint with its curve as this machine has it, by one trial alone and one in company."""
    together = built.together if endpoint.max_batch > 1 else None
    share = budget if together is None else budget / 2
    by = calibrate.factor(built.predicted, built.trial, share, built.clock)
    curve = calibrate.scaled(endpoint.curve, by)
    if together is not None:
        items = calibrate.company(curve, endpoint.max_batch, share)
        found = calibrate.factor(curve.seconds(items=items), functools.partial(together, items), share, built.clock)
        curve = calibrate.bent(curve, items, found)
    calibrate.log.info(
        "%s:%s takes %.3g ms alone and %.3g ms for each further item; the manifest says %.3g and %.3g",
        endpoint.model, endpoint.variant, curve.base * 1e3, curve.item * 1e3, endpoint.curve.base * 1e3,
        endpoint.curve.item * 1e3,
    )  # fmt: skip
    return msgspec.structs.replace(endpoint, curve=curve)


def _tensor(folder: Path, manifest: Manifest, variant: Variant, budget: Budget) -> Built:
    own = (variant.build.provider,) if variant.build.provider else ()
    engine = OnnxEngine(folder / variant.file, own + budget.providers, budget.memory)
    return _of_tensors(engine, manifest, variant, engine.stop, time.thread_time if engine.on_cpu else time.monotonic)


def _torch(folder: Path, manifest: Manifest, variant: Variant, budget: Budget) -> Built:
    from workers.engines.torch_tensors import TorchEngine  # torch is no part of a worker that does not serve it

    engine = TorchEngine(
        folder / variant.file,
        form=variant.build.form,
        compiled=variant.build.compiled,
        max_batch=variant.max_batch,
        device=budget.device,
        memory=budget.memory,
        priority=budget.priority,
    )
    return _of_tensors(engine, manifest, variant, None, time.monotonic)


def _of_tensors(
    engine: Engine,
    manifest: Manifest,
    variant: Variant,
    stop: Callable[[], None] | None,
    clock: Callable[[], float],
) -> Built:
    _named(manifest, engine)

    def together(items: int) -> object:
        shapes = {spec.name: ([items, *(max(n, 1) for n in spec.shape[1:])], spec.datatype) for spec in engine.inputs}
        return engine.run({name: np.zeros(shape, DTYPES[datatype]) for name, (shape, datatype) in shapes.items()})

    def entry(endpoint: Endpoint, batching: Batching) -> Entry:
        runner = Batched(endpoint, functools.partial(run_tensors, engine), batching, stop=stop, clock=clock)
        return Entry(
            endpoint,
            TENSOR,
            runner,
            inputs=engine.inputs,
            outputs=engine.outputs,
            classes=manifest.classes,
            features=manifest.features,
            calibration_error=variant.calibration_error,
        )

    return Built(variant.curve.base, functools.partial(together, 1), entry, together, clock)


def _named(manifest: Manifest, engine: Engine) -> None:
    """Raise ManifestError when there are not as many names as classes, or columns."""
    for field, names, spec in (
        ("classes", manifest.classes, engine.outputs[0]),
        ("features", manifest.features, engine.inputs[0]),
    ):
        if names and (len(spec.shape) != 2 or spec.shape[1] not in (-1, len(names))):
            raise ManifestError(
                f"{manifest.model}: $.{field}: names {len(names)}, but {spec.name!r} has shape {list(spec.shape)}: "
                "correct the names or leave them out"
            )


def _embedding(folder: Path, manifest: Manifest, variant: Variant, budget: Budget) -> Built:
    if manifest.tokenizer is None or manifest.context is None:
        raise ManifestError(f"{folder}: $.tokenizer and $.context are needed for sentence embeddings")
    context = manifest.context
    embedder = Embedder(folder / variant.file, folder / manifest.tokenizer.file, context)
    predicted = variant.curve.seconds(prompt_tokens=embedder.count(TRIAL_TEXT))

    def together(items: int) -> object:
        return embedder.embed([TRIAL_TEXT] * items)

    def entry(endpoint: Endpoint, batching: Batching) -> Entry:
        run = functools.partial(run_sentences, embedder)
        runner = Batched(endpoint, run, batching, length=TRIAL_LENGTH, stop=embedder.stop)
        return Entry(endpoint, EMBEDDING, runner, context=context)

    return Built(predicted, functools.partial(together, 1), entry, together)


def _slots(folder: Path, manifest: Manifest, variant: Variant, budget: Budget) -> Built:
    text = _written(folder, manifest)
    return _of_text(SlotEngine(folder / variant.file, text.end, variant.max_batch), text, variant, time.thread_time)


def _transformers(folder: Path, manifest: Manifest, variant: Variant, budget: Budget) -> Built:
    from workers.engines.transformers_text import ContinuousEngine  # likewise

    if manifest.config is None:
        raise ManifestError(f"{folder}: $.config is needed for transformers")
    text = _written(folder, manifest)
    engine = ContinuousEngine(
        folder / variant.file,
        config=folder / manifest.config.file,
        end=text.end,
        slots=variant.max_batch,
        form=variant.build.form,
        device=budget.device,
        spare=budget.spare,
    )
    return _of_text(engine, text, variant, time.monotonic, engine.close)


def _written(folder: Path, manifest: Manifest) -> Text:
    if manifest.tokenizer is None or manifest.chat is None:
        raise ManifestError(f"{folder}: $.tokenizer and $.chat are needed for text generation")
    chat = manifest.chat
    return Text(folder / manifest.tokenizer.file, chat.template, chat.end, chat.begin)


def _of_text(
    engine: SlotEngine | ContinuousEngine,
    text: Text,
    variant: Variant,
    clock: Callable[[], float],
    close: Callable[[], None] | None = None,
) -> Built:
    prompt = [text.end] * TRIAL_PROMPT

    def trial() -> None:
        engine.start(prompt, Sampling(temperature=0, max_tokens=TRIAL_TOKENS, ignore_eos=True))
        while engine.active:
            engine.step()

    def entry(endpoint: Endpoint, batching: Batching) -> Entry:
        runner = Slotted(endpoint, engine, clock)
        return Entry(endpoint, TEXT, runner, text=text, context=engine.context, close=close)

    # The first token comes with the prompt.
    predicted = variant.curve.seconds(prompt_tokens=TRIAL_PROMPT, output_tokens=TRIAL_TOKENS - 1)
    return Built(predicted, trial, entry, clock=clock)


BUILDERS: Mapping[str, Callable[[Path, Manifest, Variant, Budget], Built]] = {
    "onnx": _tensor,
    "embed": _embedding,
    "slots": _slots,
    "torch": _torch,
    "transformers": _transformers,
}
"""By the manifest's `engine`."""


def run_tensors(engine: Engine, works: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """One engine call for several requests' tensors, joined along the batch and split again."""
    if len(works) == 1:
        return [engine.run(works[0])]
    sizes = [len(next(iter(work.values()))) for work in works]
    joined = {name: np.concatenate([work[name] for work in works]) for name in works[0]}
    outputs = engine.run(joined)
    ends = np.cumsum(sizes)[:-1]
    parts = {name: np.split(value, ends) for name, value in outputs.items()}
    return [{name: pieces[i] for name, pieces in parts.items()} for i in range(len(works))]


def run_sentences(embedder: Embedder, works: Sequence[Sequence[str]]) -> list[tuple[np.ndarray, int]]:
    """One embedding call for several requests' sentences: their vectors, and the tokens each request had."""
    vectors, tokens = embedder.embed([text for work in works for text in work])
    if len(works) == 1:
        return [(vectors, tokens)]
    parts = np.split(vectors, np.cumsum([len(work) for work in works])[:-1])
    return [(part, sum(map(embedder.count, work))) for part, work in zip(parts, works, strict=True)]
