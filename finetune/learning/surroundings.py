"""What is around an atom, and the relaxation of everything else."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, CalculatorError
from ase.constraints import FixAtoms
from ase.neighborlist import neighbor_list
from ase.optimize import FIRE

from finetune.errors import InputError
from finetune.sampling.core import Limits

CLOSE = Limits(densest=np.inf, sparsest_A3=np.inf, isolated_A=None)  # distances alone


def surroundings(atoms: Atoms, centre: int, radius_A: float) -> np.ndarray:
    """Atomic number and vector from the centre (Å) of every atom within a radius, sorted, shape (neighbours, 4)."""
    lengths = atoms.cell.lengths()
    if len(atoms) > 2000 and (lengths > 4 * radius_A).all():  # do not list the pairs of 10,000 atoms
        near = np.flatnonzero(atoms.get_distances(centre, range(len(atoms)), mic=True) <= radius_A)
        near = near[near != centre]
        vectors = atoms.get_distances(centre, near, mic=True, vector=True) if len(near) else np.zeros((0, 3))
        found = np.column_stack([atoms.numbers[near], vectors])
    else:
        i, j, vectors = neighbor_list("ijD", atoms, radius_A)
        found = np.column_stack([atoms.numbers[j[i == centre]], vectors[i == centre]])
    return np.asarray(found[np.lexsort(found.round(4).T[::-1])])


def relaxed(subcell: Atoms, calculator: Calculator, radius_A: float, steps: int) -> Atoms:
    """A sub-cell after some steps of relaxation of what lies outside of the radius; the rest does not move.

    It ends before an atom would come in from outside or too close to another one, or where the calculator gives up.
    """
    work, moved, own = subcell.copy(), subcell.copy(), int(subcell.info["centre"])
    work.set_constraint(FixAtoms(mask=work.arrays["inside"]))
    work.calc = calculator
    before, done = surroundings(subcell, own, radius_A), -1
    with suppress(InputError, CalculatorError, RuntimeError, ArithmeticError):  # as far as it comes
        for _ in FIRE(work, logfile=None, maxstep=0.1).irun(fmax=0.05, steps=steps):
            now = subcell.copy()
            now.positions = work.positions
            if len(surroundings(now, own, radius_A)) != len(before) or CLOSE.reason(now):
                break
            moved, done = now, done + 1
    moved.info["made_by"] += f" > Relaxed({max(done, 0)} outside)"
    return moved
