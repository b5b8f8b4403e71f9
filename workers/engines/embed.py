"""Sentence embeddings: tokenizes texts, runs an encoder graph that pools and normalises, returns unit vectors.

The graph takes `input_ids`, `attention_mask` and `token_type_ids` [n, length] and gives `embeddings` [n, width].
Texts of like length run together, because a padded token costs as much as a real one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers

from workers.engines.onnx import OnnxEngine

MAX_ROWS = 32
"""Texts per run of the graph: beyond this a CPU gains nothing and the first text only waits longer."""

MAX_CHARACTERS = 20_000
"""Of a text, only so much is tokenized: the context is a few hundred tokens, the tokenizer reads what it is given."""


class Embedded(NamedTuple):
    """Vectors in the order of the texts, and how many tokens were read in all (padding not counted)."""

    vectors: np.ndarray
    """float32 [n, width], each of length 1."""
    tokens: int


class Embedder:
    """An encoder with its tokenizer. Texts longer than `context` tokens are cut, as sentence-transformers does."""

    def __init__(self, model: Path, tokenizer: Path, context: int) -> None:
        self._engine = OnnxEngine(model)
        self._tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(context)
        self.inputs, self.outputs = self._engine.inputs, self._engine.outputs
        self.run = self._engine.run
        self.stop = self._engine.stop
        self.width = self.outputs[0].shape[-1]

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode(text[:MAX_CHARACTERS]).ids)

    def embed(self, texts: Sequence[str]) -> Embedded:
        """Embed every text; none give an array of no rows."""
        # One by one: `encode_batch` would start threads of its own, on cores and CPU time that aren't this worker's.
        encodings = [self._tokenizer.encode(text[:MAX_CHARACTERS]) for text in texts]
        lengths = [len(encoding.ids) for encoding in encodings]
        vectors = np.empty((len(encodings), self.width), np.float32)
        order = sorted(range(len(encodings)), key=lengths.__getitem__)
        for start in range(0, len(order), MAX_ROWS):
            chosen = order[start : start + MAX_ROWS]
            longest = lengths[chosen[-1]]
            ids = np.zeros((len(chosen), longest), np.int64)
            mask = np.zeros_like(ids)
            for row, i in enumerate(chosen):
                ids[row, : lengths[i]] = encodings[i].ids
                mask[row, : lengths[i]] = 1
            feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            vectors[chosen] = self._engine.run(feeds)["embeddings"]
        return Embedded(vectors, sum(lengths))
