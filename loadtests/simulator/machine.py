"""What a simulated worker is made of: its service times, its slow periods, its waiting line, its memory of prompts,
and a gauge of the herds that come over it.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from typing import TYPE_CHECKING

from loadtests.simulator.world import Profile, Queue, Serving
from loadtests.sizes import BLOCK_TOKENS
from policies.records import Curve, Endpoint

if TYPE_CHECKING:
    from loadtests.simulator.call import Job


class Service:
    """A profile, ready for use."""

    __slots__ = ("decode_batch_s", "decode_s", "interference", "overhead_s", "profile", "prompt_s", "slots")

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.overhead_s = profile.overhead_s
        self.prompt_s = 1.0 / profile.prefill_tokens_per_s
        self.decode_s, self.decode_batch_s = profile.decode_s, profile.decode_batch_s
        self.slots = profile.slots
        self.interference = profile.interference

    def prefill(self, prompt: float) -> float:
        """Seconds until the first token on a node that has nothing else to do."""
        return self.overhead_s + prompt * self.prompt_s

    def full_share(self, output: float) -> float:
        """Seconds of the node that the decoding of so many tokens takes when all slots are busy."""
        return output * (self.decode_s + self.decode_batch_s * self.slots) / self.slots

    def endpoint(self) -> Endpoint:
        """As it is registered. The curve's decode is the time per token at batch 1 (records.Curve); a profile counts
        the request itself among those running."""
        profile = self.profile
        batch = self.decode_batch_s
        curve = Curve(self.overhead_s, prefill=self.prompt_s, decode=self.decode_s + batch, decode_batch=batch)
        return Endpoint(
            model=profile.model, variant=profile.variant, quality=profile.quality, curve=curve, max_batch=self.slots
        )


class SlowPeriods:
    """Random stretches in which everything takes longer. They depend on the node and the seed, not on the policy."""

    __slots__ = ("_factor", "_means", "_rng", "_slow", "_until")

    def __init__(self, serving: Serving, rng: random.Random) -> None:
        share = rng.uniform(*serving.slow_share)
        self._rng = rng
        self._factor = serving.slow_factor
        self._slow = rng.random() < share
        self._means = (serving.slow_s * (1.0 - share) / share if share else math.inf, serving.slow_s)
        """Of the stretches in between, and of the slow ones."""
        always = share in (0.0, 1.0) or serving.slow_factor == 1.0
        self._until = math.inf if always else self._length()

    def _length(self) -> float:
        return self._rng.expovariate(1.0 / self._means[self._slow])

    def factor(self, now: float) -> float:
        while now >= self._until:
            self._slow = not self._slow
            self._until += self._length()
        return self._factor if self._slow else 1.0


class Prefixes:
    """Which beginnings of prompts a worker has in its memory: the blocks used last."""

    __slots__ = ("_blocks", "_capacity")

    def __init__(self, tokens: int) -> None:
        self._capacity = max(1, tokens // BLOCK_TOKENS)
        self._blocks: dict[int, None] = {}

    def use(self, prefix: tuple[int, ...]) -> int:
        """Tokens of it that are there; afterwards all of it is."""
        blocks, hits = self._blocks, 0
        for block in prefix:
            if block not in blocks:
                break
            hits += 1
        for block in reversed(prefix):  # a beginning outlives what follows it
            blocks.pop(block, None)
            blocks[block] = None
        while len(blocks) > self._capacity:
            del blocks[next(iter(blocks))]
        return hits * BLOCK_TOKENS

    def forget(self) -> None:
        self._blocks.clear()


class Herd:
    """Work that arrived at one node within one window, over what the node can do in a window; the worst so far.

    Windows are as long as the information of those who send is old (the heartbeat, one second at least) and follow
    each other: in one window nobody can see what all others send. In seconds of work, not requests, so that sizes
    count; the larger of prefill work and decode work over all slots, because either may be what a node lacks. 1 is
    exactly what it can do; a policy that spreads perfectly stays near its load.
    """

    __slots__ = ("_decode", "_from", "_prefill", "_width", "_window", "worst")

    def __init__(self, width: float, start: float) -> None:
        self._width = width
        self._from = math.ceil(start / width)
        """The first window that counts."""
        self._window = 0
        self._prefill = self._decode = 0.0
        self.worst = 0.0

    def arrived(self, now: float, prefill: float, decode: float) -> None:
        window = int(now / self._width)
        if window != self._window:
            self._window, self._prefill, self._decode = window, 0.0, 0.0
        self._prefill += prefill
        self._decode += decode
        index = max(self._prefill, self._decode) / self._width
        if index > self.worst and window >= self._from:
            self.worst = index


class Line:
    """What waits: first come first, or the earliest deadline first. Whoever left it otherwise is skipped in turn."""

    __slots__ = ("_back", "_edf", "_entries", "_heap", "_put")

    def __init__(self, queue: Queue) -> None:
        self._edf = queue is Queue.EDF
        self._entries: deque[Job] = deque()
        self._heap: list[tuple[float, int, Job]] = []
        self._put = self._back = 0

    def put(self, job: Job) -> None:
        if self._edf:
            self._put += 1
            heapq.heappush(self._heap, (job.due, self._put, job))
        else:
            self._entries.append(job)

    def put_back(self, job: Job) -> None:
        """It was taken too early: it is the next again, deadlines aside."""
        if self._edf:
            self._back -= 1
            heapq.heappush(self._heap, (job.due, self._back, job))
        else:
            self._entries.appendleft(job)

    def take(self) -> Job:
        """The next one, waiting or not. Raises IndexError when nothing is left."""
        return heapq.heappop(self._heap)[2] if self._edf else self._entries.popleft()

    def jobs(self) -> list[Job]:
        """All, in their order."""
        return [entry[2] for entry in sorted(self._heap, key=_order)] if self._edf else list(self._entries)


def _order(entry: tuple[float, int, Job]) -> tuple[float, int]:
    return entry[:2]
