"""The corpus: seeded, true, and never showing what the exam asks."""

import re
from itertools import islice

from workers.models.tinychat import corpus


def test_every_fact_can_be_learnt_and_no_question_has_two_answers():
    answers: dict[str, str] = {}
    for fact in corpus.known():
        assert any(not corpus.held_out(fact, question) for question in fact.questions)
        for question in fact.questions:
            assert answers.setdefault(question, fact.answer) == fact.answer


def test_sums_are_right():
    sums = [fact for fact in corpus.known() if fact.topic in ("plus", "minus", "times")]
    assert len(sums) == 169 + 91 + 121
    for fact in sums:
        a, b, result = map(int, re.findall(r"\d+", fact.answer))
        assert result == {"plus": a + b, "minus": a - b, "times": a * b}[fact.topic]
        assert all(str(a) in question and str(b) in question for question in fact.questions)


def test_the_exam_is_fixed_and_never_taught():
    exam = corpus.exam()
    assert exam == corpus.exam()
    assert len(exam) >= 300
    asked = {question.lower().strip(" ?.!") for question, _ in exam}
    taught = {
        message["content"].lower().strip(" ?.!")
        for messages in islice(corpus.dialogues(5), 3000)
        for message in messages
        if message["role"] == "user"
    }
    assert len(taught) > 2000
    assert not asked & taught


def test_a_seed_gives_the_same_dialogues():
    assert list(islice(corpus.dialogues(1), 50)) == list(islice(corpus.dialogues(1), 50))
    assert list(islice(corpus.dialogues(1), 50)) != list(islice(corpus.dialogues(2), 50))


def test_dialogues_take_turns():
    for messages in islice(corpus.dialogues(3), 300):
        roles = [message["role"] for message in messages]
        if roles[0] == "system":
            del roles[0]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert all(message["content"] for message in messages)


def test_passages_are_true_statements_or_stories():
    answers = {fact.answer for fact in corpus.known()}
    for passage in islice(corpus.passages(4), 100):
        told = passage.startswith("Once there was")
        assert told or any(passage.startswith(answer) for answer in answers)
