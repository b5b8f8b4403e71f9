"""Text generation with continuous batching: every step runs one batch over whatever sequences are active.

The host owns the key/value cache, one slot per sequence. Active slots are kept in its first rows, so that a step hands
the graph plain views; a sequence joins or leaves between any two steps. Prompts are read in chunks inside the same
batch as the others' next tokens. The graph is written by `workers/models/tinychat/graph.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from workers.engines.onnx import open_session
from workers.engines.text import Sampling, readable, sample

BLOCK = 64
"""The cache grows by this many positions: each growth copies it, and every step computes over all of it."""
CHUNK = 64
"""Longest piece of a prompt read in one step."""
STEP_CELLS = 128
"""Most slots x chunk in a step that reads prompts, so that the others' next token is not held up for long."""
HIDDEN, SHOWN = np.float32(-np.inf), np.float32(0)


class Step(NamedTuple):
    """One new token of one sequence."""

    slot: int
    token: int
    done: str | None
    """None while it goes on; `stop` (the end token, which is `token`) or `length`. Done frees the slot."""


class Dimensions(msgspec.Struct, frozen=True):
    """The part of the graph's own description that the host must know."""

    layers: int
    heads: int
    cached_heads: int
    width: int
    context: int
    vocabulary: int


class _Sequence:
    """An active sequence: what is cached, what is still to be read, what was produced."""

    __slots__ = ("cached", "pending", "produced", "rng", "sampling", "slot")

    def __init__(self, slot: int, prompt: Sequence[int], sampling: Sampling) -> None:
        self.slot = slot
        self.pending = list(prompt)
        self.cached = 0
        self.produced = 0
        self.sampling = sampling
        self.rng = np.random.default_rng(sampling.seed)


