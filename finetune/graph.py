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
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from finetune.errors import InputError
from finetune.properties import Properties

Graph = dict[str, Tensor]

MIN_DISTANCE = 1e-3  # Å; closer atoms have no direction between them
MAX_POSITION = 1e6  # Å; no structure is so large, and single precision does not resolve it


class Pairs(NamedTuple):
    """Pairs of atoms, each once: i <= j, ordered by i, j and shift; r_ij = r_j + shift @ cell - r_i."""

    i: Tensor
    j: Tensor
    shifts: Tensor


def neighbour_graph(atoms: Atoms, cutoff: float) -> Graph:
    """The neighbour graph of a structure; every pair is stored as i -> j in the first half and j -> i in the second.

    Args:
        atoms: the structure, any periodicity, also smaller than the cutoff.
        cutoff: radius in Å.

    Raises:
        InputError: two atoms lie on top of each other, positions are not finite, or a periodic cell has no volume.
    """
    return graph_of(atoms, pairs_within(atoms, cutoff), cutoff)


def pairs_within(atoms: Atoms, radius: float) -> Pairs:
    """All pairs of atoms within a radius (Å), in an order that depends on the structure only; see `neighbour_graph`."""
    from vesin import NeighborList

    check_geometry(atoms)
    pbc = atoms.get_pbc()
    box = atoms.cell.complete().array if pbc.any() else np.zeros((3, 3))
    found = NeighborList(cutoff=radius * (1 + 1e-12), full_list=False, n_threads=1)
    i, j, shifts = found.compute(atoms.get_positions(), box, periodic=pbc, quantities="ijS")
    i, j, shifts = (np.asarray(x).astype(np.int64) for x in (i, j, shifts))
    reach = int(np.abs(shifts).max(initial=0))
    width = 2 * reach + 1
    image = (shifts + reach) @ np.array([width**2, width, 1])
    turned = (i > j) | ((i == j) & (image < (width**3 - 1) // 2))
    i, j = np.where(turned, j, i), np.where(turned, i, j)
    image = np.where(turned, width**3 - 1 - image, image)
    order = np.argsort((i * len(atoms) + j) * width**3 + image, kind="stable")
    shifts = (np.where(turned, -1, 1)[:, None] * shifts)[order].astype(np.float64)
    return Pairs(torch.from_numpy(i[order]), torch.from_numpy(j[order]), torch.from_numpy(shifts))


def check_geometry(atoms: Atoms) -> None:
    """Raise `InputError` where positions are not finite or a periodic cell has no volume."""
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        raise InputError("positions or cell are not finite numbers; mend or drop the frame")
    farthest = max(np.abs(atoms.positions).max(initial=0), np.abs(atoms.cell.array).max())
    if farthest > MAX_POSITION:
        raise InputError(f"positions or a cell of {farthest:.3g} Å; check the unit (Å) or drop the frame")
    if atoms.pbc.any() and abs(np.linalg.det(atoms.cell.complete().array)) < 1e-6:
        raise InputError("periodic, but the cell has zero volume; set the cell or set pbc to False")


def graph_of(atoms: Atoms, pairs: Pairs, cutoff: float) -> Graph:
    """The neighbour graph of a structure, from pairs among which are all within the cutoff (Å), on their device."""
    device = pairs.i.device
    positions = torch.from_numpy(atoms.get_positions()).to(device)
    cell = torch.tensor(atoms.cell.array, dtype=torch.float64, device=device)
    vectors = positions.index_select(0, pairs.j) - positions.index_select(0, pairs.i) + pairs.shifts @ cell
    squares = vectors.square().sum(dim=1)
    near = (squares < cutoff**2).nonzero()[:, 0]
    i, j, shifts = (x.index_select(0, near) for x in pairs)
    if len(near) and float(squares.min()) < MIN_DISTANCE**2:
        k = int(squares.argmin())
        raise InputError(
            f"atoms {int(pairs.i[k])} and {int(pairs.j[k])} are on top of each other "
            f"({float(squares[k]) ** 0.5:.2g} Å apart); mend or drop the frame"
        )
    return {
        "numbers": torch.from_numpy(atoms.get_atomic_numbers().astype(np.int64)).to(device),
        "positions": positions,
        "cell": cell[None],
        "edge_index": torch.stack([torch.cat([i, j]), torch.cat([j, i])]),
        "shifts": torch.cat([shifts, -shifts]),
        "batch": torch.zeros(len(atoms), dtype=torch.int64, device=device),
        "n_atoms": torch.tensor([len(atoms)], device=device),
        "n_edges": torch.tensor([2 * len(i)], device=device),
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
