import json

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.body import Body, Kind
from gateway.openai.requests import MAX_TOKENS, members, read, rewrite
from gateway.openai.sizes import MESSAGE_TOKENS
from policies.reason import Reason
from policies.request import INFINITE, Shed, Sort

CHAT = b"/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello there"}]


def body(path: bytes = CHAT, raw: bytes | None = None, **fields: object) -> Body:
    result = read(path, raw if raw is not None else orjson.dumps({"model": "m", "messages": HELLO, **fields}))
    assert isinstance(result, Body), result
    return result


def refused(path: bytes = CHAT, raw: bytes | None = None, **fields: object) -> Shed:
    result = read(path, raw if raw is not None else orjson.dumps({"model": "m", "messages": HELLO, **fields}))
    assert isinstance(result, Shed), result
    return result


# What is read.


def test_a_plain_chat():
    read_ = body()
    assert (read_.kind, read_.model, read_.stream, read_.choices, read_.items) == (Kind.CHAT, "m", False, 1, 1)
    assert (read_.max_tokens, read_.provider, read_.has_provider, read_.affinity) == (None, None, False, "")
    assert read_.prompt_tokens == pytest.approx(MESSAGE_TOKENS + len("Hello there") / 4)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (b"/v1/chat/completions", Kind.CHAT),
        (b"/v1/chat/completions?api-version=1", Kind.CHAT),
        (b"/v1/decisions", Kind.OTHER),
        (b"/v1/anything", Kind.OTHER),
    ],
)
def test_the_path_decides_the_kind(path, kind):
    assert body(path).kind is kind


def test_the_newest_name_of_the_length_limit_wins():
    assert body(max_tokens=7).max_tokens == 7
    assert body(max_tokens=7, max_completion_tokens=9).max_tokens == 9
    assert body(max_tokens=None).max_tokens is None
    assert body(b"/v1/responses", input="a", max_output_tokens=5).max_tokens == 5


def test_choices_and_hints():
    assert body(n=4).choices == 4
    assert body(b"/v1/completions", prompt="a", n=2, best_of=5).choices == 5
    assert body(nvext={"agent_hints": {"osl": 80}}).output_tokens == 80
    assert body(nvext={"agent_hints": {"osl": "many"}}).output_tokens is None
    assert body(nvext="x").output_tokens is None


def test_tier_and_affinity():
    assert body(service_tier="flex").service_tier == "flex"
    assert body(user="u").affinity == "u"
    assert body(user="u", prompt_cache_key="k").affinity == "k"
    assert len(body(user="u" * 10_000).affinity) == 512


def test_provider_as_openrouter_defines_it():
    provider = body(
        provider={
            "max_price": {"prompt": 1, "completion": "2.5", "image": 3},
            "quantizations": ["int8"],
            "only": ["eu"],
            "ignore": ["w1"],
            "order": ["a", "b"],
            "sort": "price",
            "allow_fallbacks": False,
            "zdr": True,
        }
    ).provider
    assert provider is not None
    assert (provider.max_prompt, provider.max_completion) == (1.0, 2.5)
    assert (provider.quantizations, provider.only, provider.ignore) == (("int8",), ("eu",), ("w1",))
    assert (provider.order, provider.sort, provider.allow_fallbacks) == (("a", "b"), Sort.PRICE, False)


def test_provider_defaults_and_the_object_form_of_sort():
    provider = body(provider={}).provider
    assert provider is not None
    assert (provider.max_prompt, provider.order, provider.sort, provider.allow_fallbacks) == (INFINITE, (), None, True)
    assert body(provider={"sort": {"by": "latency", "partition": "none"}}).provider.sort is Sort.LATENCY
    assert body(provider=None).provider is None
    assert body(provider=None).has_provider


# What is refused.


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b'"model"', b"null", b'{"model":"m"}{}', b'{"model":nan}', b"\xff", b"\xef\xbb\xbf{}"]
)
def test_not_one_json_object(raw):
    assert refused(raw=raw).reason is Reason.INVALID_JSON


