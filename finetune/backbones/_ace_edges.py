"""Neighbours of atoms, sorted by atom and species, in the rectangular form that matrix products want."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Neighbours as a rectangle, one row for each atom or for each atom and species of neighbour.

    Attributes:
        vectors: edge vectors, shape (rows, width, 3), Å; places without a neighbour are at the cutoff.
        kinds: 1 for the species of the neighbour, shape (elements, rows, width); 0 for all where there is none.
        species: row of the element of the centre, shape (rows).
        places: where in the flattened rectangle each edge is.
    """

    vectors: Tensor
    kinds: Tensor
    species: Tensor
    places: Tensor


@dataclass(frozen=True)
class Edges:
    """Edges of some atoms.

    Attributes:
        species: row of each atom's element, shape (atoms).
        counts: neighbours of each species, shape (atoms, elements).
        part: which of all edges, and which of all atoms, these are.
    """

    species: Tensor
    counts: Tensor
    part: tuple[slice, slice]

    @classmethod
    def of(cls, edge_index: Tensor, species: Tensor, elements: int) -> Edges:
        """All edges of a graph, which are sorted by atom and species of the neighbour."""
        segments = edge_index[0] * elements + species[edge_index[1]]
        counts = torch.bincount(segments, minlength=len(species) * elements).view(-1, elements)
        return cls(species, counts, (slice(0, edge_index.shape[1]), slice(0, len(species))))

    def chunks(self, atoms: int) -> Iterator[Edges]:
        """The same in parts of so many atoms."""
        ends = self.counts.sum(dim=1).cumsum(0).tolist()
        for start in range(0, len(self.species), atoms):
            stop = min(start + atoms, len(self.species))
            edges = slice(ends[start - 1] if start else 0, ends[stop - 1])
            yield Edges(self.species[start:stop], self.counts[start:stop], (edges, slice(start, stop)))

    def by_atom(self, vectors: Tensor, cutoff: float) -> Rows:
        """A row for each atom, from the vectors of the edges, shape (edges, 3)."""
        padded, places = _padded(vectors, self.counts.sum(dim=1), cutoff)
        ends = self.counts.cumsum(dim=1).T[..., None]
        along = torch.arange(padded.shape[1], device=vectors.device)
        kinds = (along < ends) & (along >= ends - self.counts.T[..., None])
        return Rows(padded, kinds.to(vectors.dtype), self.species, places)

    def by_atom_and_species(self, vectors: Tensor, cutoff: float) -> Rows:
        """A row for each atom and species of its neighbours, in this order."""
        elements = self.counts.shape[1]
        counts = self.counts.flatten()
        padded, places = _padded(vectors, counts, cutoff)
        filled = torch.arange(padded.shape[1], device=vectors.device) < counts[:, None]
        own = torch.eye(elements, dtype=vectors.dtype, device=vectors.device).repeat(1, len(self.species))
        species = self.species.repeat_interleave(elements)
        return Rows(padded, filled * own[..., None], species, places)


def _padded(vectors: Tensor, counts: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """Vectors in rows of the given counts, and the place of each in the flattened rectangle."""
    width = max(int(counts.max()), 1) if len(counts) else 1
    row = torch.repeat_interleave(counts)
    places = row * width + torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    rest = vectors.new_tensor([cutoff, 0.0, 0.0]).repeat(len(counts) * width, 1)
    return rest.index_copy(0, places, vectors).view(-1, width, 3), places
