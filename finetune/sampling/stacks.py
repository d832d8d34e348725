"""Crude interfaces: two crystals stacked at random on a lattice between both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import make_supercell

from finetune.errors import InputError
from finetune.sampling.core import Context, Sampler, at_least, named, spans
from finetune.sampling.crystals import Crystals


@dataclass(frozen=True)
class Stacked(Sampler):
    """Crude interfaces, without end: a crystal on top of another, both periodic along the normal too.

    Attributes:
        folder: where the CIF files lie.
        lower: formulas of the one crystal.
        upper: formulas of the other.
        mismatch: largest difference of the in-plane lattices (lengths, relative; angle, rad); shared by both crystals.
        gap_A: smallest and largest distance put between the crystals beyond that of their layers, Å.
        max_atoms: largest number of atoms.
    """

    folder: Path
    lower: tuple[str, ...] = ("Li",)
    upper: tuple[str, ...] = ("Li2S", "Li3P")
    mismatch: float = 0.1
    gap_A: tuple[float, float] = (0.2, 1.5)
    max_atoms: int = 36

    def __post_init__(self) -> None:
        at_least(self, mismatch=0, max_atoms=2, lower=0, upper=0)
        spans(self, gap_A=0)

    def frames(self, parents: Iterable[Atoms], context: Context) -> Iterator[Atoms]:
        """Stacks; every one is a group of its own, named by the pair of crystals."""
        lower = Crystals(self.folder, 1, self.max_atoms - 1, self.lower).frames((), context)
        upper = Crystals(self.folder, 1, self.max_atoms - 1, self.upper).frames((), context)
        tried = 0
        while tried < 200:
            below, above = (turned(next(crystals), context.rng) for crystals in (lower, upper))
            matches = self.matches(below, above)
            tried += 1
            if not matches:
                continue
            n, m = matches[context.rng.integers(len(matches))]
            below, above = widened(below, n), widened(above, m)
            room = self.max_atoms - len(above)
            below = below.repeat((1, 1, int(context.rng.integers(1, max(1, min(4, room // len(below))) + 1))))
            yield stacked(below, above, context.rng.uniform(*self.gap_A, size=2), context.rng)
            tried = 0
        raise InputError(
            f"no stack of {self.lower} and {self.upper} has at most {self.max_atoms} atoms and a mismatch below "
            f"{self.mismatch:g}; raise one of them"
        )

    def matches(self, below: Atoms, above: Atoms) -> list[tuple[np.ndarray, np.ndarray]]:
        """In-plane supercells (2x2 integers) of both crystals whose lattices agree within the mismatch."""
        n, lengths_n, angles_n = planes(below, self.max_atoms)
        m, lengths_m, angles_m = planes(above, self.max_atoms)
        apart = np.abs(np.log(lengths_n[:, None] / lengths_m[None])).max(axis=-1)
        apart = np.maximum(apart, np.abs(angles_n[:, None] - angles_m[None]))
        atoms = (np.linalg.det(n) * len(below))[:, None] + (np.linalg.det(m) * len(above))[None]
        return [(n[i], m[j]) for i, j in np.argwhere((apart <= self.mismatch) & (atoms < self.max_atoms + 0.5))]


def planes(atoms: Atoms, max_atoms: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """In-plane supercells that are not too oblique: integers (n, 2, 2), lengths (n, 2) in Å and angles (n) in rad."""
    supercells = np.array(list(product(range(-2, 4), repeat=4))).reshape(-1, 2, 2)
    areas = np.linalg.det(supercells)
    supercells = supercells[(areas > 0.5) & (areas * len(atoms) < max_atoms)]
    vectors = supercells @ atoms.cell.array[:2]
    lengths = np.linalg.norm(vectors, axis=-1)
    cosines = (vectors[:, 0] * vectors[:, 1]).sum(axis=-1) / lengths.prod(axis=-1)
    sound = (np.abs(cosines) < 0.55) & (lengths.max(axis=-1) < 15)
    return supercells[sound], lengths[sound], np.arccos(cosines[sound])


def widened(atoms: Atoms, supercell: np.ndarray) -> Atoms:
    """The crystal on an in-plane supercell, its first vector along x again."""
    matrix = np.eye(3, dtype=int)
    matrix[:2, :2] = supercell
    wide = make_supercell(atoms, matrix)
    wide.set_cell(wide.cell.standard_form()[0], scale_atoms=True)
    wide.info = dict(atoms.info)
    return wide


def turned(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """The crystal with a random lattice vector as the third and the first two in the plane normal to z."""
    order = np.roll(np.arange(3), rng.integers(3))
    turn = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell.array[order], pbc=True, info=dict(atoms.info))
    turn.set_cell(turn.cell.standard_form()[0], scale_atoms=True)
    return repeated_along_normal(turn)


def repeated_along_normal(atoms: Atoms, least_A: float = 4.0) -> Atoms:
    """The crystal repeated along its third vector until it is at least so thick, Å."""
    area = np.linalg.norm(np.cross(atoms.cell[0], atoms.cell[1]))
    return atoms.repeat((1, 1, int(np.ceil(least_A * area / atoms.get_volume()))))


def stacked(below: Atoms, above: Atoms, gaps_A: np.ndarray, rng: np.random.Generator) -> Atoms:
    """One cell out of two on a shared in-plane lattice, the upper shifted at random in it, a gap at both faces."""
    plane = (below.cell.array[:2] + above.cell.array[:2]) / 2
    area = np.linalg.norm(np.cross(*plane))
    thirds = []
    for slab in (below, above):
        old = np.linalg.norm(np.cross(*slab.cell.array[:2]))
        third = slab.cell.array[2] * [1, 1, old / area]  # the volume is kept
        slab.set_cell(np.vstack([plane, third]), scale_atoms=True)
        slab.wrap()
        thirds.append(third)
    normal = np.array([0.0, 0.0, 1.0])
    shift = thirds[0] + gaps_A[0] * normal + rng.random(2) @ plane
    atoms = Atoms(
        np.concatenate([below.numbers, above.numbers]),
        np.vstack([below.positions, above.positions + shift]),
        cell=np.vstack([plane, sum(thirds) + gaps_A.sum() * normal]),
        pbc=True,
    )
    names = f"{below.info['group']}|{above.info['group']}"
    made_by = f"Stacked({names}, gaps {gaps_A[0]:.2f} {gaps_A[1]:.2f} Å)"
    atoms.info = {"group": named(names, made_by), "made_by": made_by}
    return atoms
