"""Text generation by transformers' continuous batching: paged key/value cache, CUDA graphs where it captures them (with
flash attention installed; without it a mask as large as the cache is padded, and it does not).

Adopted whole: its thread schedules, batches and samples; this file speaks the slot engine's words to the runner. What
it cannot do: the same seed does not give the same answer twice, because its sampler is shared by all requests.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file

from workers.engines.slots import Step
from workers.engines.text import Sampling, readable
from workers.engines.torch_precision import convert

WAIT_SECONDS = 0.1
"""Longest wait for a token: then the runner can cancel and start others."""
GREEDY = 1e-6
"""`top_p` so small that only the likeliest token is left: how one request is greedy while its neighbours are not."""
WARM = 0.999
"""A temperature and `top_p` that are not 1: where they are, transformers builds no way to set them per request."""
BLOCK = 256
"""Positions per page of the cache: transformers' default."""
READ_TOKENS = 1024
"""Most new tokens in a step on CUDA: longer prompts are read in pieces, so that the others' next tokens wait less."""
KEYS_AND_VALUES = 2 * 2
"""Bytes: one of each, in 16 bits."""
CACHE_SHARE = 0.8
"""Of free device memory at most: transformers' own bound where it draws tokens, which needs room for their scores."""
CPU_SHARE = 0.05
"""Of free memory: a CPU serves small models, for trying things out."""
NO_END = -1
"""The end token of requests that have none."""


class _Sequence:
    """A request under way."""

    __slots__ = ("end", "id", "prompt", "seen")

    def __init__(self, request: str, prompt: int, end: int) -> None:
        self.id = request
        self.prompt = prompt
        self.end = end
        self.seen = 0


class ContinuousEngine:
    """A causal language model with at most `slots` sequences in flight. The shape is SlotEngine's."""

    def __init__(
        self,
        weights: Path,
        *,
        config: Path,
        end: int,
        slots: int,
        form: str = "",
        device: str | None = None,
        spare: int | None = None,
    ) -> None:
        """`weights` is a safetensors file, `config` its `config.json`; `end` the token that closes an answer;
        `spare` how many bytes cache and steps may take (default: 80 % of what is free).

        Raises ValueError that names the file.
        """
        self.slots = slots
        self.taken: Mapping[int, int] = {}
        self._end = end
        self._model = load_model(weights, config, form, device)
        self.context: int = self._model.config.max_position_embeddings
        self.vocabulary: int = self._model.config.vocab_size
        self._sequences: dict[int, _Sequence] = {}
        self._slot_of: dict[str, int] = {}
        self._free = list(range(slots - 1, -1, -1))
        self._numbers = itertools.count()
        self._batching = self._started(spare)

    @property
    def active(self) -> int:
        return len(self._sequences)

    @property
    def kv_use(self) -> float:
        """Share of the cache's pages that are taken."""
        processor = self._batching.batch_processor
        if processor is None:
            return 0.0
        cache = processor.cache
        return 1 - cache.get_num_free_blocks() / cache.num_blocks

    def start(self, prompt: Sequence[int], sampling: Sampling) -> int:
        """Take a free slot for a prompt; its first token comes from a later `step`.

        Raises IndexError when no slot is free, ValueError when the prompt is empty, too long or not of this vocabulary.
        """
        readable(prompt, self.context, self.vocabulary)
        slot = self._free.pop()
        request = f"{slot}.{next(self._numbers)}"
        end = NO_END if sampling.ignore_eos else self._end
        self._sequences[slot] = _Sequence(request, len(prompt), end)
        self._slot_of[request] = slot
        greedy = sampling.temperature == 0
        self._batching.add_request(
            list(prompt),
            request_id=request,
            max_new_tokens=min(sampling.max_tokens, self.context - len(prompt)),
            streaming=True,
            eos_token_id=end,
            temperature=1.0 if greedy else float(sampling.temperature),
            top_p=GREEDY if greedy else float(sampling.top_p),
        )
        return slot

    def stop(self, slot: int) -> None:
        """Cancel a sequence. A slot that is already free is left alone."""
        if slot in self._sequences:
            self._batching.cancel_request(self._release(slot).id)

    def step(self) -> list[Step]:
        """Wait until some sequences have new tokens; those, in their order, none if there were none in time.

        Raises RuntimeError when the batching thread has died or a sequence failed.
        """
        self.taken = {}
        if not self._sequences:
            return []
        output = self._batching.get_result(timeout=WAIT_SECONDS)
        if output is None and not self._batching.is_running():
            raise RuntimeError("transformers' batching thread has ended")
        steps: list[Step] = []
        taken: dict[int, int] = {}
        while output is not None:
            self._receive(output, steps, taken)
            output = None if self._batching.output_router.output_queue.empty() else self._batching.get_result(timeout=0)
        self.taken = taken
        return steps

    def close(self) -> None:
        """End the batching thread; nothing can be started afterwards."""
        if self._batching.is_running():
            self._batching.stop(block=True, timeout=10, hard_stop=True)

    def _receive(self, output: Any, steps: list[Step], taken: dict[int, int]) -> None:
        """One message of the batching thread: one token, or a failure. Of a sequence cancelled meanwhile, nothing."""
        slot = self._slot_of.get(output.request_id)
        if slot is None:
            return
        sequence = self._sequences[slot]
        if output.error is not None:
            self._release(slot)
            raise RuntimeError(f"transformers failed a sequence: {output.error}")
        taken[slot] = taken.get(slot, 0) + (1 if sequence.seen else sequence.prompt)
        token = output.generated_tokens[sequence.seen]
        sequence.seen += 1
        done = None
        if output.is_finished():
            done = "stop" if token == sequence.end else "length"
            self._release(slot)
        steps.append(Step(slot, token, done))

    def _release(self, slot: int) -> _Sequence:
        sequence = self._sequences.pop(slot)
        del self._slot_of[sequence.id]
        self._free.append(slot)
        return sequence

    def _started(self, spare: int | None) -> Any:
        generation = transformers.GenerationConfig(
            do_sample=True, temperature=WARM, top_p=WARM, top_k=0, eos_token_id=self._end, max_new_tokens=self.context
        )
        device = self._model.device
        share, blocks = _share(device, spare), None
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            blocks = _blocks(self._model.config.get_text_config(), self.slots, self.context, share * free)
        settings = transformers.ContinuousBatchingConfig(
            block_size=BLOCK,
            num_blocks=blocks,
            max_batch_tokens=READ_TOKENS if device.type == "cuda" else None,
            max_requests_per_batch=self.slots,
            max_memory_percent=share,
            per_request_processors=True,
        )
        batching = self._model.init_continuous_batching(generation, settings)
        if device.type == "cuda":
            batching.warmup()
        batching.start()
        return batching


