"""Atoms as tensors: neighbour list, collation, and the derivatives that give forces and stress.

A graph is a flat dict of CPU tensors, so that it can be cached, moved and saved without a pickle of code.
Every backbone may add keys of its own; those listed in `INDEX_OFFSETS` of `collate` are shifted when graphs are joined.

| key | shape | what |
|---|---|---|
| numbers | atoms | atomic numbers |
| positions | atoms 3 | Å, float64 |
| cell | structures 3 3 | Å, rows are lattice vectors; zeros where there is none |
| edge_index | 2 edges | centre i and neighbour j of each directed edge, |r_ij| < cutoff |
| shifts | edges 3 | lattice translations of j: r_ij = r_j + shifts @ cell - r_i |
| batch | atoms | structure that an atom belongs to |
| n_atoms, n_edges | structures | counts |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from finetune.errors import InputError
from finetune.properties import Properties

Graph = dict[str, Tensor]

MIN_DISTANCE = 1e-3  # Å; closer atoms have no direction between them


def neighbour_graph(atoms: Atoms, cutoff: float) -> Graph:
    """The neighbour graph of a structure; every pair is stored as i -> j in the first half and j -> i in the second.

    Args:
        atoms: the structure, any periodicity, also smaller than the cutoff.
        cutoff: radius in Å.

    Raises:
        InputError: two atoms lie on top of each other, positions are not finite, or a periodic cell has no volume.
    """
    from vesin import NeighborList

    positions, cell, pbc = atoms.get_positions(), atoms.cell.array, atoms.get_pbc()
    if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
        raise InputError("positions or cell are not finite numbers; mend or drop the frame")
    if pbc.any() and abs(np.linalg.det(atoms.cell.complete().array)) < 1e-6:
        raise InputError("periodic, but the cell has zero volume; set the cell or set pbc to False")
    box = atoms.cell.complete().array if pbc.any() else np.zeros((3, 3))
    pairs = NeighborList(cutoff=cutoff, full_list=False, n_threads=1)
    i, j, shifts, distances = pairs.compute(positions, box, periodic=pbc, quantities="ijSd")
    if len(distances) and distances.min() < MIN_DISTANCE:
        k = int(distances.argmin())
        raise InputError(
            f"atoms {i[k]} and {j[k]} are on top of each other ({distances[k]:.2g} Å apart); mend or drop the frame"
        )
    i, j, shifts = (np.asarray(x).astype(np.int64) for x in (i, j, shifts))
    return {
        "numbers": torch.from_numpy(atoms.get_atomic_numbers().astype(np.int64)),
        "positions": torch.from_numpy(positions),
        "cell": torch.from_numpy(np.array(atoms.cell.array, dtype=np.float64)[None]),
        "edge_index": torch.from_numpy(np.stack([np.concatenate([i, j]), np.concatenate([j, i])])),
        "shifts": torch.from_numpy(np.concatenate([shifts, -shifts]).astype(np.float64)),
        "batch": torch.zeros(len(atoms), dtype=torch.int64),
        "n_atoms": torch.tensor([len(atoms)]),
        "n_edges": torch.tensor([2 * len(i)]),
    }


def collate(graphs: Sequence[Graph], offsets: Mapping[str, str] | None = None) -> Graph:
    """Join graphs into one; `offsets` maps a backbone's own index keys to the key whose length they count."""
    counted = {"edge_index": "numbers", "batch": "cell"} | dict(offsets or {})
    joined: Graph = {}
    for key in graphs[0]:
        parts = [graph[key] for graph in graphs]
        if key in counted:
            sizes = [len(graph[counted[key]]) for graph in graphs]
            starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
            parts = [part + int(start) for part, start in zip(parts, starts, strict=True)]
        joined[key] = torch.cat(parts, dim=1 if key == "edge_index" else 0)
    return joined


def to(graph: Graph, device: torch.device | str, dtype: torch.dtype) -> Graph:
    """The graph on a device, its real numbers in a dtype."""
    return {
        key: value.to(device, dtype, non_blocking=True)
        if value.is_floating_point()
        else value.to(device, non_blocking=True)
        for key, value in graph.items()
    }


def edge_vectors(graph: Graph) -> Tensor:
    """Vectors from centre to neighbour of every edge, shape (edges, 3), Å."""
    (i, j), positions, cell = graph["edge_index"], graph["positions"], graph["cell"]
    if len(cell) == 1:
        translations = graph["shifts"] @ cell[0]
    else:
        translations = torch.einsum("ei,eij->ej", graph["shifts"], cell[graph["batch"][i]])
    return positions.index_select(0, j) - positions.index_select(0, i) + translations


def volumes(graph: Graph) -> Tensor:
    """Volume of each structure, Å³; NaN where there is none."""
    volume = torch.linalg.det(graph["cell"]).abs()
    return torch.where(volume > 1e-6, volume, torch.nan)


def energy_and_derivatives(
    graph: Graph, energies: Callable[[Graph], tuple[Tensor, Tensor | None, Tensor | None]], training: bool
) -> Properties:
    """Energy, forces and stress of a batched graph by reverse-mode differentiation.

    Energies depend on the geometry through edge vectors r only. With g = dE/dr of every edge, the force on an atom is
    the sum of g over the edges that leave it minus that over the edges that arrive, and the stress is the sum of
    (r g + g r) / 2 over the volume (Thompson et al., 10.1063/1.3245303).

    Args:
        graph: the batch.
        energies: graph -> (energy per structure, energies per atom or None, magnetic moments or None); it finds
            `vectors` (edges 3, Å) in the graph and takes the geometry from there, nowhere else.
        training: keep the autograd graph, so that a loss on forces and stress can be differentiated.
    """
    with torch.enable_grad():
        vectors = edge_vectors(graph).detach().requires_grad_(True)
        energy, per_atom, magmoms = energies({**graph, "vectors": vectors})
        (gradient,) = torch.autograd.grad(energy.sum(), vectors, create_graph=training, materialize_grads=True)
        i, j = graph["edge_index"]
        forces = torch.zeros_like(graph["positions"]).index_add(0, i, gradient).index_add(0, j, gradient, alpha=-1)
        virials = (vectors.detach()[:, :, None] * gradient[:, None]).flatten(1)
        virial = virials.new_zeros(len(graph["n_atoms"]), 9).index_add(0, graph["batch"][i], virials).view(-1, 3, 3)
    volume = volumes(graph)
    known = volume.isfinite()
    volume = torch.where(known, volume, 1.0)  # not NaN: 0/NaN would spoil the gradient of the whole batch
    stress = torch.where(known[:, None, None], (virial + virial.mT) / 2 / volume[:, None, None], torch.nan)
    parts = Properties(
        energy=energy,
        forces=forces,
        stress=stress,
        energies=per_atom,
        magmoms=magmoms,
    )
    return parts if training else parts.detach()
