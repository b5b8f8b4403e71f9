"""`<model>.manifest.json`: a model's accelerated variants, each with its measured quality and service curve.

`isochrone accelerate` and the builds under `workers/models` write it; a worker loads it and registers what it says.
Nothing here is assumed: every figure was measured, on the host the manifest names, and one that was not is left out.
Files are named relative to the manifest. docs/manifest.md explains it, docs/manifest.schema.json describes it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from policies.records import Curve, Endpoint, Id, Name, Quality

SCHEMA = 2
READS = (1, 2)
"""Schema 2 only adds fields that may be missing: paired intervals, memory, energy, cost, verdicts."""
PACKAGED = ("digits", "fraud", "tinychat")
"""Bundled models whose files are part of this package."""
CACHED = ("minilm",)
"""Bundled models too large to ship: a build puts them into the user's cache."""
CACHE_VARIABLE = "ISOCHRONE_CACHE"

Digest = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
FileName = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]*\Z", max_length=128)]
"""A plain name beside the manifest: no directories, so a manifest cannot reach elsewhere."""


class ManifestError(ValueError):
    """A manifest that cannot be used; the text names the file, the field and what to do."""


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file beside the manifest, by the digest of its bytes."""

    file: FileName
    sha256: Digest
    bytes: Annotated[int, Meta(ge=1)]


class Latency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Milliseconds."""

    p50: float
    p90: float
    p99: float


class Eval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `score` was measured on; never anything the model was trained or calibrated on."""

    dataset: str
    n: Annotated[int, Meta(ge=1)]
    metric: str
    split: str


class Host(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where the latencies were measured."""

    cpu: str
    threads: int
    load: float
    """Load average of the machine during the measurement: above 1 per core, read the figures with care."""
    clock: str
    """`cpu`: CPU time of the engine's one thread, which a busy machine distorts least; `wall` on an accelerator."""
    onnxruntime: str
    measured: str
    """ISO 8601 date."""
    cores: int | None = None
    memory_bytes: int | None = None
    """Of the machine."""
    accelerator: str = ""
    """As its driver names it; '': the CPU."""
    software: dict[str, str] = {}
    """Versions of what else took part, by package; `driver` is the accelerator's."""


