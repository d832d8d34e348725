"""Crystals with atoms missing or added, and at a series of volumes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from ase import Atom, Atoms
from ase.data import covalent_radii
from ase.geometry import get_distances
from scipy.spatial import Voronoi

from finetune.errors import InputError
from finetune.sampling.core import Context, Sampler, at_least, child, drawn, number_of, spans


@dataclass(frozen=True)
class Vacancies(Sampler):
    """Atoms missing at random.

    Attributes:
        number: smallest and largest number of atoms missing.
        elements: only atoms of these; of all if empty.
    """

    number: tuple[int, int] = (1, 2)
    elements: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        spans(self, number=0)

    def frames(self, parents: Iterable[Atoms], context: Context) -> Iterator[Atoms]:
        """One frame per parent; at least one atom stays, and a frame without the elements is a copy."""
        for parent in parents:
            wanted = {number_of(symbol) for symbol in self.elements} or set(parent.numbers.tolist())
            sites = np.flatnonzero(np.isin(parent.numbers, list(wanted)))
            number = min(drawn(context.rng, self.number), len(sites), len(parent) - 1)
            missing = context.rng.choice(sites, max(number, 0), replace=False)
            names = " ".join(parent.symbols[k] for k in missing)
            atoms = child(parent, f"Vacancies({names})")
            del atoms[list(missing)]
            yield atoms


@dataclass(frozen=True)
class Interstitials(Sampler):
    """Atoms added in the largest voids, which are corners of Voronoi cells.

    Attributes:
        number: smallest and largest number of atoms added, one after the other.
        elements: which are added, one is drawn per atom; those of the frame if empty.
        voids: how many of the largest voids one is drawn from.
    """

    number: tuple[int, int] = (1, 2)
    elements: tuple[str, ...] = ()
    voids: int = 3

    def __post_init__(self) -> None:
        at_least(self, voids=1)
        spans(self, number=0)

    def frames(self, parents: Iterable[Atoms], context: Context) -> Iterator[Atoms]:
        """One frame per parent."""
        rng = context.rng
        for parent in parents:
            known = self.elements or sorted(set(parent.get_chemical_symbols()))
            added = [str(rng.choice(known)) for _ in range(drawn(rng, self.number))]
            atoms = child(parent, f"Interstitials({' '.join(added)})")
            for symbol in added:
                places = voids(atoms, symbol)[: self.voids]
                atoms.append(Atom(symbol, places[rng.integers(len(places))]))
            yield atoms


def voids(atoms: Atoms, symbol: str, apart_A: float = 0.5) -> np.ndarray:
    """Corners of the Voronoi cells of a periodic structure, roomiest first, none within `apart_A` of another (n, 3), Å.

    The room is the smallest distance to an atom over the sum of its covalent radius and that of the element.
    """
    images = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    points = (atoms.positions[None] + (images @ atoms.cell.array)[:, None]).reshape(-1, 3)
    corners = Voronoi(points).vertices
    fractions = corners @ np.linalg.inv(atoms.cell.array)
    inside = ((fractions > -1e-6) & (fractions < 1 - 1e-6)).all(axis=1)
    corners = corners[inside]
    distances = get_distances(corners, atoms.positions, cell=atoms.cell, pbc=True)[1]
    room = (distances / (covalent_radii[atoms.numbers] + covalent_radii[number_of(symbol)])).min(axis=1)
    corners = corners[np.argsort(-room.round(6), kind="stable")]
    between = get_distances(corners, corners, cell=atoms.cell, pbc=True)[1]
    kept: list[int] = []
    for k in range(len(corners)):
        if (between[k, kept] > apart_A).all():
            kept.append(k)
    return np.asarray(corners[kept])


@dataclass(frozen=True)
class EquationOfState(Sampler):
    """The cell scaled alike in all directions to a series of volumes; nothing is random.

    Attributes:
        volumes: how many volumes, evenly spaced.
        volume: smallest and largest volume over the parent's.
    """

    volumes: int = 9
    volume: tuple[float, float] = (0.85, 1.15)

    def __post_init__(self) -> None:
        spans(self, volume=0.01)

    def frames(self, parents: Iterable[Atoms], context: Context) -> Iterator[Atoms]:
        """`volumes` frames per parent, from the smallest volume to the largest."""
        if self.volumes < 2:
            raise InputError(f"an equation of state needs two volumes or more, not {self.volumes}; raise `volumes`")
        for parent in parents:
            for volume in np.linspace(*self.volume, self.volumes):
                atoms = child(parent, f"EquationOfState(volume {volume:.4f})")
                atoms.set_cell(atoms.cell.array * volume ** (1 / 3), scale_atoms=True)
                yield atoms
