"""Liquids, glasses and crude interfaces: packed or stacked at random, relaxed a little, run by molecular dynamics."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import make_supercell
from ase.data import covalent_radii
from ase.filters import FrechetCellFilter
from ase.geometry import get_distances
from ase.md.langevin import Langevin
from ase.optimize import FIRE

from finetune.errors import InputError
from finetune.sampling.core import Context, Sampler, child, frozen
from finetune.sampling.crystals import Crystals


@dataclass(frozen=True)
class Relaxed(Sampler):
    """A few steps of relaxation with the calculator; not to the minimum.

    Attributes:
        steps: largest number of steps of FIRE.
        cell: relax the cell too.
    """

    steps: int = 15
    cell: bool = True

    def frames(self, parents: Iterable[Atoms], context: Context) -> Iterator[Atoms]:
        """One frame per parent, without results."""
        calculator = context.calculator_for(self)
        for parent in parents:
            if context.limits.reason(parent):
                yield parent
                continue
            atoms = child(parent, f"Relaxed({self.steps})")
            atoms.calc = calculator
            with suppress(InputError), warnings.catch_warnings():  # the recipe asks again and counts the reason
                warnings.filterwarnings("ignore", "logm result may be inaccurate", RuntimeWarning)  # by 1e-13
                FIRE(FrechetCellFilter(atoms) if self.cell else atoms, logfile=None).run(fmax=0.05, steps=self.steps)
            yield child(atoms, "")


@dataclass(frozen=True)
class Melt(Sampler):
    """Snapshots of Langevin molecular dynamics; the results of the dynamics are their labels.

    Attributes:
        temperature_K: lowest and highest temperature; every trajectory has one of its own.
        volume: smallest and largest volume over the parent's, applied before.
        timestep_fs: time step, fs.
        steps: steps per trajectory.
        every: steps between snapshots.
        friction_per_fs: friction of the thermostat, 1/fs.
    """

    temperature_K: tuple[float, float] = (300.0, 2500.0)
    volume: tuple[float, float] = (0.9, 1.3)
    timestep_fs: float = 2.0
    steps: int = 160
    every: int = 10
    friction_per_fs: float = 0.02

    def frames(self, parents: Iterable[Atoms], context: Context) -> Iterator[Atoms]:
        """`steps / every` snapshots per parent, fewer where one is absurd: that one ends its trajectory."""
        self.check()
        context.calculator_for(self)
        for parent in parents:
            temperature = context.rng.uniform(*self.temperature_K)
            volume = context.rng.uniform(*self.volume)
            atoms = child(parent, f"Melt({temperature:.0f} K, volume {volume:.3f})")
            atoms.set_cell(atoms.cell * volume ** (1 / 3), scale_atoms=True)
            if context.limits.reason(atoms):
                yield atoms
                continue
            yield from self.trajectory(atoms, temperature, context)

    def check(self) -> None:
        """Raise `InputError` where the settings give no snapshot."""
        if not 0 < self.every <= self.steps:
            raise InputError(f"Melt takes a snapshot every {self.every} of {self.steps} steps: none; lower `every`")

    def trajectory(self, atoms: Atoms, temperature_K: float, context: Context) -> Iterator[Atoms]:
        """Labelled snapshots of one trajectory, up to the first that is absurd; that one is handed on too."""
        calculator = context.calculator_for(self)
        atoms.calc = calculator
        atoms.set_momenta(maxwell_boltzmann(atoms, 2 * temperature_K, context.rng))  # half of it becomes potential
        dynamics = Langevin(
            atoms,
            self.timestep_fs * units.fs,
            temperature_K=temperature_K,
            friction=self.friction_per_fs / units.fs,
            fixcm=False,
            rng=context.rng,
        )
        story = atoms.info["made_by"]
        for step in range(1, self.steps + 1):
            atoms.info["made_by"] = f"{story} step {step}"
            try:
                dynamics.step()
                forces = np.linalg.norm(atoms.get_forces(), axis=1).max()
            except InputError:  # the recipe asks the calculator again and counts the reason
                yield child(atoms, "")
                return
            exploded = not forces <= context.limits.force
            if exploded or step % self.every == 0:
                snapshot = frozen(atoms, calculator)
                snapshot.arrays.pop("momenta", None)
                yield snapshot
                if exploded or context.limits.reason(snapshot):
                    return


def maxwell_boltzmann(atoms: Atoms, temperature_K: float, rng: np.random.Generator) -> np.ndarray:
    """Momenta of every atom at a temperature, ASE's units."""
    width = np.sqrt(atoms.get_masses() * units.kB * temperature_K)
    return rng.standard_normal((len(atoms), 3)) * width[:, None]


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

    def frames(self, parents: Iterable[Atoms], context: Context) -> Iterator[Atoms]:
        """Packed cells; every one is a group of its own."""
        rng = context.rng
        while True:
            mixture = self.mixtures[rng.integers(len(self.mixtures))]
            number = int(rng.integers(self.atoms[0], self.atoms[1] + 1))
            share = rng.dirichlet(np.ones(len(mixture)))
            units_of = [Atoms(formula).numbers for formula in mixture]
            weights = np.concatenate([np.full(len(n), x / len(n)) for n, x in zip(units_of, share, strict=True)])
            numbers = rng.choice(np.concatenate(units_of), size=number, p=weights / weights.sum())
            atoms = self.pack(numbers, rng)
            name = f"packed-{atoms.get_chemical_formula()}-{rng.integers(2**32):08x}"
            atoms.info.update(group=name, made_by=f"Packed({' '.join(mixture)})")
            yield atoms

    def pack(self, numbers: np.ndarray, rng: np.random.Generator) -> Atoms:
        """Atoms at random places of a random cell, none too close; the cell grows where they do not fit."""
        radii = covalent_radii[numbers]
        volume = (4 / 3 * np.pi * radii**3).sum() / rng.uniform(*self.filling)
        shape = np.eye(3) + rng.uniform(-0.15, 0.15, (3, 3))
        shape /= np.linalg.det(shape) ** (1 / 3)
        while True:
            cell = shape * volume ** (1 / 3)
            placed = np.empty((0, 3))
            for k in range(len(numbers)):
                trials = rng.random((200, 3)) @ cell
                least = self.closest * (radii[:k] + radii[k])
                fits = np.ones(len(trials), bool)
                if k:
                    fits = (get_distances(trials, placed, cell=cell, pbc=True)[1] >= least).all(axis=1)
                if not fits.any():
                    break
                placed = np.vstack([placed, trials[fits.argmax()]])
            if len(placed) == len(numbers):
                return Atoms(numbers, placed, cell=cell, pbc=True)
            volume *= 1.08


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

    def frames(self, parents: Iterable[Atoms], context: Context) -> Iterator[Atoms]:
        """Stacks; the group is the pair of crystals."""
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
    atoms.info = {"group": names, "made_by": f"Stacked({names}, gaps {gaps_A[0]:.2f} {gaps_A[1]:.2f} Å)"}
    return atoms
