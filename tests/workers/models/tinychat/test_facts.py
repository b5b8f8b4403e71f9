"""The tables tinychat learns from are well formed."""

import pytest

from workers.models.tinychat import facts

TABLES = {
    "COUNTRIES": 3,
    "OPPOSITES": 2,
    "ANIMALS": 3,
    "ELEMENTS": 3,
    "STATUS_CODES": 2,
    "COUNTS": 3,
    "GLOSSARY": 2,
}


@pytest.mark.parametrize("name", TABLES)
def test_every_row_has_its_columns_and_no_key_comes_twice(name: str):
    rows = [line.split("|") for line in getattr(facts, name).strip().splitlines()]
    assert {len(row) for row in rows} == {TABLES[name]}
    assert all(cell == cell.strip() and cell for row in rows for cell in row)
    keys = [row[0] for row in rows]
    assert len(set(keys)) == len(keys)


def test_opposites_are_opposites_once():
    words = [word for line in facts.OPPOSITES.strip().splitlines() for word in line.split("|")]
    assert len(set(words)) == len(words)


def test_a_week_and_a_year():
    assert (len(facts.DAYS.split()), len(facts.MONTHS.split())) == (7, 12)


def test_small_talk_is_questions_over_an_answer():
    blocks = [block.split("\n") for block in facts.SMALL_TALK.strip().split("\n\n")]
    assert all(len(block) == 2 for block in blocks)
    asked = [question for block in blocks for question in block[0].split("/")]
    assert len(set(asked)) == len(asked) >= 50
