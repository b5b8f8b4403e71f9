"""Continuous batching by transformers behind the slot engine's words, with a tiny random Llama on the CPU."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

from workers.engines.text import Sampling  # noqa: E402
from workers.engines.transformers_text import ContinuousEngine, _blocks  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's and transformers' own
END = 2
GREEDY = Sampling(temperature=0, max_tokens=8, ignore_eos=True)
PROMPTS = [[5, 9, 30], [7, 8, 1, 44, 3, 9]]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        eos_token_id=END,
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    model.config.save_pretrained(folder)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    safetensors_torch.save_file(weights, folder / "tiny.safetensors")
    return folder


def opened(folder, **settings):
    settings = {"slots": 4, "end": END} | settings
    return ContinuousEngine(folder / "tiny.safetensors", config=folder / "config.json", **settings)


@pytest.fixture
def engine(folder):
    engine = opened(folder)
    yield engine
    engine.close()


def run(engine):
    """Steps until nothing is active, by slot."""
    steps = {}
    while engine.active:
        for step in engine.step():
            steps.setdefault(step.slot, []).append(step)
    return steps


def greedy(model, prompt, tokens):
    ids = torch.tensor([prompt])
    settings = {"max_new_tokens": tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return model.generate(ids, **settings)[0, len(prompt) :].tolist()


def test_sequences_that_share_a_batch_get_the_tokens_they_get_alone(engine, model):
    slots = [engine.start(prompt, GREEDY) for prompt in PROMPTS]
    steps = run(engine)
    for slot, prompt in zip(slots, PROMPTS, strict=True):
        assert [step.token for step in steps[slot]] == greedy(model, prompt, 8)
        assert [step.done for step in steps[slot]] == [None] * 7 + ["length"]


def test_a_greedy_sequence_is_untouched_by_a_neighbour_that_is_drawn(engine, model):
    slot = engine.start(PROMPTS[0], GREEDY)
    engine.start(PROMPTS[1], Sampling(temperature=2.0, max_tokens=8, ignore_eos=True))
    assert [step.token for step in run(engine)[slot]] == greedy(model, PROMPTS[0], 8)


def test_the_end_token_ends_an_answer_unless_it_is_to_be_ignored(folder, model):
    expected = greedy(model, PROMPTS[0], 8)
    engine = opened(folder, end=expected[3])
    try:
        slot = engine.start(PROMPTS[0], Sampling(temperature=0, max_tokens=8))
        ended = run(engine)[slot]
        slot = engine.start(PROMPTS[0], GREEDY)
        ignored = run(engine)[slot]
    finally:
        engine.close()
    first = expected.index(expected[3])
    assert [step.token for step in ended] == expected[: first + 1]
    assert ended[-1].done == "stop"
    assert len(ignored) == 8
    assert ignored[-1].done == "length"


def test_a_step_says_how_many_tokens_it_took_of_each(engine):
    slot = engine.start(PROMPTS[1], Sampling(temperature=0, max_tokens=3, ignore_eos=True))
    taken = []
    while engine.active:
        if engine.step():
            taken.append(dict(engine.taken))
    assert sum(each[slot] for each in taken) == len(PROMPTS[1]) + 2


def test_a_cancelled_sequence_frees_its_slot_and_says_nothing_more(engine):
    slots = [engine.start(PROMPTS[0], Sampling(temperature=0, max_tokens=100, ignore_eos=True)) for _ in range(4)]
    with pytest.raises(IndexError):
        engine.start(PROMPTS[0], GREEDY)
    while not engine.step():
        pass
    for slot in slots:
        engine.stop(slot)
    engine.stop(slots[0])  # again: nothing happens
    assert engine.active == 0
    slot = engine.start(PROMPTS[1], GREEDY)
    steps = run(engine)
    assert list(steps) == [slot]
    assert len(steps[slot]) == 8
    assert engine.kv_use == 0


@pytest.mark.parametrize(("prompt", "message"), [([], "empty"), ([3] * 128, "128 tokens"), ([64], "outside 0..63")])
def test_a_prompt_that_cannot_be_read_is_refused(engine, prompt, message):
    with pytest.raises(ValueError, match=message):
        engine.start(prompt, GREEDY)


def test_a_dead_batching_thread_is_a_fault_and_not_silence(folder):
    engine = opened(folder)
    engine.start(PROMPTS[0], Sampling(temperature=0, max_tokens=100, ignore_eos=True))
    engine.close()
    with pytest.raises(RuntimeError, match="thread has ended"):
        run(engine)


def test_files_that_do_not_fit_are_named(folder, tmp_path):
    with pytest.raises(ValueError, match=r"none\.json"):
        ContinuousEngine(folder / "tiny.safetensors", config=folder / "none.json", end=END, slots=1)
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"broken\.safetensors: cannot be read"):
        ContinuousEngine(tmp_path / "broken.safetensors", config=folder / "config.json", end=END, slots=1)
    safetensors_torch.save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors: not the weights of config\.json"):
        ContinuousEngine(tmp_path / "other.safetensors", config=folder / "config.json", end=END, slots=1)


def test_a_cache_is_no_larger_than_all_slots_can_fill(model):
    """Two layers of two cached heads, 8 wide: 32 KiB a page."""
    assert _blocks(model.config, slots=4, context=512, bytes_free=1e9) == 4 * 3
    assert _blocks(model.config, slots=4, context=512, bytes_free=12 * 2 * 32768 + 1) == 12
    assert _blocks(model.config, slots=4, context=512, bytes_free=12 * 2 * 32768 - 1) is None
