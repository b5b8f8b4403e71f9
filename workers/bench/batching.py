"""Text generation as a worker serves it: transformers' continuous batching on a Llama of the decoder's shape.

Beside decoder.py's captured step it shows what scheduling, paging, sampling and the way to the runner cost.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from workers.bench.decoder import Texts
from workers.bench.llama import Shape
from workers.bench.meter import Meter
from workers.engines.text import Sampling
from workers.engines.transformers_text import ContinuousEngine

CONTEXT = 2048


class Batches:
    """Measures one model, served in bf16."""

    def __init__(self, meter: Meter, plan: Texts) -> None:
        self._meter, self._plan = meter, plan

    def describe(self) -> dict[str, Any]:
        plan = self._plan
        return {"shape": plan.shape._asdict(), "prompt": plan.prompt, "tokens": plan.tokens}

    def measure(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield a row for each number of sequences; `name` says nothing more."""
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            weights = written(Path(folder), self._plan.shape, self._meter.device)
            engine = ContinuousEngine(
                weights, config=Path(folder) / "config.json", end=0, slots=max(self._plan.sequences),
                device=str(self._meter.device),
            )  # fmt: skip
        try:
            yield {"load_s": time.monotonic() - begun}
            self._run(engine, 1)
            for sequences in self._plan.sequences:
                yield {"rows": [self._run(engine, sequences)]}
        finally:
            engine.close()

    def _run(self, engine: ContinuousEngine, sequences: int) -> dict[str, Any]:
        """All at once, each with a prompt of its own, so that no prefix is shared."""
        plan = self._plan
        sampling = Sampling(temperature=0, max_tokens=plan.tokens, ignore_eos=True)
        prompts = torch.randint(1, plan.shape.vocabulary, (sequences, plan.prompt)).tolist()
        begun = time.monotonic()
        for prompt in prompts:
            engine.start(prompt, sampling)
        firsts: dict[int, float] = {}
        tokens = 0
        while engine.active:
            for step in engine.step():
                firsts.setdefault(step.slot, time.monotonic() - begun)
                tokens += 1
        took = time.monotonic() - begun
        return {"sequences": sequences, "tokens_per_s": tokens / took, "first_token_s": max(firsts.values())}


def written(folder: Path, shape: Shape, device: torch.device) -> Path:
    """A Llama of transformers' own with random weights, as files."""
    config = transformers.LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.cached_heads,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=shape.epsilon,
        tie_word_embeddings=False,
    )
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    config.save_pretrained(folder)
    file = folder / "weights.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, file)
    return file
