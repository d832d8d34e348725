"""Stress components in another order than xx yy zz yz xz xy, found by comparison with a model."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from types import MappingProxyType

import numpy as np

READ = ("xx", "yy", "zz", "yz", "xz", "xy")
_NAMED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "VASP": ("xx", "yy", "zz", "xy", "yz", "xz"),
        "LAMMPS": ("xx", "yy", "zz", "xy", "xz", "yz"),
        "the upper triangle by rows": ("xx", "xy", "xz", "yy", "yz", "zz"),
        "the lower triangle by rows, or the upper by columns": ("xx", "xy", "yy", "xz", "yz", "zz"),
    }
)
NORMAL_FIRST = tuple(
    (*normal, *shear) for normal in permutations(("xx", "yy", "zz")) for shear in permutations(("yz", "xz", "xy"))
)
ORDERS = tuple(dict.fromkeys([*_NAMED.values(), *NORMAL_FIRST]))
AGREE = 0.6  # |cosine| of the moved components with the model from which an order is believed
BETTER = 0.6  # ratio of rms residuals below which another order is far better; 0.4 is usual, for a single swap too
FRAMES = 0.7  # share of frames that it must fit better
MIN_FRAMES = 5
MIN_STRESS = 1e-3  # eV/Å³ rms that a frame must have to be compared


def better_order(label: np.ndarray, predicted: np.ndarray) -> str:
    """Words for an order of the six components that fits a model far better than the one that is read, or nothing.

    The test is blind to unit and sign: it compares |cosine| over frames, with the median pressure taken
    out. Components that are near zero or alike in all orders cannot tell, and nothing is then reported.

    Args:
        label: stress as it was read, shape (frames, 3, 3).
        predicted: of a model that has not seen the labels, shape (frames, 3, 3).

    Returns:
        Such as `the components fit ... in the order xx yy zz xy yz xz (VASP) ...`; empty where the order may be right.
    """
    known = np.isfinite(label).all(axis=(1, 2)) & np.isfinite(predicted).all(axis=(1, 2))
    known &= np.sqrt((predicted**2).mean(axis=(1, 2))) > MIN_STRESS
    known &= np.abs(label).max(axis=(1, 2)) > 0
    if known.sum() < MIN_FRAMES:
        return ""
    stored = np.stack([label[known][:, _row(name), _column(name)] for name in READ], axis=1)
    target, given = _centred(predicted[known]), _centred(label[known])
    trials = {order: _centred(_tensor(stored, order)) for order in ORDERS}
    found = min(trials, key=lambda order: _residuals(trials[order], target).sum())
    moved = np.zeros((3, 3), dtype=bool)
    for name, other in zip(found, READ, strict=True):
        if name != other:
            moved[_row(name), _column(name)] = moved[_column(name), _row(name)] = True
    if not moved.any():
        return ""
    old, new = (_residuals(stress, target, moved) for stress in (given, trials[found]))
    ratio, cosine = np.sqrt(old.sum() / max(new.sum(), 1e-12)), _cosine(trials[found][:, moved], target[:, moved])
    if ratio < 1 / BETTER or abs(cosine) < AGREE or (new < old).mean() < FRAMES:
        return ""
    name = next((f" ({name})" for name, order in _NAMED.items() if order == found), "")
    return (
        f"the components fit the model {f'{ratio:.1f}' if ratio < 100 else 'over 100'} times better in the order "
        f"{' '.join(found)}"
        f"{name}, cosine {cosine:.2f} instead of {_cosine(given[:, moved], target[:, moved]):.2f} of those that move; "
        f"give {' '.join(READ)} or 3x3"
    )


def _residuals(label: np.ndarray, predicted: np.ndarray, part: np.ndarray | None = None) -> np.ndarray:
    """Squared misfit of each frame after the one scale that fits all best, over the mean square; shape (frames,).

    Args:
        label: stress, shape (frames, 3, 3).
        predicted: stress, shape (frames, 3, 3).
        part: components that count, shape (3, 3); None for all.
    """
    scale = (label * predicted).sum() / max((label * label).sum(), 1e-300)
    squares = (scale * label - predicted) ** 2 / (predicted**2).mean()
    return squares.sum(axis=(1, 2)) if part is None else squares[:, part].sum(axis=1)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return float((a * b).sum() / norm) if norm else 0.0


def _centred(stress: np.ndarray) -> np.ndarray:
    """Stresses minus the median of their mean normal stress."""
    return stress - np.median(np.trace(stress, axis1=1, axis2=2)) / 3 * np.eye(3)


def _tensor(values: np.ndarray, order: tuple[str, ...]) -> np.ndarray:
    """Six numbers in an order as 3x3, shape (frames, 3, 3)."""
    full = np.empty((len(values), 3, 3))
    for k, name in enumerate(order):
        full[:, _row(name), _column(name)] = full[:, _column(name), _row(name)] = values[:, k]
    return full


def _row(name: str) -> int:
    return "xyz".index(name[0])


def _column(name: str) -> int:
    return "xyz".index(name[1])
