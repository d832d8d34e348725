"""Calculators whose answers are known in closed form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.neighborlist import neighbor_list
from ase.stress import full_3x3_to_voigt_6_stress


class Pairs(Calculator):
    """A sum over pairs, eV, with its derivative, eV/Å, up to a cutoff, Å; forces times `scale`, to spoil them."""

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012

    def __init__(self, energy: Callable, slope: Callable, cutoff: float, scale: float = 1.0) -> None:
        super().__init__()
        self.energy, self.slope, self.cutoff, self.scale = energy, slope, cutoff, scale

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)) -> None:
        super().calculate(atoms, properties, system_changes)
        i, distances, vectors = neighbor_list("idD", self.atoms, self.cutoff)
        pull = (self.slope(distances) / distances)[:, None] * vectors
        forces = np.zeros((len(self.atoms), 3))
        np.add.at(forces, i, pull)
        energy = float(self.energy(distances).sum()) / 2
        self.results = {"energy": energy, "free_energy": energy, "forces": self.scale * forces}
        if self.atoms.cell.rank == 3:
            stress = (vectors[:, :, None] * pull[:, None, :]).sum(axis=0) / 2 / self.atoms.get_volume()
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress)


def morse(depth: float, stiffness: float, minimum: float, cutoff: float = 12.0) -> Pairs:
    """depth (1 - exp(-stiffness (r - minimum)))² - depth."""

    def wave(r):
        return np.exp(-stiffness * (r - minimum))

    return Pairs(
        lambda r: depth * (wave(r) ** 2 - 2 * wave(r)),
        lambda r: 2 * depth * stiffness * (wave(r) - wave(r) ** 2),
        cutoff,
    )


def lennard_jones(epsilon: float, sigma: float, cutoff: float) -> Pairs:
    """4 epsilon ((sigma / r)^12 - (sigma / r)^6)."""
    return Pairs(
        lambda r: 4 * epsilon * ((sigma / r) ** 12 - (sigma / r) ** 6),
        lambda r: 4 * epsilon * (-12 * (sigma / r) ** 12 + 6 * (sigma / r) ** 6) / r,
        cutoff,
    )


class ByFormula(Calculator):
    """An energy per atom that only the composition decides, plus one for the volume."""

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012

    def __init__(self, per_atom: dict[str, float], stiffness: float = 0.0, volume: float = 1.0) -> None:
        super().__init__()
        self.per_atom, self.stiffness, self.volume = per_atom, stiffness, volume

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)) -> None:
        super().calculate(atoms, properties, system_changes)
        n = len(self.atoms)
        energy = n * self.per_atom[self.atoms.get_chemical_formula(empirical=True)]
        if self.stiffness and self.atoms.cell.rank == 3:
            energy += n * self.stiffness * (self.atoms.get_volume() / n / self.volume - 1) ** 2
        self.results = {"energy": energy, "free_energy": energy, "forces": np.zeros((n, 3)), "stress": np.zeros(6)}
