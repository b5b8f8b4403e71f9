"""Joules of a run: by the card's counter, by the processor's (RAPL), or reckoned from CPU time and said to be so."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from workers.devices import Reading
from workers.manifest import Energy

RAPL = Path("/sys/class/powercap")
WINDOW_SECONDS = 2.0
"""Least window of a counter: NVML's period can exceed 100 ms."""
WATTS_PER_CORE = 10.0
"""One busy server core, with its share of caches, memory and fans: 280 W over 32 cores is 9 W, a desktop's 105 W over 8
cores 13 W (the makers' rated powers)."""


class Counter(NamedTuple):
    """Joules since some time ago."""

    source: str
    joules: Callable[[], float | None]


class Card(Protocol):
    """workers.devices.Device, as far as energy is concerned."""

    def read(self) -> Reading: ...


def of_card(card: Card) -> Counter:
    return Counter("nvml", lambda: card.read().joules)


def rapl(root: Path = RAPL) -> Counter | None:
    """Of the processor packages, their other cores' work included; None where the kernel does not show them (virtual
    machines) or only root may read them."""
    files = sorted(path / "energy_uj" for path in root.glob("intel-rapl:[0-9]"))
    if not files or _microjoules(files) is None:
        return None
    return Counter("rapl", lambda: None if (found := _microjoules(files)) is None else found / 1e6)


def _microjoules(files: Sequence[Path]) -> int | None:
    try:
        return sum(int(path.read_text()) for path in files)
    except (OSError, ValueError):
        return None


def counted(
    counter: Counter,
    run: Callable[[], object],
    items: int,
    clock: Callable[[], float] = time.monotonic,
    window: float = WINDOW_SECONDS,
) -> Energy | None:
    """Joules per item while `run`, of so many items, is repeated; None when the counter stood still or went round."""
    before, begun, done = counter.joules(), clock(), 0
    while (took := clock() - begun) < window:
        run()
        done += 1
    after = counter.joules()
    if before is None or after is None or after <= before:
        return None
    used = after - before
    return Energy(joules=_rounded(used / (done * items)), source=counter.source, watts=round(used / took, 1))


def estimated(seconds: float, watts: float = WATTS_PER_CORE) -> Energy:
    """From the CPU seconds of one item."""
    return Energy(joules=_rounded(seconds * watts), source="estimated", watts=watts)


def _rounded(joules: float) -> float:
    return float(f"{joules:.4g}")
