"""Builds tinychat: trains it, writes the fp32 and int8 decoder graphs, examines and times both, writes the manifest.

Run `python -m workers.models.tinychat.build` with the `models` extra (ten minutes on one core; torch is needed here
only). `--weights FILE` writes the graphs from weights kept by an earlier run instead of training again; `--remeasure`
leaves the graphs as they are and writes the manifest anew, every figure from that one run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx

from policies.records import Curve
from workers.accelerate import evaluate, measure
from workers.engines.slots import SlotEngine
from workers.engines.text import Sampling, Text
from workers.manifest import SCHEMA, Chat, Eval, Manifest, Variant, encode, load
from workers.models.tinychat import corpus, graph, train

HERE = Path(__file__).parent
SLOTS = 16
"""Sequences in flight: the step grows almost in proportion beyond, so more only makes everybody slower."""
ANSWER_TOKENS = 80
GREEDY = Sampling(temperature=0, max_tokens=ANSWER_TOKENS)
CHECKED_AGAINST_TORCH = 24
ROUNDS = 6
"""Of which the least disturbed counts."""
PAUSE = 1.0
"""Seconds between rounds, because what disturbs one lasts about as long."""
IN_FLIGHT = (1, 4, 8, 16, 32)
BATCHES = (1, 8, 32)
"""Of these, the times of a step are recorded."""
SHORT, LONG = 16, 256
"""Prompt lengths whose difference gives the time per prompt token."""


class TokenizerConfig(msgspec.Struct, frozen=True):
    """The part of Hugging Face's `tokenizer_config.json` that says how to chat."""

    chat_template: str
    bos_token: str
    eos_token: str


def chat() -> Chat:
    config = msgspec.json.decode((HERE / "tokenizer_config.json").read_bytes(), type=TokenizerConfig)
    return Chat(config.chat_template, config.bos_token, config.eos_token)


def open_text(tokenizer: Path) -> Text:
    words = chat()
    return Text(tokenizer, words.template, words.end, words.begin)


def graph_path(folder: Path, precision: str) -> Path:
    return folder / f"tinychat.{precision}.onnx"


def answers(engine: SlotEngine, prompts: Sequence[Sequence[int]], sampling: Sampling = GREEDY) -> list[list[int]]:
    """Answer every prompt, as many in flight as the engine has slots."""
    found: list[list[int]] = [[] for _ in prompts]
    owner: dict[int, int] = {}
    waiting = list(range(len(prompts) - 1, -1, -1))
    while waiting or engine.active:
        while waiting and engine.free:
            index = waiting.pop()
            owner[engine.start(prompts[index], sampling)] = index
        for step in engine.step():
            found[owner[step.slot]].append(step.token)
    return found


def right(text: Text, found: Sequence[int], answer: str) -> bool:
    """Whether an answer is the expected one to the letter."""
    return b"".join(text.pieces[token] for token in found) == answer.encode()


def check_against_torch(engine: SlotEngine, weights: dict[str, np.ndarray], prompts: Sequence[Sequence[int]]) -> None:
    """The slot engine's greedy tokens must be torch's, which reads each sequence whole and keeps no cache."""
    import torch

    tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
    for prompt, found in zip(prompts, answers(engine, prompts), strict=True):
        with torch.no_grad():
            states = train.forward(tensors, graph.Shape(), torch.tensor([[*prompt, *found[:-1]]]))
        expected = (states[0, len(prompt) - 1 :] @ tensors["embedding"].T).argmax(-1).tolist()
        if found != expected:
            raise SystemExit(f"greedy tokens differ from torch's: {found} against {expected}")


def first_token_seconds(engine: SlotEngine, prompt: Sequence[int]) -> float:
    """Median CPU seconds from the start of a prompt alone to its first token."""

    def run() -> None:
        slot = engine.start(prompt, GREEDY)
        while not engine.step():
            pass
        engine.stop(slot)

    rounds = []
    for _ in range(ROUNDS):
        time.sleep(PAUSE)
        rounds.append(measure.timed(run, 0.06, fewest=10))
    return float(np.median(measure.least_disturbed(rounds)))


def decode_steps(path: Path, text: Text, flights: int, tokens: int = 100) -> tuple[list[float], float]:
    """CPU seconds of each decoding step with `flights` sequences, and output tokens per second over the whole run."""
    engine = SlotEngine(path, text.end, flights)
    rng = np.random.default_rng(0)
    sampling = Sampling(temperature=0, max_tokens=tokens, ignore_eos=True)
    rounds: list[list[float]] = []
    best = 0.0
    for _ in range(ROUNDS):
        time.sleep(PAUSE)
        took: list[float] = []
        began, produced = time.thread_time(), 0
        for _ in range(flights):
            engine.start(rng.integers(5, text.vocabulary, 20).tolist(), sampling)
        while engine.active:
            step_began = time.thread_time()
            steps = engine.step()
            if len(steps) == flights:
                took.append(time.thread_time() - step_began)
            produced += len(steps)
        best = max(best, produced / (time.thread_time() - began))
        rounds.append(took)
    return measure.least_disturbed(rounds), best


