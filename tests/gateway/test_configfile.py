from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from gateway.configfile import MAX_BYTES, MAX_MISTAKES, ConfigError, parse, read, suggest


class Cat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="cat"):
    lives: int = 9


class Dog(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="dog"):
    tricks: tuple[str, ...] = ()


class Home(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    street: str = ""
    floor: Annotated[int, Meta(ge=0)] = 0
    size: Literal["small", "large"] = "small"


class Town(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    homes: tuple[Home, ...] = ()
    named: dict[str, Home] = {}
    pet: Cat | Dog = Cat()


def wrong(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(text, "town.yaml", Town)
    return caught.value


def test_an_empty_file_is_all_defaults():
    assert parse("# nothing\n", "town.yaml", Town)[0] == Town()


def test_yaml_1_2_words_are_words():
    assert parse("named: {NO: {street: on}, yes: {}}", "t", Town)[0].named == {"NO": Home("on"), "yes": Home()}


def test_a_wrong_type_names_file_line_and_path():
    error = wrong("homes:\n  - street: a\n  - street: b\n    floor: high\n")
    assert str(error) == "town.yaml:4: $.homes[1].floor: Expected `int`, got `str`"
    assert (error.file, error.line, error.path) == ("town.yaml", 4, "$.homes[1].floor")


def test_a_bound_is_named():
    assert str(wrong("homes: [{floor: -1}]")) == "town.yaml:1: $.homes[0].floor: Expected `int` >= 0"


def test_every_mistake_is_listed_in_the_order_of_the_file():
    error = wrong("""
homes:
  - floor: high
  - street: a
    size: huge
    flor: 1
  - 5
  - {street: 7}
named: {x: {floor: -1}}
zzz: 1
""")
    assert str(error).splitlines() == [
        "town.yaml:3: $.homes[0].floor: Expected `int`, got `str`",
        "town.yaml:5: $.homes[1].size: Invalid enum value 'huge': known are `large`, `small`",
        "town.yaml:6: $.homes[1].flor: unknown field: did you mean `floor`?",
        "town.yaml:7: $.homes[2]: Expected `object`, got `int`",
        "town.yaml:8: $.homes[3].street: Expected `str`, got `int`",
        "town.yaml:9: $.named.x.floor: Expected `int` >= 0",
        "town.yaml:10: $.zzz: unknown field: known are `homes`, `named`, `pet`",
    ]
    assert (error.path, error.line, len(error.others)) == ("$.homes[0].floor", 3, 6)


def test_a_long_list_of_mistakes_ends():
    assert len(str(wrong("homes: [" + "5, " * 99 + "5]")).splitlines()) == MAX_MISTAKES


def test_a_mistake_that_cannot_be_cut_out_is_told_once():
    assert str(wrong("named: {a.b: {floor: -1}}")) == "town.yaml:1: $.named.a.b.floor: Expected `int` >= 0"
    assert str(wrong("[1]")) == "town.yaml:1: $: Expected `object`, got `array`"


def test_an_unknown_field_names_the_nearest():
    error = wrong("homes:\n- street: a\n  floors: 3\n")
    assert str(error) == "town.yaml:3: $.homes[0].floors: unknown field: did you mean `floor`?"


def test_an_unknown_field_like_no_other_lists_all():
    assert wrong("zzz: 1").problem == "unknown field: known are `homes`, `named`, `pet`"


def test_a_mistake_inside_a_mapping_names_its_key():
    error = wrong("named:\n  left: {floor: 1}\n  right:\n    floor: x\n")
    assert (error.path, error.line) == ("$.named.right.floor", 4)
    error = wrong("named:\n  left: {floor: 1}\n  right: {stret: x}\n")
    assert (error.path, error.line) == ("$.named.right.stret", 3)


def test_a_wrong_choice_lists_the_right_ones():
    assert wrong("homes: [{size: lage}]").problem == "Invalid enum value 'lage': did you mean `large`?"
    assert wrong("pet: {kind: cow}").problem == "Invalid value 'cow': known are `cat`, `dog`"
    assert wrong("pet: {kind: dog, trick: []}").problem == "unknown field: did you mean `tricks`?"


def test_keys_must_be_text():
    error = wrong("named: {1: {}}")
    assert error.path == "$.named"
    assert error.problem == "bad key: expected `str`, got `int`"


def test_the_top_must_be_a_mapping():
    assert wrong("- a\n- b\n").problem == "Expected `object`, got `array`"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("homes: []\nhomes: []\n", 2),
        ("homes: [\n", 2),
        ("a: b: c\n", 1),
        ("x: &a 1\ny: *b\n", 2),
        ("a: !!python/x 1\n", 1),
    ],
)
def test_text_that_is_not_plain_yaml(text, line):
    error = wrong(text)
    assert error.line == line
    assert error.problem


def test_files(tmp_path):
    path = tmp_path / "town.yaml"
    with pytest.raises(ConfigError, match="cannot be read"):
        read(path, Town)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read(path, Town)
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="right file"):
        read(path, Town)
    path.write_text("homes: [{street: a}]\n")
    town, place = read(path, Town)
    assert town == Town(homes=(Home("a"),))
    assert str(place(ConfigError("$.homes[0].street", "too short"))) == f"{path}:1: $.homes[0].street: too short"


def test_suggestions():
    assert suggest("p2", ["p2c", "nearest"]) == "did you mean `p2c`?"
    assert suggest("qqqq", ["b", "a"]) == "known are `a`, `b`"
