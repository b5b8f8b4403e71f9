"""Engines that behave like workers/engines and cost nothing, and a worker put together from them."""

import asyncio
import contextlib
import random
import threading
import time
from typing import NamedTuple

import numpy as np

from policies.records import Curve, Endpoint
from workers.batcher import Batcher
from workers.catalog import EMBEDDING, TENSOR, TEXT, Catalog, Entry
from workers.decisions import Decisions
from workers.engines import TensorSpec
from workers.engines.slots import Step
from workers.gauges import Gauges
from workers.http import Server
from workers.oip import OpenInference
from workers.openai import OpenAI
from workers.queue import Queue
from workers.rerank import Rerank
from workers.runners import Batched, Slotted

END = 256


class Bytes:
    """A tokenizer whose tokens are bytes; 256 ends an answer."""

    vocabulary = 257
    pieces = (*(bytes([i]) for i in range(256)), b"")

    def encode(self, text):
        return list(text.encode())

    def encode_chat(self, messages):
        if not messages:
            raise ValueError("messages is empty")
        return [token for message in messages for token in self.encode(message["content"])]


class Echo:
    """A slot engine that says its prompt again and again, one token a step.

    A step reads at most `chunk` tokens of a prompt and takes `pause` seconds; while `gate` is closed, steps wait for
    it. Everything done to it is on record.
    """

    context = 512

    def __init__(self, slots=2, pause=0.0, chunk=64):
        self.slots = slots
        self.chunk = chunk
        self.taken = {}
        self.pause = pause
        self.gate = threading.Event()
        self.gate.set()
        self.steps = 0
        self.stopped = []
        self.sampling = []
        self.broken = False
        self._active = {}

    @property
    def kv_use(self):
        return len(self._active) / self.slots

    def start(self, prompt, sampling):
        if not prompt:
            raise ValueError("the prompt is empty")
        slot = next(slot for slot in range(self.slots) if slot not in self._active)
        self._active[slot] = [list(prompt), sampling, 0, len(prompt)]
        self.sampling.append(sampling)
        return slot

    def stop(self, slot):
        self.stopped.append(slot)
        self._active.pop(slot, None)

    def step(self):
        if not self._active:
            self.taken = {}
            return []
        assert self.gate.wait(30)
        time.sleep(self.pause)
        if self.broken:
            raise RuntimeError("broken on purpose")
        self.steps += 1
        self.taken = {}
        steps = []
        for slot, sequence in list(self._active.items()):
            prompt, sampling, produced, pending = sequence
            self.taken[slot] = min(pending, self.chunk)
            sequence[3] = max(pending - self.chunk, 1)
            if pending > self.chunk:
                continue
            token = prompt[produced % len(prompt)]
            sequence[2] += 1
            done = "stop" if token == END else "length" if sequence[2] >= sampling.max_tokens else None
            if done:
                del self._active[slot]
            steps.append(Step(slot, token, done))
        return steps


class Doubler:
    """A tensor model that doubles `x`; refuses 666, breaks on 999, and remembers every batch."""

    inputs = (TensorSpec("x", "FP32", (-1, 2)), TensorSpec("k", "INT64", (-1, 1)))
    outputs = (TensorSpec("y", "FP32", (-1, 2)), TensorSpec("n", "INT64", (-1, 1)))

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.batches = []

    def run(self, works):
        assert self.gate.wait(30)
        x = np.concatenate([work["x"] for work in works])
        self.batches.append(len(x))
        if (x == 666).any():
            raise ValueError("input 'x' holds 666")
        if (x == 999).any():
            raise RuntimeError("broken on purpose")
        return [{"y": work["x"] * 2, "n": work["k"] + 1} for work in works]


def embed(works):
    """Three figures per sentence: its length, its first character, one half."""
    vectors = [np.array([[len(t), ord(t[0]), 0.5] for t in work], np.float32) for work in works]
    return [(vector, sum(map(len, work))) for vector, work in zip(vectors, works, strict=True)]


def plan(runner, queue, now, alone=False):
    """What a runner does with the most urgent of its lines; by default without waiting for more."""
    if isinstance(runner, Slotted):
        return runner.plan(queue, now)
    lines = queue.by_urgency([runner.lane])
    return runner.plan(queue, lines[0], now, now, alone) if lines else None


def endpoint(model="m", variant="fp32", base=0.01, item=0.005, prefill=0.0, decode=0.0, max_batch=4, task="text"):
    curve = Curve(base=base, item=item, prefill=prefill, decode=decode)
    return Endpoint(model=model, variant=variant, quality=1.0, curve=curve, max_batch=max_batch, task=task)


def text_entry(engine=None, model="echo", variant="fp32"):
    engine = engine or Echo()
    served = endpoint(model, variant, base=0.0, item=0.0, prefill=0.001, decode=0.01, max_batch=engine.slots)
    return Entry(served, TEXT, Slotted(served, engine), text=Bytes(), context=engine.context)


def tensor_entry(engine=None, model="double", variant="fp32"):
    engine = engine or Doubler()
    served = endpoint(model, variant, task="classification")
    runner = Batched(served, engine.run)
    return Entry(served, TENSOR, runner, inputs=engine.inputs, outputs=engine.outputs)


class Third:
    """A classifier of three classes: `x`'s two numbers are the shares of the first two."""

    inputs = (TensorSpec("x", "FP32", (-1, 2)),)
    outputs = (TensorSpec("probabilities", "FP32", (-1, 3)),)

    def run(self, works):
        return [{"probabilities": np.column_stack((work["x"], 1 - work["x"].sum(axis=1)))} for work in works]


def classifier_entry(model="third", **told):
    engine, served = Third(), endpoint(model, task="classification")
    told = {"classes": ("red", "green", "blue"), "features": ("r", "g")} | told
    return Entry(served, TENSOR, Batched(served, engine.run), inputs=engine.inputs, outputs=engine.outputs, **told)


def embedding_entry(model="lengths", variant="fp32"):
    served = endpoint(model, variant, task="embedding")
    return Entry(served, EMBEDDING, Batched(served, embed))


class Bench(NamedTuple):
    """A worker in this process."""

    url: str
    port: int
    batcher: Batcher
    server: Server
    gauges: Gauges


@contextlib.asynccontextmanager
async def serving(*entries, queue_limit=64, executing=True):
    """A worker of these entries; with `executing` off, nothing leaves its queue."""
    catalog = Catalog(entries)
    batcher = Batcher({entry.lane: entry.runner for entry in entries}, Queue(queue_limit))
    gauges = Gauges("boot", batcher, lambda: 0)
    gauges.worker_id = "w"
    surfaces = [
        *OpenAI(catalog, batcher, gauges.report, random.Random(1)).routes(),
        *Rerank(catalog, batcher).routes(),
        *Decisions(catalog, batcher).routes(),
        *OpenInference(catalog, batcher).routes(),
    ]
    server = Server(surfaces, gauges, batcher.clock)
    port = await server.start("127.0.0.1", 0)
    turns = asyncio.ensure_future(batcher.run()) if executing else None
    try:
        yield Bench(f"http://127.0.0.1:{port}", port, batcher, server, gauges)
    finally:
        if turns is not None:
            turns.cancel()
            await asyncio.wait([turns])
        await server.close()
        batcher.close()


async def until(condition, seconds=5.0):
    """Wait for something that another thread or process brings about."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - another thread or process sets it, no event of ours
            await asyncio.sleep(0.002)