def curve(engine: SlotEngine, decode: float, rng: np.random.Generator) -> Curve:
    short, long = (
        first_token_seconds(engine, rng.integers(5, engine.vocabulary, length).tolist()) for length in (SHORT, LONG)
    )
    prefill = max(long - short, 0) / (LONG - SHORT)
    return Curve(base=round(max(short - prefill * SHORT, 0), 8), prefill=round(prefill, 8), decode=round(decode, 8))


def paper(text: Text, found: Sequence[Sequence[int]], exam: Sequence[tuple[str, str]]) -> evaluate.Paper:
    """Answers to the exam, to be compared token by token."""
    answers = np.empty(len(found), object)
    answers[:] = [tuple(tokens) for tokens in found]
    marks = [right(text, tokens, answer) for tokens, (_, answer) in zip(found, exam, strict=True)]
    return evaluate.Paper(answers, np.array(marks))


def measured(
    path: Path, variant: str, text: Text, reference: list[list[int]] | None
) -> tuple[Variant, list[list[int]]]:
    """Examine and time one variant; also returns its answers, token by token."""
    exam = corpus.exam()
    prompts = [text.encode_chat([{"role": "user", "content": question}]) for question, _ in exam]
    engine = SlotEngine(path, text.end, SLOTS)
    found = answers(engine, prompts)
    reference = reference or found
    quality = evaluate.compared(paper(text, found, exam), paper(text, reference, exam))
    steps = {flights: decode_steps(path, text, flights) for flights in IN_FLIGHT}
    latencies = {str(batch): measure.latency(steps[batch][0]) for batch in BATCHES}
    result = measure.variant(
        path,
        variant,
        "slots",
        quality=quality,
        latency_ms=latencies,
        tokens_per_second={str(flights): round(rate) for flights, (_, rate) in steps.items()},
        curve=curve(engine, latencies["1"].p50 / 1e3, np.random.default_rng(1)),
        max_batch=SLOTS,
    )
    return result, found


def write_graphs(weights_path: Path | None, keep: Path | None) -> None:
    """Train, or read kept weights, and write the graphs, checked against torch."""
    shape, tokenizer = graph.Shape(), HERE / "tokenizer.json"
    if weights_path:
        text = open_text(tokenizer)
        with np.load(weights_path) as kept:
            weights = dict(kept)
    else:
        train.train_tokenizer(tokenizer, shape.vocabulary)
        text = open_text(tokenizer)
        weights = train.train(text, shape)
    if keep:
        np.savez(keep, **weights)
    for precision in graph.PRECISIONS:
        onnx.save(graph.build(shape, weights, precision), graph_path(HERE, precision))
    questions = [question for question, _ in corpus.exam()[:: len(corpus.exam()) // CHECKED_AGAINST_TORCH]]
    prompts = [text.encode_chat([{"role": "user", "content": question}]) for question in questions]
    check_against_torch(SlotEngine(graph_path(HERE, "fp32"), text.end), weights, prompts)


def record(folder: Path) -> Path:
    """Examine and time the folder's graphs, all in this one run, and write the manifest beside them; its path."""
    tokenizer = folder / "tokenizer.json"
    text = open_text(tokenizer)
    variants = []
    reference = None
    for precision in graph.PRECISIONS:
        variant, found = measured(graph_path(folder, precision), precision, text, reference)
        reference = reference or found
        variants.append(variant)
    manifest = Manifest(
        schema=SCHEMA,
        model="tinychat",
        task="text",
        licence="Apache-2.0 (weights and training text, both of this project)",
        source="workers/models/tinychat: facts.py, corpus.py, train.py",
        eval=Eval(
            "corpus.exam()", len(corpus.exam()), "exact answers", "known facts asked in ways never seen with them"
        ),
        agreement_metric="share of held-out questions answered with the same tokens as by the reference",
        host=measure.host(),
        context=graph.Shape().context,
        tokenizer=measure.described(tokenizer),
        chat=chat(),
        variants=tuple(variants),
    )
    path = folder / "tinychat.manifest.json"
    path.write_bytes(encode(manifest))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, help="npz of trained weights: skip training")
    parser.add_argument("--keep", type=Path, help="where to keep the trained weights (npz)")
    parser.add_argument("--remeasure", action="store_true", help="keep the graphs, renew the manifest; needs no torch")
    asked = parser.parse_args()
    if not asked.remeasure:
        write_graphs(asked.weights, asked.keep)
    for variant in load(record(HERE)).variants:
        print(
            f"{variant.variant}: exact answers {variant.score:.4f}, agreement {variant.agreement}, "
            f"tokens/s {variant.tokens_per_second}, {variant.curve}"
        )


if __name__ == "__main__":
    main()
