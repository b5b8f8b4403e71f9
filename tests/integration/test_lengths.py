"""Answer lengths that nobody announced are learned: what is predicted becomes true after a few answers."""

import json
import urllib.error
import urllib.request

import pytest

from loadtests.embedded import fetch
from tests.integration.stage import MODEL, stage

BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
"""Says nothing of a length; emulated workers then write 16 tokens, and a route expects 200."""
IN_TIME = {"x-deadline-ms": "400", "x-deadline-policy": "reject"}


def ask(gateway, headers):
    request = urllib.request.Request(f"{gateway.url}/v1/chat/completions", json.dumps(BODY).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.status


def decoding(gateway, body):
    """Seconds that an explanation predicts for the output."""
    told = fetch(f"{gateway.control}/admin/explain", {"path": "/v1/chat/completions", "headers": {}, "body": body})
    (candidate,) = told["candidates"]
    return candidate["decode_s"]


def test_requests_without_a_limit_are_predicted_truly_after_a_few_answers():
    with stage(workers=1, policy="cheapest_in_deadline", decode_ms=5) as (_, gateway, _):
        with pytest.raises(urllib.error.HTTPError, match="429"):
            ask(gateway, IN_TIME)  # a second for 200 tokens: hopeless, it seems
        for _ in range(30):
            ask(gateway, {})
        assert ask(gateway, IN_TIME) == 200
        assert 15 < decoding(gateway, BODY) / decoding(gateway, BODY | {"nvext": {"agent_hints": {"osl": 1}}}) < 30
