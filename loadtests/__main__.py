"""`python -m loadtests demo|load`: the commands of cli.py without the rest of `isochrone`."""

import click

from loadtests import cli

click.Group("loadtests", {"demo": cli.demo, "load": cli.load})()
