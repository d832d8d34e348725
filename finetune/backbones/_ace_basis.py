"""The functions of an atomic cluster expansion: which there are, and how their factors are coupled.

A factor of a function is a channel (mu, n, l): species of the neighbour, radial function and degree of the spherical
harmonic. A function of order N is a product of N atomic bases A, coupled to an invariant (Drautz,
10.1103/PhysRevB.99.014104; Dusson et al., 10.1016/j.jcp.2022.110946). Up to order four, every invariant is a scalar
product of two vectors of equal degree L, each of which is an A or two As coupled to L:

| order | function |
|---|---|
| 1 | A_a (l = 0) |
| 2 | A_a . A_b |
| 3 | (A_a A_b)_L . A_c, L = l_c |
| 4 | (A_a A_b)_L . (A_c A_d)_L |
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from finetune.backbones._e3nn import o3
from finetune.errors import InputError

Channel = tuple[int, int, int]
"""l, mu, n; n counts from 0."""

MAX_ORDER = 4
MAX_L = 5
INDEPENDENT = 1e-8  # smallest singular value, over the largest, of a function that counts as independent


@dataclass(frozen=True, order=True)
class Function:
    """An invariant product.

    Attributes:
        channels: (l, mu, n) of each factor, in ascending order.
        L: degree that the first two factors are coupled to; that of the only or the last factor below order four.
    """

    channels: tuple[Channel, ...]
    L: int

    @property
    def order(self) -> int:
        """Number of factors; the body order is one more."""
        return len(self.channels)

    @property
    def degree(self) -> int:
        """Sum of n (counted from 0) and l over the factors: how finely the function resolves its neighbourhood."""
        return sum(n + l for l, _, n in self.channels)


def functions(species: int, nmax: Sequence[int], lmax: Sequence[int]) -> list[Function]:
    """All independent functions of orders 1 to len(nmax), in order.

    Args:
        species: number of elements.
        nmax: radial functions for each order.
        lmax: largest l for each order; 0 for order 1.

    Raises:
        InputError: sizes that make no basis.
    """
    check(species, nmax, lmax)
    return [f for order in range(1, len(nmax) + 1) for f in _of_order(species, order, nmax[order - 1], lmax[order - 1])]


def check(species: int, nmax: Sequence[int], lmax: Sequence[int]) -> None:
    """Refuse sizes that make no basis."""
    if len(nmax) != len(lmax) or not 1 <= len(nmax) <= MAX_ORDER:
        raise InputError(
            f"nmax {list(nmax)} and lmax {list(lmax)} need one number for each order, 1 to {MAX_ORDER} orders"
        )
    if species < 1 or min(nmax) < 1 or min(lmax) < 0 or lmax[0] != 0:
        raise InputError(f"nmax {list(nmax)} must be 1 or more, lmax {list(lmax)} 0 or more and 0 for order 1")
    if max(lmax) > MAX_L:
        raise InputError(f"lmax {list(lmax)}: spherical harmonics go up to {MAX_L}")
    if max(nmax) != nmax[0]:
        raise InputError(f"nmax {list(nmax)}: order 1 uses the radial basis itself and must have the most functions")


def _of_order(species: int, order: int, nmax: int, lmax: int) -> Iterator[Function]:
    """Independent functions of one order, in order."""
    channels = sorted(itertools.product(range(lmax + 1), range(species), range(nmax)))
    for chosen in itertools.combinations_with_replacement(channels, order):
        ls = tuple(channel[0] for channel in chosen)
        if sum(ls) % 2 == 0:
            alike = tuple(chosen.index(channel) for channel in chosen)
            for L in couplings(ls, alike):
                yield Function(chosen, L)


def chosen(every: Sequence[Function], count: int | None) -> list[Function]:
    """The functions of lowest degree, whole degrees only, so that no element is preferred.

    Degrees are filled from below; the last one is taken where that brings the number closer to `count`. Functions of
    order 1 are always kept: they are the pair potential and cost nothing.

    Args:
        every: the functions to choose from.
        count: number aimed at, or None for all.
    """
    if count is None:
        return list(every)
    degrees = sorted({f.degree for f in every if f.order > 1})
    sizes = {limit: sum(f.order == 1 or f.degree <= limit for f in every) for limit in [-1, *degrees]}
    limit = min(sizes, key=lambda limit: (abs(sizes[limit] - count), limit))
    return [f for f in every if f.order == 1 or f.degree <= limit]


@functools.cache
def couplings(ls: tuple[int, ...], alike: tuple[int, ...]) -> tuple[int, ...]:
    """Intermediate degrees L that give linearly independent invariants of the factors.

    Args:
        ls: degree of each factor.
        alike: for each factor, the first one that has the same channel; the product does not change when such change
            places, so couplings that differ only by that are not independent.
    """
    kept: list[np.ndarray] = []
    degrees: list[int] = []
    for L in _intermediate(ls):
        tensor = _symmetrised(coupling(ls, L), alike).ravel()
        values = np.linalg.svd(np.stack([*kept, tensor]), compute_uv=False)
        if values[-1] > INDEPENDENT * max(values[0], 1.0):
            kept.append(tensor / np.linalg.norm(tensor))
            degrees.append(L)
    return tuple(degrees)


def _intermediate(ls: tuple[int, ...]) -> range:
    """Degrees that the first two factors can be coupled to so that the rest makes an invariant with them."""
    if len(ls) == 1:
        return range(1) if ls == (0,) else range(0)
    if len(ls) == 2:
        return range(ls[0], ls[0] + 1) if ls[0] == ls[1] else range(0)
    low, high = abs(ls[0] - ls[1]), ls[0] + ls[1]
    if len(ls) == 3:
        return range(ls[2], ls[2] + 1) if low <= ls[2] <= high else range(0)
    return range(max(low, abs(ls[2] - ls[3])), min(high, ls[2] + ls[3]) + 1)


def coupling(ls: tuple[int, ...], L: int) -> np.ndarray:
    """Coefficients of the invariant in products of real A, shape (2 l + 1) for each factor."""
    if len(ls) == 1:
        return np.ones(1)
    if len(ls) == 2:
        return np.eye(2 * ls[0] + 1)
    pair = threej(ls[0], ls[1], L)
    return pair if len(ls) == 3 else np.einsum("abL,cdL->abcd", pair, threej(ls[2], ls[3], L))


def threej(l1: int, l2: int, L: int) -> np.ndarray:
    """Coefficients that couple two real vectors of degrees l1 and l2 to one of degree L and, in the mean, of norm 1."""
    return np.asarray(o3.wigner_3j(l1, l2, L, dtype=torch.float64)) * np.sqrt(2 * L + 1)


def _symmetrised(tensor: np.ndarray, alike: tuple[int, ...]) -> np.ndarray:
    """Mean over the exchanges of factors that have the same channel."""
    orders = [
        p for p in itertools.permutations(range(len(alike))) if all(alike[i] == alike[j] for i, j in enumerate(p))
    ]
    return np.asarray(np.mean([np.transpose(tensor, p) for p in orders], axis=0))
