"""A neighbour list with a skin: kept while no pair of atoms can have come within the cutoff unseen."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms

from finetune.graph import Graph, Pairs, check_geometry, graph_of, pairs_within


class SkinList:
    """Neighbour graphs of one structure while it moves.

    Pairs within `cutoff` + `skin` are searched for once. Later positions x' and cell C' are written as x' = x F + u
    with F = C^-1 C', so that the distance of a pair beyond the list is at least s (cutoff + skin) - 2 max|u|, s being
    the smallest singular value of F. While that is above the cutoff, all pairs within the cutoff are in the list. They
    come in the same order as from a fresh list, so energies and forces have the same bits.

    Args:
        cutoff: radius in Å.
        skin: width in Å of what is searched beyond; 0 searches for every structure.
        device: torch device of the graphs.
    """

    def __init__(self, cutoff: float, skin: float = 1.0, device: torch.device | str = "cpu") -> None:
        self.cutoff, self.skin, self.device = cutoff, skin, torch.device(device)
        self.searches = 0  # how often the pairs were searched for
        self._pairs: Pairs | None = None
        self._start = Atoms()

    def graph(self, atoms: Atoms) -> Graph:
        """What `neighbour_graph` gives, on the device.

        Raises:
            InputError: two atoms lie on top of each other, positions are not finite, or a periodic cell has no volume.
        """
        check_geometry(atoms)
        if self._pairs is None or not self._holds(atoms):
            found = pairs_within(atoms, self.cutoff + self.skin)
            self._pairs, self._start = Pairs(*(x.to(self.device) for x in found)), atoms.copy()
            self.searches += 1
        return graph_of(atoms, self._pairs, self.cutoff)

    def _holds(self, atoms: Atoms) -> bool:
        """Whether every pair within the cutoff is in the list."""
        start = self._start
        if not (np.array_equal(start.numbers, atoms.numbers) and np.array_equal(start.pbc, atoms.pbc)):
            return False
        deformation, smallest = np.eye(3), 1.0
        if atoms.pbc.any() and not np.array_equal(start.cell.array, atoms.cell.array):
            deformation = np.linalg.solve(start.cell.complete().array, atoms.cell.complete().array)
            smallest = float(np.linalg.svd(deformation, compute_uv=False)[-1])
        moved = atoms.positions - start.positions @ deformation
        farthest = float(np.sqrt(np.square(moved).sum(axis=1).max(initial=0)))
        return smallest * (self.cutoff + self.skin) - 2 * farthest > self.cutoff

    def __getstate__(self) -> dict[str, object]:
        """Settings only: a copy in another process searches anew."""
        return {**self.__dict__, "_pairs": None, "_start": Atoms()}
