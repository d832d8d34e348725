"""A handful of real structures of Li, P and S, small enough for tests."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk

ROOT = Path(__file__).parents[1]


@functools.cache
def frames() -> list[Atoms]:
    """All frames of data/starting without their labels, the smallest first; not yours to change."""
    read = [atoms for path in sorted(ROOT.glob("data/starting/*.extxyz")) for atoms in ase.io.read(path, ":")]
    plain = [Atoms(a.numbers, a.positions, cell=a.cell, pbc=a.pbc, info={"family": a.info["family"]}) for a in read]
    return sorted(plain, key=len)


def of_family(family: str) -> Atoms:
    """The smallest DFT frame of a family of data/starting, unlabelled."""
    return next(atoms for atoms in frames() if atoms.info["family"] == family).copy()


def sulphide() -> Atoms:
    """Rattled antifluorite Li2S, primitive cell: three atoms, lattice vectors shorter than the cutoff."""
    atoms = ase.io.read(ROOT / "data/structures/materials_project/Li2S_mp-1153-r2SCAN.cif")
    atoms.rattle(0.1, seed=1)
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)


def lithium() -> Atoms:
    """Rattled and sheared bcc lithium."""
    atoms = bulk("Li", "bcc", a=3.43, cubic=True)
    shear = np.array([[0, 0.2, 0], [0, 0, 0.1], [0.1, 0, 0]])
    atoms.set_cell(atoms.cell.array + shear, scale_atoms=True)
    atoms.rattle(0.1, seed=2)
    return atoms


def molecule() -> Atoms:
    """Seven neighbours out of a glass, without cell."""
    atoms = of_family("amorphous")
    near = np.argsort(atoms.get_distances(0, range(len(atoms)), mic=True))[:7]
    return Atoms(atoms.numbers[near], atoms.get_distances(0, near, mic=True, vector=True))


def slab() -> Atoms:
    """Lithium, periodic in two directions only."""
    atoms = lithium().repeat((1, 1, 2))
    atoms.pbc = (True, True, False)
    return atoms


STRUCTURES: dict[str, Callable[[], Atoms]] = {
    "sulphide": sulphide,
    "lithium": lithium,
    "glass": functools.partial(of_family, "amorphous"),
    "interface": functools.partial(of_family, "interface"),
    "molecule": molecule,
    "slab": slab,
}
PERIODIC = ("sulphide", "lithium", "glass", "interface")
SPARSE: dict[str, Callable[[], Atoms]] = {
    "atom": lambda: Atoms("S", [[0.3, 0.2, 0.1]]),
    "atom in a large box": lambda: Atoms("Li", cell=[30, 30, 30], pbc=True),
    "dimer without angles": lambda: Atoms("LiS", [[0, 0, 0], [0, 0, 3.6]]),
    "atoms that do not see each other": lambda: Atoms("PS", [[0, 0, 0], [0, 0, 20]]),
}
