"""What a log of something else than Isochrone means: a YAML file beside it.

It says which fields hold what, and what no such log knows: where the upstreams are, what they cost, how fast they are,
and which deadlines the requests have. Examples are in `scenarios/foreign/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from ruamel.yaml import YAML, YAMLError

from loadtests.arrivals import NotNegative, Positive
from loadtests.rows import FileError
from loadtests.simulator.formats import ENVOY_DEFAULT, Format
from loadtests.simulator.world import Count
from policies.records import Curve


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of a mapping."""


class Time(_Part, frozen=True, kw_only=True):
    """A duration, or an instant that ends one."""

    field: str
    unit: Literal["s", "ms", "instant"] = "s"


class Tokens(_Part, frozen=True, kw_only=True):
    """How many tokens: counted, told from bytes, or the same for all."""

    field: str = ""
    bytes_per_token: Positive | None = None
    """Given where the field counts bytes: about 4 of English text, about 220 of an event stream's answer."""
    overhead_bytes: NotNegative = 0.0
    """Of a body without its text."""
    value: NotNegative = 0.0
    """Where there is no field, or it is empty."""


class Fields(_Part, frozen=True, kw_only=True):
    """Which field means what. Only the first three are needed."""

    time: str
    """When it came, or was written down."""
    took: Time
    """Until the last byte."""
    upstream: str
    """Who answered; of several (`a, b`), the last did."""
    time_is: Literal["start", "end"] = "start"
    """nginx and most others write a request down when it has ended."""
    first: Time | None = None
    """Until the first token."""
    model: str = ""
    prompt_tokens: Tokens = Tokens(value=500.0)
    output_tokens: Tokens = Tokens(value=200.0)
    cost: str = ""
    """US dollars; reckoned from the upstream's price where there is none."""
    status: str = ""
    """An HTTP status, or a word: `failure` is one."""
    tenant: str = ""
    cached: str = ""
    """`true` where the log's own cache answered: no upstream worked, so it is left out."""


class Upstream(_Part, frozen=True, kw_only=True):
    """Workers that are alike. The first whose `match` fits an upstream's name is it."""

    match: str
    """Shell-style pattern."""
    region: str
    usd_per_hour: NotNegative | None = None
    """Of one accelerator, of which a request is charged its share."""
    input_usd_per_mtok: NotNegative = 0.0
    """Or a price list, where no hourly price is given."""
    output_usd_per_mtok: NotNegative = 0.0
    egress_usd_per_gb: NotNegative = 0.0
    accelerator: str = ""
    variant: str = "default"
    quality: Annotated[float, Meta(gt=0, le=2)] = 1.0
    workers: Count | None = None
    """How many; None counts the different names in the log."""
    slots: Count | None = None
    """Requests one works on at once; None takes the most that one was seen to."""
    models: tuple[str, ...] = ()
    """What they serve; empty for what the log shows them to."""
    curve: Curve | None = None
    """Seconds: `{base, prefill, decode}`, the latter per token. None fits it to the log."""


class Deadline(_Part, frozen=True, kw_only=True):
    """What requests want. The first whose `model` fits is theirs; without any they are patient."""

    model: str = "*"
    first_token_ms: Positive | None = None
    total_ms: Positive | None = None
    probability: Annotated[float, Meta(gt=0, lt=1)] = 0.95


class Mapping(_Part, frozen=True, kw_only=True):
    """What a foreign log means."""

    format: Format = Format.ROWS
    log_format: str = ENVOY_DEFAULT
    """As in the proxy's configuration, for text."""
    fields: Fields
    upstreams: Annotated[tuple[Upstream, ...], Meta(min_length=1)]
    gateway: str
    """Region the requests come through."""
    round_trips_ms: dict[str, tuple[Positive, NotNegative]] = {}
    """Region -> mean and deviation from there; a fit takes the mean off."""
    deadlines: tuple[Deadline, ...] = ()
    model: str = "llm"
    """Where the log names none."""


def read(path: Path) -> Mapping:
    """Read a mapping. Raises FileError with file and field."""
    try:
        found = msgspec.convert(YAML(typ="safe", pure=True).load(path.read_text()), Mapping)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error
    except (YAMLError, msgspec.ValidationError) as error:
        raise FileError(f"{path}: {error}") from error
    for index, wanted in enumerate(found.deadlines):
        if wanted.first_token_ms is not None and found.fields.first is None:
            raise FileError(
                f"{path}: $.deadlines[{index}].first_token_ms: the log does not tell when the first token came: map "
                "fields.first, or ask for total_ms"
            )
    for index, upstream in enumerate(found.upstreams):
        if upstream.region != found.gateway and upstream.region not in found.round_trips_ms:
            raise FileError(
                f"{path}: $.upstreams[{index}].region: no round trip to {upstream.region!r}: add it to round_trips_ms"
            )
    return found


def mapped(fields: Fields) -> list[tuple[str, str]]:
    """The fields of the log that are named, each with the place that names it."""
    named = []
    for place in Fields.__struct_fields__:
        value = getattr(fields, place)
        field = value.field if isinstance(value, Time | Tokens) else value
        if field and place != "time_is":
            named.append((place, field))
    return named
