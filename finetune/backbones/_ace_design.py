"""The design matrix of a linear atomic cluster expansion: what the closed-form fit needs.

dB/dr of an edge is dB/dA of its atom times dA/dr of the edge, two dense matrices per atom and species of neighbour.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from finetune.backbones._ace_edges import Edges
from finetune.graph import Graph, edge_vectors
from finetune.potential import Design

if TYPE_CHECKING:
    from finetune.backbones.ace import ACE

CHUNK = 16
"""Atoms whose derivatives are worked out together."""


def design(potential: ACE, graph: Graph) -> Design:
    """Derivatives of energy, forces and stress by the coefficients; column `element * functions + function`."""
    n, count = len(potential.elements), len(potential.products.functions)
    atoms, structures, batch = len(graph["numbers"]), len(graph["n_atoms"]), graph["batch"]
    vectors, _ = edge_vectors(graph, graph["positions"], graph["cell"])
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
    volume = torch.linalg.det(graph["cell"]).abs()
    volume = torch.where(volume > 1e-6, volume, torch.nan)
    stress = (virial + virial.mT) / 2 / volume[:, None, None, None, None]
    return Design(
        energy.flatten(1),
        -gradient.permute(1, 3, 0, 2).flatten(2),
        stress.flatten(1, 2).permute(0, 2, 3, 1),
    )


def _values_and_slopes(potential: ACE, vectors: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
    """B, shape (atoms, functions), and dB/dr of every edge, shape (edges, functions, 3)."""
    products, n = potential.products, len(potential.elements)
    padded, filled = edges.pad(vectors, potential.cutoff)
    with torch.no_grad():
        g, y = potential.radial_and_angular(padded, filled, edges.species)
        sums, rows = potential.bases(g, y, edges.species)
        values = products(sums, rows)
        partials = products.partials(rows)  # species, functions, n lm, atoms
    atoms, width = len(edges.species), padded.shape[1]
    dg, dy = _slopes(potential, padded, filled, edges.species)
    mixed = _mixed(potential, g, edges.species)[..., None]
    dmixed = torch.stack([_mixed(potential, part, edges.species) for part in dg.unbind(-1)], dim=-1)
    outer = dmixed * y[:, :, None, :, None] + mixed * dy[:, :, None]  # d(R Y)/dr: segments, neighbours, n, lm, 3
    outer = outer.flatten(2, 3)
    left = partials.permute(3, 0, 1, 2).reshape(atoms * n, len(products.functions), -1)
    slopes = left @ outer.permute(0, 2, 1, 3).flatten(2)
    slopes = slopes.view(atoms, n, -1, width, 3)
    mu, k = products.get_buffer("single")
    slopes[:, mu, torch.arange(len(mu))] += dg.view(atoms, n, width, -1, 3).permute(0, 1, 3, 2, 4)[:, mu, k]
    of_edges = slopes.permute(0, 1, 3, 2, 4).reshape(atoms * n * width, -1, 3)
    return values.T, of_edges.index_select(0, edges.places()[0])


def _slopes(potential: ACE, padded: Tensor, filled: Tensor, species: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of g_k and Y_lm by the three components of the edge vector, last in the shape."""

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        return potential.radial_and_angular(x, filled, species)

    parts = []
    for axis in range(3):
        direction = torch.zeros_like(padded)
        direction[..., axis] = 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch warns of itself at the first use
            parts.append(torch.func.jvp(forward, (padded,), (direction,))[1])
    dg, dy = (torch.stack(part, dim=-1).detach() for part in zip(*parts, strict=True))
    return dg, dy


def _mixed(potential: ACE, g: Tensor, species: Tensor) -> Tensor:
    """R_nl from g_k, repeated for each m: shape (segments, neighbours, n, lm)."""
    degrees = torch.repeat_interleave(torch.arange(1, 2 * potential.lmax + 2, 2, device=g.device))
    mixing = potential.mixing.detach()[species].flatten(0, 1)[:, :, degrees]
    return torch.einsum("snmk,sek->senm", mixing, g)
