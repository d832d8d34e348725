"""How alike structures are: a vector of each structure, and distances in units of a random displacement of atoms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.geometry import complete_cell
from vesin import NeighborList

from finetune.data.batching import plan
from finetune.potential import Potential
from finetune.progress import Progress, through

CUTOFF = 6.0  # Å, of distances that are counted
BIN, BROAD = 0.05, 0.15  # Å, of the histograms of distances
RATTLE = 0.03  # Å, standard deviation of each coordinate, the unit of distance between structures
CHUNK = 500  # structures whose graphs are held at once
SHARE = 0.02  # change in an element's share of the atoms that counts as much: a vacancy among 50 atoms
SAMPLE = 12  # structures that are rattled to find it


@dataclass(frozen=True, eq=False)
class Likeness:
    """Vectors of structures, shape (structures, d), scaled so that a random displacement of `RATTLE` is 1.

    The last entries are the elements' shares of the atoms in units of `SHARE`: means over atoms can agree by chance
    where the compositions differ.
    """

    vectors: np.ndarray
    by: str

    def distances(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Distances between structures by their numbers, in units of `RATTLE`."""
        a, b = self.vectors[rows], self.vectors[columns]
        square = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
        return np.sqrt(np.maximum(square, 0.0))


def likeness(structures: Sequence[Atoms], potential: Potential | None, batch_edges: int = 8000) -> Likeness:
    """Vectors of structures: means of a potential's descriptors per element, or without one, pair distributions."""
    elements = np.unique(np.concatenate([atoms.numbers for atoms in structures]))
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(structures), min(SAMPLE, len(structures)), replace=False)
    rattled = [structures[i].copy() for i in chosen]
    for atoms in rattled:
        atoms.positions += rng.normal(scale=RATTLE, size=atoms.positions.shape)
    everything = [*structures, *rattled]
    if potential is None:
        bar = through(everything, "fingerprints", len(everything), "frames")
        vectors, by = np.array([pair_distribution(atoms, elements) for atoms in bar]), "pair distributions"
    else:
        vectors, by = descriptors(potential, everything, elements, batch_edges), "descriptors"
    moved = np.linalg.norm(vectors[len(structures) :] - vectors[chosen], axis=1)
    unit = float(np.median(moved)) or 1.0
    shares = np.array([[(atoms.numbers == z).mean() for z in elements] for atoms in structures])
    return Likeness(np.hstack([vectors[: len(structures)] / unit, shares / SHARE]), by)


def descriptors(
    potential: Potential, structures: Sequence[Atoms], elements: np.ndarray, batch_edges: int
) -> np.ndarray:
    """Mean descriptor of the atoms of each element, one after the other, shape (structures, elements d)."""
    rows: dict[int, np.ndarray] = {}
    with Progress("descriptors", len(structures), "frames") as bar:
        for start in range(0, len(structures), CHUNK):
            chunk = structures[start : start + CHUNK]
            graphs = [potential.graph(atoms) for atoms in chunk]
            for indices in plan([int(graph["n_edges"].sum()) for graph in graphs], batch_edges):
                graph = {k: v.to(potential.device) for k, v in potential.collate([graphs[i] for i in indices]).items()}
                features = potential.descriptors(graph).detach().cpu().double()
                parts = torch.split(features, [len(chunk[i]) for i in indices])
                for i, part in zip(indices, parts, strict=True):
                    rows[start + i] = _means(part.numpy(), chunk[i], elements)
                bar.update(len(indices))
    return np.array([rows[i] for i in range(len(structures))])


def pair_distances(atoms: Atoms, cutoff: float = CUTOFF) -> dict[tuple[int, int], np.ndarray]:
    """Distances within the cutoff in Å, each pair once, by the two atomic numbers, the smaller one first."""
    box = complete_cell(atoms.cell) if atoms.pbc.any() else np.zeros((3, 3))
    pairs = NeighborList(cutoff=cutoff, full_list=False, n_threads=1)
    i, j, d = pairs.compute(atoms.positions, box, periodic=atoms.pbc, quantities="ijd")
    ends = np.sort(np.stack([atoms.numbers[i], atoms.numbers[j]], axis=1).astype(int), axis=1)
    d = np.asarray(d)
    return {(int(a), int(b)): d[(ends == (a, b)).all(axis=1)] for a, b in np.unique(ends, axis=0)}


def pair_distribution(atoms: Atoms, elements: np.ndarray) -> np.ndarray:
    """Broadened histograms of distances over r², per atom, for every pair of elements."""
    edges = np.arange(0.0, CUTOFF + BIN, BIN)
    centres = (edges[1:] + edges[:-1]) / 2
    width = np.arange(-4 * BROAD, 4 * BROAD + BIN, BIN)
    kernel = np.exp(-0.5 * (width / BROAD) ** 2)
    fade = 0.5 * (1 + np.cos(np.pi * centres / CUTOFF)) / centres**2  # smooth where pairs leave the cutoff
    found = pair_distances(atoms)
    rows = []
    for k, a in enumerate(elements):
        for b in elements[k:]:
            counts, _ = np.histogram(found.get((int(a), int(b)), np.zeros(0)), edges)
            rows.append(np.convolve(counts * fade, kernel, mode="same") / len(atoms))
    return np.concatenate(rows)


def _means(features: np.ndarray, atoms: Atoms, elements: np.ndarray) -> np.ndarray:
    """Mean over the atoms of each element; 0 for an element that is not there."""
    masks = [atoms.numbers == z for z in elements]
    return np.concatenate([features[m].mean(axis=0) if m.any() else np.zeros(features.shape[1]) for m in masks])