class SlotEngine:
    """A causal language model with `slots` sequences in flight. One thread drives it.

    A sequence's greedy tokens don't depend on who shares its batch.
    """

    def __init__(self, path: Path, end: int, slots: int = 16) -> None:
        """`end` is the token that closes an answer."""
        self._session = open_session(path)
        described = self._session.get_modelmeta().custom_metadata_map.get("shape", "{}")
        try:
            self._size = msgspec.json.decode(described, type=Dimensions)
        except msgspec.ValidationError as error:
            raise ValueError(f"{path}: not a slot-engine graph: its `shape` property: {error}") from error
        self.slots = slots
        self.context = self._size.context
        self.vocabulary = self._size.vocabulary
        self.taken: dict[int, int] = {}
        """By slot, how many tokens the last step took in: pieces of prompts, or one each. Its time goes by these."""
        self._end = end
        self._rows: list[_Sequence] = []
        self._free = list(range(slots - 1, -1, -1))
        self._group = self._size.heads // self._size.cached_heads
        self._view: dict[str, np.ndarray] = {}
        self._viewed = 0
        self._allocate(BLOCK)

    @property
    def active(self) -> int:
        return len(self._rows)

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def kv_use(self) -> float:
        """Share of all cacheable positions that are taken."""
        return sum(s.cached for s in self._rows) / (self.slots * self.context)

    def start(self, prompt: Sequence[int], sampling: Sampling) -> int:
        """Take a free slot for a prompt; its first token comes from a later `step`.

        Raises IndexError when no slot is free, ValueError when the prompt is empty, too long or not of this vocabulary.
        """
        readable(prompt, self.context, self.vocabulary)
        slot = self._free.pop()
        self._rows.append(_Sequence(slot, prompt, sampling))
        return slot

    def stop(self, slot: int) -> None:
        """Cancel a sequence between two steps. A slot that is already free is left alone."""
        for row, sequence in enumerate(self._rows):
            if sequence.slot == slot:
                self._remove(row)
                return

    def step(self) -> list[Step]:
        """Run one batch over all active sequences; one `Step` per sequence that got a token."""
        if not self._rows:
            self.taken = {}
            return []
        takes = self._takes()
        self.taken = {sequence.slot: take for sequence, take in zip(self._rows, takes, strict=True)}
        self._reserve(max(sequence.cached for sequence in self._rows))
        feeds, answering = self._feeds(takes)
        logits, keys, values = self._session.run(["logits", "new_keys", "new_values"], feeds)
        self._store(takes, feeds["positions"][0], keys, values)
        return self._choose(answering, logits)

    def _takes(self) -> list[int]:
        """How many pending tokens each row reads in this step."""
        limit = min(CHUNK, max(STEP_CELLS // len(self._rows), 1))
        return [min(len(sequence.pending), limit) for sequence in self._rows]

    def _feeds(self, takes: list[int]) -> tuple[dict[str, np.ndarray], list[int]]:
        """The graph's inputs, and the rows whose pending tokens all go in, so that they get a next one."""
        rows, chunk = self._rows, max(takes)
        feeds = dict(self._views(len(rows)))
        cached = np.array([sequence.cached for sequence in rows])
        if chunk == 1:  # as in most steps: rows are tokens, nothing is padding
            each = np.arange(len(rows))
            feeds["tokens"] = np.array([sequence.pending[0] for sequence in rows], np.int64)
            feeds["positions"] = cached[None]
            feeds["rows"] = each[:, None]
            feeds["cells"] = each
            feeds["mask"] = np.where(self._columns >= cached[:, None], HIDDEN, SHOWN)[:, None, None]
        else:
            feeds["tokens"] = np.concatenate(
                [np.array(s.pending[:take], np.int64) for s, take in zip(rows, takes, strict=True)]
            )
            owners = np.repeat(np.arange(len(rows)), takes)
            offsets = np.arange(len(owners)) - np.repeat(np.cumsum(takes) - takes, takes)
            feeds["positions"] = (cached[owners] + offsets)[None]
            feeds["cells"] = owners * chunk + offsets
            feeds["rows"] = np.zeros((len(rows), chunk), np.int64)
            feeds["rows"][owners, offsets] = np.arange(len(owners))
            feeds["mask"] = self._chunk_mask(cached, chunk)
        answering = [row for row, take in enumerate(takes) if take == len(rows[row].pending)]
        feeds["last"] = np.cumsum(takes)[answering] - 1
        return feeds, answering

    def _views(self, rows: int) -> dict[str, np.ndarray]:
        """The cache of the first rows, layer by layer; made anew only when their number changes."""
        if rows != self._viewed:
            self._viewed = rows
            for layer in range(self._size.layers):
                self._view[f"keys_{layer}"] = self._keys[layer, :rows]
                self._view[f"values_{layer}"] = self._values[layer, :rows]
        return self._view

    def _chunk_mask(self, cached: np.ndarray, chunk: int) -> np.ndarray:
        """Each token sees its slot's cached positions and, of its own chunk, itself and those before it."""
        old = np.where(self._columns[:-1] >= cached[:, None], HIDDEN, SHOWN)[:, None]
        new = np.triu(np.full((chunk, chunk), HIDDEN), 1)[None]
        shape = (len(cached), chunk)
        mask = np.concatenate([np.broadcast_to(old, (*shape, old.shape[-1])), np.broadcast_to(new, (*shape, chunk))], 2)
        return np.tile(mask, (1, self._group, 1))[:, None]  # queries of one cached head stand below each other

    def _store(self, takes: list[int], positions: np.ndarray, keys: np.ndarray, values: np.ndarray) -> None:
        """Keep the step's own keys and values, growing the cache where they don't fit."""
        self._reserve(int(positions.max()) + 1)
        owners = np.repeat(np.arange(len(takes)), takes)
        head, size = self._keys.shape[3:]
        stride = self._size.cached_heads * size
        self._keys.reshape(-1)[(owners * (stride * head) + positions)[:, None] + self._key_cells] = keys
        self._values.reshape(-1, head)[(owners * stride + positions)[:, None] + self._value_rows] = values.reshape(
            len(owners), -1, head
        )
        for sequence, take in zip(self._rows, takes, strict=True):
            sequence.cached += take
            del sequence.pending[:take]

    def _choose(self, answering: list[int], logits: np.ndarray) -> list[Step]:
        likeliest = logits.argmax(axis=1).tolist()
        steps = []
        finished = []
        for i, row in enumerate(answering):
            sequence = self._rows[row]
            sampling = sequence.sampling
            token = likeliest[i] if sampling.temperature == 0 else sample(logits[i], sampling, sequence.rng)
            sequence.produced += 1
            done = None
            if token == self._end and not sampling.ignore_eos:
                done = "stop"
            elif sequence.produced >= sampling.max_tokens or sequence.cached >= self.context:
                done = "length"
            if done:
                finished.append(row)
            else:
                sequence.pending.append(token)
            steps.append(Step(sequence.slot, token, done))
        for row in reversed(finished):
            self._remove(row)
        return steps

    def _remove(self, row: int) -> None:
        """Free a row and move the last one into its place."""
        self._free.append(self._rows[row].slot)
        last = self._rows.pop()
        if row < len(self._rows):
            self._rows[row] = last
            self._keys[:, row] = self._keys[:, len(self._rows)]
            self._values[:, row] = self._values[:, len(self._rows)]
        longest = max((sequence.cached for sequence in self._rows), default=0)
        if longest + BLOCK < self._keys.shape[-1] // 2:  # half: so that it does not swing with every short answer
            self._resize(longest)

    def _reserve(self, positions: int) -> None:
        if positions > self._keys.shape[-1]:
            self._resize(positions)

    def _resize(self, positions: int) -> None:
        """Move the active rows into a cache of at least this many positions."""
        keys, values, rows = self._keys, self._values, len(self._rows)
        self._allocate(positions)
        kept = min(keys.shape[-1], self._keys.shape[-1])
        self._keys[:, :rows, ..., :kept] = keys[:, :rows, ..., :kept]
        self._values[:, :rows, :, :kept] = values[:, :rows, :, :kept]

    def _allocate(self, positions: int) -> None:
        """Keys stand transposed, as the graph multiplies them. Zeroed: a hidden position must not hold a NaN."""
        layers, heads = self._size.layers, self._size.cached_heads
        head = self._size.width // self._size.heads
        size = min(-(-max(positions, 1) // BLOCK) * BLOCK, self.context)
        self._keys = np.zeros((layers, self.slots, heads, head, size), np.float32)
        self._values = np.zeros((layers, self.slots, heads, size, head), np.float32)
        self._view, self._viewed = {}, 0
        # Where a new position's keys and values go in the flat cache, counted from (row, position): one plain scatter
        # is three times as fast as numpy's indexing over five dimensions.
        layer, cached_head, place = np.ogrid[:layers, :heads, :head]
        start = (layer * self.slots * heads + cached_head) * size
        self._key_cells = (start * head + place * size).reshape(-1)
        self._value_rows = start.reshape(-1)
        self._columns = np.append(np.arange(size), -1)
        """The cached positions, and one that is always shown: the token's own."""
