"""How the variants of one worker share its accelerator: memory by need and weight, its units by stream priority.

Pure. Each variant gets what its weights take; what is left of the worker's limit (key/value caches, workspaces, inputs)
is split by weight. Where kernels of several variants could run, those of the heavier weight are scheduled first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from workers.memory import said

HEADROOM = 0.03
"""Share of the device that no variant is given, and below which nothing more is accepted: drivers and libraries take
workspaces of their own, and the first allocation that fails takes a whole batch with it."""
LOWEST = -5
"""CUDA's most urgent stream priority on current cards; 0 is the least."""


class Budget(NamedTuple):
    """What one variant may use."""

    device: str = "cpu"
    """As torch names it."""
    memory: int | None = None
    """Bytes in all; None: as much as there is."""
    spare: int | None = None
    """Of these, beyond the weights."""
    priority: int = 0
    """Of its CUDA stream."""
    providers: tuple[str, ...] = ()
    """ONNX Runtime's, by preference, where they are installed."""


CPU = Budget()


class Allotment(NamedTuple):
    """What this worker may use of its machine."""

    device: str = "cpu"
    limit: int | None = None
    """Bytes of the device."""
    weights: Mapping[str, float] = {}
    """By variant; 1 where none is given."""
    providers: tuple[str, ...] = ()

    def budgets(self, needs: Mapping[str, tuple[str, int]]) -> dict[str, Budget]:
        """By lane: its budget; `needs` names each lane's variant and the bytes of its weights.

        Raises ValueError when the weights alone exceed the limit, or a weight is for a variant that is not served.
        """
        variants = {variant for variant, _ in needs.values()}
        for name in self.weights:
            if name not in variants:
                raise ValueError(f"a weight for {name!r}, which is not served: {', '.join(sorted(variants))} are")
        weight = {lane: self.weights.get(variant, 1.0) for lane, (variant, _) in needs.items()}
        if self.device == "cpu":
            return dict.fromkeys(needs, CPU)
        spare = self._spare(needs)
        ranks = sorted(set(weight.values()))
        budgets = {}
        for lane, (_, size) in needs.items():
            own = None if spare is None else int(spare * weight[lane] / sum(weight.values()))
            memory = None if own is None else size + own
            priority = max(-ranks.index(weight[lane]), LOWEST)
            budgets[lane] = Budget(self.device, memory, own, priority, self.providers)
        return budgets

    def _spare(self, needs: Mapping[str, tuple[str, int]]) -> int | None:
        if self.limit is None:
            return None
        taken = sum(size for _, size in needs.values())
        if taken > self.limit:
            each = ", ".join(f"{lane} {said(size)}" for lane, (_, size) in needs.items())
            raise ValueError(
                f"the weights take {said(taken)} of the device ({each}), this worker may have {said(self.limit)}: "
                "serve fewer variants (--variants), or allow more (--memory-gb)"
            )
        return self.limit - taken


def limit(total: int, used: int, wanted: float | None) -> int:
    """Bytes a worker may take of a device, of which others hold `used`. `wanted` in gigabytes, None: all but headroom.

    Raises ValueError when the device has not so much.
    """
    free = int(total * (1 - HEADROOM)) - used
    if wanted is None:
        return max(free, 0)
    if wanted * 1e9 > free:
        raise ValueError(f"--memory-gb {wanted:g}: the device has {said(max(free, 0))} to give, of {said(total)}")
    return int(wanted * 1e9)