def test_too_deep():
    deep = b'{"model":"m","x":' + b"[" * 64 + b"]" * 64 + b"}"
    assert refused(raw=deep).reason is Reason.INVALID_JSON
    assert refused(raw=b"[" * 100_000).reason is Reason.INVALID_JSON


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"model": "m" * 257}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"messages": "hello"}, "messages"),
        ({"messages": []}, "messages"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": MAX_TOKENS + 1}, "max_tokens"),
        ({"max_completion_tokens": "9"}, "max_completion_tokens"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"best_of": 100}, "best_of"),
        ({"service_tier": 1}, "service_tier"),
        ({"user": {}}, "user"),
        ({"prompt_cache_key": []}, "prompt_cache_key"),
        ({"provider": []}, "provider"),
        ({"provider": {"max_price": 3}}, "provider.max_price"),
        ({"provider": {"max_price": {"prompt": -1}}}, "provider.max_price.prompt"),
        ({"provider": {"max_price": {"completion": "cheap"}}}, "provider.max_price.completion"),
        ({"provider": {"only": "eu"}}, "provider.only"),
        ({"provider": {"ignore": [1]}}, "provider.ignore"),
        ({"provider": {"order": ["x"] * 65}}, "provider.order"),
        ({"provider": {"quantizations": [""]}}, "provider.quantizations"),
        ({"provider": {"sort": "speed"}}, "provider.sort"),
        ({"provider": {"sort": {"by": 1}}}, "provider.sort"),
        ({"provider": {"allow_fallbacks": "no"}}, "provider.allow_fallbacks"),
    ],
)
def test_bad_fields_are_named(fields, param):
    shed = refused(**fields)
    assert (shed.reason, shed.param) == (Reason.BAD_REQUEST, param)


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        (b'{"model":"a","messages":[1],"model":"b"}', "model"),
        (b'{"model":"a","messages":[1],"mod\\u0065l":"b"}', "model"),
        (b'{"m\\u006fdel":"a","messages":[1],"mod\\u0065l":"b"}', "model"),
        (b'{"model":"a","messages":[1],"stream":true,"stream":false}', "stream"),
        (b'{"model":"a","messages":[1],"provider":{},"provider":null}', "provider"),
        (b'{"model":"a","messages":[1],"max_tokens":1,"max\\u005ftokens":2}', "max_tokens"),
        (b'{"model":"a","messages":[1],"n":1, "n" :2}', "n"),
        (b'{"model":"a","messages":[1],"user":"a","user":"b"}', "user"),
    ],
)
def test_a_repeated_routing_key_is_refused(raw, param):
    shed = refused(raw=raw)
    assert (shed.reason, shed.param) == (Reason.BAD_REQUEST, param)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"a","messages":[{"content":"\\"model\\": is \\u006dy \\"model\\"","role":"user"}],"user":"user"}',
        b'{"model":"model","messages":[{"model":"x","stream":1}],"stream":true}',
        b'{"temperature":1,"temperature":2,"model":"a","messages":[1]}',
        b'{"model":"a","messages":[1],"big":' + b"9" * 300 + b"}",
        b'{"model":"a","model2":"model","messages":[1],"big":' + b"9" * 300 + b',"x":{"model":1}}',
    ],
)
def test_what_only_looks_repeated_is_read(raw):
    assert body(raw=raw).model in ("a", "model")


def test_no_refusal_repeats_the_clients_bytes():
    shed = refused(raw=b'{"model":"a","messages":[1],"service_tier":["canary"],"canary":canary}')
    assert "canary" not in shed.detail
    assert "canary" not in refused(provider={"sort": "canary"}).detail


# Rewriting.


def test_nothing_to_change_gives_the_same_object():
    raw = orjson.dumps({"model": "m", "messages": HELLO})
    read_ = body(raw=raw)
    assert rewrite(raw, read_, None) is raw
    assert rewrite(raw, read_, "") is raw
    assert rewrite(raw, read_, "m") is raw


