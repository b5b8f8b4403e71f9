"""Make an installation's own keys: `python deploy/prepare.py DIRECTORY`, once, before the first start.

Reads the gateway files and users.acl beside it, writes them into DIRECTORY with fresh hashes, public keys and Redis
passwords, and beside them each worker's signing key and Redis URL, and the client's and operator's API keys. A
directory that is already prepared is left as it is.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from gateway.auth import make_client_key, make_worker_key

HERE = Path(__file__).parent
REDIS = "redis:6379/0"
OPEN_TO_ALL = "probe"
"""The one user without a password: it may only PING."""


def prepare(directory: Path) -> bool:
    """Write everything; False when it was there already."""
    done = directory / "prepared"
    if done.exists():
        return False
    directory.mkdir(parents=True, exist_ok=True)
    passwords = _write_users(directory)
    keys = {name: _make_worker_key(directory, name) for name in passwords if name.startswith("worker-")}
    hashes = {name: _make_api_key(directory, name) for name in ("demo", "operator")}
    for name, password in passwords.items():
        if name in keys:
            _write(directory / f"{name}.url", f"redis://{name}:{password}@{REDIS}\n")
        else:
            _write_gateway(directory, name, password, keys, hashes)
    _write(done, "")
    return True


def _write_users(directory: Path) -> dict[str, str]:
    """users.acl with a password for everyone who needs one; the passwords by user."""
    lines, passwords = [], {}
    for line in (HERE / "users.acl").read_text().splitlines():
        found = re.match(r"user (\S+) on ", line)
        if found and found[1] != OPEN_TO_ALL:
            name = found[1]
            passwords[name] = secrets.token_urlsafe(32)
            line = f"{found[0]}#{hashlib.sha256(passwords[name].encode()).hexdigest()} {line[found.end() :]}"
        lines.append(line)
    _write(directory / "users.acl", "\n".join(lines) + "\n")
    return passwords


def _make_worker_key(directory: Path, name: str) -> str:
    """Write the private key; returns the public one."""
    private, public = make_worker_key()
    _write(directory / f"{name}.pem", private.decode())
    return public


def _make_api_key(directory: Path, name: str) -> str:
    """Write the key its holder sends; returns its hash."""
    key, digest = make_client_key(name)
    _write(directory / f"{name}.key", key + "\n")
    return digest


def _write_gateway(directory: Path, name: str, password: str, keys: dict[str, str], hashes: dict[str, str]) -> None:
    yaml = YAML()
    yaml.width = 200  # no line is folded
    config: dict[str, Any] = yaml.load((HERE / f"{name}.yaml").read_text())
    config["redis"] = f"redis://{name}:{password}@{REDIS}"
    for holder in (*config["auth"]["clients"], *config["auth"]["admins"]):
        holder["hash"] = hashes[holder["id"]]
    for signer in config["registry"]["keys"]:
        signer["public_key"] = keys[signer["id"]]
    with (directory / f"{name}.yaml").open("w") as file:
        yaml.dump(config, file)
    (directory / f"{name}.yaml").chmod(0o640)  # the password is in it


def _write(path: Path, text: str) -> None:
    """For the owner and the group of this directory alone."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640), "w") as file:
        file.write(text)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python deploy/prepare.py DIRECTORY")
    target = Path(sys.argv[1])
    made = prepare(target)
    sys.stdout.write(f"{'made new keys in' if made else 'keys are already in'} {target}\n")
