"""Ordered crystals in place of disordered ones: whole atoms on sites of partial or mixed occupancy."""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from finetune.errors import InputError

WHOLE = 0.02  # deviation from a whole number of atoms that is rounding in the CIF


def ordered(path: Path, max_atoms: int) -> Atoms:
    """Order a disordered CIF: the smallest supercell with whole numbers of atoms, low in electrostatic energy.

    Oxidation states are guessed by pymatgen, and its `OrderDisorderedStructureTransformation` chooses the arrangement
    by Ewald sums. Where no states are found, the arrangement is any.

    Args:
        path: CIF file, compressed or not.
        max_atoms: largest number of atoms of the supercell.

    Raises:
        InputError: no supercell of at most `max_atoms` atoms has whole numbers of atoms, or the file cannot be read.
    """
    from pymatgen.core import Structure
    from pymatgen.io.ase import AseAtomsAdaptor
    from pymatgen.io.cif import CifParser
    from pymatgen.transformations.standard_transformations import OrderDisorderedStructureTransformation

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about rounded coordinates and occupancies
        try:
            disordered: Structure = CifParser(path).parse_structures(primitive=True)[0]
        except (ValueError, KeyError, IndexError, AssertionError, OSError) as error:
            raise InputError(f"cannot read {path} ({error}); is it damaged?") from error
        repeats = _supercell(disordered, max_atoms)
        if repeats is None:
            raise InputError(
                f"{path}: got {disordered.formula}, of which no supercell of at most {max_atoms} atoms has whole "
                "numbers of atoms on each kind of site. Raise `max_atoms`, or leave the file out"
            )
        disordered.make_supercell(repeats)
        try:
            disordered.add_oxidation_state_by_guess()
            charged = True
        except ValueError:
            charged = False
        charged = charged and any(
            specie.oxi_state
            for site in disordered
            for specie in site.species  # all zero: nothing was found
        )
        if not charged:
            disordered.remove_oxidation_states()
        transformation = OrderDisorderedStructureTransformation(
            algo=OrderDisorderedStructureTransformation.ALGO_FAST, no_oxi_states=not charged
        )
        arranged: Any = transformation.apply_transformation(disordered)
        arranged.remove_oxidation_states()
        atoms: Atoms = AseAtomsAdaptor.get_atoms(arranged)
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)


def _supercell(structure: Any, max_atoms: int) -> tuple[int, int, int] | None:
    """The compact repetition of least volume with whole numbers of atoms on each kind of site; None if too large."""
    amounts: Counter[tuple[str, str]] = Counter()
    for site in structure:
        if not site.is_ordered:
            for specie, share in site.species.items():
                amounts[str(site.species), str(specie)] += share
    shares = np.array(list(amounts.values()))
    atoms = structure.composition.num_atoms
    lengths = np.array(structure.lattice.abc)
    for times in range(1, int(max_atoms / atoms + 1e-6) + 1):
        if np.abs(times * shares - np.round(times * shares)).max(initial=0) < WHOLE:
            shapes = [n for n in itertools.product(range(1, times + 1), repeat=3) if np.prod(n) == times]
            x, y, z = min(shapes, key=lambda n: float((lengths * n).max() / (lengths * n).min()))
            return x, y, z
    return None
