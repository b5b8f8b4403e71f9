"""Disturbances of a world, arranged on the timeline before it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loadtests.simulator.runs import Simulation


def arrange(simulation: Simulation) -> None:
    """Set the beginning and the end of every fault."""
    assert not simulation.world.faults
