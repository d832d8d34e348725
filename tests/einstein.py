"""A crystal whose thermodynamics are known in closed form, as an ASE calculator without a memory."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes

STIFFNESS, BULK, PER_ATOM = 2.0, 0.5, 20.0  # eV/Å², eV/Å³, Å³


class EinsteinCrystal(Calculator):
    """Atoms bound to places that scale with the cell, and an energy of the volume: BULK (V - V0)² / (2 V0)."""

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012

    def __init__(self, atoms: Atoms, stiffness: float = STIFFNESS) -> None:
        super().__init__()
        self.places, self.v0 = atoms.get_scaled_positions(), PER_ATOM * len(atoms)
        self.stiffness = stiffness

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        away = self.atoms.get_positions() - self.places @ self.atoms.cell.array
        volume = self.atoms.get_volume()
        over = volume - self.v0
        energy = float((self.stiffness * away**2).sum() / 2 + BULK * over**2 / (2 * self.v0))
        stress = away.T @ (self.stiffness * away) / volume + BULK * over / self.v0 * np.eye(3)
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "forces": -self.stiffness * away,
            "stress": stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]],
        }


def crystal(repeats: int = 3) -> Atoms:
    """Simple cubic lithium with that calculator, at its places and volume."""
    atoms = bulk("Li", "sc", a=PER_ATOM ** (1 / 3)).repeat(repeats)
    atoms.calc = EinsteinCrystal(atoms)
    return atoms
