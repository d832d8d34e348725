"""Sums over atoms and frames from which errors follow, so that errors of any set of groups are a matter of addition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SMALL_FORCE = 0.05  # eV/Å; the direction of a smaller reference force is mostly noise
SPREAD = ("count", "absolute", "square")  # number of known components, sums of |error| and of error²
ANGLES = ("product", "reference_square", "cosines", "cosine")  # sums behind slope and cosine of forces
FORCE_SUMS = tuple(f"forces_{name}" for name in (*SPREAD, *ANGLES))
SUMS = (*(f"energy_{name}" for name in SPREAD), *FORCE_SUMS, *(f"stress_{name}" for name in SPREAD))


@dataclass(frozen=True)
class GroupSums:
    """Sums over the frames of one group and family, from which errors of any set of groups follow.

    Attributes:
        family: family of the frames.
        group: their group.
        frames: number of frames.
        sums: the sums named in `SUMS`; errors in eV/atom, eV/Å and eV/Å³.
    """

    family: str
    group: str
    frames: int
    sums: Mapping[str, float]


def figures(sums: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Errors in the units of `UNITS` from sums, the last axis being `names`."""
    s = dict(zip(names, np.moveaxis(np.asarray(sums, dtype=float), -1, 0), strict=True))
    found: dict[str, np.ndarray] = {}
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 is NaN: no label is known
        for kind in ("energy", "forces", "stress"):
            if f"{kind}_count" in s:
                found[f"{kind}_mae"] = 1e3 * s[f"{kind}_absolute"] / s[f"{kind}_count"]
                found[f"{kind}_rmse"] = 1e3 * np.sqrt(s[f"{kind}_square"] / s[f"{kind}_count"])
            if kind == "forces":
                found["forces_slope"] = s["forces_product"] / s["forces_reference_square"]
                found["forces_cosine"] = s["forces_cosine"] / s["forces_cosines"]
    return found


def add_up(rows: np.ndarray, owner: np.ndarray, number: int) -> np.ndarray:
    """Sums of the rows of each owner, shape (number, columns)."""
    total = np.zeros((number, rows.shape[1]))
    np.add.at(total, owner, rows)
    return total


def spread_sums(predicted: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Count, sum of |error| and sum of error² of the known components of each row, shape (rows, 3)."""
    known = np.isfinite(reference)
    error = np.where(known, predicted - reference, 0.0)
    return np.stack([known.sum(axis=1), np.abs(error).sum(axis=1), (error**2).sum(axis=1)], axis=1).astype(float)


def force_sums(predicted: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Sums behind the errors of the forces on each atom, shape (atoms, 7), in the order of `FORCE_SUMS`."""
    known = np.isfinite(reference)
    p, r = np.where(known, predicted, 0.0), np.where(known, reference, 0.0)
    size = np.linalg.norm(reference, axis=1)
    clear = size > SMALL_FORCE  # False where a component is NaN
    norms = np.maximum(np.linalg.norm(predicted, axis=1), np.finfo(float).tiny) * np.where(clear, size, 1.0)
    cosine = np.where(clear, (p * r).sum(axis=1) / norms, 0.0)
    angles = np.stack([(p * r).sum(axis=1), (r * r).sum(axis=1), clear.astype(float), cosine], axis=1)
    return np.concatenate([spread_sums(predicted, reference), angles], axis=1)


def of_groups(sums: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Sums of each group, shape (groups, sums); a group whose parts are of several families counts once."""
    names, place = np.unique(groups.astype(str), return_inverse=True)
    return add_up(sums, place, len(names))