def test_only_the_edited_bytes_change():
    raw = b'{ "provider" : {"only":["eu"]} ,\n "model" : "m\\u00e9",\t"messages":[ {"model":"m"} ], "z":1.0e0 }'
    assert rewrite(raw, body(raw=raw), 'n"1') == b'{ "model" : "n\\"1",\t"messages":[ {"model":"m"} ], "z":1.0e0 }'


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"model":"m","messages":[1],"provider":null}', b'{"model":"m","messages":[1]}'),
        (b'{"model":"m","messages":[1] , "provider":{} }', b'{"model":"m","messages":[1] }'),
        (b'{"model":"m", "provider":{}, "messages":[1]}', b'{"model":"m", "messages":[1]}'),
        (b'{"pro\\u0076ider":{},"model":"m","messages":[1]}', b'{"model":"m","messages":[1]}'),
    ],
)
def test_provider_is_cut_with_one_comma(raw, expected):
    assert rewrite(raw, body(raw=raw), None) == expected


text = st.text(max_size=12) | st.sampled_from(
    ["model", "provider", '"model":', "\\", '"', "\u2028", "é", "\U0001f600", "}"]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
layouts = st.sampled_from(
    [
        {"ensure_ascii": True},
        {"ensure_ascii": False},
        {"indent": 2},
        {"separators": (" ,\r\n", "\t: ")},
        {"separators": (",", ":"), "ensure_ascii": False},
    ]
)


@st.composite
def bodies(draw):
    """Arbitrary JSON objects on /v1/other with a model, maybe a provider, in any order and layout."""
    document = draw(st.dictionaries(text, json_values, max_size=5))
    for key in ("stream", "max_tokens", "n", "service_tier", "user", "prompt_cache_key", "nvext"):
        document.pop(key, None)
    document["model"] = draw(st.text(min_size=1, max_size=20))
    document.pop("provider", None)
    if draw(st.booleans()):
        document["provider"] = draw(
            st.sampled_from([None, {}, {"only": ["eu", "}"]}, {"sort": "price", "x": {"model": 1}}])
        )
    keys = draw(st.permutations(list(document)))
    return json.dumps({key: document[key] for key in keys}, **draw(layouts)).encode("utf-8", "surrogatepass")


@given(bodies(), st.text(max_size=12))
def test_a_rewritten_body_parses_to_the_parsed_body_with_the_change(raw, served_name):
    assume(not any(0xD800 <= ord(character) <= 0xDFFF for character in served_name))
    read_ = read(b"/v1/other", raw)
    assume(isinstance(read_, Body))
    expected = orjson.loads(raw)
    expected.pop("provider", None)
    expected["model"] = served_name or expected["model"]
    rewritten = orjson.loads(rewrite(raw, read_, served_name))
    assert rewritten == expected
    assert list(rewritten) == list(expected)


@given(bodies())
def test_members_are_the_pairs_of_the_standard_parser(raw):
    pairs = json.loads(raw, object_pairs_hook=lambda found: found)
    listed = members(raw)
    assert [member.key.encode("latin-1", "replace") for member in listed if member.key.isascii()] == [
        key.encode() for key, _ in pairs if key.isascii()
    ]
    assert len(listed) == len(pairs)
    for member, (_, value) in zip(listed, pairs, strict=True):
        assert json.loads(raw[member.value : member.end], object_pairs_hook=lambda found: found) == value


@given(
    st.binary(max_size=60)
    | st.text('{}[]":,\\\\ abcmodel01', max_size=60).map(str.encode)
    | json_values.map(orjson.dumps)
)
def test_any_bytes_are_read_or_refused(raw):
    for path in (CHAT, b"/v1/completions", b"/v1/embeddings", b"/v1/responses", b"/v1/rerank", b"/v1/x", b""):
        assert isinstance(read(path, raw), Body | Shed)


@given(
    st.dictionaries(st.sampled_from(["model", "messages", "input", "prompt", "tools", "provider", "n"]), json_values)
)
def test_any_object_is_read_or_refused(document):
    for path in (CHAT, b"/v1/completions", b"/v1/embeddings", b"/v1/responses", b"/v1/rerank", b"/v1/x"):
        assert isinstance(read(path, orjson.dumps({"model": "m", **document})), Body | Shed)
