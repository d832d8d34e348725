"""95 % intervals from a bootstrap over independent groups."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy.stats import t

FEWEST_GROUPS = 3  # groups from which an interval is given
RESAMPLES = 4000
CONFIDENCE = 0.95


def mean_interval(values: np.ndarray, weights: np.ndarray | None = None, positive: bool = False) -> tuple[float, float]:
    """Return the 95 % interval of a (weighted) mean over independent groups, by a bootstrap.

    Args:
        values: one value of each group, shape (groups).
        weights: weight of each group, shape (groups); equal by default.
        positive: the quantity is positive, such as an error, and scatters by factors.
    """
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=float)
    known = np.isfinite(values) & (weights > 0)
    x, w = np.asarray(values, dtype=float)[known], weights[known]
    if len(x) < FEWEST_GROUPS:
        return math.nan, math.nan
    draws = resamples(len(x))
    return confidence_interval(float(x @ w / w.sum()), (draws @ (x * w)) / (draws @ w), len(x), positive)


@lru_cache(maxsize=64)
def resamples(groups: int) -> np.ndarray:
    """How often each group is drawn in each resample, shape (RESAMPLES, groups); the same in every call."""
    return np.random.default_rng(0).multinomial(groups, np.full(groups, 1 / groups), RESAMPLES).astype(float)


def confidence_interval(value: float, found: np.ndarray, groups: int, positive: bool) -> tuple[float, float]:
    """Return the 95 % interval of a value from its resampled values; NaN where hardly any of these is finite.

    Percentiles of so few groups are too narrow (three groups would cover 73 % of the time). So the spread of the
    resampled values, of their logarithms where the quantity is positive, is taken times Student's t with groups - 1
    degrees of freedom and sqrt(groups / (groups - 1)) (Hesterberg, The American Statistician 69, 371, 2015, doi
    10.1080/00031305.2015.1089789).

    Args:
        value: the value over all groups.
        found: its value in each of the `resamples`, shape (RESAMPLES).
        groups: number of groups.
        positive: the quantity is positive, such as an error, and scatters by factors.
    """
    known = found[np.isfinite(found)]
    if len(known) < len(found) / 2 or not math.isfinite(value):  # a label that hardly any group has
        return math.nan, math.nan
    factor = float(t.ppf((1 + CONFIDENCE) / 2, groups - 1)) * math.sqrt(groups / (groups - 1))
    if positive and value > 0 and known.min() > 0:
        ratio = math.exp(min(factor * float(np.log(known).std()), 700.0))
        return value / ratio, value * ratio
    half = factor * float(known.std())
    return (max(0.0, value - half) if positive else value - half), value + half
