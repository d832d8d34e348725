"""Neighbours of atoms, sorted by atom and species, in the rectangular form that matrix products want."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Edges:
    """Edges of some atoms. A segment is the neighbours of one atom that are of one species.

    Attributes:
        species: row of each atom's element, shape (atoms).
        counts: neighbours in each segment, shape (atoms * elements).
        part: which of all edges, and which of all atoms, these are.
    """

    species: Tensor
    counts: Tensor
    part: tuple[slice, slice]

    @classmethod
    def of(cls, edge_index: Tensor, species: Tensor, elements: int) -> Edges:
        """All edges of a graph, which are sorted by atom and species of the neighbour."""
        segments = edge_index[0] * elements + species[edge_index[1]]
        counts = torch.bincount(segments, minlength=len(species) * elements)
        return cls(species, counts, (slice(0, edge_index.shape[1]), slice(0, len(species))))

    def chunks(self, atoms: int) -> Iterator[Edges]:
        """The same in parts of so many atoms."""
        elements = len(self.counts) // max(len(self.species), 1)
        ends = self.counts.view(-1, elements).sum(dim=1).cumsum(0).tolist()
        for start in range(0, len(self.species), atoms):
            stop = min(start + atoms, len(self.species))
            edges = slice(ends[start - 1] if start else 0, ends[stop - 1])
            counts = self.counts[start * elements : stop * elements]
            yield Edges(self.species[start:stop], counts, (edges, slice(start, stop)))

    def places(self) -> tuple[Tensor, int]:
        """Place of each edge in the rectangle (segments, width), flattened, and its width."""
        width = max(int(self.counts.max()), 1) if len(self.counts) else 1
        segment = torch.repeat_interleave(self.counts)
        first = (self.counts.cumsum(0) - self.counts)[segment]
        return segment * width + torch.arange(len(segment), device=segment.device) - first, width

    def pad(self, vectors: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
        """Edge vectors as (segments, width, 3), and 1 where there is an edge; the rest is at the cutoff.

        Args:
            vectors: of the edges, shape (edges, 3), Å.
            cutoff: radius in Å.
        """
        places, width = self.places()
        rest = vectors.new_tensor([cutoff, 0.0, 0.0]).repeat(len(self.counts) * width, 1)
        padded = rest.index_copy(0, places, vectors).view(-1, width, 3)
        filled = torch.arange(width, device=vectors.device) < self.counts[:, None]
        return padded, filled.to(vectors.dtype)
