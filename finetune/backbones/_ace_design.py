"""The design matrix of a linear atomic cluster expansion: what the closed-form fit needs.

dB/dr of an edge is dB/dA of its atom times dA/dr of the edge, two dense matrices per atom and species of neighbour.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from finetune.backbones._ace_edges import Edges, Rows
from finetune.graph import Graph, edge_vectors, volumes
from finetune.potential import Design

if TYPE_CHECKING:
    from finetune.backbones.ace import ACE

CHUNK = 16
"""Atoms whose derivatives are worked out together."""


def design(potential: ACE, graph: Graph) -> Design:
    """Derivatives of energy, forces and stress by the coefficients; column `element * functions + function`."""
    n, count = len(potential.elements), len(potential.products.functions)
    atoms, structures, batch = len(graph["numbers"]), len(graph["n_atoms"]), graph["batch"]
    vectors = edge_vectors(graph)
    edges = Edges.of(graph["edge_index"], potential.rows[graph["numbers"]], n)
    energy, virial = vectors.new_zeros(structures, n, count), vectors.new_zeros(structures, n, count, 3, 3)
    gradient = vectors.new_zeros(n, atoms, count, 3)
    for chunk in edges.chunks(CHUNK):
        own, (of_edges, of_atoms) = vectors[chunk.part[0]], chunk.part
        values, slopes = _values_and_slopes(potential, own, chunk)
        centre, neighbour = graph["edge_index"][:, of_edges]
        structure = batch[of_atoms]
        energy.index_put_((structure, chunk.species), values, accumulate=True)
        kinds = chunk.species[centre - of_atoms.start]
        for kind in kinds.unique().tolist():
            mine = kinds == kind
            gradient[kind].index_add_(0, neighbour[mine], slopes[mine])
            gradient[kind].index_add_(0, centre[mine], slopes[mine], alpha=-1)
            parts = slopes[mine][..., None] * own[mine][:, None, None]
            virial[:, kind].index_add_(0, batch[centre[mine]], parts)
    stress = (virial + virial.mT) / 2 / volumes(graph)[:, None, None, None, None]
    return Design(
        energy.flatten(1),
        -gradient.permute(1, 3, 0, 2).flatten(2),
        stress.flatten(1, 2).permute(0, 2, 3, 1),
    )


def _values_and_slopes(potential: ACE, vectors: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
    """B, shape (atoms, functions), and dB/dr of every edge, shape (edges, functions, 3)."""
    products, n = potential.products, len(potential.elements)
    rows = edges.by_atom_and_species(vectors, potential.cutoff)
    with torch.no_grad():
        g, y = potential.radial_and_angular(rows)
        atoms, width = len(edges.species), g.shape[-1]
        kinds = rows.kinds.view(n, atoms, n * width)
        sums, base = potential.bases(g.view(-1, atoms, n * width), y.view(-1, atoms, n * width), kinds, edges.species)
        values = products(sums, base)
        partials = products.partials(base)  # species, functions, n lm, atoms
    dg, dy = _slopes(potential, rows)
    mixed = _mixed(potential, g[None], edges.species)
    dmixed = _mixed(potential, dg, edges.species)
    # d(R Y)/dr: rows, n lm, neighbours, 3
    outer = dmixed * y.movedim(0, 1)[None, :, None] + mixed * dy.movedim(1, 2)[:, :, None]
    outer = outer.movedim(0, -1).flatten(1, 2)
    left = partials.permute(3, 0, 1, 2).flatten(0, 1)
    slopes = (left @ outer.flatten(2)).view(atoms, n, -1, width, 3)
    mu, k = products.get_buffer("single")
    singles = dg.view(3, -1, atoms, n, width).permute(3, 1, 2, 4, 0)  # species, k, atoms, neighbours, 3
    slopes[:, mu, torch.arange(len(mu))] += singles[mu, k].transpose(0, 1)
    of_edges = slopes.transpose(2, 3).flatten(0, 2)
    return values.T, of_edges.index_select(0, rows.places)


def _slopes(potential: ACE, rows: Rows) -> tuple[Tensor, Tensor]:
    """Derivatives of g_k and Y_lm by the three components of the edge vector, first in the shape."""

    def forward(vectors: Tensor) -> tuple[Tensor, Tensor]:
        return potential.radial_and_angular(replace(rows, vectors=vectors))

    parts = []
    for axis in range(3):
        direction = torch.zeros_like(rows.vectors)
        direction[..., axis] = 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch warns of itself at the first use
            parts.append(torch.func.jvp(forward, (rows.vectors,), (direction,))[1])
    dg, dy = (torch.stack(part).detach() for part in zip(*parts, strict=True))
    return dg, dy


def _mixed(potential: ACE, g: Tensor, species: Tensor) -> Tensor:
    """R_nl, (components, rows, n, lm, neighbours), equal for all m, from g_k, (components, k, rows, neighbours)."""
    degrees = torch.repeat_interleave(torch.arange(1, 2 * potential.lmax + 2, 2, device=g.device))
    mixing = potential.mixing.detach()[species].flatten(0, 1)  # rows, n, l, k
    mixed = mixing.flatten(1, 2) @ g.movedim(1, 2)
    return mixed.view(*mixed.shape[:2], *mixing.shape[1:3], -1)[:, :, :, degrees]
