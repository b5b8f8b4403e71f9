"""What this machine has to accelerate with: devices, and which of the libraries are installed."""

from __future__ import annotations

import importlib.util
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import onnxruntime as ort

from workers.devices import Device, of_torch

PACKAGES = ("torch", "torchao", "torch-pruning", "transformers", "onnx", "openvino", "numpy")
"""Whose versions a manifest records beside ONNX Runtime's."""
GRAPHS = {"onnx", "onnx_ir"}
"""Import names of the extra for ONNX graphs; the others are torch's."""


class Machine(NamedTuple):
    """Found once, at the start."""

    installed: frozenset[str]
    """Import names of the optional libraries."""
    providers: frozenset[str]
    """Of this ONNX Runtime."""
    capability: tuple[int, int] | None = None
    """Of the CUDA device that torch sees; None without one."""
    card: Device | None = None

    @property
    def device(self) -> str:
        return "cpu" if self.capability is None else "cuda"

    def lacks(self, *names: str) -> str | None:
        """Why something that needs these libraries cannot be done here."""
        missing = [name for name in names if name not in self.installed]
        extra = "accelerate" if set(missing) <= GRAPHS else "accelerate-torch"
        return f"{', '.join(missing)} not installed: pip install 'isochrone[{extra}]'" if missing else None


def found() -> Machine:
    names = ("torch", "torchao", "torch_pruning", "transformers", "onnx", "onnx_ir", "onnxscript", "openvino")
    installed = frozenset(name for name in names if importlib.util.find_spec(name) is not None)
    capability, card = None, None
    if "torch" in installed:
        import torch

        torch.set_num_threads(1)  # seconds are one core's; threads that wait for a busy core would count as work
        if torch.cuda.is_available():
            capability = torch.cuda.get_device_capability()
            card = of_torch(str(torch.cuda.get_device_properties(0).uuid))
    return Machine(installed, frozenset(ort.get_available_providers()), capability, card)


def cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def software() -> dict[str, str]:
    """Versions by package, of those that are installed."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
