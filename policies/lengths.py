"""How long answers turn out to be, per tenant and model: what a request that does not say is expected to generate.

Mean and deviation of the last hundred or so answers, shrunk towards what holds for the model, and that towards the
route's own guess, until there is enough of their own (Bühlmann, "Experience rating and credibility", 1967). Reading
costs a comparison: the figures are made anew only after some more answers.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import NamedTuple

GAIN = 0.01
"""About the last hundred answers count: what tenants ask changes by the hour, and single answers vary widely."""
GUESS = 1.0
"""What the route's guess weighs, in answers of the model: it knows nothing of them."""
HANDFUL = 4.0
"""What the model's answers weigh against a tenant's: after four of its own they weigh the same."""
REFRESH_EVERY = 8
"""Answers after which the figures are made anew, once there are so many; each of the first few counts at once."""
MAX_LENGTHS = 10_000
"""Tenants times models remembered: about 3 MB."""
MAX_MODELS = 4096


class Expected(NamedTuple):
    """Output tokens of one answer."""

    mean: float
    deviation: float
    """Standard."""


class Moments:
    """Mean and mean square of lengths, forgetting exponentially."""

    __slots__ = ("count", "mean", "square")

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self.square = 0.0

    def observe(self, tokens: float) -> None:
        self.count = count = self.count + 1
        gain = 1.0 / count if count < 1.0 / GAIN else GAIN
        self.mean += gain * (tokens - self.mean)
        self.square += gain * (tokens * tokens - self.square)

    def share(self, rival: float) -> float:
        """Their share in an estimate, beside what weighs as much as `rival` answers."""
        samples = min(self.count, 1.0 / GAIN)
        return samples / (samples + rival)


class Length:
    """What to expect of one tenant's answers from one model."""

    __slots__ = ("_due", "_expected", "_model", "_own", "_prior")

    def __init__(self, model: Moments, prior: float) -> None:
        self._own = Moments()
        self._model = model
        self._prior = prior
        self._due = 0
        """Count of the model's answers at which the figures are made anew."""
        self._expected = Expected(prior, 0.0)

    def __repr__(self) -> str:
        return f"<Length {self._expected.mean:.0f}±{self._expected.deviation:.0f} of {self._own.count}>"

    def guess(self, prior: float) -> None:
        """Take the route's guess, which a reload may change."""
        if prior != self._prior:
            self._prior, self._due = prior, 0

    def expected(self) -> Expected:
        if self._model.count >= self._due:
            self._refresh()
        return self._expected

    def observe(self, tokens: float, limit: float | None) -> None:
        """An answer was so long. One that reached its limit was cut off: it tells only that it would have been longer,
        which is news only above what is expected anyway."""
        if limit is not None and tokens >= limit and limit <= self._expected.mean:
            return
        self._own.observe(tokens)
        self._model.observe(tokens)

    def _refresh(self) -> None:
        mean, square = self._prior, self._prior**2
        for moments, rival in ((self._model, GUESS), (self._own, HANDFUL)):
            share = moments.share(rival)
            mean += share * (moments.mean - mean)
            square += share * (moments.square - square)
        self._expected = Expected(mean, math.sqrt(max(0.0, square - mean * mean)))
        count = self._model.count
        self._due = count + min(REFRESH_EVERY, count or 1)


class Lengths:
    """All of a gateway's; the ones longest unused are forgotten."""

    def __init__(self) -> None:
        self._lengths: OrderedDict[tuple[str, str], Length] = OrderedDict()
        self._models: OrderedDict[str, Moments] = OrderedDict()

    def of(self, tenant: str, model: str, prior: float) -> Length:
        """For a tenant's requests to a model whose route expects `prior` tokens."""
        key = (tenant, model)
        length = self._lengths.get(key)
        if length is None:
            length = self._lengths[key] = Length(self._model(model), prior)
            if len(self._lengths) > MAX_LENGTHS:
                self._lengths.popitem(last=False)
        else:
            self._lengths.move_to_end(key)
            length.guess(prior)
        return length

    def _model(self, model: str) -> Moments:
        moments = self._models.setdefault(model, Moments())
        self._models.move_to_end(model)
        if len(self._models) > MAX_MODELS:
            self._models.popitem(last=False)
        return moments

    def __len__(self) -> int:
        return len(self._lengths)
