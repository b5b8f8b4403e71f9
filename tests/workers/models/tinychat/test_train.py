"""What of the training needs no torch: tokenizer, lessons, batches, schedule."""

from itertools import islice
from pathlib import Path

import numpy as np
import tokenizers

from workers.manifest import packaged
from workers.models.tinychat import graph, train
from workers.models.tinychat.build import open_text

TOKENIZER = packaged("tinychat").parent / "tokenizer.json"
TEXT = open_text(TOKENIZER)


def test_the_committed_tokenizer_is_what_the_script_trains(tmp_path: Path):
    train.train_tokenizer(tmp_path / "tokenizer.json", graph.Shape().vocabulary)
    made, committed = (tokenizers.Tokenizer.from_file(str(p)) for p in (tmp_path / "tokenizer.json", TOKENIZER))
    assert made.get_vocab() == committed.get_vocab()


def test_digits_stay_single():
    assert [TEXT.pieces[i] for i in TEXT.encode("144")[1:]] == [b"1", b"4", b"4"]


def test_only_answers_count_in_a_lesson():
    messages = [
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Bye!"},
        {"role": "assistant", "content": "Goodbye."},
    ]
    ids, weights = train.lesson(TEXT, messages)
    assert len(ids) == len(weights)
    counted = [b"".join(TEXT.pieces[i] for i, w in zip(ids, weights, strict=True) if w == 1.0)]
    assert counted == [b"Hi.Goodbye."]
    assert sum(w == 1.0 and i == TEXT.end for i, w in zip(ids, weights, strict=True)) == 2
    assert ids[: len(TEXT.encode_chat(messages[:1]))] == TEXT.encode_chat(messages[:1])


def test_batches_are_full_mostly_real_and_seeded():
    shape = graph.Shape()
    batches = list(islice(train.batches(TEXT, shape, 7), 60))
    for ids, weights in batches:
        assert ids.shape == weights.shape
        assert ids.size <= train.BATCH_TOKENS
        assert ids.shape[1] <= shape.context
    padding = [np.mean((ids == TEXT.end) & (weights == 0)) for ids, weights in batches]
    assert np.mean(padding) < 0.2
    again = next(train.batches(TEXT, shape, 7))
    np.testing.assert_array_equal(batches[0][0], again[0])


def test_the_rate_rises_then_falls_to_nothing():
    rates = [train.rate(step, 500) for step in range(500)]
    peak = int(np.argmax(rates))
    assert abs(peak - train.WARM_UP_STEPS) <= 1
    assert max(rates) == train.PEAK_RATE
    assert np.all(np.diff(rates[:peak]) > 0)
    assert np.all(np.diff(rates[peak + 1 :]) < 0)
    assert rates[-1] < train.PEAK_RATE / 100


def test_fresh_weights_have_the_shapes_the_graph_reads():
    shape = graph.Shape(vocabulary=64, width=32, layers=1, heads=2, cached_heads=1, hidden=64, context=16)
    weights = train.fresh_weights(shape, 0)
    assert {name: w.shape for name, w in weights.items()} == {
        "embedding": (64, 32),
        "norm": (32,),
        "0.attention_norm": (32,),
        "0.qkv": (32, 64),
        "0.out": (32, 32),
        "0.mlp_norm": (32,),
        "0.gate_up": (32, 128),
        "0.down": (64, 32),
    }
