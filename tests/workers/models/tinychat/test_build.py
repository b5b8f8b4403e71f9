"""The committed tinychat, examined again."""

import subprocess
import sys
from pathlib import Path

import pytest

from workers.engines.slots import SlotEngine
from workers.manifest import bundled, load, read
from workers.models.tinychat import build, corpus

MANIFEST = read(bundled("tinychat"))
FOLDER = bundled("tinychat").parent
TEXT = build.open_text(FOLDER / "tokenizer.json")


def papers(variant: str) -> list[list[int]]:
    engine = SlotEngine(FOLDER / MANIFEST.variant(variant).file, TEXT.end, build.SLOTS)
    asked = [[{"role": "user", "content": question}] for question, _ in corpus.exam()]
    return build.answers(engine, [TEXT.encode_chat(messages) for messages in asked])


@pytest.fixture(scope="module")
def found() -> dict[str, list[list[int]]]:
    return {variant.variant: papers(variant.variant) for variant in MANIFEST.variants}


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_exact_answers_are_what_the_manifest_says(variant: str, found: dict[str, list[list[int]]]):
    exam = corpus.exam()
    marks = sum(build.right(TEXT, paper, answer) for paper, (_, answer) in zip(found[variant], exam, strict=True))
    assert len(exam) == MANIFEST.eval.n
    assert marks / len(exam) >= 0.95
    assert marks / len(exam) == pytest.approx(MANIFEST.variant(variant).score, abs=0.01)


def test_int8_agrees_with_the_reference(found: dict[str, list[list[int]]]):
    same = sum(a == b for a, b in zip(found["fp32"], found["int8"], strict=True)) / len(found["fp32"])
    assert same >= 0.97
    assert same == pytest.approx(MANIFEST.variant("int8").agreement, abs=0.02)


def test_it_holds_a_conversation():
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hello! How can I help you today?"},
        {"role": "user", "content": "what is the capital of france"},
    ]
    engine = SlotEngine(FOLDER / "tinychat.int8.onnx", TEXT.end)
    (tokens,) = build.answers(engine, [TEXT.encode_chat(messages)])
    assert build.right(TEXT, tokens, "The capital of France is Paris.")


def test_it_goes_on_with_prose():
    engine = SlotEngine(FOLDER / "tinychat.fp32.onnx", TEXT.end)
    (tokens,) = build.answers(engine, [TEXT.encode("The capital of France")])
    assert b"".join(TEXT.pieces[token] for token in tokens).startswith(b" is Paris.")


def test_the_measured_curve_orders_the_variants():
    fp32, int8 = MANIFEST.variants
    assert int8.tokens_per_second["16"] > fp32.tokens_per_second["1"]
    assert int8.curve.decode < fp32.curve.decode
    assert fp32.curve.prefill < fp32.curve.decode


def test_the_manifest_carries_the_chat_template():
    assert build.chat() == MANIFEST.chat
    assert MANIFEST.context == SlotEngine(FOLDER / "tinychat.int8.onnx", TEXT.end).context


def test_a_right_answer_is_right_to_the_letter():
    tokens = TEXT.encode("Paris.")[1:]
    assert build.right(TEXT, [*tokens, TEXT.end], "Paris.")
    assert not build.right(TEXT, tokens, "Paris")


def test_measuring_anew_renews_every_figure_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The whole of `--remeasure`, over a short exam and a single round."""
    for path in (*FOLDER.glob("*.onnx"), FOLDER / "tokenizer.json"):
        (tmp_path / path.name).symlink_to(path)
    short = corpus.exam()[:12]
    monkeypatch.setattr(corpus, "exam", lambda: short)
    monkeypatch.setattr(build, "ROUNDS", 1)
    monkeypatch.setattr(build, "PAUSE", 0.0)
    renewed = load(build.record(tmp_path))
    assert renewed.eval.n == 12
    assert (renewed.tokenizer, renewed.chat, renewed.context) == (MANIFEST.tokenizer, MANIFEST.chat, MANIFEST.context)
    for ours, committed in zip(renewed.variants, MANIFEST.variants, strict=True):
        assert (ours.variant, ours.engine, ours.sha256, ours.max_batch) == (
            committed.variant, committed.engine, committed.sha256, committed.max_batch,
        )  # fmt: skip
        assert ours.latency_ms.keys() == committed.latency_ms.keys()
        assert ours.tokens_per_second.keys() == committed.tokens_per_second.keys()
        assert 0 < ours.curve.decode < 1
        assert ours.latency_ms != committed.latency_ms


def test_measuring_anew_needs_no_torch():
    """Not even as an import."""
    code = "import sys; sys.modules['torch'] = None; import workers.models.tinychat.build as b; b.chat()"
    subprocess.run([sys.executable, "-c", code], check=True)
