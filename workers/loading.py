"""From manifests to a catalog: opens every chosen variant's engine and fits its curve to this machine.

The only file that knows which engine serves which kind of model. Runs once, before anything is served; every fault is
a `ManifestError` or ValueError that names the file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from policies.records import Endpoint
from workers import calibrate
from workers.catalog import EMBEDDING, TENSOR, TEXT, Catalog, Entry
from workers.engines.embed import Embedder
from workers.engines.onnx import OnnxEngine
from workers.engines.slots import SlotEngine
from workers.engines.text import Sampling, Text
from workers.manifest import Manifest, ManifestError, Variant, load, read, to_endpoints
from workers.runners import Batched, Slotted
from workers.tensors import DTYPES

TRIAL_PROMPT = 20
TRIAL_TOKENS = 16
"""Tokens read and written by a text trial: like the prompts that manifests are measured with."""
TRIAL_TEXT = " ".join(["the"] * 30)
"""32 tokens with the two that frame a text: what manifests of encoders are measured with."""

Built = tuple[float, Callable[[], object], Callable[[Endpoint], Entry]]
"""A loaded engine: seconds its trial should take, the trial, and how it becomes an entry once its curve is fitted."""


def catalog(manifests: Sequence[Path], variants: Sequence[str] = ()) -> Catalog:
    """Load the chosen variants (in this order of preference; default: all) of every manifest."""
    chosen = [_choose(path, variants) for path in manifests]
    count = sum(len(names) for _, names in chosen)
    entries: list[Entry] = []
    for path, names in chosen:
        manifest = load(path, names)
        share = calibrate.TOTAL_SECONDS / count
        entries += [_fitted(path, manifest, endpoint, share) for endpoint in to_endpoints(manifest, names)]
    return Catalog(entries)


def _choose(path: Path, variants: Sequence[str]) -> tuple[Path, list[str]]:
    """Those of the wanted variants that this model has; a model with none of them is a mistake."""
    offered = [variant.variant for variant in read(path).variants]
    names = [name for name in variants if name in offered] if variants else offered
    if not names:
        raise ManifestError(f"{path}: has none of --variants {','.join(variants)}: it has {', '.join(offered)}")
    return path, names


def _fitted(path: Path, manifest: Manifest, endpoint: Endpoint, budget: float) -> Entry:
    variant = manifest.variant(endpoint.variant)
    predicted, trial, entry = BUILDERS[variant.engine](path.parent, manifest, variant)
    by = calibrate.factor(predicted, trial, budget)
    calibrate.log.info("%s:%s runs at %.2f times its manifest's curve", endpoint.model, endpoint.variant, by)
    return entry(msgspec.structs.replace(endpoint, curve=calibrate.scaled(endpoint.curve, by)))


def _tensor(folder: Path, manifest: Manifest, variant: Variant) -> Built:
    engine = OnnxEngine(folder / variant.file)
    feeds = {spec.name: np.zeros([max(n, 1) for n in spec.shape], DTYPES[spec.datatype]) for spec in engine.inputs}

    def entry(endpoint: Endpoint) -> Entry:
        run = functools.partial(run_tensors, engine)
        return Entry(endpoint, TENSOR, Batched(endpoint, run), inputs=engine.inputs, outputs=engine.outputs)

    return variant.curve.base, functools.partial(engine.run, feeds), entry


def _embedding(folder: Path, manifest: Manifest, variant: Variant) -> Built:
    if manifest.tokenizer is None or manifest.context is None:
        raise ManifestError(f"{folder}: $.tokenizer and $.context are needed for sentence embeddings")
    embedder = Embedder(folder / variant.file, folder / manifest.tokenizer.file, manifest.context)
    predicted = variant.curve.seconds(prompt_tokens=embedder.count(TRIAL_TEXT))

    def entry(endpoint: Endpoint) -> Entry:
        return Entry(endpoint, EMBEDDING, Batched(endpoint, functools.partial(run_sentences, embedder)))

    return predicted, functools.partial(embedder.embed, [TRIAL_TEXT]), entry


def _text(folder: Path, manifest: Manifest, variant: Variant) -> Built:
    if manifest.tokenizer is None or manifest.chat is None:
        raise ManifestError(f"{folder}: $.tokenizer and $.chat are needed for text generation")
    chat = manifest.chat
    text = Text(folder / manifest.tokenizer.file, chat.template, chat.end, chat.begin)
    engine = SlotEngine(folder / variant.file, text.end, variant.max_batch)
    prompt = [text.end] * TRIAL_PROMPT

    def trial() -> None:
        engine.start(prompt, Sampling(temperature=0, max_tokens=TRIAL_TOKENS, ignore_eos=True))
        while engine.active:
            engine.step()

    def entry(endpoint: Endpoint) -> Entry:
        return Entry(endpoint, TEXT, Slotted(endpoint, engine), text=text, context=engine.context)

    # The first token comes with the prompt.
    predicted = variant.curve.seconds(prompt_tokens=TRIAL_PROMPT, output_tokens=TRIAL_TOKENS - 1)
    return predicted, trial, entry


BUILDERS: Mapping[str, Callable[[Path, Manifest, Variant], Built]] = {
    "onnx": _tensor,
    "embed": _embedding,
    "slots": _text,
}
"""By the manifest's `engine`."""


def run_tensors(engine: OnnxEngine, works: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
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
