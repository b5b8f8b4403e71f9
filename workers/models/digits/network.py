"""The digits network as a torch module, and a student an eleventh its size: `isochrone accelerate` starts from either.

`isochrone accelerate workers.models.digits.network:reference --spec workers/models/digits/accelerate.yaml --out DIR`
prunes it, and distils it into the student on images without labels.
"""

from __future__ import annotations

from importlib import resources

import onnx
import torch
from onnx import numpy_helper
from torch import nn

from workers.models.digits.build import CHANNELS, FULL_SCALE, HIDDEN

SEED = 1
LAYERS = {"conv1": 0, "conv2": 2, "hidden": 6, "output": 8}
"""Names in the graph -> places in the module."""


class Digits(nn.Module):
    """`pixels` [n, 64], 0 to 16, to probabilities [n, 10]: what build.py trains, without the dropout."""

    def __init__(self, channels: tuple[int, int] = CHANNELS, hidden: int = HIDDEN) -> None:
        super().__init__()
        first, second = channels
        self.layers = nn.Sequential(
            nn.Conv2d(1, first, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(second * 16, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 10),
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.layers((pixels / FULL_SCALE).view(-1, 1, 8, 8)).softmax(-1)


def reference() -> Digits:
    """With the weights of the committed graph."""
    file = resources.files("workers.models.digits") / "digits.fp32.onnx"
    graph = onnx.load_from_string(file.read_bytes()).graph
    kept = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    network = Digits()
    for name, place in LAYERS.items():
        network.layers[place].load_state_dict({part: kept[f"{name}.{part}"] for part in ("weight", "bias")})
    return network


def student() -> Digits:
    """Untrained, the same one every time."""
    torch.manual_seed(SEED)
    return Digits((8, 16), 32)
