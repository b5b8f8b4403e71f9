"""LiteLLM's two strategies: the lowest latency of late, and the lowest price per token under rate limits."""

from __future__ import annotations

import random
from collections import defaultdict

import numpy as np

from loadtests.simulator.baselines import by_slot
from loadtests.simulator.contender import Watching
from policies.balancers import lowest
from policies.candidates import Candidates
from policies.columns import Floats
from policies.node import Node
from policies.reason import Reason
from policies.request import Dispatch, Outcome
from policies.worker import WorkerState

KEPT = 10
"""`max_latency_list_size`."""
TIMEOUT_S = 1000.0
"""What a timeout is remembered as."""
BUFFER = 0.0
"""`lowest_latency_buffer`: how far above the lowest still counts as lowest, relative."""
USED = 0.7
"""Share of a node's capacity that its operator allows as its `tpm` limit, over all gateways."""
MINUTE = 60.0


class LowestLatency(Watching):
    """`latency-based-routing`: the deployment whose mean of ten samples is lowest.

    LiteLLM, `router_strategy/lowest_latency.py`: samples are the time to first token of streams (raw, as of their
    PR 40202), seconds per output token of other calls; when ten are kept, the last one is overwritten by each new one
    and the nine oldest stay; who has no sample counts as 0 and so comes first; a timeout is a sample of 1,000 s. Those
    within the buffer of the lowest share at random.
    """

    def __init__(self) -> None:
        self._samples: dict[str, list[float]] = {}

    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        eligible = candidates.eligible
        if not eligible.any():
            return None
        means = by_slot(candidates.columns, self._mean)
        near = eligible & (means <= means[eligible].min() * (1.0 + BUFFER))
        return lowest(near, np.zeros_like(means), rng)

    def _mean(self, state: WorkerState) -> float:
        samples = self._samples.get(state.record.id)
        return sum(samples) / len(samples) if samples else 0.0

    def settled(self, dispatch: Dispatch, outcome: Outcome, now: float) -> None:
        if outcome.reason is Reason.DEADLINE_EXCEEDED and outcome.executed:
            sample = TIMEOUT_S
        elif outcome.reason is not None or outcome.total is None or outcome.client_error:
            return
        elif dispatch.request.stream and outcome.first_byte is not None:
            sample = outcome.first_byte
        else:
            sample = outcome.total / max(1, outcome.output_tokens or 1)
        samples = self._samples.setdefault(dispatch.node.worker.id, [])
        del samples[KEPT - 1 :]
        samples.append(sample)


class LowestCost(Watching):
    """`cost-based-routing`: the deployment with the lowest sum of its prices per input and output token, among those
    whose tokens of this minute leave room.

    LiteLLM, `router_strategy/lowest_cost.py`. Prices know no mix of input and output; usage is counted when an answer
    is complete, in minutes of the clock. Limits are what an operator of such nodes would set: a share of what each can
    do with requests of this size, split evenly between the gateways. Without anybody under its limit LiteLLM refuses;
    here the request gets the router's best effort.
    """

    def __init__(self, gateways: int) -> None:
        self._gateways = gateways
        self._used: dict[tuple[str, int], float] = defaultdict(float)
        """Tokens by worker and minute."""

    def pick(self, candidates: Candidates, rng: random.Random) -> int | None:
        columns, minute = candidates.columns, int(self.now / MINUTE)
        room = np.fromiter(
            (self._has_room(node, candidates, minute) for node in columns.nodes), np.bool_, len(columns.nodes)
        )
        return lowest(candidates.eligible & room, price(candidates), rng)

    def _has_room(self, node: Node, candidates: Candidates, minute: int) -> bool:
        request = candidates.request
        prefill = node.seconds(request, 0.0)
        share = prefill + (node.seconds(request) - prefill) / node.endpoint.max_batch
        tokens = request.prompt_tokens + request.output_tokens
        limit = tokens / share * MINUTE * USED / self._gateways if share > 0.0 else np.inf
        return self._used.get((node.worker.id, minute), 0.0) + request.prompt_tokens <= limit

    def settled(self, dispatch: Dispatch, outcome: Outcome, now: float) -> None:
        if outcome.reason is None and not outcome.client_error:
            tokens = dispatch.request.prompt_tokens + (outcome.output_tokens or 0)
            self._used[dispatch.node.worker.id, int(now / MINUTE)] += tokens


def price(candidates: Candidates) -> Floats:
    """Input and output price per token, added."""
    return candidates.columns.usd_prompt + candidates.columns.usd_output
