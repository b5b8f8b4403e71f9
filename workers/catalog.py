"""What this worker serves: models, their variants in order of preference, and how each is run.

Immutable after start. Surfaces look a request's model and variant up here; which engine answers is settled by the
entry's kind alone. loading.py fills it from manifests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from policies.reason import Reason
from policies.records import Endpoint
from workers.queue import Refused
from workers.runners import Runner

TEXT, EMBEDDING, TENSOR = "text", "embedding", "tensor"
SURFACES = {
    TEXT: "/v1/chat/completions and /v1/completions",
    EMBEDDING: "/v1/embeddings, /v1/rerank and /v1/decisions",
    TENSOR: "/v2/models/NAME/infer and, if it classifies, /v1/decisions",
}


class Entry(NamedTuple):
    """One endpoint and what its surface needs to know."""

    endpoint: Endpoint
    kind: str
    """TEXT, EMBEDDING or TENSOR: which surface it answers on."""
    runner: Runner
    text: Any = None
    """TEXT: workers.engines.text.Text."""
    context: int = 0
    """TEXT: most tokens of prompt and answer together. EMBEDDING: what of a text is read."""
    inputs: tuple[Any, ...] = ()
    """TENSOR: workers.engines.TensorSpec of each input."""
    outputs: tuple[Any, ...] = ()
    classes: tuple[str, ...] = ()
    """TENSOR: names of a classifier's classes, where its manifest has them."""
    features: tuple[str, ...] = ()
    """TENSOR: names of its input's columns, likewise."""
    calibration_error: float | None = None
    """TENSOR: by how much its probabilities were found to be off; None: nobody measured."""
    close: Callable[[], None] | None = None
    """Ends what the engine has running of its own."""

    @property
    def lane(self) -> str:
        return self.runner.lane


class Catalog:
    """Entries by model and variant; a model's first variant is its default."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.models: dict[str, dict[str, Entry]] = {}
        for entry in entries:
            self.models.setdefault(entry.endpoint.model, {})[entry.endpoint.variant] = entry

    def entries(self) -> list[Entry]:
        return [entry for variants in self.models.values() for entry in variants.values()]

    def find(self, model: str, variant: str, *kinds: str) -> Entry | Refused:
        """The entry to run, which is of one of the kinds, or what is wrong with the names."""
        variants = self.models.get(model)
        if variants is None:
            return Refused(Reason.MODEL_NOT_FOUND, "This worker does not serve that model.", "model")
        entry = variants.get(variant) if variant else next(iter(variants.values()))
        if entry is None:
            return Refused(Reason.MODEL_NOT_FOUND, "This worker does not serve that variant.", "model")
        if entry.kind not in kinds:
            return Refused(Reason.BAD_REQUEST, f"This model is served at {SURFACES[entry.kind]}.", "model")
        return entry
