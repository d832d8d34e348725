"""Which atoms hang together by bonds that are not to be cut."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components


def molecules(atoms: Atoms, bonds: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """The molecule of each atom, and its position relative to the first atom of the molecule, Å."""
    if not bonds:
        return np.arange(len(atoms)), np.zeros((len(atoms), 3))
    lengths = {(pair.split("-")[0], pair.split("-")[1]): length for pair, length in bonds.items()}
    i, j, vectors = neighbor_list("ijD", atoms, lengths)
    graph = coo_array((np.ones(len(i)), (i, j)), shape=(len(atoms), len(atoms))).tocsr()
    unit = connected_components(graph, directed=False)[1]
    step = dict(zip(zip(i.tolist(), j.tolist(), strict=True), vectors, strict=True))
    offsets = np.zeros((len(atoms), 3))
    for first in np.unique(unit, return_index=True)[1]:
        order, before = breadth_first_order(graph, int(first), directed=False)
        for k in order[1:]:
            offsets[k] = offsets[before[k]] + step[(int(before[k]), int(k))]
    return unit, offsets
