"""The operators' commands: what they ask the control plane, and how the answers look to a person.

Exit status 0 when it was done, 1 when it was refused, 2 when nobody could be asked or the options make no sense.
Human tables by default, the control plane's own JSON with `--json`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console, RenderableType
from rich.live import Live

from gateway import auth, tables
from gateway import config as configuration
from gateway.config import ConfigError
from gateway.inquiry import Inquiry, RefusedError, UnreachableError

REFRESH_SECONDS = 1.0
WIDTH = 200
"""Columns the widest table may need; tables take only what they need."""
PIPE_WIDTH = 10_000
"""A file has no columns."""
DEFAULT_CONTROL = "http://127.0.0.1:8081"

Command = TypeVar("Command", bound=Callable[..., Any])


def asking(command: Command) -> Command:
    """The options of every command that asks a gateway."""
    for option in (
        click.option("--admin-key", envvar="ISOCHRONE_ADMIN_KEY", default="", help="Key; or $ISOCHRONE_ADMIN_KEY."),
        click.option("--control", default=DEFAULT_CONTROL, show_default=True, metavar="URL", help="Control plane."),
    ):
        command = option(command)
    return command


class RefusedExit(click.ClickException):
    """One clear line on stderr and status 1: it was asked, and the answer is no."""


class UnreachableExit(click.ClickException):
    """One clear line on stderr and status 2: nobody could be asked."""

    exit_code = 2


def screen() -> Console:
    """Where tables go. In a narrow terminal, or a pipe, long lines are better than cut words."""
    console = Console()
    console.width = max(console.width, WIDTH) if console.is_terminal else PIPE_WIDTH
    return console


def ask(inquiry: Inquiry, method: str, path: str, **options: Any) -> Any:
    """The answer. Ends the command when there is none."""
    try:
        return inquiry.ask(method, path, **options)
    except UnreachableError as error:
        raise UnreachableExit(str(error)) from None
    except RefusedError as error:
        raise RefusedExit(str(error)) from None


@click.command()
@click.option("--model", help="Only nodes of this model.")
@click.option("--json", "as_json", is_flag=True, help="The control plane's answer as it is.")
@click.option("--watch", is_flag=True, help="Keep the table up to date until interrupted.")
@click.option("--signals", is_flag=True, help="What an autoscaler may go by instead, per model and region.")
@asking
def nodes(control: str, admin_key: str, model: str | None, as_json: bool, watch: bool, signals: bool) -> None:
    """List the nodes a gateway knows, with what it measured of them."""
    inquiry, console = Inquiry(control, admin_key), screen()
    path, table = ("/admin/signals", tables.signals) if signals else ("/admin/nodes", tables.nodes)

    def told() -> Any:
        return ask(inquiry, "GET", path, query={"model": model} if model else {})

    if as_json:
        click.echo(inquiry.text(told()))
        return
    if not watch:
        console.print(table(told()))
        return
    with Live(table(told()), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(REFRESH_SECONDS)
            live.update(table(told()), refresh=True)


@click.command()
@click.argument("what", required=False, metavar="[MODEL | REQUEST_ID]")
@click.option("--request-id", help="A request that was decided: predicted against actual.")
@click.option("--deadline-ms", type=float, help="Until the last byte.")
@click.option("--ttft-ms", type=float, help="Until the first token.")
@click.option("--probability", type=float, help="How surely: 0.90, 0.95, 0.98 or 0.99.")
@click.option("--min-quality", type=float, help="Lowest quality, relative to the reference variant.")
@click.option("--max-cost-usd", type=float, help="Most it may cost.")
@click.option("--regions", help="Only these, as in eu-*,us-east1.")
@click.option(
    "--prompt-tokens", type=click.IntRange(0, 10**6), default=32, show_default=True, help="Size of the prompt."
)
@click.option("--max-tokens", type=click.IntRange(0, 10**6), help="Longest answer.")
@click.option("--surface", type=click.Choice(["chat", "completions", "embeddings"]), default="chat", show_default=True)
@click.option("--shadow", is_flag=True, help="And what the second policy of its route would do.")
@click.option("--json", "as_json", is_flag=True, help="The control plane's answer as it is.")
@asking
def explain(
    control: str, admin_key: str, what: str | None, request_id: str | None, shadow: bool, as_json: bool, **asked: Any
) -> None:
    """Say where a request for MODEL would go now and why, or why REQUEST_ID went where it went."""
    inquiry, console = Inquiry(control, admin_key), screen()
    if what is None and request_id is None:
        raise click.UsageError("name a model or a request id")
    told = None
    if request_id is not None:
        told = ask(inquiry, "GET", f"/admin/explain/{request_id}")
    elif what is not None:
        told = _decided(inquiry, what)
    if told is not None:
        show(console, told, tables.decided, as_json)
        return
    assert what is not None
    told = ask(inquiry, "POST", "/admin/explain", body=imagined(what, asked))
    if told["decision"] != "model_not_found":
        show(console, told, partial(tables.explained, shadow=shadow), as_json)
        return
    if as_json:
        click.echo(inquiry.text(told))
    known = sorted({row["model"] for row in ask(inquiry, "GET", "/admin/nodes")["nodes"]})
    raise RefusedExit(f"{what!r} is no model and no recent request; the models are {', '.join(known) or 'none yet'}")


def show(console: Console, told: Any, table: Callable[[Any], RenderableType], as_json: bool) -> None:
    if as_json:
        click.echo(Inquiry.text(told))
    else:
        console.print(table(told))


def _decided(inquiry: Inquiry, what: str) -> Any:
    """The decision with this request id, or `None` when there is none: then it is a model."""
    try:
        return inquiry.ask("GET", f"/admin/explain/{what}")
    except UnreachableError as error:
        raise UnreachableExit(str(error)) from None
    except RefusedError as error:
        if error.status != 404:
            raise RefusedExit(str(error)) from None
        return None


def imagined(model: str, asked: dict[str, Any]) -> dict[str, Any]:
    """A request such as a client might send: its size and its wishes, with no real content."""
    names = {
        "deadline_ms": "x-deadline-ms", "ttft_ms": "x-slo-ttft-ms", "probability": "x-deadline-probability",
        "min_quality": "x-min-quality", "max_cost_usd": "x-max-cost-usd", "regions": "x-allow-regions",
    }  # fmt: skip
    headers = {header: str(asked[name]) for name, header in names.items() if asked.get(name) is not None}
    prompt = "word " * asked["prompt_tokens"] or "word"
    body: dict[str, Any] = {"model": model}
    if asked["surface"] == "chat":
        path, body["messages"] = "/v1/chat/completions", [{"role": "user", "content": prompt}]
    elif asked["surface"] == "completions":
        path, body["prompt"] = "/v1/completions", prompt
    else:
        path, body["input"] = "/v1/embeddings", prompt
    if asked.get("max_tokens") is not None and asked["surface"] != "embeddings":
        body["max_tokens"] = asked["max_tokens"]
    return {"path": path, "headers": headers, "body": body}


@click.command()
@click.argument("worker")
@click.option("--off", is_flag=True, help="End the drain.")
@click.option("--json", "as_json", is_flag=True, help="The control plane's answer as it is.")
@asking
def drain(control: str, admin_key: str, worker: str, off: bool, as_json: bool) -> None:
    """Send WORKER nothing new; what it works on is finished. Holds for every gateway of its registry."""
    inquiry = Inquiry(control, admin_key)
    done = ask(inquiry, "POST", "/admin/drain", body={"worker": worker, "on": not off})
    if as_json:
        click.echo(inquiry.text(done))
        return
    state = "draining" if done["draining"] else "serving"
    others = "every gateway knows" if done["shared"] else "only this gateway knows yet: its registry is not heard"
    click.echo(f"{worker}: {state}; {others}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Validate a gateway.yaml."""
    try:
        config = configuration.load(file)
    except ConfigError as error:
        raise RefusedExit(str(error)) from None
    count = len(config.routes)
    click.echo(f"{file}: good ({count} route{'' if count == 1 else 's'}, region {config.region})")
    for note in configuration.notes(config):
        click.echo(f"note: {note}")


