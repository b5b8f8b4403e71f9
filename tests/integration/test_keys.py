"""Keys end to end: clients that need one, workers that sign, each made by `isochrone keys new`."""

import re
import subprocess

import openai
import pytest
import redis
from ruamel.yaml import YAML

from loadtests.embedded import known_workers
from loadtests.processes import isochrone
from policies import records
from tests.integration.stage import MODEL, Stage, until

REGION = "europe-west4"


def made(directory, *arguments) -> str:
    command = isochrone("keys", "new", *arguments)
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True, timeout=60).stdout


def configured(text: str) -> dict:
    """The YAML to paste that `keys new` prints last."""
    return YAML(typ="safe").load(text[re.search(r"^(auth|registry):", text, re.MULTILINE).start() :])


def test_clients_need_their_key(tmp_path):
    text = made(tmp_path, "client", "--id", "shop")
    key = next(line for line in text.splitlines() if line.startswith("shop."))
    with Stage() as stage:
        stage.emulate("w1")
        gateway = stage.start_gateway(REGION, **configured(text))
        stage.await_workers(gateway, 1)

        def ask(api_key):
            with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=api_key, max_retries=0) as client:
                return client.completions.create(model=MODEL, prompt="hi", max_tokens=2)

        assert ask(key).choices[0].text
        for wrong in ("shop.wrong-secret-of-some-length", "nobody", key[:-1] + "~"):
            with pytest.raises(openai.AuthenticationError) as refusal:
                ask(wrong)
            assert refusal.value.code == "invalid_api_key"


def test_only_signed_workers_are_believed(tmp_path):
    text = made(tmp_path, "worker", "--id", "signer")
    (key,) = tmp_path.glob("signer*")
    with Stage() as stage, redis.Redis.from_url(stage.redis) as client:
        stage.emulate("unsigned")
        command = isochrone(
            "worker", "serve", "--id", "signed", "--region", REGION, "--model", "digits", "--variants", "int8",
            "--redis", stage.redis, "--key", str(key),
        )  # fmt: skip
        stage.spawn("signed", command).wait_ready(60)
        gateway = stage.start_gateway(REGION, **configured(text))
        stage.await_workers(gateway, 1)
        assert known_workers(gateway) == {"signed"}
        counted = 'isochrone_registry_records_rejected_total{kind="unsigned"}'
        until(lambda: stage.metrics(gateway).get(counted, 0) >= 1)

        forged = client.get(records.node_key(REGION, "signed")).replace(b"digits", b"DIGITS")
        client.publish(records.changes_channel(REGION, "signed"), records.NODE + forged)
        forgeries = 'isochrone_registry_records_rejected_total{kind="signature"}'
        until(lambda: stage.metrics(gateway).get(forgeries, 0) >= 1)
        assert known_workers(gateway) == {"signed"}
