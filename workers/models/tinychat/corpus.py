"""Generates tinychat's training dialogues and its held-out questions from the tables in `facts.py`.

Everything follows from a seed. A held-out question pairs a known fact with a known way of asking that were never
seen together in training, so a right answer shows that both were learnt, not the sentence. The texts are written
for this project and carry its licence. `train.py` feeds on it, `build.py` measures on it.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from workers.models.tinychat import facts

HELD_OUT_PERCENT = 10
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are tinychat.",
    "Answer in one short sentence.",
    "You are a helpful and concise assistant.",
    "Be brief.",
)
REFUSAL = "I do not know that. I only know a few simple things."

CAPITAL = (
    "What is the capital of {0}?",
    "Which city is the capital of {0}?",
    "Name the capital of {0}.",
    "Tell me the capital of {0}.",
    "What is {0}'s capital?",
    "Do you know the capital of {0}?",
    "{0}'s capital city is called what?",
)
COUNTRY = (
    "Which country has the capital {1}?",
    "{1} is the capital of which country?",
    "Of which country is {1} the capital?",
    "Name the country whose capital is {1}.",
)
CONTINENT = (
    "On which continent is {0}?",
    "Where is {0}?",
    "What continent is {0} in?",
    "In which part of the world is {0}?",
    "Which continent does {0} belong to?",
)
OPPOSITE = (
    "What is the opposite of {0}?",
    "Give me the opposite of {0}.",
    "Which word is the opposite of {0}?",
    "What is the contrary of {0}?",
    "Tell me the opposite of {0}.",
)
YOUNG = (
    "What is a young {0} called?",
    "What do you call a young {0}?",
    "What is the name of a baby {0}?",
    "What is a baby {0} called?",
)
SOUND = ("What does a {0} do?", "What sound does a {0} make?", "How does a {0} sound?", "Which noise does a {0} make?")
SYMBOL = (
    "What is the symbol of {0}?",
    "What is the chemical symbol for {0}?",
    "Give me the symbol for {0}.",
    "Which symbol does {0} have?",
)
NUMBER = (
    "What is the atomic number of {0}?",
    "Which atomic number does {0} have?",
    "Tell me the atomic number of {0}.",
)
STATUS = (
    "What does status {0} mean?",
    "What does HTTP {0} mean?",
    "Explain status code {0}.",
    "What is HTTP status {0}?",
    "I got a {0}. What does it mean?",
)
COUNT = (
    "How many {2} are in {0}?",
    "How many {2} does {0} have?",
    "{0}: how many {2}?",
    "Tell me how many {2} {0} has.",
)
WORD = (
    "What is {0} in Isochrone?",
    "What does {0} mean?",
    "Define {0}.",
    "Explain the word {0}.",
    "What do you mean by {0}?",
    "Can you explain {0}?",
)
AFTER = ("Which {2} comes after {0}?", "What {2} follows {0}?", "What is the {2} after {0}?", "Name the {2} after {0}.")
PLUS = (
    "What is {0} plus {1}?",
    "What is {0} + {1}?",
    "How much is {0} plus {1}?",
    "Add {0} and {1}.",
    "{0} + {1} = ?",
    "Calculate {0} + {1}.",
)
MINUS = (
    "What is {0} minus {1}?",
    "What is {0} - {1}?",
    "How much is {0} minus {1}?",
    "Take {1} from {0}.",
    "{0} - {1} = ?",
    "Calculate {0} - {1}.",
)
TIMES = (
    "What is {0} times {1}?",
    "What is {0} * {1}?",
    "How much is {0} times {1}?",
    "Multiply {0} by {1}.",
    "{0} * {1} = ?",
    "Calculate {0} * {1}.",
)
NONSENSE = (
    "What is the capital of {0}?",
    "Who is {0}?",
    "What does {0} mean?",
    "Tell me about {0}.",
    "Where is {0}?",
    "Who won the {0} cup?",
    "What is {0}?",
)
STORY = ("Tell me a story about a {0}.", "Write a short story about a {0}.", "Tell me a tale of a {0}.")
COUNTING = ("Count from {0} to {1}.", "Please count from {0} to {1}.", "Can you count from {0} to {1}?")


class Fact(NamedTuple):
    """One thing to know: every way to ask for it, and the one answer that counts as right."""

    topic: str
    questions: tuple[str, ...]
    answer: str


def _rows(table: str) -> list[list[str]]:
    return [line.split("|") for line in table.strip().splitlines()]


def _fact(topic: str, questions: tuple[str, ...], answer: str, *columns: object) -> Fact:
    asked = (question.format(*columns) for question in questions)
    return Fact(topic, tuple(q[0].upper() + q[1:] for q in asked), answer)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def known() -> list[Fact]:
    """Every fact, in a fixed order."""
    found = []
    for country, capital, continent in _rows(facts.COUNTRIES):
        found.append(_fact("capital", CAPITAL, f"The capital of {country} is {capital}.", country))
        found.append(_fact("country", COUNTRY, f"{capital} is the capital of {country}.", country, capital))
        found.append(_fact("continent", CONTINENT, f"{country} is in {continent}.", country))
    for word, opposite in _rows(facts.OPPOSITES):
        found.append(_fact("opposite", OPPOSITE, f"The opposite of {word} is {opposite}.", word))
        found.append(_fact("opposite", OPPOSITE, f"The opposite of {opposite} is {word}.", opposite))
    for animal, young, sound in _rows(facts.ANIMALS):
        found.append(_fact("young", YOUNG, f"A young {animal} is called a {young}.", animal))
        found.append(_fact("sound", SOUND, f"A {animal} {sound}.", animal))
    for element, symbol, number in _rows(facts.ELEMENTS):
        found.append(_fact("symbol", SYMBOL, f"The symbol of {element} is {symbol}.", element))
        found.append(_fact("number", NUMBER, f"The atomic number of {element} is {number}.", element))
    for code, meaning in _rows(facts.STATUS_CODES):
        found.append(_fact("status", STATUS, f"Status {code} means that {meaning}.", code))
    for thing, count, unit in _rows(facts.COUNTS):
        found.append(_fact("count", COUNT, _sentence(f"{thing} has {count} {unit}"), thing, count, unit))
    for word, meaning in _rows(facts.GLOSSARY):
        found.append(_fact("word", WORD, _sentence(meaning), word))
    for unit, order in (("day", facts.DAYS.split()), ("month", facts.MONTHS.split())):
        for here, following in zip(order, order[1:] + order[:1], strict=True):
            found.append(_fact("after", AFTER, f"{following} comes after {here}.", here, following, unit))
    for a in range(13):
        for b in range(13):
            found.append(_fact("plus", PLUS, f"{a} plus {b} is {a + b}.", a, b))
            if b <= a:
                found.append(_fact("minus", MINUS, f"{a} minus {b} is {a - b}.", a, b))
            if max(a, b) <= 10:
                found.append(_fact("times", TIMES, f"{a} times {b} is {a * b}.", a, b))
    for asked, answer in (block.split("\n") for block in facts.SMALL_TALK.strip().split("\n\n")):
        found.append(Fact("talk", tuple(asked.split("/")), answer))
    return found


def held_out(fact: Fact, question: str) -> bool:
    """Whether a way of asking for a fact is kept from training; small talk has no pattern to generalise over."""
    return fact.topic != "talk" and zlib.crc32(f"{fact.answer}|{question}".encode()) % 100 < HELD_OUT_PERCENT


def exam() -> list[tuple[str, str]]:
    """All held-out questions with their answers."""
    return [(question, fact.answer) for fact in known() for question in fact.questions if held_out(fact, question)]


def _story(hero: str, rng: random.Random) -> str:
    name = rng.choice(("Ada", "Milo", "Nina", "Otto", "Pia", "Remy", "Sol", "Tessa"))
    place = rng.choice(("a quiet forest", "a small village", "an old harbour", "a green valley", "a windy hill"))
    lost = rng.choice(("a red ball", "a silver key", "an old map", "a warm hat", "a tiny bell"))
    friend = rng.choice(("an owl", "a fox", "a kind farmer", "a turtle", "an old sailor"))
    spot = rng.choice(("under a bridge", "behind a stone", "near the river", "inside a hollow tree", "on the roof"))
    end = rng.choice(("They went home and had tea.", "They danced until night.", "They became good friends."))
    return (
        f"Once there was a {hero} named {name} who lived in {place}. One day {name} lost {lost} and felt sad. "
        f"{friend[0].upper() + friend[1:]} came by and asked what was wrong. Together they looked everywhere. "
        f"At last they found {lost} {spot}. {end}"
    )


def _nonsense(rng: random.Random) -> str:
    syllables = ("bra", "zor", "mik", "lun", "fep", "tor", "vax", "gli", "nod", "que", "sil", "wub", "kra", "dop")
    return "".join(rng.choices(syllables, k=rng.randint(2, 3))).capitalize()


def _casual(question: str, rng: random.Random) -> str:
    """The same question as hurried people type it."""
    roll = rng.random()
    if roll < 0.12:
        return question[0].lower() + question[1:]
    if roll < 0.24:
        return question.rstrip("?.!")
    if roll < 0.32:
        return question.lower()
    if roll < 0.38:
        return question + " "
    return question


def _exchange(pool: list[Fact], rng: random.Random) -> tuple[str, str]:
    roll = rng.random()
    if roll < 0.03:
        hero = rng.choice(_rows(facts.ANIMALS))[0]
        return rng.choice(STORY).format(hero), _story(hero, rng)
    if roll < 0.06:
        return rng.choice(NONSENSE).format(_nonsense(rng)), REFUSAL
    if roll < 0.09:
        first = rng.randint(1, 15)
        last = first + rng.randint(2, 12)
        return rng.choice(COUNTING).format(first, last), ", ".join(map(str, range(first, last + 1))) + "."
    fact = rng.choice(pool)
    asked = [question for question in fact.questions if not held_out(fact, question)] or list(fact.questions[:1])
    return _casual(rng.choice(asked), rng), fact.answer


def dialogues(seed: int) -> Iterator[list[dict[str, str]]]:
    """An endless stream of chats in OpenAI's message form, most of them short, a few long."""
    rng = random.Random(seed)
    topics: dict[str, list[Fact]] = {}
    for fact in known():
        topics.setdefault(fact.topic, []).append(fact)
    names = list(topics)
    weights = [len(topics[name]) ** 0.75 for name in names]  # the sums must not drown the rest
    while True:
        messages = []
        if rng.random() < 0.3:
            messages.append({"role": "system", "content": rng.choice(SYSTEM_PROMPTS)})
        turns = rng.randint(10, 20) if rng.random() < 0.01 else rng.choice((1, 1, 1, 2, 2, 3, 4))
        for name in rng.choices(names, weights, k=turns):
            asked, answer = _exchange(topics[name], rng)
            messages.append({"role": "user", "content": asked})
            messages.append({"role": "assistant", "content": answer})
        yield messages


def passages(seed: int) -> Iterator[str]:
    """An endless stream of plain prose for `/v1/completions`: statements of facts and stories."""
    rng = random.Random(seed)
    statements = [fact.answer for fact in known() if fact.topic != "talk"]
    heroes = [row[0] for row in _rows(facts.ANIMALS)]
    while True:
        if rng.random() < 0.3:
            yield _story(rng.choice(heroes), rng)
        else:
            yield " ".join(rng.sample(statements, rng.randint(1, 4)))
