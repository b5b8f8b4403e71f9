"""The slot engine: continuous batching never changes what a sequence says."""

import random
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.workers.engines import plain_llama
from workers.engines import slots
from workers.engines.slots import SlotEngine
from workers.engines.text import Sampling
from workers.manifest import packaged
from workers.models.tinychat import graph, train

FOLDER = packaged("tinychat").parent
END = 1
SMALL = graph.Shape(vocabulary=128, width=64, layers=2, heads=4, cached_heads=2, hidden=64, context=192)


def made(folder: Path, precision: str) -> Path:
    """A small model with random weights: nothing it says is easy, so any mix-up of rows shows."""
    path = folder / f"{precision}.onnx"
    onnx.save(graph.build(SMALL, train.fresh_weights(SMALL, 3), precision), path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("model"), "fp32")


def greedy(tokens: int) -> Sampling:
    return Sampling(temperature=0, max_tokens=tokens, ignore_eos=True)


def alone(path: Path, prompt: list[int], sampling: Sampling) -> list[int]:
    engine = SlotEngine(path, END, 1)
    engine.start(prompt, sampling)
    found = []
    while engine.active:
        found += [step.token for step in engine.step()]
    return found


def prompts(count: int, longest: int, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(2, SMALL.vocabulary) for _ in range(rng.randint(1, longest))] for _ in range(count)]


def test_greedy_tokens_are_those_of_a_plain_forward_pass(model: Path):
    weights = train.fresh_weights(SMALL, 3)
    for prompt in ([5], prompts(1, 30)[0], [7] * 100):
        assert alone(model, prompt, greedy(12)) == plain_llama.greedy(weights, SMALL, prompt, 12)


def test_the_committed_model_speaks_as_a_plain_forward_pass_does():
    weights = plain_llama.read_weights(FOLDER / "tinychat.fp32.onnx")
    prompt = np.random.default_rng(0).integers(5, 2048, 40).tolist()
    found = alone(FOLDER / "tinychat.fp32.onnx", prompt, greedy(6))
    assert found == plain_llama.greedy(weights, graph.Shape(), prompt, 6)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_sequences_that_come_and_go_say_what_they_say_alone(tmp_path: Path, precision: str, seed: int):
    path = made(tmp_path, precision)
    rng = random.Random(seed)
    waiting = [(prompt, greedy(rng.randint(1, 60))) for prompt in prompts(24, 90, seed)]
    expected = [alone(path, prompt, sampling) for prompt, sampling in waiting]
    engine = SlotEngine(path, END, 5)
    found: dict[int, list[int]] = {}
    owner: dict[int, int] = {}
    cancelled = set()
    started = 0
    while started < len(waiting) or engine.active:
        while started < len(waiting) and engine.free and rng.random() < 0.4:
            slot = engine.start(*waiting[started])
            owner[slot], found[started] = started, []
            started += 1
        for step in engine.step():
            found[owner[step.slot]].append(step.token)
            if step.done:
                del owner[step.slot]
        if owner and rng.random() < 0.05:  # a client leaves
            slot = rng.choice(sorted(owner))
            engine.stop(slot)
            cancelled.add(owner.pop(slot))
    assert cancelled
    for index, tokens in found.items():
        assert tokens == expected[index][: len(tokens)]
        assert index in cancelled or len(tokens) == len(expected[index])


def test_sampled_tokens_depend_on_the_seed_not_on_the_batch(model: Path):
    prompt = prompts(1, 20)[0]
    sampling = Sampling(temperature=1.0, top_p=0.9, seed=11, max_tokens=20, ignore_eos=True)
    expected = alone(model, prompt, sampling)
    engine = SlotEngine(model, END, 4)
    for other in prompts(3, 40, seed=9):
        engine.start(other, Sampling(seed=5, max_tokens=50, ignore_eos=True))
    engine.step()
    slot = engine.start(prompt, sampling)
    found = [step.token for _ in range(30) for step in engine.step() if step.slot == slot]
    assert found == expected
    assert alone(model, prompt, Sampling(temperature=1.0, seed=12, max_tokens=20, ignore_eos=True)) != expected


def test_a_prompt_is_read_while_others_go_on(model: Path):
    engine = SlotEngine(model, END, 2)
    first = engine.start([3], greedy(50))
    engine.step()
    second = engine.start([4] * 150, greedy(5))
    steps = [{step.slot for step in engine.step()} for _ in range(-(-150 // slots.CHUNK))]
    assert all(first in answered for answered in steps)
    assert [second in answered for answered in steps] == [False] * (len(steps) - 1) + [True]


def test_a_step_says_how_many_tokens_it_took_of_whom(model: Path):
    engine = SlotEngine(model, END, 2)
    first = engine.start([3], greedy(2))
    second = engine.start([4] * 100, greedy(5))
    engine.step()
    assert engine.taken == {first: 1, second: slots.CHUNK}
    engine.step()
    assert engine.taken == {first: 1, second: 100 - slots.CHUNK}
    engine.step()
    assert engine.taken == {second: 1}
    engine.stop(second)
    assert engine.step() == []
    assert engine.taken == {}


def test_the_end_token_stops_and_frees_the_slot(model: Path):
    engine = SlotEngine(model, alone(model, [9], greedy(3))[2], 1)
    slot = engine.start([9], Sampling(temperature=0))
    steps = []
    while engine.active:
        steps += engine.step()
    assert steps[-1].done == "stop"
    assert len(steps) <= 3
    assert all(step.slot == slot for step in steps)
    assert engine.free == 1


def test_the_context_ends_an_answer(model: Path):
    found = alone(model, [4] * (SMALL.context - 3), greedy(100))
    assert len(found) == 4  # three more positions, and the token that no position is left for


def test_slots_run_out_and_come_back(model: Path):
    engine = SlotEngine(model, END, 2)
    one, two = engine.start([1], greedy(5)), engine.start([2], greedy(5))
    assert {one, two} == {0, 1}
    with pytest.raises(IndexError):
        engine.start([3], greedy(5))
    engine.stop(one)
    engine.stop(one)
    assert engine.free == 1
    assert engine.start([3], greedy(5)) == one
    assert engine.active == 2


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([], "empty"), ([5] * 192, "has 192 tokens; the model reads at most 191"), ([128], "outside 0..127")],
)
def test_an_unreadable_prompt_is_refused_and_costs_no_slot(model: Path, prompt: list[int], message: str):
    engine = SlotEngine(model, END, 1)
    with pytest.raises(ValueError, match=message):
        engine.start(prompt, greedy(1))
    assert engine.free == 1


def test_cache_use_rises_and_falls(model: Path):
    engine = SlotEngine(model, END, 2)
    assert engine.kv_use == 0
    assert engine.step() == []
    engine.start([4] * 48, greedy(3))
    engine.step()
    assert engine.kv_use == 48 / (2 * SMALL.context)
    while engine.active:
        engine.step()
    assert engine.kv_use == 0


def test_a_graph_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="not a slot-engine graph"):
        SlotEngine(packaged("digits").parent / "digits.fp32.onnx", END)
