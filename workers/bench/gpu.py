"""`make bench-gpu`: the physical limits of this card, then how near variants of an encoder and a decoder come to them.

Parts run in processes of their own, the most wanted first, within a time limit for all; whatever is known is in
`build/bench/gpu.json` at once, so an interrupted run keeps what it measured. Next: part.py, report.py.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import platform
import queue
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from workers.bench import report

LIMIT_SECONDS = 530.0
"""For everything: under nine minutes."""
RESERVE_SECONDS = 20.0
"""Kept back at the end, so that a row that was begun can end."""
PATIENCE_SECONDS = 150.0
"""Longest silence of a part: the longest compilation seen is a third of it."""
SOFTWARE = ("torch", "triton", "torchao", "transformers", "nvidia-ml-py")

PLAN: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("ceilings", ()),
    ("encoder-1024", ("bf16-compiled",)),
    ("decoder-1b", ("bf16-skinny",)),
    (
        "decoder",
        (
            "bf16-skinny",
            "bf16-graph",
            "bf16-eager",
            "int8_weights-skinny",
            "fp8_weights-skinny",
            "fp8-compiled",
            "int4_weights-compiled",
        ),
    ),
    ("encoder", ("bf16-compiled", "fp8-compiled", "bf16-graph", "bf16-eager", "sparse24-graph", "int8-compiled")),
    ("front", ("bf16",)),
    ("batching", ("bf16",)),
)
"""What is measured, in this order: what the targets speak of comes first."""


class Run:
    """One benchmark run: starts the parts and files what they say."""

    def __init__(self, out: Path, scale: str, limit: float) -> None:
        self.out, self._scale = out, scale
        self._begun = time.monotonic()
        self._end = self._begun + limit
        self._log = out.with_suffix(".log")
        self.data: dict[str, Any] = {
            "schema": 1,
            "measured": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "scale": scale,
            "software": software(),
            "parts": {},
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        self._log.write_bytes(b"")

    def part(self, name: str, variants: tuple[str, ...]) -> None:
        """Run a part until all its variants are done, failed or out of time."""
        left = list(variants)
        while True:
            if self._end - RESERVE_SECONDS < time.monotonic():
                for variant in left:
                    self._file(name, variant, {"skipped": "out of time"})
                return
            begun, fault = self._process(name, left)
            if fault and not begun:
                self._file(name, left[0] if left else "", {"failed": fault})
                begun = left[:1]
            elif fault:
                self._file(name, begun[-1], {"failed": fault})
            left = [variant for variant in left if variant not in begun] if fault else []
            if not left:
                return

    def _process(self, name: str, variants: list[str]) -> tuple[list[str], str]:
        """One process: the variants it began, and what ended it before its time ('' if nothing did)."""
        until = self._end - RESERVE_SECONDS
        begun: list[str] = []
        with (
            self._log.open("ab") as log,
            subprocess.Popen(  # noqa: S603
                command(name, variants, self._scale, until), stdout=subprocess.PIPE, stderr=log
            ) as process,
        ):
            assert process.stdout is not None
            lines: queue.Queue[bytes] = queue.Queue()
            threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
            while True:
                try:
                    line = lines.get(timeout=max(min(PATIENCE_SECONDS, self._end - time.monotonic()), 0.1))
                except queue.Empty:
                    process.kill()
                    return begun, "no word for too long: killed"
                if not line:
                    break
                said = json.loads(line)
                if said["variant"] and said["variant"] not in begun:
                    begun.append(said["variant"])
                self._file(name, said["variant"], said["found"])
        return begun, f"the process ended with status {process.returncode}" if process.returncode else ""

    def _file(self, part: str, variant: str, found: dict[str, Any]) -> None:
        """Put one finding in its place and the whole on disk."""
        place = self.data["parts"].setdefault(part, {})
        if variant:
            place = place.setdefault("variants", {}).setdefault(variant, {})
        if "failed" in found and "failed" in place:
            return  # the variant's own words say more than how its process ended
        for key, value in found.items():
            if isinstance(value, list):
                place.setdefault(key, []).extend(value)
            elif isinstance(value, dict):
                place.setdefault(key, {}).update(value)
            else:
                place[key] = value
        self.out.write_text(json.dumps(self.data, indent=1) + "\n")
        print(f"{time.monotonic() - self._begun:6.1f} {part} {variant} {_short(found)}", flush=True)  # noqa: T201


def command(part: str, variants: list[str], scale: str, until: float) -> list[str]:
    """How a part is started (part.py)."""
    return [sys.executable, "-m", "workers.bench.part", part, *variants, "--scale", scale, "--until", str(until)]


def _pump(stream: Any, lines: queue.Queue[bytes]) -> None:
    """Every line, then an empty one."""
    for line in stream:
        lines.put(line)
    lines.put(b"")


def _short(found: dict[str, Any]) -> str:
    return json.dumps(found)[:200]


def software() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in SOFTWARE:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="make bench-gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/bench/gpu.json"))
    parser.add_argument("--scale", choices=("full", "tiny"), default="full")
    parser.add_argument("--seconds", type=float, default=LIMIT_SECONDS)
    parser.add_argument("--only", default="", help="parts, separated by commas")
    parser.add_argument("--variants", default="", help="variants, or PART/VARIANT, separated by commas")
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("torch") is None:
        parser.error(f"{sys.executable} has no torch: make bench-gpu PYTHON=/path/to/a/python/that/has/it")
    run = Run(options.out, options.scale, options.seconds)
    only, named = options.only.split(",") if options.only else [], options.variants.split(",")
    for part, variants in PLAN:
        if not only or part in only:
            wanted = tuple(v for v in variants if {v, f"{part}/{v}"} & set(named)) if options.variants else variants
            if wanted or not variants:
                run.part(part, wanted)
        if "failed" in run.data["parts"].get(part, {}):
            parser.error(run.data["parts"][part]["failed"])
    print(report.table(run.data))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
