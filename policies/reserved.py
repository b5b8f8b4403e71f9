"""Capacity that is paid for already: its price follows its queue, a few nodes at each tick.

What a reserved second is worth is cost.py's; it is part of the dollars in the columns, so that no decision does more
for it. One vector operation finds the nodes whose price is off.
"""

from __future__ import annotations

import numpy as np

from policies.columns import Columns
from policies.cost import LEAST_WORTH, worth

MOST = 64
"""Nodes whose price is written at one tick and for one model, those furthest off first: 0.2 ms."""
OFF = 0.025
"""Relative error below which a price stays: half a tier."""


def follow(columns: Columns) -> None:
    """Write the prices of reserved nodes whose queue has changed what they are worth."""
    slots = columns.reserved.nonzero()[0]
    if not len(slots):
        return
    shown = columns.worth[slots]
    off = np.abs(np.maximum(LEAST_WORTH, 1.0 - 1.0 / columns.congestion[slots]) - shown) / shown
    slots, off = slots[off > OFF], off[off > OFF]
    if len(slots) > MOST:
        slots = slots[off.argpartition(-MOST)[-MOST:]]
    for slot in slots.tolist():
        node = columns.nodes[slot]
        node.worth = worth(columns.congestion.item(slot))
        node.price()
        columns.set_price(node)
