from policies.reason import TABLE, Reason


def test_every_reason_has_a_meaning():
    assert set(TABLE) == set(Reason)


def test_meanings_are_consistent():
    for reason, meaning in TABLE.items():
        assert 400 <= meaning.http < 600, reason
        assert meaning.code == meaning.code.lower()
        assert meaning.message.endswith(".")
        if meaning.http < 429 or meaning.http in (431, 499):
            assert not meaning.retry, f"{reason}: a client fault is not mended by sending it again"
            assert not meaning.waits


def test_the_contract_of_the_deadline_codes():
    assert (TABLE[Reason.DEADLINE_INFEASIBLE].http, TABLE[Reason.DEADLINE_INFEASIBLE].code) == (
        429,
        "deadline_infeasible",
    )
    assert (TABLE[Reason.DEADLINE_EXCEEDED].http, TABLE[Reason.DEADLINE_EXCEEDED].code) == (504, "deadline_exceeded")
    assert TABLE[Reason.BAD_UPSTREAM_REPLY].http == 502
    assert {TABLE[r].http for r in (Reason.NO_CAPACITY, Reason.OVERLOADED, Reason.DRAINING)} == {503}


def test_types_follow_openai():
    assert TABLE[Reason.INVALID_API_KEY].type == "authentication_error"
    assert TABLE[Reason.FORBIDDEN].type == "permission_error"
    assert TABLE[Reason.DEADLINE_INFEASIBLE].type == "rate_limit_error"
    assert TABLE[Reason.BAD_REQUEST].type == "invalid_request_error"
    assert TABLE[Reason.NO_CAPACITY].type == "server_error"
    assert Reason.NO_CAPACITY.label == "no_capacity"
