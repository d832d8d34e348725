"""Sources that list what they have, in order and once: files, pairs of atoms, single atoms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import covalent_radii, ground_state_magnetic_moments

from finetune.data.compression import plain_name
from finetune.data.structures import disordered_sites, read_structure
from finetune.errors import InputError
from finetune.sampling.core import Context, Sampler, at_least, atoms_of, number_of
from finetune.sampling.crystals import composition, first_crystal, primitive, repeated
from finetune.sampling.ordering import ordered


@dataclass(frozen=True)
class Files(Sampler):
    """The crystals of some files, as primitive cells, each once.

    Attributes:
        folder: where the files lie.
        files: their names, in any format that ASE reads.
        min_atoms: smaller primitive cells are repeated.
        order: order crystals with sites of partial or mixed occupancy (CIF) by pymatgen; otherwise they are refused.
        max_atoms: largest supercell that ordering may need.
    """

    listed = True

    folder: Path
    files: tuple[str, ...]
    min_atoms: int = 1
    order: bool = False
    max_atoms: int = 100

    def frames(self, parents: Iterable[Atoms], context: Context) -> Iterator[Atoms]:
        """One frame per file; the group is the reduced formula."""
        for name in self.files:
            path = self.folder / name
            if not path.is_file():
                raise InputError(f"there is no file {path}; check `files` and `folder`")
            made_by = Path(plain_name(path)).stem
            if self.order and disordered_sites(crystal := first_crystal(path)):
                crystal, made_by = ordered(path, self.max_atoms), f"{made_by}, ordered"
            else:
                crystal = read_structure(str(path))
            atoms = repeated(primitive(crystal), self.min_atoms)
            atoms.info = {"group": composition(atoms), "made_by": made_by}
            yield atoms


@dataclass(frozen=True)
class Dimers(Sampler):
    """Pairs of atoms in a box, at distances that become denser towards the short ones; nothing is random.

    They carry the moments of the free atoms, parallel, so that a DFT code computes them with spin. Which state is the
    lower one is not known beforehand, and codes stay in the one that they begin with: `antiparallel` asks for both.

    Attributes:
        elements: every pair of these, alike ones too.
        points: distances per pair.
        closest: shortest distance over the sum of the covalent radii.
        farthest_A: longest distance, Å.
        box_A: edge of the cubic box, Å; the axis of the pair is along x.
        far_box_A: edge along the axis for distances beyond a third of `box_A`, Å, so that images stay far.
        periodic: whether the box repeats, as plane-wave codes want it.
        antiparallel: each pair a second time, with opposed moments.
    """

    listed = True

    elements: tuple[str, ...]
    points: int = 16
    closest: float = 0.6
    farthest_A: float = 6.0
    box_A: float = 12.0
    far_box_A: float = 20.0
    periodic: bool = True
    antiparallel: bool = False

    def __post_init__(self) -> None:
        at_least(self, elements=0, points=1, closest=0.01, box_A=1)

    def frames(self, parents: Iterable[Atoms], context: Context) -> Iterator[Atoms]:
        """`points` frames per pair, or twice as many; the group is the pair."""
        if self.periodic and self.far_box_A < 3 * self.farthest_A:
            remedy = f"raise `far_box_A` from {self.far_box_A:g} to {3 * self.farthest_A:g} Å"
            raise InputError(f"images of a pair come near it: {remedy}")
        for pair in combinations_with_replacement(self.elements, 2):
            shortest = self.closest * sum(covalent_radii[number_of(symbol)] for symbol in pair)
            for distance in np.geomspace(shortest, self.farthest_A, self.points):
                box = np.full(3, self.box_A)
                box[0] = max(self.box_A, self.far_box_A) if distance > self.box_A / 3 else self.box_A
                half = np.array([distance / 2, 0.0, 0.0])
                atoms = Atoms(pair, [box / 2 - half, box / 2 + half], cell=box, pbc=self.periodic)
                atoms.set_initial_magnetic_moments(free_moments(atoms))
                atoms.info = {"group": f"dimer-{'-'.join(pair)}", "made_by": f"Dimers({distance:.3f} Å)"}
                yield atoms
                if self.antiparallel:
                    opposed: Atoms = atoms.copy()
                    opposed.set_initial_magnetic_moments(free_moments(atoms) * [1, -1])
                    opposed.info["made_by"] = f"Dimers({distance:.3f} Å, antiparallel)"
                    yield opposed


@dataclass(frozen=True)
class IsolatedAtoms(Sampler):
    """Single atoms in a box, each element once, for reference energies, with the moments of the free atoms.

    Attributes:
        elements: which.
        box_A: edges of the box, Å; unequal ones let a DFT code break the symmetry of the atom.
        periodic: whether the box repeats, as plane-wave codes want it.
    """

    listed = True

    elements: tuple[str, ...]
    box_A: tuple[float, float, float] = (12.0, 12.1, 12.2)
    periodic: bool = True

    def frames(self, parents: Iterable[Atoms], context: Context) -> Iterator[Atoms]:
        """One frame per element, which is its group."""
        for symbol in self.elements:
            atoms = Atoms(atoms_of(symbol).numbers, [np.array(self.box_A) / 2], cell=self.box_A, pbc=self.periodic)
            atoms.set_initial_magnetic_moments(free_moments(atoms))
            atoms.info = {"group": f"atom-{symbol}", "made_by": "IsolatedAtoms"}
            yield atoms


def free_moments(atoms: Atoms) -> np.ndarray:
    """Magnetic moments of the free atoms in their ground states, Bohr magnetons, shape (atoms)."""
    return np.array([ground_state_magnetic_moments[z] for z in atoms.numbers])
