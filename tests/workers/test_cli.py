import errno
import json
import logging

import pytest
from click.testing import CliRunner

from policies.records import MarginalPrice, ReservedPrice, TokenPrice
from tests.workers.nvml import Card, Nvml
from workers import app, cli, devices
from workers.config import ConfigError
from workers.forming import FixedDelay


@pytest.fixture
def invoke(monkeypatch):
    """Run a command line; what would have been started comes back instead."""
    told = []

    def note(config, announce):
        told.append(config)

        async def started():
            announce("ready http://x")

        return started()

    monkeypatch.setattr(app, "serve", note)
    monkeypatch.setattr(app, "attach", note)
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)

    def run(*arguments):
        result = CliRunner().invoke(cli.worker, [str(argument) for argument in arguments])
        return result, told[-1] if told else None

    return run


def test_serve_takes_every_option(invoke):
    result, config = invoke(
        *("serve", "--model", "digits", "--model", "tinychat", "--manifest", "m.json", "--variants", "int8,fp32"),
        *("--region", "eu-1", "--zone", "a", "--cloud", "c", "--price-hour", "2.5", "--egress-gb", "0.09"),
        *("--accelerator", "one core", "--power-watts", "15", "--id", "w1", "--host", "0.0.0.0", "--port", "9000"),
        *("--grpc-port", "9001", "--advertise-grpc", "w1:9001"),
        *("--advertise", "w1:9000", "--redis", "redis://r", "--key", "k", "--queue-limit", "9", "--drain-seconds", "3"),
        *("--batching", "fixed_delay:2"),
    )
    place = config.placement
    assert (result.exit_code, result.stdout) == (0, "ready http://x\n")
    assert (config.models, [str(p) for p in config.manifests]) == (("digits", "tinychat"), ["m.json"])
    assert (config.variants, config.host, config.port, config.grpc_port) == (("int8", "fp32"), "0.0.0.0", 9000, 9001)
    assert (place.region, place.zone, place.cloud, place.id) == ("eu-1", "a", "c", "w1")
    assert (place.price, place.egress_usd_per_gb) == (MarginalPrice(usd_per_hour=2.5), 0.09)
    assert (place.accelerator, place.power_watts) == ("one core", 15)
    assert (place.advertise, place.advertise_grpc) == ("w1:9000", "w1:9001")
    assert (place.redis, str(place.key)) == ("redis://r", "k")
    assert (config.queue_limit, config.drain_seconds) == (9, 3)
    assert config.batching == FixedDelay(ms=2.0)


def test_hours_that_are_paid_and_electricity_that_is_known(invoke):
    _, config = invoke("serve", "--model", "digits", "--price-hour", "2", "--reserved", "--carbon-g-per-kwh", "20")
    assert config.placement.price == ReservedPrice(usd_per_hour=2.0)
    assert config.placement.carbon_g_per_kwh == 20.0


def test_attach_takes_every_option(invoke):
    result, config = invoke(
        *("attach", "http://e:8000", "--engine", "vllm", "--model", "chat=org/Chat", "--model", "other"),
        *("--variant", "bf16", "--quality", "0.99", "--price-in", "0.5", "--price-out", "1.5", "--region", "us-1"),
        *("--prefill-tps", "9000", "--decode-tps", "80", "--max-batch", "64", "--redis", "redis://r", "--id", "v1"),
    )
    assert result.exit_code == 0
    assert (config.url, config.engine) == ("http://e:8000", "vllm")
    assert config.models == (("chat", "org/Chat"), ("other", "other"))
    assert (config.variant, config.quality, config.max_batch) == ("bf16", 0.99, 64)
    assert (config.prefill_tps, config.decode_tps) == (9000, 80)
    assert config.placement.price == TokenPrice(input_usd_per_mtok=0.5, output_usd_per_mtok=1.5)