def _share(device: torch.device, spare: int | None) -> float:
    """How much of what is free the cache and the steps may take, as transformers wants it told; on a CPU it looks at
    the machine's memory."""
    if device.type != "cuda":
        return CPU_SHARE
    if spare is None:
        return CACHE_SHARE
    free, _ = torch.cuda.mem_get_info(device)
    return min(spare / free, CACHE_SHARE)


def _blocks(config: Any, slots: int, context: int, bytes_free: float) -> int | None:
    """Pages for all slots at full length, where they take less than half of what is free: otherwise the cache would
    take all of it, and what is captured over the whole of the cache as much again. None: as many as fit."""
    pages = slots * (context // BLOCK + 1)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    each = BLOCK * width * config.num_key_value_heads * config.num_hidden_layers * KEYS_AND_VALUES
    return pages if pages * each < bytes_free / 2 else None


def load_model(weights: Path, config: Path, form: str, device: str | None) -> Any:
    """A model of transformers' own classes with these weights. Only safetensors are read, and no code from the files.

    Raises ValueError that names the file at fault.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        settings = transformers.AutoConfig.from_pretrained(config, trust_remote_code=False)
        dtype = torch.bfloat16 if place.type == "cuda" else torch.float32
        with torch.device(place):
            model = transformers.AutoModelForCausalLM.from_config(
                settings, dtype=dtype, attn_implementation=_attention()
            )
    except (OSError, ValueError, KeyError, torch.OutOfMemoryError) as error:
        raise ValueError(f"{config}: transformers cannot build it: {error}") from error
    try:
        missing, unexpected = model.load_state_dict(load_file(weights, device=str(place)), strict=False)
    except Exception as error:  # safetensors' exception has no public base class
        raise ValueError(f"{weights}: cannot be read as safetensors: {error}") from error
    tied = set(model.all_tied_weights_keys)
    lost = [name for name in missing if name not in tied]
    if lost or unexpected:
        raise ValueError(f"{weights}: not the weights of {config.name}: {(lost or unexpected)[0]} does not fit")
    model.tie_weights()
    if form:
        convert(model.base_model, form)
    return model.eval().requires_grad_(False)


def _attention() -> str:
    """Named outright: left to itself transformers would ask its hub for flash attention."""
    return "sdpa" if transformers.utils.is_flash_attn_2_available() else "paged|sdpa"
