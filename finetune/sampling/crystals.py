"""Crystals: read, substituted, with swapped sites, strained and rattled."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import niggli_reduce
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list

from finetune.data.cif import read_cif
from finetune.data.compression import COMPRESSED, plain_name
from finetune.data.structures import UNREADABLE, disordered_sites
from finetune.errors import InputError
from finetune.sampling.core import Context, Sampler, at_least, atoms_of, child, number_of, spans
from finetune.sampling.ordering import ordered

ALIKE = (("Li", "Na", "Mg"), ("P", "Si", "Ge"), ("S", "O", "Se", "Cl"))


@lru_cache(maxsize=8)
def primitive_cells(folder: Path, min_atoms: int, max_atoms: int, order: bool = False) -> dict[str, list[Atoms]]:
    """Ordered structures of all CIF files below a folder by reduced formula, as primitive cells, repeated if tiny.

    Args:
        folder: where the CIF files lie, at any depth, compressed or not.
        min_atoms: smaller primitive cells are repeated.
        max_atoms: larger primitive cells are left out.
        order: order disordered crystals (`finetune.sampling.ordering`); False leaves them out.

    Raises:
        InputError: no CIF below the folder, or none with at most `max_atoms` atoms.
    """
    found: dict[str, list[Atoms]] = {}
    for path in sorted(file for suffix in ("", *COMPRESSED) for file in folder.rglob(f"*.cif{suffix}")):
        crystal = first_crystal(path)
        name = Path(plain_name(path)).stem
        if disordered_sites(crystal):
            if not order:
                continue
            try:
                crystal = ordered(path, max_atoms)
            except InputError:  # too large, as ordered crystals may be
                continue
            name = f"{name}, ordered"
        crystal = primitive(crystal)
        if len(crystal) > max_atoms:
            continue
        crystal = repeated(crystal, min_atoms)
        niggli_reduce(crystal)  # angles near 90°: grids of DFT codes are inaccurate in skewed cells
        crystal.info = {"group": composition(crystal), "made_by": name}
        found.setdefault(composition(crystal), []).append(crystal)
    if not found:
        raise InputError(f"no ordered crystal of at most {max_atoms} atoms below {folder}; give another folder")
    return found


def first_crystal(path: Path) -> Atoms:
    """The first structure of a CIF file, ordered or not.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return next(read_cif(path))
    except UNREADABLE as error:
        raise InputError(f"cannot read {path} ({error or type(error).__name__}); is it damaged?") from error


def primitive(crystal: Atoms, symprec_A: float = 0.05) -> Atoms:
    """The primitive cell, or the cell as it is where no symmetry is found."""
    import spglib

    lattice = (crystal.cell.array, crystal.get_scaled_positions(), crystal.numbers)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # spglib announces that it will raise instead of giving None
        reduced = spglib.standardize_cell(lattice, to_primitive=True, symprec=symprec_A)
    if reduced is None:
        return crystal
    return Atoms(reduced[2], cell=reduced[0], scaled_positions=reduced[1], pbc=True)


def composition(atoms: Atoms) -> str:
    """The reduced formula; polymorphs are one group, as they differ little once strained."""
    return atoms.symbols.formula.reduce()[0].format("hill")


def repeated(atoms: Atoms, min_atoms: int) -> Atoms:
    """The smallest compact supercell with at least so many atoms: the shortest lattice vector is doubled each time."""
    while len(atoms) < min_atoms:
        repeats = [1, 1, 1]
        repeats[int(np.argmin(atoms.cell.lengths()))] = 2
        atoms = atoms.repeat(repeats)
    return atoms


@dataclass(frozen=True)
class Crystals(Sampler):
    """Random crystals out of a folder of CIF files, without end; every formula is equally likely.

    Attributes:
        folder: where the CIF files lie, at any depth.
        min_atoms: smaller primitive cells are repeated.
        max_atoms: larger primitive cells are left out.
        formulas: only these compositions, as reduced formulas; all if empty.
        order: order crystals with sites of partial or mixed occupancy, in a supercell of at most `max_atoms` atoms;
            False leaves them out.
    """

    folder: Path
    min_atoms: int = 4
    max_atoms: int = 42
    formulas: tuple[str, ...] = ()
    order: bool = False

    def frames(self, parents: Iterable[Atoms], context: Context) -> Iterator[Atoms]:
        """Copies of the crystals; the group is the reduced formula."""
        found = primitive_cells(self.folder, self.min_atoms, self.max_atoms, self.order)
        formulas = [composition(atoms_of(formula)) for formula in self.formulas] or sorted(found)
        missing = sorted(set(formulas) - set(found))
        if missing:
            known = ", ".join(sorted(found))
            raise InputError(f"no crystal of {', '.join(missing)} below {self.folder}; take one of: {known}")
        while True:
            of_formula = found[formulas[context.rng.integers(len(formulas))]]
            yield of_formula[context.rng.integers(len(of_formula))].copy()