def test_attach_may_stand_in_the_path_and_read_a_page_elsewhere(invoke):
    _, config = invoke(
        *("attach", "http://e:8000", "--engine", "ray", "--metrics-url", "http://e:8080/metrics"),
        *("--proxy", "--host", "127.0.0.2", "--port", "7000"),
    )
    assert (config.metrics_url, config.proxy, config.host, config.port) == (
        "http://e:8080/metrics", True, "127.0.0.2", 7000,
    )  # fmt: skip
    assert not invoke("attach", "http://e:8000", "--engine", "vllm")[1].proxy


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["attach", "http://e", "--engine", "other"],
            "choose among openai, vllm, sglang, llamacpp, tgi, triton, kserve, ray, transformers",
        ),
        (["attach", "http://e"], "--engine"),
        (["attach", "http://e", "--engine", "vllm", "--price-in", "1", "--price-hour", "1"], "exclude each other"),
        (["serve", "--port", "99999"], "--port"),
        (["serve", "--price-hour", "-1"], "--price-hour"),
        (["attach", "http://e", "--engine", "vllm", "--max-batch", "0"], "--max-batch"),
        (["serve", "--redis", "http://r"], "--redis http://r: not a Redis URL: write redis://"),
        (["serve", "--nonsense"], "--nonsense"),
    ],
)
def test_options_that_cannot_be_used_end_with_status_2(invoke, arguments, says):
    result, _ = invoke(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (ConfigError("no region"), 2, "no region"),
        (OSError("no such address"), 1, "no such address"),
        (OSError(errno.EADDRINUSE, "port is taken"), 1, "port is taken: choose another with --port"),
    ],
)
def test_faults_are_said_without_a_traceback(invoke, monkeypatch, error, status, says):
    async def fail(config, announce):
        raise error

    monkeypatch.setattr(app, "serve", fail)
    result, _ = invoke("serve", "--model", "digits")
    assert result.exit_code == status
    assert says in result.stderr
    assert "Traceback" not in result.output


def test_help_names_both_commands():
    shown = CliRunner().invoke(cli.worker, ["--help"]).output
    assert "serve" in shown
    assert "attach" in shown


def test_devices_are_listed_as_serve_takes_them(monkeypatch):
    parts = [Card("MIG-a", total=10 * 10**9, used=10**9)]
    nvml = Nvml(Card("GPU-0", total=80 * 10**9), Card("GPU-1", instances=parts))
    monkeypatch.setattr(devices, "load_nvml", lambda: nvml)
    shown = CliRunner().invoke(cli.worker, ["devices"])
    assert shown.exit_code == 0
    assert shown.output.splitlines() == [
        "0  GPU-0  NVIDIA H100 80GB HBM3  0 MB of 80.0 GB  35% busy  250 W  61 °C",
        "1  MIG-a  NVIDIA H100 80GB HBM3  1.0 GB of 10.0 GB  250 W  61 °C",
    ]
    rows = json.loads(CliRunner().invoke(cli.worker, ["devices", "--json"]).output)
    assert [row["uuid"] for row in rows] == ["GPU-0", "MIG-a"]
    monkeypatch.setattr(devices, "load_nvml", lambda: None)
    refused = CliRunner().invoke(cli.worker, ["devices"])
    assert (refused.exit_code, "install nvidia-ml-py" in refused.output) == (1, True)


def test_serve_takes_a_device_and_shares_of_it(invoke):
    result, config = invoke(
        *("serve", "--model", "digits", "--device", "MIG-a", "--memory-gb", "20", "--weight", "int8=2"),
        *("--onnx", "tensorrt", "--onnx", "cuda"),
    )
    assert result.exit_code == 0
    assert (config.device, config.memory_gb, config.weights) == ("MIG-a", 20.0, (("int8", 2.0),))
    assert config.providers == ("tensorrt", "cuda")
    result, _ = invoke("serve", "--model", "digits", "--weight", "int8")
    assert result.exit_code == 2
    assert "VARIANT=WEIGHT" in result.output
