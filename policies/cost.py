"""What a request costs on a node, expected before and billed after. US dollars.

A node's price becomes `Rates`, one coefficient per thing a request has; expected cost is their weighted sum, so
that the fleet can hold them as columns. What is not money by itself (energy, carbon, capacity that is paid for already)
becomes money here, and nowhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from policies.records import Endpoint, ReservedPrice, TokenPrice, Worker
from policies.request import Outcome, Request

if TYPE_CHECKING:
    from policies.node import Node

SECONDS_PER_HOUR = 3600.0
TOKENS_PER_MTOK = 1e6
BYTES_PER_GB = 1e9
JOULES_PER_KWH = 3.6e6
GRAMS_PER_KG = 1e3
LEAST_WORTH = 0.05
"""What an idle reserved second is worth at least, as a share of its price: as wide as a tier, so that equals without a
queue stay equals, and small enough that what is paid for already comes before anything that is not."""
UNKNOWN_GRAMS = 480.0
"""Grams of CO2 per kilowatt-hour where nobody says: the world's mean of 2023 (Ember, Global Electricity Review 2024).
Unknown must not look clean."""


class Rates(NamedTuple):
    """US dollars per request, prompt token, output token, further item, and byte of the answer."""

    request: float
    prompt: float
    output: float
    item: float
    byte: float


class Terms(NamedTuple):
    """What a route counts beside the nodes' own prices: US dollars per kilowatt-hour and per kilogram of CO2."""

    usd_per_kwh: float = 0.0
    usd_per_kg: float = 0.0


def drawn(worker: Worker, terms: Terms, grams: float | None) -> float:
    """US dollars per accelerator second that a worker's electricity adds. `grams`: of CO2 per kilowatt-hour, where the
    worker's own record does not say; None: nobody does."""
    own = worker.carbon_g_per_kwh
    intensity = own if own is not None else UNKNOWN_GRAMS if grams is None else grams
    usd_per_kwh = terms.usd_per_kwh + terms.usd_per_kg * intensity / GRAMS_PER_KG
    return worker.power_watts / JOULES_PER_KWH * usd_per_kwh


def worth(congestion: float) -> float:
    """What a second of reserved capacity is worth now, as a share of its price.

    Its money is spent, so that all a request costs is what others lose by it: the dual variable of the node's capacity.
    By drift plus penalty (Neely, "Stochastic Network Optimization", 2010, chapter 4) that is the backlog: in
    min V * cost + backlog * work a marginal node weighs price * (1 + W / w0), and one whose cost is 0 only the second
    term, price * W / w0. All prices are multiplied with `congestion` = 1 + W / w0 when nodes are compared, hence the
    share of it that is left: W / (w0 + W), 0 when idle, a half at w0 of wait, 1 in overload.
    """
    share = 1.0 - 1.0 / congestion
    return share if share > LEAST_WORTH else LEAST_WORTH


def hourly(worker: Worker) -> float:
    """US dollars its hour costs its owner, used or not; a price list has no hours."""
    return 0.0 if isinstance(worker.price, TokenPrice) else worker.price.usd_per_hour


def accelerator_seconds(endpoint: Endpoint, prompt_tokens: float, output_tokens: float, items: int) -> float:
    """Accelerator seconds to expect of a request: all of its prefill, and of its decoding the share of one slot."""
    prefill, decode = _phases(endpoint, prompt_tokens, output_tokens, items)
    return prefill + decode


def _phases(endpoint: Endpoint, prompt_tokens: float, output_tokens: float, items: int) -> tuple[float, float]:
    curve = endpoint.curve
    return curve.seconds(prompt_tokens, 0.0, items), curve.decode * output_tokens / endpoint.max_batch


def rates(
    worker: Worker, endpoint: Endpoint, charge: tuple[float, float], *, worth: float = 1.0, extra: float = 0.0
) -> Rates:
    """A node's price as coefficients.

    `charge`: accelerator seconds charged per second expected, of prefill and of decoding. `worth`: that of a reserved
    second, as a share of its price. `extra`: US dollars per accelerator second beside the price.
    """
    curve, price = endpoint.curve, worker.price
    second = extra
    if not isinstance(price, TokenPrice):
        share = worth if isinstance(price, ReservedPrice) else 1.0
        second += price.usd_per_hour / SECONDS_PER_HOUR * share
    prefill, decode = second * charge[0], second * charge[1]
    request, prompt, item = curve.base * prefill, curve.prefill * prefill, curve.item * prefill
    output = curve.decode * decode / endpoint.max_batch
    if isinstance(price, TokenPrice):
        request += price.request_usd
        prompt += price.input_usd_per_mtok / TOKENS_PER_MTOK
        output += price.output_usd_per_mtok / TOKENS_PER_MTOK
    return Rates(request, prompt, output, item, worker.egress_usd_per_gb / BYTES_PER_GB)


def bill(node: Node, request: Request, outcome: Outcome) -> float:
    """What an attempt really cost: worker-reported accelerator seconds (or tokens) at the node's price, plus egress.

    This is the marginal bill: reserved seconds are paid for already and cost nothing more, beside the electricity that
    the route counts. What the worker did not report is taken as predicted when the answer is complete, and from what
    was seen of it when it is not. An attempt that was not executed, or was the client's fault, costs no compute.

    An engine that reports no accelerator seconds (those attached without a proxy) is billed its prefill in full and its
    decoding by one slot's share, at the speed this gateway has learned of it from outside: 1/slots of the wall time.
    That adds up to the engine's time while its slots are full; a lone request is billed less than it keeps the
    accelerator busy, and the fleet-hour bill has the rest.
    """
    if not outcome.executed:
        return 0.0
    worker = node.worker
    egress = worker.egress_usd_per_gb / BYTES_PER_GB * outcome.reply_bytes
    if outcome.client_error:
        return egress
    price, extra = worker.price, node.extra
    if isinstance(price, TokenPrice):
        if extra:
            egress += extra * _accelerator_seconds(node, request, outcome)
        predicted = request.output_tokens if outcome.reason is None else 0.0
        tokens = predicted if outcome.output_tokens is None else outcome.output_tokens
        per_token = (
            price.input_usd_per_mtok * request.prompt_tokens + price.output_usd_per_mtok * tokens
        ) / TOKENS_PER_MTOK
        return price.request_usd + per_token + egress
    second = extra if isinstance(price, ReservedPrice) else extra + price.usd_per_hour / SECONDS_PER_HOUR
    return second * _accelerator_seconds(node, request, outcome) + egress


def _accelerator_seconds(node: Node, request: Request, outcome: Outcome) -> float:
    if outcome.accelerator is not None:
        return outcome.accelerator
    tokens = request.output_tokens if outcome.output_tokens is None else outcome.output_tokens
    prefill, decode = _phases(node.endpoint, request.prompt_tokens, tokens, request.items)
    charge = node.charged()
    predicted = charge[0] * prefill + charge[1] * decode
    if outcome.reason is None or outcome.total is None:
        return predicted
    return min(predicted, max(0.0, outcome.total - node.network()))  # cut short: at most as long as it lasted there