@click.group()
def keys() -> None:
    """Make keys for clients, workers and operators."""


@keys.command()
@click.argument("kind", type=click.Choice(["client", "worker", "admin"]))
@click.option("--id", "key_id", required=True, help="Its name in logs and in the configuration.")
@click.option("--pepper", default="", envvar="ISOCHRONE_PEPPER", help="`auth.pepper` of the configuration.")
@click.option("--out", type=click.Path(path_type=Path), help="worker: file for the signing key.  [default: ID.pem]")
def new(kind: str, key_id: str, pepper: str, out: Path | None) -> None:
    """Make a key: the secret is printed once (a worker's is written to a file), with the YAML to paste."""
    if kind == "worker":
        out = out or Path(f"{key_id}.pem")
        if out.stem != key_id:
            raise click.UsageError(f"a worker reads its key's id from the file's name: call it {key_id}.pem")
        _new_worker_key(key_id, out)
        return
    secret, digest = auth.make_client_key(key_id, pepper)
    section = "clients" if kind == "client" else "admins"
    click.echo(f"# The key. It is shown only now.\n{secret}\n")
    click.echo(f"# For gateway.yaml:\nauth:\n  {section}:\n    - id: {key_id}\n      hash: {digest}")


def _new_worker_key(key_id: str, out: Path) -> None:
    pem, public = auth.make_worker_key()
    try:
        out.touch(mode=0o600, exist_ok=False)
        out.write_bytes(pem)
    except OSError as error:
        raise RefusedExit(f"{out}: {error.strerror or error}") from None
    click.echo(f"# The signing key is in {out}: start the worker with --key {out}.")
    click.echo(f"# For gateway.yaml:\nregistry:\n  keys:\n    - id: {key_id}\n      public_key: {public}")
