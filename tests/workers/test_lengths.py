import random

from workers.lengths import SHORTEST, alike, bucket


def test_buckets_are_powers_of_two_up_to_the_context():
    words = ["word " * n for n in (1, 12, 13, 25, 200, 2000)]
    assert [bucket(each, 256) for each in words] == [16, 16, 32, 32, 256, 256]
    assert bucket("word " * 2000) == 4096
    assert bucket("", 256) == SHORTEST


def test_a_script_whose_characters_are_tokens_is_as_long_as_its_tokens():
    assert bucket("\u6c34" * 100, 256) == 128


def test_broken_text_has_a_length_too():
    assert bucket("\ud800" * 100, 256) >= SHORTEST


def test_every_text_is_in_one_part_of_its_bucket_and_no_part_is_too_large():
    rng = random.Random(3)
    texts = ["x" * rng.randrange(1, 900) for _ in range(200)]
    parts = alike(texts, 256, lambda size: 512 // size)
    assert sorted(i for _, part in parts for i in part) == list(range(200))
    for size, part in parts:
        assert 0 < len(part) <= 512 // size
        assert {bucket(texts[i], 256) for i in part} == {size}
    assert [size for size, _ in parts] == sorted(size for size, _ in parts)


def test_parts_of_one_bucket_are_full_but_the_last():
    parts = alike(["abc"] * 10, 256, lambda size: 4)
    assert [len(part) for _, part in parts] == [4, 4, 2]
