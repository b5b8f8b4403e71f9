"""The operators' commands against a control plane, real or missing."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway import auth, commands, inquiry
from gateway.cli import main
from gateway.config import load
from gateway.inquiry import RefusedError
from tests.gateway.test_tables import ATTEMPT, NODE, told

DECIDED = {"request_id": "r1", "at": "t", "status": 200, "attempts": [ATTEMPT]}


class Asked:
    """Stands in for the control plane; remembers what it was asked."""

    def __init__(self) -> None:
        self.questions: list[tuple[str, str, Any, Any]] = []
        self.shared = True

    def ask(self, _inquiry: inquiry.Inquiry, method: str, path: str, body: Any = None, query: Any = None) -> Any:
        self.questions.append((method, path, body, query))
        if path == "/admin/nodes":
            return {"nodes": [NODE]}
        if path == "/admin/signals":
            return {"signals": [], "infeasible": []}
        if path == "/admin/drain":
            return {"worker": body["worker"], "draining": body["on"], "shared": self.shared}
        if path == "/admin/explain":
            return told(model="other") if body["body"]["model"] == "nope" else told(deadline=0.05)
        if path == "/admin/explain/r1":
            return DECIDED
        raise RefusedError(404, "No recent request has this id. (request_id)")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    asked = Asked()
    monkeypatch.setattr(inquiry.Inquiry, "ask", lambda self, *a, **k: asked.ask(self, *a, **k))
    return asked  # type: ignore[return-value]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_nodes_as_a_table_and_as_json(asked: Asked) -> None:
    assert "a/m:v" in run("nodes").output
    assert json.loads(run("nodes", "--json", "--model", "m").output) == {"nodes": [NODE]}
    assert asked.questions[-1] == ("GET", "/admin/nodes", None, {"model": "m"})


def test_signals_in_the_place_of_nodes(asked: Asked) -> None:
    assert run("nodes", "--signals").output == "No nodes are known.\n"
    assert json.loads(run("nodes", "--signals", "--json", "--model", "m").output)["infeasible"] == []
    assert asked.questions[-1] == ("GET", "/admin/signals", None, {"model": "m"})


def test_nodes_watched_until_interrupted(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    naps = iter([None, None])

    def nap(seconds: float) -> None:
        if next(naps, KeyboardInterrupt) is KeyboardInterrupt:
            raise KeyboardInterrupt

    monkeypatch.setattr(commands.time, "sleep", nap)
    run("nodes", "--watch")
    assert len(asked.questions) == 3


def test_explain_a_model_with_wishes(asked: Asked) -> None:
    done = run(
        "explain", "chat", "--deadline-ms", "50", "--min-quality", "0.9", "--regions", "eu-*", "--max-tokens", "9"
    )
    assert done.exit_code == 0
    assert "predicted in time" in done.output
    assert "Without a deadline it would go to" in done.output
    described = asked.questions[-1][2]
    assert described["path"] == "/v1/chat/completions"
    assert described["headers"] == {"x-deadline-ms": "50.0", "x-min-quality": "0.9", "x-allow-regions": "eu-*"}
    assert described["body"]["max_tokens"] == 9
    assert json.loads(run("explain", "chat", "--json").output)["model"] == "chat"
    assert "shadow" not in done.output
    assert "This route has no shadow" in run("explain", "chat", "--shadow").output


@pytest.mark.parametrize(("surface", "field"), [("completions", "prompt"), ("embeddings", "input")])
def test_explain_other_surfaces(asked: Asked, surface: str, field: str) -> None:
    assert run("explain", "m", "--surface", surface, "--max-tokens", "9").exit_code == 0
    body = asked.questions[-1][2]["body"]
    assert field in body
    assert ("max_tokens" in body) == (surface == "completions")


def test_explain_a_request_by_id_named_either_way(asked: Asked) -> None:
    for arguments in (("--request-id", "r1"), ("r1",)):
        done = run("explain", *arguments)
        assert done.exit_code == 0
        assert "best effort: ok" in done.output
    assert json.loads(run("explain", "r1", "--json").output) == DECIDED
    unknown = run("explain", "--request-id", "r2")
    assert (unknown.exit_code, unknown.output) == (1, "Error: No recent request has this id. (request_id)\n")
    assert run("explain").exit_code == 2


def test_explaining_what_nobody_knows_fails_and_says_what_there_is(asked: Asked) -> None:
    done = run("explain", "nope")
    assert done.exit_code == 1
    assert done.output == "Error: 'nope' is no model and no recent request; the models are m\n"
    done = run("explain", "nope", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout.splitlines()[0])["decision"] == "model_not_found"


def test_drain(asked: Asked) -> None:
    assert run("drain", "w1").output == "w1: draining; every gateway knows\n"
    asked.shared = False
    assert "only this gateway knows yet" in run("drain", "w1", "--off").output
    assert asked.questions[-1][2] == {"worker": "w1", "on": False}
    assert json.loads(run("drain", "w1", "--json").output)["draining"] is True


def test_nobody_there_is_one_clear_line_and_status_2() -> None:
    for arguments in (["nodes"], ["explain", "m"], ["drain", "w"]):
        done = run(*arguments, "--control", "http://127.0.0.1:1")
        assert done.exit_code == 2
        assert done.output == "Error: no gateway answers at http://127.0.0.1:1: connection refused\n"


def test_check(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("id: a\nregion: eu-west\n")
    done = run("check", str(file))
    assert (done.exit_code, done.output) == (0, f"{file}: good (1 route, region eu-west)\n")
    file.write_text("id: a\nregion: eu-west\nroutes:\n- {when_infeasible: [reject, hold]}\n")
    done = run("check", str(file))
    assert done.exit_code == 0
    assert "note: $.routes[0].when_infeasible: nothing after `reject` is ever done" in done.output
    file.write_text("id: a\nzone: eu-west\n")
    done = run("check", str(file))
    assert done.exit_code == 1
    assert "$.zone" in done.output
    assert "region" in done.output
    assert run("check", str(tmp_path / "missing")).exit_code == 1


@pytest.mark.parametrize(("kind", "section"), [("client", "clients"), ("admin", "admins")])
def test_new_keys_fit_what_is_pasted(tmp_path: Path, kind: str, section: str) -> None:
    done = run("keys", "new", kind, "--id", "acme")
    assert done.exit_code == 0
    secret = done.output.splitlines()[1]
    file = tmp_path / "gateway.yaml"
    file.write_text(done.output.partition("# For gateway.yaml:\n")[2])
    config = load(file)
    assert [key.id for key in getattr(config.auth, section)] == ["acme"]
    known = getattr(auth.Keys(config), kind)(f"Bearer {secret}".encode(), loopback=False)
    assert isinstance(known, auth.Client)
    assert known.id == "acme"


def test_a_new_worker_key_is_a_file_only_its_owner_reads(tmp_path: Path) -> None:
    out = tmp_path / "w1.pem"
    done = run("keys", "new", "worker", "--id", "w1", "--out", str(out))
    assert done.exit_code == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert b"PRIVATE KEY" in out.read_bytes()
    assert "PRIVATE" not in done.output
    file = tmp_path / "gateway.yaml"
    file.write_text(done.output.partition("# For gateway.yaml:\n")[2])
    [key] = load(file).registry.keys
    assert len(base64.b64decode(key.public_key)) == 32
    before = out.read_bytes()
    assert run("keys", "new", "worker", "--id", "w1", "--out", str(out)).exit_code == 1  # never overwritten
    assert out.read_bytes() == before
    assert run("keys", "new", "worker", "--id", "w2", "--out", str(out)).exit_code == 2
