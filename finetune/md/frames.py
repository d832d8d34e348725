"""Copies of a structure for one purpose each."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator


def frozen(atoms: Atoms) -> Atoms:
    """A copy that keeps its energy."""
    copy: Atoms = atoms.copy()
    copy.calc = SinglePointCalculator(copy, energy=float(atoms.get_potential_energy()))
    return copy


def plain(atoms: Atoms, momenta: bool = False) -> Atoms:
    """A copy without results, and without momenta unless they are wanted: a structure to label or to go on from."""
    copy: Atoms = atoms.copy()
    if not momenta:
        copy.arrays.pop("momenta", None)
    return copy


def finite(atoms: Atoms) -> np.ndarray:
    """Which atoms have finite forces, shape (atoms,)."""
    return np.isfinite(atoms.get_forces()).all(axis=1)
