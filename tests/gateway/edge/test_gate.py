"""The gate: rule by rule, and every hostile case over a real socket."""

from __future__ import annotations

import pytest

from gateway.config import Limits
from gateway.edge import gate
from gateway.edge.gate import Fields, Head, refusal
from policies.reason import Reason
from tests.battery import CASES, Case, shoot
from tests.gateway.edge.conftest import Live

LIMITS = Limits()
ANY: frozenset[bytes] = frozenset()


def head(
    *fields: tuple[bytes, bytes], target: bytes = b"/v1/models", method: bytes = b"GET", version: str = "1.1"
) -> Head:
    given: Fields = [(b"host", b"a"), *fields]
    return Head(method, target, version, given)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (head(), None),
        (head(version="1.0"), None),
        (head(version="2.0"), Reason.HTTP_VERSION),
        (head((b"transfer-encoding", b"Chunked")), None),
        (head((b"transfer-encoding", b"chunked"), version="1.0"), Reason.BAD_FRAMING),
        (head((b"upgrade", b"h2c")), Reason.BAD_FRAMING),
        (head((b"http2-settings", b"")), Reason.BAD_FRAMING),
        (head(target=b"*"), Reason.BAD_FRAMING),
        (head(target=b"/v1/models?x=/../"), None),
        (head(target=b"/v2/models/a%2Fb"), None),
        (head(target=b"/v2/models/a%2Eb"), Reason.BAD_FRAMING),
        (head(target=b"/."), Reason.BAD_FRAMING),
        (head(target=b"/v1/.hidden"), None),
        (head((b"host", b"b")), Reason.BAD_FRAMING),
        (head((b"accept", b"a"), (b"accept", b"b")), None),
        (head((b"a_b", b"1")), Reason.BAD_FRAMING),
        (head((b"content-encoding", b"identity")), None),
        (head((b"content-encoding", b"br")), Reason.UNSUPPORTED_ENCODING),
        (head((b"expect", b"100-Continue")), None),
        (head((b"expect", b"200-ok")), Reason.EXPECTATION_FAILED),
        (head((b"content-length", b"16777216")), None),
        (head((b"content-length", b"16777217")), Reason.BODY_TOO_LARGE),
        (head((b"content-length", b"1x")), Reason.BAD_FRAMING),
        (head((b"x", b"a" * 8192)), Reason.HEADERS_TOO_LARGE),
        (head((b"x", b"a" * 8000), (b"y", b"a" * 8000)), None),
        (head(*[(b"x", b"")] * 100), Reason.HEADERS_TOO_LARGE),
        (head(target=b"/" + b"a" * 8192), Reason.HEADERS_TOO_LARGE),
    ],
)
def test_rules(given: Head, reason: Reason | None) -> None:
    assert refusal(given, LIMITS, ANY) is reason


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"api.example", None),
        (b"API.example:8080", None),
        (b"other.example", Reason.MISDIRECTED),
        (b"api.example.evil", Reason.MISDIRECTED),
        (b"api.example/x", Reason.BAD_FRAMING),
    ],
)
def test_only_the_hosts_we_answer_for(value: bytes, reason: Reason | None) -> None:
    given = Head(b"GET", b"/", "1.1", [(b"host", value)])
    assert refusal(given, LIMITS, frozenset({b"api.example"})) is reason


def test_a_1_0_client_may_send_no_host_unless_hosts_are_listed() -> None:
    given = Head(b"GET", b"/", "1.0", [])
    assert refusal(given, LIMITS, ANY) is None
    assert refusal(given, LIMITS, frozenset({b"a"})) is Reason.BAD_FRAMING


def test_what_proxies_claim_is_joined() -> None:
    assert head().forwarded is None
    assert head((b"x-forwarded-for", b"1.1.1.1"), (b"x-forwarded-for", b"2.2.2.2")).forwarded == b"1.1.1.1,2.2.2.2"
    assert head((b"forwarded", b"for=1.1.1.1")).forwarded == b"for=1.1.1.1"


def test_the_path_is_the_raw_target_before_its_query() -> None:
    assert head(target=b"/v1/models?a?b").path == b"/v1/models"
    assert gate.target(head(target=b"/v1/models?"), LIMITS, ANY) is None


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_battery(live: Live, case: Case) -> None:
    shot = await shoot(live.listener.port, case)
    finals = [status for status in shot.statuses if status != 100]
    assert finals, f"no answer, closed {shot.closed}"
    assert finals[0] == case.status, shot.data[:300]
    assert len(live.seen) == case.served, live.seen
    assert shot.closed is not case.open
    if not case.open:
        assert len(finals) == 1, "answered on after a refusal"
        assert b'"code":' in shot.data
