"""What a request costs on a node, expected before and billed after. US dollars.

A node's price becomes `Rates`, one coefficient per thing a request has; expected cost is their weighted sum, so
that the fleet can hold them as columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from policies.records import Endpoint, MarginalPrice, Worker
from policies.request import Outcome, Request

if TYPE_CHECKING:
    from policies.node import Node

SECONDS_PER_HOUR = 3600.0
TOKENS_PER_MTOK = 1e6
BYTES_PER_GB = 1e9


class Rates(NamedTuple):
    """US dollars per request, prompt token, output token, further item, and byte of the answer."""

    request: float
    prompt: float
    output: float
    item: float
    byte: float


def accelerator_seconds(endpoint: Endpoint, prompt_tokens: float, output_tokens: float, items: int) -> float:
    """Accelerator seconds to expect of a request: all of its prefill, and of its decoding the share of one slot."""
    curve = endpoint.curve
    return curve.seconds(prompt_tokens, 0.0, items) + curve.decode * output_tokens / endpoint.max_batch


def rates(worker: Worker, endpoint: Endpoint, charge: float) -> Rates:
    """A node's price as coefficients. `charge`: accelerator seconds charged per second expected."""
    curve = endpoint.curve
    byte = worker.egress_usd_per_gb / BYTES_PER_GB
    price = worker.price
    if isinstance(price, MarginalPrice):
        second = price.usd_per_hour / SECONDS_PER_HOUR * charge
        decode = curve.decode * second / endpoint.max_batch
        return Rates(curve.base * second, curve.prefill * second, decode, curve.item * second, byte)
    prompt = price.input_usd_per_mtok / TOKENS_PER_MTOK
    output = price.output_usd_per_mtok / TOKENS_PER_MTOK
    return Rates(price.request_usd, prompt, output, 0.0, byte)


def bill(node: Node, request: Request, outcome: Outcome) -> float:
    """What an attempt really cost: worker-reported accelerator seconds (or tokens) at the node's price, plus egress.

    What the worker did not report is taken as predicted when the answer is complete, and from what was seen of it when
    it is not. An attempt that was not executed, or was the client's fault, costs no compute.
    """
    if not outcome.executed:
        return 0.0
    worker = node.worker
    egress = worker.egress_usd_per_gb / BYTES_PER_GB * outcome.reply_bytes
    if outcome.client_error:
        return egress
    price = worker.price
    if isinstance(price, MarginalPrice):
        return price.usd_per_hour / SECONDS_PER_HOUR * _accelerator_seconds(node, request, outcome) + egress
    predicted = request.output_tokens if outcome.reason is None else 0.0
    tokens = predicted if outcome.output_tokens is None else outcome.output_tokens
    per_token = (
        price.input_usd_per_mtok * request.prompt_tokens + price.output_usd_per_mtok * tokens
    ) / TOKENS_PER_MTOK
    return price.request_usd + per_token + egress


def _accelerator_seconds(node: Node, request: Request, outcome: Outcome) -> float:
    if outcome.accelerator is not None:
        return outcome.accelerator
    tokens = request.output_tokens if outcome.output_tokens is None else outcome.output_tokens
    expected = accelerator_seconds(node.endpoint, request.prompt_tokens, tokens, request.items)
    predicted = node.charge.factor * expected
    if outcome.reason is None or outcome.total is None:
        return predicted
    return min(predicted, max(0.0, outcome.total - node.network()))  # cut short: at most as long as it lasted there
