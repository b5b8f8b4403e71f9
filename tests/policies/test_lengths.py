import random

import pytest

from policies import lengths
from policies.lengths import GUESS, HANDFUL, Lengths


def told(length, *tokens, limit=None):
    for one in tokens:
        length.observe(one, limit)
    return length.expected()


def test_until_there_are_answers_the_routes_guess_holds():
    assert Lengths().of("acme", "chat", 200.0).expected() == (200.0, 0.0)


def test_a_handful_of_answers_outweighs_the_guess():
    expected = told(Lengths().of("acme", "chat", 200.0), *[8.0] * 16)
    assert expected.mean < 20
    assert told(Lengths().of("acme", "chat", 200.0), 8.0).mean < 160, "each of the first counts at once"


def test_mean_and_deviation_are_those_of_the_answers():
    rng, length = random.Random(1), Lengths().of("acme", "chat", 200.0)
    answers = [rng.lognormvariate(4.0, 0.5) for _ in range(2000)]
    mean = sum(answers) / len(answers)
    deviation = (sum((one - mean) ** 2 for one in answers) / len(answers)) ** 0.5
    expected = told(length, *answers)
    assert expected.mean == pytest.approx(mean, rel=0.2)
    assert expected.deviation == pytest.approx(deviation, rel=0.4)


def test_equal_answers_leave_little_deviation():
    assert told(Lengths().of("acme", "chat", 50.0), *[50.0] * 100).deviation == pytest.approx(0.0, abs=1e-3)


def test_what_is_expected_follows_a_change():
    length = Lengths().of("acme", "chat", 200.0)
    told(length, *[10.0] * 500)
    assert told(length, *[400.0] * 500).mean == pytest.approx(400.0, rel=0.1)


def test_a_new_tenant_starts_from_its_model_and_a_new_model_from_the_guess():
    known = Lengths()
    told(known.of("acme", "chat", 200.0), *[20.0] * 200)
    newcomer = known.of("other", "chat", 200.0)
    assert newcomer.expected().mean == pytest.approx(20.0, rel=0.4)
    assert known.of("other", "coder", 200.0).expected().mean == 200.0


def test_tenants_differ_in_the_end():
    known = Lengths()
    brief, wordy = known.of("brief", "chat", 200.0), known.of("wordy", "chat", 200.0)
    for _ in range(200):
        brief.observe(5.0, None)
        wordy.observe(500.0, None)
    assert brief.expected().mean < 30
    assert wordy.expected().mean > 470


def test_somebody_who_only_looks_sees_what_others_taught():
    """An explanation is asked for under a name that gets no answers."""
    known = Lengths()
    looks = known.of("admin", "chat", 200.0)
    assert looks.expected().mean == 200.0
    told(known.of("acme", "chat", 200.0), *[10.0] * 50)
    assert looks.expected().mean < 30


def test_an_answer_cut_off_below_what_is_expected_teaches_nothing():
    length = Lengths().of("acme", "chat", 200.0)
    assert told(length, *[16.0] * 500, limit=16).mean == 200.0
    assert told(length, *[8.0] * 16, limit=16).mean < 20, "shorter than its limit: it ended by itself"


def test_an_answer_cut_off_above_what_is_expected_teaches_at_least_that():
    length = Lengths().of("acme", "chat", 10.0)
    assert told(length, *[400.0] * 100, limit=400).mean == pytest.approx(400.0, rel=0.1)


def test_figures_are_made_anew_every_few_answers_only():
    length = Lengths().of("acme", "chat", 200.0)
    told(length, *[10.0] * 64)
    first = length.expected()
    length.observe(1000.0, None)
    assert length.expected() is first
    told(length, *[1000.0] * lengths.REFRESH_EVERY)
    assert length.expected().mean > first.mean


def test_a_reload_may_change_the_guess():
    known = Lengths()
    assert known.of("acme", "chat", 200.0).expected().mean == 200.0
    again = known.of("acme", "chat", 50.0)
    assert again.expected().mean == 50.0


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(lengths, "MAX_LENGTHS", 3)
    monkeypatch.setattr(lengths, "MAX_MODELS", 2)
    known = Lengths()
    kept = known.of("t0", "m0", 1.0)
    for index in range(1, 10):
        known.of(f"t{index}", f"m{index}", 1.0)
        assert known.of("t0", "m0", 1.0) is kept, "in use"
    assert len(known) == 3


def test_the_handful_is_where_both_weigh_the_same():
    length = Lengths().of("acme", "chat", 0.0)
    model = HANDFUL / (HANDFUL + GUESS)
    assert told(length, *[100.0] * int(HANDFUL)).mean == pytest.approx(100 * (model + 0.5 * (1 - model)))
