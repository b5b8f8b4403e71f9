"""`python -m gateway`: the same as the console script `isochrone`."""

from gateway.cli import main

main(prog_name="isochrone")
