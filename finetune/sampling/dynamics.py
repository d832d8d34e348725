"""Dynamics with any calculator: relaxed a little, snapshots, quenched melts, and the density at a pressure."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.filters import FrechetCellFilter
from ase.md.langevin import Langevin
from ase.md.nptberendsen import NPTBerendsen
from ase.md.velocitydistribution import thermalize_momenta
from ase.optimize import FIRE

from finetune.errors import InputError
from finetune.sampling.core import Context, Sampler, at_least, child, frozen, spans


@dataclass(frozen=True)
class Relaxed(Sampler):
    """A few steps of relaxation with the calculator; not to the minimum.

    Attributes:
        steps: largest number of steps of FIRE.
        cell: relax the cell too.
    """

    steps: int = 15
    cell: bool = True

    def __post_init__(self) -> None:
        at_least(self, steps=1)

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
class Dynamics(Sampler):
    """Snapshots of Langevin molecular dynamics at constant volume; the results of the dynamics are their labels.

    Attributes:
        temperature_K: lowest and highest temperature; every trajectory has one of its own.
        volume: smallest and largest volume over the parent's, applied before.
        timestep_fs: time step, fs.
        skip: steps before the first snapshot is counted, for equilibration.
        steps: steps per trajectory after these.
        every: steps between snapshots, enough of them that snapshots are not alike.
        friction_per_fs: friction of the thermostat, 1/fs.
    """

    temperature_K: tuple[float, float] = (300.0, 900.0)
    volume: tuple[float, float] = (1.0, 1.0)
    timestep_fs: float = 2.0
    skip: int = 100
    steps: int = 300
    every: int = 100
    friction_per_fs: float = 0.02

    def __post_init__(self) -> None:
        at_least(self, timestep_fs=0.01, skip=0, friction_per_fs=0)
        spans(self, temperature_K=0, volume=0.01)

    def frames(self, parents: Iterable[Atoms], context: Context) -> Iterator[Atoms]:
        """`steps / every` snapshots per parent, fewer where one is absurd: that one ends its trajectory."""
        name = type(self).__name__
        if not 0 < self.every <= self.steps:
            raise InputError(f"{name} takes a snapshot every {self.every} of {self.steps} steps: none; lower `every`")
        context.calculator_for(self)
        for parent in parents:
            temperature = context.rng.uniform(*self.temperature_K)
            volume = context.rng.uniform(*self.volume)
            atoms = child(parent, f"{name}({temperature:.0f} K, volume {volume:.3f})")
            atoms.set_cell(atoms.cell * volume ** (1 / 3), scale_atoms=True)
            if context.limits.reason(atoms):
                yield atoms
                continue
            atoms.calc = context.calculator_for(self)
            dynamics = langevin(atoms, temperature, self.timestep_fs, self.friction_per_fs, context)
            taken = {self.skip + step for step in range(self.every, self.steps + 1, self.every)}
            yield from snapshots(atoms, dynamics, taken, context, temperature)


@dataclass(frozen=True)
class Melt(Dynamics):
    """`Dynamics` that begins hot, expanded and from the first step on."""

    temperature_K: tuple[float, float] = (300.0, 2500.0)
    volume: tuple[float, float] = (0.9, 1.3)
    skip: int = 0
    steps: int = 160
    every: int = 10


@dataclass(frozen=True)
class MeltQuench(Sampler):
    """Melts and quenched cells: heated, held and cooled at constant volume by Langevin dynamics.

    Attributes:
        melt_K: lowest and highest temperature of the melt.
        final_K: temperature at the end, K.
        heat: steps from `final_K` to the melt.
        hold: steps in the melt.
        cool: steps back, linear in temperature.
        snapshots: frames per parent, evenly spread over hold and cooling; the last one is at `final_K`.
        timestep_fs: time step, fs.
        friction_per_fs: friction of the thermostat, 1/fs.
    """

    melt_K: tuple[float, float] = (1000.0, 1500.0)
    final_K: float = 300.0
    heat: int = 50
    hold: int = 150
    cool: int = 200
    snapshots: int = 1
    timestep_fs: float = 2.0
    friction_per_fs: float = 0.02

    def __post_init__(self) -> None:
        at_least(self, final_K=0, heat=0, hold=0, cool=0, timestep_fs=0.01, friction_per_fs=0)
        spans(self, melt_K=0)

    def frames(self, parents: Iterable[Atoms], context: Context) -> Iterator[Atoms]:
        """`snapshots` frames per parent, fewer where one is absurd: that one ends its trajectory."""
        if not 0 < self.snapshots <= self.hold + self.cool:
            raise InputError(f"MeltQuench cannot take {self.snapshots} snapshots; take 1 to {self.hold + self.cool}")
        calculator = context.calculator_for(self)
        for parent in parents:
            melt = context.rng.uniform(*self.melt_K)
            atoms = child(parent, f"MeltQuench({melt:.0f} K to {self.final_K:.0f} K in {self.cool} steps)")
            if context.limits.reason(atoms):
                yield atoms
                continue
            atoms.calc = calculator
            dynamics = langevin(atoms, self.final_K, self.timestep_fs, self.friction_per_fs, context)
            times = self.heat + np.linspace(0, self.hold + self.cool, self.snapshots + 1)[1:]

            def cool(step: int, dynamics: Langevin = dynamics, melt: float = melt) -> float:
                now = self.temperature(step, melt)
                dynamics.set_temperature(temperature_K=now)
                return now

            yield from snapshots(atoms, dynamics, {round(time) for time in times}, context, cool)

    def temperature(self, step: int, melt_K: float) -> float:
        """Temperature (K) of the thermostat at a step."""
        ends = np.cumsum([0, self.heat, self.hold, self.cool])
        return float(np.interp(step, ends, [self.final_K, melt_K, melt_K, self.final_K]))


@dataclass(frozen=True)
class Densified(Sampler):
    """The density at a temperature and a pressure: the cell follows by Berendsen's barostat (10.1063/1.448118).

    Attributes:
        temperature_K: lowest and highest temperature; one is drawn per frame.
        pressure_GPa: pressure, GPa.
        steps: steps per frame.
        timestep_fs: time step, fs.
        bulk_modulus_GPa: about that of the material, GPa; too small a value makes the cell swing.
        relaxation_fs: time in which temperature and (four times slower) pressure relax, fs.
    """

    temperature_K: tuple[float, float] = (300.0, 600.0)
    pressure_GPa: float = 0.0
    steps: int = 200
    timestep_fs: float = 2.0
    bulk_modulus_GPa: float = 20.0
    relaxation_fs: float = 25.0

    def __post_init__(self) -> None:
        at_least(self, steps=1, timestep_fs=0.01, bulk_modulus_GPa=0.01, relaxation_fs=0.01)
        spans(self, temperature_K=0)

    def frames(self, parents: Iterable[Atoms], context: Context) -> Iterator[Atoms]:
        """The last frame of each trajectory, or the first that is absurd."""
        calculator = context.calculator_for(self)
        for parent in parents:
            temperature = context.rng.uniform(*self.temperature_K)
            atoms = child(parent, f"Densified({temperature:.0f} K, {self.pressure_GPa:g} GPa)")
            if context.limits.reason(atoms):
                yield atoms
                continue
            atoms.calc = calculator
            thermalize_momenta(atoms, 2 * temperature, rng=context.rng)
            dynamics = NPTBerendsen(
                atoms,
                self.timestep_fs * units.fs,
                temperature_K=temperature,
                pressure_au=self.pressure_GPa * units.GPa,
                taut=self.relaxation_fs * units.fs,
                taup=4 * self.relaxation_fs * units.fs,
                compressibility_au=1 / (self.bulk_modulus_GPa * units.GPa),
                fixcm=False,
            )
            yield from snapshots(atoms, dynamics, {self.steps}, context, temperature)


def langevin(
    atoms: Atoms, temperature_K: float, timestep_fs: float, friction_per_fs: float, context: Context
) -> Langevin:
    """Langevin dynamics of atoms that begin with twice the kinetic energy: half of it becomes potential energy."""
    thermalize_momenta(atoms, 2 * temperature_K, rng=context.rng)
    return Langevin(
        atoms,
        timestep_fs * units.fs,
        temperature_K=temperature_K,
        friction=friction_per_fs / units.fs,
        fixcm=False,
        rng=context.rng,
    )


def snapshots(
    atoms: Atoms,
    dynamics: Langevin | NPTBerendsen,
    taken: set[int],
    context: Context,
    thermostat: float | Callable[[int], float],
) -> Iterator[Atoms]:
    """Labelled snapshots at the steps that are taken, up to the first that is absurd; that one is handed on too.

    The thermostat is a temperature, K, or sets and tells one before each step; `info` has it as `temperature_K`.
    """
    story = atoms.info["made_by"]
    for step in range(1, max(taken) + 1):
        atoms.info["made_by"] = f"{story} step {step}"
        atoms.info["temperature_K"] = round(thermostat(step) if callable(thermostat) else thermostat, 1)
        try:
            dynamics.step()
            forces = np.linalg.norm(atoms.get_forces(), axis=1).max()
        except InputError:  # the recipe asks the calculator again and counts the reason
            yield child(atoms, "")
            return
        exploded = not forces <= context.limits.force
        if exploded or step in taken:
            snapshot = frozen(atoms, atoms.calc)
            snapshot.arrays.pop("momenta", None)
            yield snapshot
            if exploded or context.limits.reason(snapshot):
                return
