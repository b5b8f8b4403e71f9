"""Quality of a variant: paired with the reference on the same held-out items, with intervals.

A paper holds one variant's answers and which are right. Scores are shares of right answers; the interval of a ratio
comes of resampling the items with both papers' answers (a paired bootstrap), because the two are anything but
independent: a hundredth of what tells them apart would drown in the spread of the items.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from workers.accelerate.data import Data
from workers.engines import Engine
from workers.engines.embed import Embedder
from workers.manifest import Interval

Z95 = 1.959964
RESAMPLES = 2000
"""The ends of a 95 % interval then move by about a twentieth of its width from seed to seed."""
SEED = 0
NEIGHBOURS = 10
BINS = 10
CHUNK = 256
"""Items per run of an examination: what a paper takes must not depend on the memory of a whole data set's batch."""

AGREEMENT = {
    "classification": "share of held-out items given the same class as by the reference",
    "embedding": "share of held-out texts whose nearest neighbour is the reference's",
}


class Paper(NamedTuple):
    """One variant's answers."""

    answers: np.ndarray
    """One per item, comparable with another paper's."""
    right: np.ndarray | None
    """Whether each is right; None where nobody knows: then the reference is right."""
    vectors: np.ndarray | None = None
    """Embeddings, a row per item."""
    near: np.ndarray | None = None
    """Per item, its nearest neighbours."""
    calibration_error: float | None = None
    """By how much a classifier's probabilities are off; None where the answers are unknown or it gives none."""


class Quality(NamedTuple):
    """A variant beside the reference, as the manifest has it."""

    score: float
    ci95: Interval
    quality: float
    quality_ci95: Interval
    agreement: float
    agreement_ci95: Interval
    fidelity: dict[str, float]


def classified(engine: Engine, data: Data, output: str) -> Paper:
    """Examine a classifier. Raises ValueError when it does not give classes or its numbers are none."""
    parts = []
    for start in range(0, data.rows, CHUNK):
        feeds = {name: value[start : start + CHUNK] for name, value in data.feeds.items()}
        parts.append(_checked(engine.run(feeds)[output], output))
    scores = np.concatenate(parts)
    answers = scores.argmax(axis=1)
    if data.labels is None:
        return Paper(answers, None)
    off = calibration_error(scores, data.labels) if _probabilities(scores) else None
    return Paper(answers, answers == data.labels, calibration_error=off)


def _probabilities(scores: np.ndarray) -> bool:
    """Whether every row is one distribution, as far as half precision can tell."""
    return bool((scores >= 0).all() and (np.abs(scores.sum(axis=1, dtype=np.float64) - 1) < 0.01).all())


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean difference between confidence and the share of right answers, in bins of equally many items, those of like
    confidence together (Naeini, Cooper and Hauskrecht, 2015, with the bins of Nguyen and O'Connor, 2015)."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    parts = np.array_split(np.argsort(confidence, kind="stable"), BINS)
    gaps = [len(part) * abs(float(confidence[part].mean() - right[part].mean())) for part in parts if len(part)]
    return round(sum(gaps) / len(labels), 5)


def _checked(scores: np.ndarray, output: str) -> np.ndarray:
    if scores.ndim != 2:
        raise ValueError(f"output {output!r} has shape {list(scores.shape)}: a classifier gives one score per class")
    if not np.isfinite(scores).all():
        raise ValueError(f"output {output!r} holds numbers that are none (nan or inf)")
    return scores


def embedded(embedder: Embedder, data: Data) -> Paper:
    """Examine an encoder: each text looks for the one that belongs to it, among all those; without such pairs, for its
    nearest neighbour among the texts."""
    vectors = embedder.embed(data.texts).vectors
    if not np.isfinite(vectors).all():
        raise ValueError("embeddings hold numbers that are none (nan or inf)")
    if data.matches:
        filed = list(dict.fromkeys(data.matches))
        places = {text: i for i, text in enumerate(filed)}
        scores = vectors @ embedder.embed(filed).vectors.T
        wanted = np.array([places[text] for text in data.matches])
    else:
        scores = vectors @ vectors.T
        np.fill_diagonal(scores, -np.inf)
        wanted = None
    return retrieved(vectors, scores, wanted)


def retrieved(vectors: np.ndarray, scores: np.ndarray, wanted: np.ndarray | None) -> Paper:
    """A paper of who is found nearest, from every text's likeness to every candidate."""
    found = scores.argmax(axis=1)
    near = np.argsort(-scores, axis=1)[:, : min(NEIGHBOURS, scores.shape[1] - 1)]
    return Paper(found, None if wanted is None else found == wanted, vectors, near)


def compared(paper: Paper, reference: Paper) -> Quality:
    """A paper beside the reference's."""
    same = np.asarray(paper.answers == reference.answers)
    right = same if paper.right is None else paper.right
    base = np.ones_like(same) if reference.right is None else reference.right
    return Quality(
        score=round(float(right.mean()), 5),
        ci95=wilson(int(right.sum()), len(right)),
        quality=round(_ratio(int(right.sum()), int(base.sum())), 5),
        quality_ci95=paired(right, base),
        agreement=round(float(same.mean()), 5),
        agreement_ci95=wilson(int(same.sum()), len(same)),
        fidelity=_fidelity(paper, reference),
    )


def _fidelity(paper: Paper, reference: Paper) -> dict[str, float]:
    found = {}
    if paper.vectors is not None and reference.vectors is not None and paper.vectors.shape == reference.vectors.shape:
        found["cosine"] = round(float((paper.vectors * reference.vectors).sum(axis=1).mean()), 5)
    if paper.near is not None and reference.near is not None:
        shared = [len(np.intersect1d(a, b)) for a, b in zip(paper.near, reference.near, strict=True)]
        found[f"recall_at_{reference.near.shape[1]}"] = round(float(np.mean(shared)) / reference.near.shape[1], 5)
    return found


def paired(right: np.ndarray, reference: np.ndarray) -> Interval:
    """95 % interval of the ratio of two scores on the same items.

    An item matters only by which of the two had it right, so a resample is one draw of those four counts.
    """
    kinds = np.bincount(2 * right.astype(int) + reference.astype(int), minlength=4)
    drawn = np.random.default_rng(SEED).multinomial(len(right), kinds / len(right), RESAMPLES)
    ratios = [_ratio(int(one[2] + one[3]), int(one[1] + one[3])) for one in drawn]
    low, high = np.percentile(ratios, (2.5, 97.5))
    return round(float(low), 5), round(float(high), 5)


def _ratio(right: int, reference: int) -> float:
    """Where the reference has nothing right, there is nothing to lose."""
    return right / reference if reference else 1.0


def wilson(right: int, n: int) -> Interval:
    """95 % interval of a share (Wilson 1927: it holds near 1, where the usual normal interval does not)."""
    share = right / n
    middle = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n)) / (1 + Z95**2 / n)
    return round(middle - half, 5), round(middle + half, 5)


def examined(engine: Engine | Embedder, data: Data, output: str) -> Paper:
    """Examine a variant by what its engine can be asked."""
    return embedded(engine, data) if isinstance(engine, Embedder) else classified(engine, data, output)