class Build(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an engine makes of a variant's file while it is loaded."""

    form: Annotated[str, Meta(pattern=r"\A(|fp8|fp8_weights|int8|int8_weights|int4_weights|sparse24)\Z")] = ""
    """Number format given to its linear layers (workers/engines/torch_precision.py); '': as in the file."""
    compiled: bool = False
    """By torch.compile: `torch` only."""
    provider: Annotated[str, Meta(pattern=r"\A(|cuda|tensorrt|openvino)\Z")] = ""
    """Of ONNX Runtime, that compiles the graph: `onnx` only; '': the worker's choice."""


class Energy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one request takes at the batch size of the highest throughput."""

    joules: Annotated[float, Meta(ge=0)]
    source: Annotated[str, Meta(pattern=r"\A(nvml|rapl|estimated)\Z")]
    """`nvml`, `rapl`: the device's own counter; `estimated`: CPU seconds times `watts`, no measurement."""
    watts: float
    """Mean power while it ran; for an estimate, the watts of one busy core that were assumed."""


class Effort(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What making the variant took, on the host of the manifest."""

    seconds: Annotated[float, Meta(ge=0)]
    """Of the whole process: calibration, training, compilation, export."""
    usd: float | None = None
    """At the manifest's `price_per_hour`."""
    pays_after: Annotated[int, Meta(ge=0)] | None = None
    """Requests after which what the variant saves against the reference has paid for it; None: it saves nothing. Both
    are the same machine's time, so it does not depend on the price."""


class Verdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether a variant is served, and why not."""

    served: bool = True
    reason: str = ""
    by: str = ""
    """The variant of no worse quality that it is no faster, smaller or cheaper than."""


class Absent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A technique that was asked for and made no variant."""

    technique: Name
    reason: str


Interval = tuple[float, float]
"""95 %."""


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One accelerated build of the model."""

    variant: Name
    engine: Annotated[str, Meta(pattern=r"\A(onnx|embed|slots|torch|transformers)\Z")]
    """`onnx` tensors, `embed` sentences to vectors, `slots` text generation; on PyTorch `torch` tensors (a `.pt2`
    archive) and `transformers` text (safetensors)."""
    file: FileName
    sha256: Digest
    bytes: Annotated[int, Meta(ge=1)]
    score: float
    """The task metric on the held-out data."""
    ci95: Interval
    """Of `score`."""
    quality: Quality
    """`score` divided by the reference variant's."""
    quality_ci95: Interval | None = None
    """Of `quality`, paired: by resampling the held-out items, each with both variants' answers."""
    agreement: Quality
    """Likeness of the answers to the reference's; how it is counted stands in the manifest's `agreement_metric`."""
    agreement_ci95: Interval | None = None
    calibration_error: Annotated[float, Meta(ge=0, le=1)] | None = None
    """Of a classifier's probabilities on the held-out data: by how much they are off, in bins of like confidence; None:
    nobody measured, so that they are scores rather than probabilities."""
    fidelity: dict[str, float] = {}
    """Further likeness to the reference's outputs, by name (`cosine`, `recall_at_10`)."""
    latency_ms: dict[str, Latency]
    """By batch size; for text, one decoding step with that many sequences in flight."""
    tokens_per_second: dict[str, float] = {}
    """For text, by sequences in flight: output tokens in all, greedy, prompts of 20 tokens included."""
    build: Build = Build()
    curve: Curve
    """In seconds, as the router reads it."""
    max_batch: Annotated[int, Meta(ge=1, le=1024)]
    techniques: tuple[str, ...] = ()
    """What was done to the reference, in this order."""
    throughput: Annotated[float, Meta(ge=0)] | None = None
    """Items per second at the best of the batch sizes measured."""
    memory_bytes: Annotated[int, Meta(ge=1)] | None = None
    """Peak resident memory of a process that loads it alone and runs one batch of the largest size measured; on an
    accelerator, of the device."""
    energy: Energy | None = None
    cost_per_1k: Annotated[float, Meta(ge=0)] | None = None
    """US dollars of a thousand items at `throughput` and the manifest's `price_per_hour`."""
    effort: Effort | None = None
    load: float | None = None
    """Load average of the machine while this one was measured."""
    verdict: Verdict = Verdict()


class Chat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a text model needs beside its graph and tokenizer."""

    template: str
    """Jinja, over `messages` and `add_generation_prompt`."""
    begin: str
    end: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One model. The first variant is the reference: its quality is 1."""

    schema: int
    model: Name
    task: Id
    """`classification`, `embedding` or `text`."""
    licence: str
    source: str
    eval: Eval
    agreement_metric: str
    host: Host
    context: int | None = None
    """Most tokens the model reads (text and embeddings)."""
    tokenizer: File | None = None
    config: File | None = None
    """`config.json` of the model's class, for `transformers`."""
    chat: Chat | None = None
    classes: tuple[Name, ...] = ()
    """A classifier's, in the order of its outputs: what decisions about them are asked by; without them, by number."""
    features: tuple[str, ...] = ()
    """Names of the columns of its only input, so that an item can be given as an object."""
    source_sha256: Digest | None = None
    """Of the source's weights."""
    price_per_hour: Annotated[float, Meta(ge=0)] | None = None
    """US dollars for the accelerator (for a CPU: one core) that costs are reckoned with."""
    floor: Quality | None = None
    """Quality below which a variant fails its evaluation."""
    variants: Annotated[tuple[Variant, ...], Meta(min_length=1, max_length=64)]
    absent: tuple[Absent, ...] = ()

    def served(self) -> tuple[Variant, ...]:
        """Those whose verdict lets them be served."""
        return tuple(variant for variant in self.variants if variant.verdict.served)

    def variant(self, name: str) -> Variant:
        """Raises ManifestError naming the variants there are."""
        for variant in self.variants:
            if variant.variant == name:
                return variant
        names = ", ".join(v.variant for v in self.variants)
        raise ManifestError(f"{self.model} has no variant {name!r}: choose among {names}")


class _Header(msgspec.Struct, frozen=True):
    schema: int


def load(path: Path, variants: Collection[str] = ()) -> Manifest:
    """Read a manifest and check the files of the given variants (default: all that are served) against their digests.

    Raises ManifestError: not there, not readable, unknown schema, bad field, missing or altered file, a variant whose
    verdict is against it.
    """
    manifest = read(path)
    for variant in _chosen(manifest, variants):
        if not variant.verdict.served:
            raise ManifestError(
                f"{path}: $.variants[{variant.variant}].verdict: {variant.variant} is not served: "
                f"{variant.verdict.reason}: choose among {', '.join(v.variant for v in manifest.served())}, "
                "or set its `served` to true"
            )
        _check(path, f"variants[{variant.variant}].file", variant.file, variant.sha256)
    for field, file in (("tokenizer", manifest.tokenizer), ("config", manifest.config)):
        if file is not None:
            _check(path, f"{field}.file", file.file, file.sha256)
    return manifest


def _chosen(manifest: Manifest, variants: Collection[str]) -> Collection[Variant]:
    return [manifest.variant(name) for name in variants] or manifest.served()


def read(path: Path) -> Manifest:
    """Read a manifest alone, whether or not its files are there. Raises ManifestError."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror}): give the path of a *.manifest.json") from error
    try:
        schema = msgspec.json.decode(raw, type=_Header).schema
        if schema not in READS:
            reads = " and ".join(map(str, READS))
            raise ManifestError(f"{path}: $.schema is {schema}, this version reads {reads}: build the model again")
        return msgspec.json.decode(raw, type=Manifest)
    except msgspec.MsgspecError as error:
        raise ManifestError(f"{path}: {error}: correct the field or build the model again") from error


def encode(manifest: Manifest) -> bytes:
    """The manifest as its file holds it: indented, so that a diff of two builds reads well."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(path: Path, field: str, name: str, sha256: str) -> None:
    file = path.parent / name
    if not file.is_file():
        raise ManifestError(f"{path}: $.{field}: {file} is missing: build the model again or restore the file")
    found = digest(file)
    if found != sha256:
        raise ManifestError(
            f"{path}: $.{field}: {file} has sha256 {found[:12]}..., the manifest says {sha256[:12]}...: "
            "the file was altered; build the model again or restore it"
        )


def to_endpoints(manifest: Manifest, variants: Collection[str] = ()) -> tuple[Endpoint, ...]:
    """What a worker registers for the given variants (default: all that are served). Raises ManifestError on an
    unknown one."""
    return tuple(
        Endpoint(
            model=manifest.model,
            variant=variant.variant,
            quality=variant.quality,
            task=manifest.task,
            curve=variant.curve,
            max_batch=variant.max_batch,
            agreement=variant.agreement,
        )
        for variant in _chosen(manifest, variants)
    )


def json_schema() -> bytes:
    """docs/manifest.schema.json, for those who read or write manifests with other tools."""
    raw = msgspec.json.encode(msgspec.json.schema(Manifest))
    # JSON Schema's regular expressions are JavaScript's, which writes the two ends otherwise.
    return msgspec.json.format(raw.replace(rb"\\A", b"^").replace(rb"\\Z", b"$"), indent=2) + b"\n"


def cache(environment: Mapping[str, str] = os.environ) -> Path:
    """Where built models go: $ISOCHRONE_CACHE, or ~/.cache/isochrone."""
    chosen = environment.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else Path.home() / ".cache" / "isochrone"


def bundled(name: str, environment: Mapping[str, str] = os.environ) -> Path:
    """The manifest of a model this project brings. Raises ManifestError on an unknown name or one not built yet."""
    if name in PACKAGED:
        return packaged(name)
    if name not in CACHED:
        known = ", ".join((*PACKAGED, *CACHED))
        raise ManifestError(f"no bundled model {name!r}: choose among {known}, or give --manifest PATH")
    path = cache(environment) / name / f"{name}.manifest.json"
    if not path.is_file():
        raise ManifestError(
            f"{name} is not built yet: {path} is missing: run `make models-{name}` "
            f"or `python -m workers.models.{name}.build`"
        )
    return path


def packaged(name: str) -> Path:
    """The manifest committed with the sources, even where the weights are not."""
    return Path(str(resources.files("workers.models"))) / name / f"{name}.manifest.json"
