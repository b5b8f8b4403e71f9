"""The console script `isochrone`: a table of commands, each imported when it is run.

So `isochrone worker` never imports the gateway, and a broken extra of one command costs the others nothing. The lazy
group follows click's documentation ("Lazily Loading Subcommands").
"""

from __future__ import annotations

import importlib

import click

COMMANDS = {
    "gateway": "gateway.start:main",
    "worker": "workers.cli:worker",
    "accelerate": "workers.accelerate.cli:accelerate",
    "nodes": "gateway.commands:nodes",
    "explain": "gateway.commands:explain",
    "drain": "gateway.commands:drain",
    "check": "gateway.commands:check",
    "keys": "gateway.commands:keys",
    "demo": "loadtests.cli:demo",
    "load": "loadtests.cli:load",
    "simulate": "loadtests.simulator.cli:simulate",
}
SUMMARIES = {
    "gateway": "Route each request to the cheapest node that meets its deadline.",
    "worker": "Serve models, or register an engine that already does.",
    "accelerate": "Make variants of a model, each measured.",
    "nodes": "List the nodes a gateway knows.",
    "explain": "Say why a request goes, or went, where it goes.",
    "drain": "Send a worker nothing new.",
    "check": "Validate a gateway.yaml.",
    "keys": "Make keys for clients, workers and operators.",
    "demo": "Start a whole fleet on this machine and show it.",
    "load": "Put load on a gateway.",
    "simulate": "Judge policies in a simulated world.",
}
"""One line each for `--help`, so that listing the commands imports none of them."""


class LazyGroup(click.Group):
    """Looks commands up in `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, function = place.partition(":")
        command = getattr(importlib.import_module(module), function)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, SUMMARIES[name]) for name in COMMANDS])


@click.command(cls=LazyGroup)
@click.version_option(package_name="isochrone", prog_name="isochrone")
def main() -> None:
    """Isochrone: the cheapest node that meets each request's deadline."""
