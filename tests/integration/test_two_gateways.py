"""The same request enters in two regions and is served near each."""

import openai
import pytest

from loadtests.embedded import nodes
from tests.integration.stage import chat


def ask(gateway, **headers):
    return chat(gateway, model="tinychat", headers=headers)


def test_a_tight_request_goes_to_different_nodes_from_different_gateways(fleet):
    here, there = fleet.gateways
    assert ask(here, x_deadline_ms=90)["x-route-region"] == "europe-west4"
    assert ask(there, x_deadline_ms=90)["x-route-region"] == "us-central1"


@pytest.mark.parametrize(
    ("deadline", "region"), [(90, "europe-west4"), (200, "us-central1"), (1000, "asia-northeast1")]
)
def test_the_looser_the_deadline_the_farther_and_cheaper_the_node(gateway, deadline, region):
    headers = ask(gateway, x_deadline_ms=deadline)
    assert headers["x-route-region"] == region
    assert float(headers["x-route-eta-ms"]) <= deadline


def test_a_request_without_a_deadline_goes_to_the_cheapest(gateway):
    assert ask(gateway)["x-route-region"] == "asia-northeast1"


def test_the_official_client_needs_only_another_base_url(gateway):
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="unused") as client:
        reply = client.chat.completions.create(model="tinychat", messages=[{"role": "user", "content": "Hello"}])
    assert reply.choices[0].message.content


def test_predicted_and_real_network_time_agree(gateway, fleet):
    """The WAN says what the round trip is; the gateway must have measured it, and only it, as network."""
    rtt, _ = fleet.scenario.round_trip("europe-west4", "us-central1")
    rows = [row for row in nodes(gateway) if row["region"] == "us-central1"]
    assert rows
    for row in rows:
        assert row["rtt_ms"] == pytest.approx(rtt * 1e3, abs=8)
