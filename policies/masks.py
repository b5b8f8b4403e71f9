"""Which nodes of a model a request may use at all, as far as that depends on their records alone; cached.

Clients and routes repeat their constraints, so that a mask is made once and kept until membership or a record changes.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from policies.node import Node
from policies.records import Worker
from policies.request import Selection

Mask = npt.NDArray[np.bool_]
T = TypeVar("T")
NO_GRPC = "No node that would do is reached over gRPC, only over HTTP: POST it to /v2/models/MODEL/infer."
"""For a client whose selection only leaves others."""
KEPT = 64
"""Distinct selections whose masks are kept per model: one per route and constraint in use, not one per request."""


class Masks:
    """The masks of one model's nodes, one entry per slot."""

    __slots__ = ("_at_least", "_kept", "_named", "_nodes", "_selected")

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes
        self._selected: dict[Selection, Mask] = {}
        self._at_least: dict[float, Mask] = {}
        """Nodes by the quality they reach."""
        self._named: dict[str, list[int]] = {}
        """Slots by worker id, region, cloud; made anew when membership changed and somebody asks."""
        self._kept: dict[str, Any] = {}
        """What else was made of the records."""

    def forget(self) -> None:
        """Membership or a record has changed."""
        self._selected.clear()
        self._at_least.clear()
        self._named.clear()
        self._kept.clear()

    def kept(self, name: str, make: Callable[[Sequence[Node]], T]) -> T:
        """What was made of the nodes' records under this name, until a record or membership changes."""
        found: T | None = self._kept.get(name)
        if found is None:
            found = self._kept[name] = make(self._nodes)
        return found

    def selected(self, selection: Selection) -> Mask:
        """Which nodes a selection allows."""
        mask = self._selected.get(selection)
        if mask is None:
            if len(self._selected) >= KEPT:
                self._selected.clear()
            mask = self._selected[selection] = self._select(selection)
        return mask

    def _select(self, selection: Selection) -> Mask:
        nodes = self._nodes
        mask = np.ones(len(nodes), np.bool_)
        if selection.regions:
            regions = {node.region for node in nodes}
            mask &= self.named([region for region in regions if in_regions(selection, region)])
        if selection.only:
            mask &= self.named(selection.only)
        if selection.ignore:
            mask &= ~self.named(selection.ignore)
        if selection.variants:
            mask &= np.fromiter((node.endpoint.variant in selection.variants for node in nodes), np.bool_, len(nodes))
        if selection.grpc:
            mask &= np.fromiter((node.worker.grpc_address is not None for node in nodes), np.bool_, len(nodes))
        return mask

    def reaching(self, quality: float) -> Mask:
        """Which nodes reach a quality."""
        mask = self._at_least.get(quality)
        if mask is None:
            if len(self._at_least) >= KEPT:
                self._at_least.clear()
            reach = (node.endpoint.quality >= quality for node in self._nodes)
            mask = self._at_least[quality] = np.fromiter(reach, np.bool_, len(self._nodes))
        return mask

    def named(self, names: Iterable[str]) -> Mask:
        """Which nodes one of the names (worker id, region, cloud) means."""
        if not self._named:
            for slot, node in enumerate(self._nodes):
                for name in names_of(node.worker):
                    self._named.setdefault(name, []).append(slot)
        mask = np.zeros(len(self._nodes), np.bool_)
        for name in names:
            mask[self._named.get(name, [])] = True
        return mask


def names_of(worker: Worker) -> set[str]:
    """What a client may call a worker by: its id, its region, its cloud."""
    return {worker.id, worker.region, worker.cloud} - {""}


def allows(selection: Selection, node: Node) -> bool:
    """Whether a selection admits a node, price caps aside (they depend on what was learned, not on the record)."""
    worker = node.worker
    return (
        (not selection.variants or node.endpoint.variant in selection.variants)
        and in_regions(selection, worker.region)
        and (not selection.only or not names_of(worker).isdisjoint(selection.only))
        and names_of(worker).isdisjoint(selection.ignore)
        and not (selection.grpc and worker.grpc_address is None)
    )


def in_regions(selection: Selection, region: str) -> bool:
    """Whether a region matches a pattern of every group. A node that does not say where it is matches none."""
    return (region != "" or not selection.regions) and all(
        any(fnmatch.fnmatchcase(region, p) for p in group) for group in selection.regions
    )
