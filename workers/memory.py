"""How much memory this process may still take: the machine's, or its container's where that is less."""

from __future__ import annotations

from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def available(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int | None:
    """Bytes, without swapping; None where the system does not tell. What it keeps of files counts as free."""
    limits = [each for each in (_machine(meminfo), _container(cgroup)) if each is not None]
    return min(limits, default=None)


def said(size: float) -> str:
    """A number of bytes for people."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _machine(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith("MemAvailable:")]
    return int(found[0][1]) * 1024 if found else None


def _container(cgroup: Path) -> int | None:
    """By cgroup v2; a container sees its own group at the root."""
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        kept = [line.split() for line in (cgroup / "memory.stat").read_text().splitlines()]
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    files = sum(int(value) for name, value in kept if name == "inactive_file")
    return max(int(limit) - used + files, 0)
