"""COCO's figures of images that come several times or not at all, from matches that were found once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from sgenet.detection.evaluation import FIGURES
from sgenet.detection.matching import MOST_DETECTIONS, OVERLAPS, SIZES, ClassMatches

__all__ = ["draw_weights", "weighted_figures"]

_Floats: TypeAlias = npt.NDArray[np.float64]
_Ints: TypeAlias = npt.NDArray[np.int64]

_RECALLS = np.linspace(0.0, 1.0, 101)
_AT_75 = 5  # of `OVERLAPS`
_MOST_NUMBERS = 2**24  # in one array: 128 MB


def draw_weights(images: int, resamples: int, seed: int) -> _Ints:
    """How often each image is drawn, where as many are drawn as there are, with replacement.

    Args:
        images: I, how many there are.
        resamples: B, how often that is done.
        seed: Decides which are drawn.

    Returns:
        int64 (I, B); every column adds up to I.

    Examples:
        >>> draw_weights(5, 3, seed=0).sum(axis=0).tolist()
        [5, 5, 5]
    """
    random = np.random.default_rng(seed)
    drawn = (np.bincount(random.integers(images, size=images), minlength=images) for _ in range(resamples))
    return np.stack(list(drawn), axis=1).astype(np.int64)


def weighted_figures(matches: Sequence[ClassMatches], weights: _Ints) -> _Floats:
    """COCO's twelve figures, for one or many weightings of the images at once.

    An image of weight 2 counts like two images with equal contents and ids that follow each other; only where a
    detector gives several detections of a class in one image exactly the same score may the order among them, which
    COCO leaves open, make a difference.

    Args:
        matches: Of each class, from `match`.
        weights: int64 (I, B): how often each image counts, in each of B weightings.

    Returns:
        float64 (12, B), in the order of `FIGURES`; nan where there is nothing to find.
    """
    largest = max((len(found.image) for found in matches), default=0)
    at_once = max(1, _MOST_NUMBERS // max(largest, len(weights), len(matches) * len(SIZES) * len(OVERLAPS), 1))
    parts = [
        _figures(matches, np.ascontiguousarray(weights[:, start : start + at_once]))
        for start in range(0, weights.shape[1], at_once)
    ]
    return np.concatenate(parts, axis=1)


def _figures(matches: Sequence[ClassMatches], weights: _Ints) -> _Floats:
    shape = (len(matches), len(SIZES), len(OVERLAPS), weights.shape[1])
    precision, recall = np.full((2, *shape), np.nan)
    recall_of_few = np.full((len(MOST_DETECTIONS) - 1, len(matches), len(OVERLAPS), weights.shape[1]), np.nan)
    for i, found in enumerate(matches):
        objects = found.objects @ weights
        for size in np.flatnonzero(objects.any(axis=1)).tolist():
            precision[i, size], recall[i, size] = _precision_and_recall(found, size, weights, objects[size])
        for few, most in zip(recall_of_few, MOST_DETECTIONS[:-1], strict=True):
            few[i] = _recall(found, most, weights, objects[0])
    means = {
        "AP": _mean(precision[:, 0]),
        "AP50": _mean(precision[:, 0, :1]),
        "AP75": _mean(precision[:, 0, _AT_75 : _AT_75 + 1]),
        "AR100": _mean(recall[:, 0]),
        **{f"AR{most}": _mean(few) for few, most in zip(recall_of_few, MOST_DETECTIONS[:-1], strict=True)},
        **{f"AP{name[0]}": _mean(precision[:, i]) for i, name in enumerate(SIZES) if i},
        **{f"AR{name[0]}": _mean(recall[:, i]) for i, name in enumerate(SIZES) if i},
    }
    return np.stack([means[name] for name in FIGURES])


def _precision_and_recall(found: ClassMatches, size: int, weights: _Ints, objects: _Ints) -> tuple[_Floats, _Floats]:
    """Average precision and recall at each threshold of IoU: (T, B); nan where there are no objects."""
    misses = found.miss[size]
    # Most detections miss at every threshold: those are added up once for all of them.
    always = np.flatnonzero(misses.all(axis=0))
    always_missed = _added_up(found.image[always], weights)
    precision, recall = np.zeros((2, len(OVERLAPS), weights.shape[1]))
    for t, hit in enumerate(found.hit[size]):
        hits = np.flatnonzero(hit)
        others = np.setdiff1d(np.flatnonzero(misses[t]), always, assume_unique=True)
        wrong = always_missed[np.searchsorted(always, hits)]
        wrong += _added_up(found.image[others], weights)[np.searchsorted(others, hits)]
        right = _added_up(found.image[hits], weights)[1:]
        precision[t], recall[t] = _area_and_end(right, wrong, objects)
    return precision, recall


def _added_up(images: _Ints, weights: _Ints) -> _Ints:
    """The weights of the first n of some detections, for n from 0 on: (detections + 1, B)."""
    sums = np.zeros((len(images) + 1, weights.shape[1]), dtype=np.int64)
    np.cumsum(weights[images], axis=0, out=sums[1:])
    return sums


def _area_and_end(right: _Ints, wrong: _Ints, objects: _Ints) -> tuple[_Floats, _Floats]:
    """The area under a curve of precision over recall, read off at COCO's 101 recalls, and the recall where it ends.

    Args:
        right: (H, B), the number of hits up to each hit.
        wrong: (H, B), the number of misses before it.
        objects: (B,), how many there are to find.
    """
    nothing = np.where(objects > 0, 0.0, np.nan)
    if not len(right):
        return nothing, nothing
    precision = right / (wrong + right + np.spacing(1))
    # Precision at a recall is the best at this or a higher one; it is looked up at the first hit that reaches it.
    best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    recall = right / np.maximum(objects, 1)
    area = (best * np.diff(_reached(recall), axis=0, prepend=0)).sum(axis=0) / len(_RECALLS)
    return area + nothing, recall[-1] + nothing


def _reached(recall: _Floats) -> _Ints:
    """How many of COCO's recalls are not above these: what np.searchsorted finds, several times as fast."""
    last = (recall * 100).astype(np.int64)  # of those that are not above it, or by rounding one too low or too high
    last += np.append(_RECALLS[1:], np.inf)[last] <= recall
    last -= _RECALLS[last] > recall
    return last + 1


def _recall(found: ClassMatches, most: int, weights: _Ints, objects: _Ints) -> _Floats:
    """Recall of objects of any size with the `most` best detections of each image: (T, B)."""
    among = found.rank < most
    rows = [weights[found.image[hit & among]].sum(axis=0) for hit in found.hit[0]]
    return np.stack(rows) / np.where(objects > 0, objects, np.nan)


def _mean(values: _Floats) -> _Floats:
    """Over classes (C, ..., B) that have objects; nan where none has."""
    flat = values.reshape(-1, values.shape[-1])
    known = ~np.isnan(flat)
    number = known.sum(axis=0)
    mean: _Floats = np.where(known, flat, 0.0).sum(axis=0) / np.where(number > 0, number, np.nan)
    return mean