@dataclass(frozen=True)
class Substituted(Sampler):
    """Elements replaced by others of the same kind, the volume scaled with the bond lengths that covalent radii give.

    Attributes:
        alike: kinds of elements; an element is only replaced by one of its kind.
        mixed: share of frames in which every atom is drawn on its own, so that kinds are disordered.
    """

    alike: tuple[tuple[str, ...], ...] = ALIKE
    mixed: float = 0.2

    def frames(self, parents: Iterable[Atoms], context: Context) -> Iterator[Atoms]:
        """One substituted frame per parent, perhaps unchanged; its reduced formula becomes the group."""
        kinds = {number_of(s): [number_of(other) for other in kind] for kind in self.alike for s in kind}
        for parent in parents:
            atoms = child(parent, "Substituted")
            if context.rng.random() < self.mixed:
                atoms.numbers = [context.rng.choice(kinds.get(z, [z])) for z in parent.numbers]
            else:
                chosen = {z: context.rng.choice(kinds.get(z, [z])) for z in sorted(set(parent.numbers.tolist()))}
                atoms.numbers = [chosen[z] for z in parent.numbers]
            atoms = rescaled(atoms, parent)
            atoms.info["group"] = composition(atoms)
            atoms.info["made_by"] = f"{parent.info['made_by']} > Substituted({composition(atoms)})"
            yield atoms


def rescaled(atoms: Atoms, parent: Atoms) -> Atoms:
    """The cell scaled by the mean ratio of new to old covalent bond lengths between every atom and its nearest ones."""
    i, j, distances = neighbor_list("ijd", parent, 6.0)
    nearest = np.full(len(parent), np.inf)
    np.minimum.at(nearest, i, distances)
    i, j = i[distances < 1.1 * nearest[i]], j[distances < 1.1 * nearest[i]]
    if len(i):
        bonds_new = covalent_radii[atoms.numbers[i]] + covalent_radii[atoms.numbers[j]]
        bonds_old = covalent_radii[parent.numbers[i]] + covalent_radii[parent.numbers[j]]
        atoms.set_cell(atoms.cell * float(np.mean(bonds_new / bonds_old)), scale_atoms=True)
    return atoms


@dataclass(frozen=True)
class Swapped(Sampler):
    """Anti-site disorder: unlike atoms change places.

    Attributes:
        pairs: largest number of pairs swapped; at least one where the frame has two elements.
    """

    pairs: int = 3

    def __post_init__(self) -> None:
        at_least(self, pairs=1)

    def frames(self, parents: Iterable[Atoms], context: Context) -> Iterator[Atoms]:
        """One frame per parent; of a single element it is a copy."""
        for parent in parents:
            atoms = child(parent, "Swapped")
            for _ in range(int(context.rng.integers(1, self.pairs + 1))):
                first = int(context.rng.integers(len(atoms)))
                unlike = np.flatnonzero(atoms.numbers != atoms.numbers[first])
                if len(unlike):
                    second = int(context.rng.choice(unlike))
                    atoms.numbers[[first, second]] = atoms.numbers[[second, first]]
            yield atoms


@dataclass(frozen=True)
class Strained(Sampler):
    """Random symmetric strain after an isotropic change of volume.

    Attributes:
        strain: largest component of the strain tensor.
        volume: smallest and largest volume over the parent's.
        copies: frames per parent.
    """

    strain: float = 0.04
    volume: tuple[float, float] = (0.85, 1.2)
    copies: int = 4

    def __post_init__(self) -> None:
        at_least(self, strain=0, copies=1)
        spans(self, volume=0.01)

    def frames(self, parents: Iterable[Atoms], context: Context) -> Iterator[Atoms]:
        """Strained copies; atoms move with the cell."""
        for parent in parents:
            for _ in range(self.copies):
                shear = context.rng.uniform(-self.strain, self.strain, (3, 3))
                shear = (shear + shear.T) / 2
                shear -= np.eye(3) * np.trace(shear) / 3
                volume = context.rng.uniform(*self.volume)
                stretch = (np.eye(3) + shear) * (volume / np.linalg.det(np.eye(3) + shear)) ** (1 / 3)
                atoms = child(parent, f"Strained(volume {volume:.3f}, shear {np.abs(shear).max():.3f})")
                atoms.set_cell(atoms.cell.array @ stretch, scale_atoms=True)
                yield atoms


@dataclass(frozen=True)
class Rattled(Sampler):
    """Atoms displaced at random.

    Attributes:
        amplitudes_A: standard deviations of the displacement along each axis, Å; one is drawn per frame.
        copies: frames per parent.
    """

    amplitudes_A: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.35)
    copies: int = 1

    def __post_init__(self) -> None:
        at_least(self, amplitudes_A=0, copies=1)

    def frames(self, parents: Iterable[Atoms], context: Context) -> Iterator[Atoms]:
        """Rattled copies."""
        for parent in parents:
            for _ in range(self.copies):
                amplitude = self.amplitudes_A[context.rng.integers(len(self.amplitudes_A))]
                atoms = child(parent, f"Rattled({amplitude:g} Å)")
                atoms.positions += context.rng.normal(0.0, amplitude, atoms.positions.shape)
                yield atoms
