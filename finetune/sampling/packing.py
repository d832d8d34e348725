"""Disordered mixtures: atoms packed at random, of a random or an exact composition."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.data import atomic_masses, covalent_radii

from finetune.errors import InputError
from finetune.sampling.core import Context, Sampler, at_least, atoms_of, drawn, spans
from finetune.sampling.crystals import composition, primitive_cells


@dataclass(frozen=True)
class Packed(Sampler):
    """Random sequential packing of a random mixture, without end (Widom, 10.1063/1.1726548).

    Attributes:
        mixtures: one is drawn per frame: formulas whose random share of the atoms makes the composition.
        atoms: smallest and largest number of atoms.
        filling: lowest and highest volume of the covalent spheres over the volume of the cell.
        closest: smallest distance over the sum of covalent radii.
    """

    mixtures: tuple[tuple[str, ...], ...]
    atoms: tuple[int, int] = (10, 32)
    filling: tuple[float, float] = (0.17, 0.42)
    closest: float = 0.8

    def __post_init__(self) -> None:
        at_least(self, mixtures=0, closest=0)
        spans(self, atoms=1, filling=0.01)

    def frames(self, parents: Iterable[Atoms], context: Context) -> Iterator[Atoms]:
        """Packed cells; every one is a group of its own."""
        rng = context.rng
        while True:
            mixture = self.mixtures[rng.integers(len(self.mixtures))]
            number = drawn(rng, self.atoms)
            share = rng.dirichlet(np.ones(len(mixture)))
            units_of = [atoms_of(formula).numbers for formula in mixture]
            weights = np.concatenate([np.full(len(n), x / len(n)) for n, x in zip(units_of, share, strict=True)])
            numbers = rng.choice(np.concatenate(units_of), size=number, p=weights / weights.sum())
            atoms = self.pack(numbers, rng)
            name = f"packed-{atoms.get_chemical_formula()}-{rng.integers(2**32):08x}"
            atoms.info.update(group=name, made_by=f"Packed({' '.join(mixture)})")
            yield atoms

    def pack(self, numbers: np.ndarray, rng: np.random.Generator) -> Atoms:
        """Atoms at random places of a random cell, none too close; the cell grows where they do not fit."""
        volume = (4 / 3 * np.pi * covalent_radii[numbers] ** 3).sum() / rng.uniform(*self.filling)
        shape = random_shape(rng)
        while True:
            atoms = placed(numbers, shape * volume ** (1 / 3), self.closest, rng)
            if atoms is not None:
                return atoms
            volume *= 1.08


@dataclass(frozen=True)
class MixingLine(Sampler):
    """Random packing of exact compositions along a line of mixing, without end: a phase and n of another one.

    Attributes:
        phases: formulas, of which one is drawn per frame; taken as they stand (`Li7P3S11`, `Li4S2`).
        added: formula of what is mixed in.
        amounts: how many formula units are mixed in; one number is drawn per frame.
        density_g_cm3: lowest and highest density, g/cm³; None for that of the crystals in `folder`.
        folder: CIF files whose volumes per atom (the median of the polymorphs) add up to the volume of the mixture.
        swelling: smallest and largest volume over that of the crystals.
        closest: smallest distance over the sum of covalent radii; it gives way by some percent where atoms do not fit.
    """

    phases: tuple[str, ...] = ("Li7P3S11",)
    added: str = "Li"
    amounts: tuple[int, ...] = (0, 2, 4, 6, 8, 10, 12)
    density_g_cm3: tuple[float, float] | None = None
    folder: Path | None = None
    swelling: tuple[float, float] = (1.0, 1.2)
    closest: float = 0.8

    def __post_init__(self) -> None:
        at_least(self, phases=0, amounts=0, closest=0)
        spans(self, density_g_cm3=0.01, swelling=0.01)

    def frames(self, parents: Iterable[Atoms], context: Context) -> Iterator[Atoms]:
        """Packed cells; every one is a group of its own."""
        rng = context.rng
        while True:
            phase = str(rng.choice(self.phases))
            amount = int(rng.choice(self.amounts))
            numbers = np.concatenate([atoms_of(phase).numbers, *[atoms_of(self.added).numbers] * amount])
            atoms = self.pack(rng.permutation(numbers), self.volume(phase, amount, numbers, rng), rng)
            name = f"packed-{atoms.get_chemical_formula()}-{rng.integers(2**32):08x}"
            density = numbers_mass(numbers) / atoms.get_volume()
            atoms.info.update(group=name, made_by=f"MixingLine({phase} + {amount} {self.added}, {density:.2f} g/cm³)")
            yield atoms

    def volume(self, phase: str, amount: int, numbers: np.ndarray, rng: np.random.Generator) -> float:
        """Volume of the cell, Å³."""
        if self.density_g_cm3 is not None:
            return numbers_mass(numbers) / rng.uniform(*self.density_g_cm3)
        if self.folder is None:
            raise InputError("MixingLine has neither `density_g_cm3` nor a `folder` of crystals; give one of them")
        parts = [crystal_volume(self.folder, phase)] + [crystal_volume(self.folder, self.added)] * bool(amount)
        return float(np.dot(parts, [1, amount][: len(parts)])) * rng.uniform(*self.swelling)

    def pack(self, numbers: np.ndarray, volume: float, rng: np.random.Generator) -> Atoms:
        """Atoms at random places of a random cell of this volume (Å³); the distance gives way, not the density."""
        closest = self.closest
        while closest > 0.5:
            for _ in range(5):
                atoms = placed(numbers, random_shape(rng) * volume ** (1 / 3), closest, rng)
                if atoms is not None:
                    return atoms
            closest *= 0.97
        raise InputError(f"{len(numbers)} atoms do not fit into {volume:.0f} Å³; lower the density or `closest`")


def numbers_mass(numbers: np.ndarray) -> float:
    """Mass of atoms, g/cm³ Å³, so that divided by a volume in Å³ it is a density in g/cm³."""
    return float(atomic_masses[numbers].sum()) / units.mol * 1e24


def crystal_volume(folder: Path, formula: str) -> float:
    """Volume of a formula unit in its crystals, Å³: the median of the polymorphs below a folder.

    Raises:
        InputError: no crystal of that composition.
    """
    found = primitive_cells(folder, 1, 400)
    crystals = found.get(composition(atoms_of(formula)))
    if crystals is None:
        known = ", ".join(sorted(found))
        raise InputError(f"no crystal of {formula} below {folder}: give `density_g_cm3`, or take one of: {known}")
    return float(np.median([atoms.get_volume() / len(atoms) for atoms in crystals])) * len(atoms_of(formula))


def random_shape(rng: np.random.Generator) -> np.ndarray:
    """A random cell near a cube, of volume 1."""
    shape = np.eye(3) + rng.uniform(-0.15, 0.15, (3, 3))
    return np.asarray(shape / np.linalg.det(shape) ** (1 / 3))


def placed(numbers: np.ndarray, cell: np.ndarray, closest: float, rng: np.random.Generator) -> Atoms | None:
    """Atoms at random places of a cell, none closer than `closest` sums of covalent radii; None if they do not fit."""
    radii = covalent_radii[numbers]
    fractions = np.empty((0, 3))
    for k in range(len(numbers)):
        trials = rng.random((200, 3))
        apart = trials[:, None] - fractions[None]
        apart = (apart - np.rint(apart)) @ cell  # the nearest image, for distances below half the width of the cell
        fits = ((apart**2).sum(axis=-1) >= (closest * (radii[:k] + radii[k])) ** 2).all(axis=1)
        if not fits.any():
            return None
        fractions = np.vstack([fractions, trials[fits.argmax()]])
    return Atoms(numbers, scaled_positions=fractions, cell=cell, pbc=True)
