"""Runs kept on disk, one line of JSON each, so that what was interrupted goes on where it was.

A line is found again by what it came from: the world, byte for byte, the policy and the seed. The code is not part of
that: whoever changes a policy begins anew (`make clean`, or another file).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec

from loadtests.simulator.result import Run
from loadtests.simulator.world import World


class Line(msgspec.Struct, frozen=True):
    """A run and the world it was made in."""

    world: str
    run: Run


def digest(world: World) -> str:
    return hashlib.sha256(msgspec.json.encode(world)).hexdigest()[:16]


class Kept:
    """The runs of a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._runs: dict[tuple[str, str, int], Run] = {}
        if path.exists():
            self._read()

    def __len__(self) -> int:
        return len(self._runs)

    def _read(self) -> None:
        """Lines that do not parse are cut off: the last one of a run that was killed, or those of another schema."""
        whole = []
        for line in self.path.read_bytes().splitlines():
            try:
                one = msgspec.convert(json.loads(line), Line)
            except (ValueError, msgspec.MsgspecError):
                continue
            whole.append(line)
            self._runs[one.world, one.run.policy, one.run.seed] = one.run
        self.path.write_bytes(b"".join(line + b"\n" for line in whole))

    def get(self, world: World, policy: str, seed: int) -> Run | None:
        return self._runs.get((digest(world), policy, seed))

    def add(self, world: World, run: Run) -> None:
        """On disk before the next one begins."""
        name = digest(world)
        self._runs[name, run.policy, run.seed] = run
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            # Python's own JSON: it brings NaN home, which stands for quantiles of nothing.
            file.write(json.dumps(msgspec.to_builtins(Line(name, run))).encode() + b"\n")
