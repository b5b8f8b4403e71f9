"""What is shipped for operators is valid: the Compose file, the configurations, the keys made for an installation."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from loadtests.processes import isochrone

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
GATEWAYS = ["gateway-eu", "gateway-us"]


def compose():
    return YAML(typ="safe").load((ROOT / "docker-compose.yml").read_text())


def check(path: Path) -> subprocess.CompletedProcess:
    return subprocess.run(isochrone("check", str(path)), capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("installation")
    command = [sys.executable, str(ROOT / "deploy" / "prepare.py"), str(directory)]
    assert "made new keys" in subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return directory


def test_compose_file_follows_the_compose_schema():
    command = [
        str(BIN / "check-jsonschema"),
        "--builtin-schema",
        "vendor.compose-spec",
        str(ROOT / "docker-compose.yml"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr


def test_compose_has_two_gateways_three_workers_and_redis_7_all_watched():
    services = compose()["services"]
    assert {"gateway-eu", "gateway-us", "worker-eu", "worker-us", "worker-asia", "redis"} < set(services)
    assert re.match(r"redis:7", services["redis"]["image"])
    assert all("healthcheck" in service for name, service in services.items() if name != "keys")
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_files_the_compose_file_mounts_exist():
    for service in compose()["services"].values():
        for volume in service.get("volumes", []):
            if volume.startswith("./"):
                assert (ROOT / volume.split(":")[0]).exists()


@pytest.mark.parametrize("name", GATEWAYS)
def test_gateway_configurations_are_valid(name):
    result = check(ROOT / "deploy" / f"{name}.yaml")
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_example_configuration_is_valid():
    result = check(ROOT / "gateway.yaml")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", GATEWAYS)
def test_prepared_configurations_are_valid_and_have_keys_of_their_own(prepared, name):
    result = check(prepared / f"{name}.yaml")
    assert result.returncode == 0, result.stdout + result.stderr
    shipped = YAML(typ="safe").load((ROOT / "deploy" / f"{name}.yaml").read_text())
    own = YAML(typ="safe").load((prepared / f"{name}.yaml").read_text())
    assert {key["hash"] for key in own["auth"]["clients"]}.isdisjoint(k["hash"] for k in shipped["auth"]["clients"])
    assert {k["public_key"] for k in own["registry"]["keys"]}.isdisjoint(
        k["public_key"] for k in shipped["registry"]["keys"]
    )
    assert re.fullmatch(rf"redis://{name}:[\w-]{{40,}}@redis:6379/0", own["redis"])


def test_every_registry_user_has_a_password_but_the_probe(prepared):
    for line in (prepared / "users.acl").read_text().splitlines():
        name = line.split()[1]
        assert (" #" in line) is (name not in ("default", "probe"))
    assert "user default off" in (prepared / "users.acl").read_text()


def test_shipped_files_hold_no_password():
    assert "#" not in (ROOT / "deploy" / "users.acl").read_text()
    assert not list((ROOT / "deploy").glob("*.pem"))


def test_secrets_are_not_for_everybody(prepared):
    for path in prepared.iterdir():
        assert path.stat().st_mode & 0o007 == 0, path


def test_preparing_again_changes_nothing(prepared):
    before = {path: path.read_bytes() for path in prepared.iterdir()}
    command = [sys.executable, str(ROOT / "deploy" / "prepare.py"), str(prepared)]
    assert "already" in subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert {path: path.read_bytes() for path in prepared.iterdir()} == before


def test_each_worker_may_only_write_its_own_records():
    for line in (ROOT / "deploy" / "users.acl").read_text().splitlines():
        name = line.split()[1]
        if name.startswith("worker-"):
            records = [word for word in line.split() if re.search(r":(node|load):", word)]
            assert records
            assert all(word.endswith(f":{name}") for word in records)


def test_image_is_not_root_and_its_packages_are_hashed():
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "FROM python:3.11-slim" in dockerfile
    assert re.search(r"^USER isochrone$", dockerfile, re.MULTILINE)
    assert "--require-hashes -r requirements.lock" in dockerfile
    lock = (ROOT / "deploy" / "requirements.lock").read_text()
    pins = re.findall(r"^[a-z0-9][\w.-]*==", lock, re.MULTILINE)
    assert len(pins) > 20
    assert len(re.findall(r"^[a-z0-9][\w.-]*==\S+ \\\n    --hash=sha256:", lock, re.MULTILINE)) == len(pins)


def test_image_has_the_versions_the_tests_ran_with():
    versions = r"^([a-z0-9][\w.-]*)==(\S+)"
    tested = dict(re.findall(versions, (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    shipped = dict(re.findall(versions, (ROOT / "deploy" / "requirements.lock").read_text(), re.MULTILINE))
    assert {name: tested.get(name) for name in shipped} == shipped
