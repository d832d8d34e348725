"""Errors of means over correlated blocks, and distances between curves without the part that noise makes."""

from __future__ import annotations

import numpy as np
from scipy.stats import f as fisher
from scipy.stats import t as student

from finetune.comparison.figures import ERROR_RATE, Curve, Figure

REMEMBERS = 0.8  # largest correlation of blocks that can be seen in a few of them


def unbiased_distance(curve: Curve, other: Curve, compared: int) -> Figure:
    """Mean difference of two curves over the mean of the second, without what their noise makes, and its floor.

    The squared difference of two noisy curves is on average that of the true ones plus the squared standard errors of
    both, which are taken away. For equal potentials the ratio of the squared difference to these errors follows
    Fisher's F with degrees of freedom by Box's approximation (Shen and Faraway, Stat. Sin. 14, 1239, 2004).
    """
    sides = [np.array(one.parts, dtype=float) for one in (curve, other)]
    difference = sides[0].mean(axis=0) - sides[1].mean(axis=0)
    excess = [memory(side) for side in sides]
    square = float((difference**2).sum())
    noise = sum(float(squared_error(side, more).sum()) for side, more in zip(sides, excess, strict=True))
    if square == 0:
        return Figure(curve.panel, "distance from DFT", 0.0, floor=0.0)
    shape = float(np.abs(difference).mean() / sides[1].mean() / np.sqrt(square))
    rows = np.concatenate([(side - side.mean(axis=0)) / np.sqrt(len(side) * (len(side) - 1)) for side in sides])
    gram = rows @ rows.T
    left = min(map(len, sides)) - 1  # those of the shorter side: slow motions make blocks less than independent
    modes = float(np.trace(gram) ** 2 / (gram**2).sum()) if gram.any() else 1.0
    largest = float(fisher.ppf(1 - ERROR_RATE / compared, modes, modes * left))
    along = [side @ (difference / np.sqrt(square)) for side in sides]
    half = float(student.ppf(1 - ERROR_RATE / 2, left)) * float(
        np.sqrt(sum(squared_error(part, more) for part, more in zip(along, excess, strict=True)))
    )
    value = np.sqrt(max(0.0, square - noise))
    return Figure(
        *(curve.panel, "distance from DFT", shape * value, ""),
        low=shape * max(0.0, value - half),
        high=shape * (value + half),
        samples=left + 1,
        floor=shape * np.sqrt(noise * max(0.0, largest - 1)),
    )


def squared_error(parts: np.ndarray, excess: float = 1.0) -> np.ndarray:
    """Squared standard error of the mean over blocks, shape (blocks, ...), that may be correlated with each other.

    The largest over groups of 1, 2, 4, ... neighbouring blocks, down to two groups (Flyvbjerg and Petersen, J. Chem.
    Phys. 91, 461, 1989): a slow motion shows as halves that differ more than blocks do. For a curve the grouping with
    the largest sum is taken.

    Args:
        parts: of each block.
        excess: factor for single blocks, see `memory`.
    """
    errors = []
    groups = len(parts)
    while groups >= 2:
        means = np.array([part.mean(axis=0) for part in np.array_split(parts, groups)])
        errors.append((excess if groups == len(parts) else 1.0) * means.var(axis=0, ddof=1) / groups)
        groups //= 2
    return np.asarray(max(errors, key=lambda error: error.sum()))


def memory(parts: np.ndarray) -> float:
    """Squared error of a mean over that of independent blocks, from the correlation of neighbouring ones, 1 or more.

    It is (1 + rho) / (1 - rho) for blocks that remember the one before by rho. All bins of a curve, shape
    (blocks, bins), count together. The correlation of few blocks comes out too low by one over their number: added.
    """
    apart = parts - parts.mean(axis=0)
    square = float((apart**2).sum())
    if square == 0:
        return 1.0
    count = len(parts)
    rho = float((apart[1:] * apart[:-1]).sum()) / square * count / (count - 1) + 1 / count
    rho = min(max(rho, 0.0), REMEMBERS)
    return (1 + rho) / (1 - rho)
