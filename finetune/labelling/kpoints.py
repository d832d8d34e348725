"""k-points of equal density for cells of any shape."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from jaxtyping import Float

from finetune.errors import InputError


@dataclass(frozen=True)
class Grid:
    """A uniform grid of k-points; the same length is the same density whatever the cell.

    Along each reciprocal vector there are n points (i + shift) / n, with the smallest n for which n times the distance
    between lattice planes reaches the length. What a band energy has of the period R = n a_i, the leading error of the
    grid, comes with the factor cos(2 pi shift): +1 with Gamma (0), -1 between (0.5), and 0 at a quarter, which is
    Baldereschi's mean-value point for n = 1 (10.1103/PhysRevB.7.5212). A quarter has no two points that time reversal
    makes the same, so it costs twice the points of the others; for metals it is worth it.

    Args:
        length_A: n times the distance between lattice planes, Å, at least.
        shift: 0, 0.25 or 0.5.
    """

    length_A: float
    shift: float = 0.25

    def __post_init__(self) -> None:
        if not self.length_A > 0 or self.shift not in (0, 0.25, 0.5):
            raise InputError(f"{self}: give a length_A above 0 and a shift of 0, 0.25 or 0.5")

    def size(self, atoms: Atoms) -> tuple[int, int, int]:
        """Number of points along each reciprocal vector; 1 where the structure is not periodic."""
        heights = 1 / np.linalg.norm(np.linalg.inv(atoms.cell.complete().array), axis=0)
        n = np.maximum(1, np.ceil(self.length_A / heights - 1e-6)).astype(int)
        a, b, c = np.where(atoms.pbc, n, 1).tolist()
        return a, b, c

    def points(self, atoms: Atoms) -> Float[np.ndarray, "points 3"]:
        """The points in units of the reciprocal vectors, in [-0.5, 0.5)."""
        axes = [
            (np.arange(n) + (self.shift if periodic else 0.0)) / n
            for n, periodic in zip(self.size(atoms), atoms.pbc, strict=True)
        ]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        return (grid + 0.5) % 1.0 - 0.5
