"""What is held constant: energy, temperature or pressure; each one a setting that starts ASE's dynamics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from ase import Atoms, units
from ase.md import langevin, nose_hoover_chain
from ase.md.verlet import VelocityVerlet

from finetune.errors import InputError

Temperature = float | tuple[float, float]
LONGEST_FS = 20.0  # the fastest vibrations of any solid have a period not much longer


@dataclass(frozen=True, kw_only=True)
class Ensemble(ABC):
    """What is held constant, and how.

    Attributes:
        timestep_fs: time step, fs.
    """

    timestep_fs: float = 1.0

    def __post_init__(self) -> None:
        """Numbers of any kind, and lists of two, become floats and tuples, so that equal settings are the same."""
        for name, value in vars(self).items():
            if not isinstance(value, str):
                plain = float(value) if np.ndim(value) == 0 else tuple(float(x) for x in value)
                object.__setattr__(self, name, plain)

    @abstractmethod
    def dynamics(self, atoms: Atoms, rng: np.random.Generator) -> Any:
        """ASE's dynamics of atoms, at the temperature of the beginning."""

    def temperature(self, fraction: float) -> float | None:
        """Temperature (K) of the thermostat after a fraction of the stage; None where there is no thermostat."""
        return None

    def set_temperature(self, dynamics: Any, temperature_K: float) -> None:
        """Change the temperature of the thermostat of running dynamics."""
        raise InputError(f"{type(self).__name__} has no thermostat")

    @property
    def settling_ps(self) -> float:
        """How long heat of the stage before may last, ps."""
        return 1.0

    def conserved(self, dynamics: Any) -> float | None:
        """The energy that exact dynamics at one temperature would conserve, eV; None where there is none."""
        return None

    def degrees(self, atoms: Atoms) -> int:
        """Degrees of freedom of the motion; without forces from outside, the centre of mass has none."""
        n = len(atoms)
        return 3 * n - 3 if n > 1 and not atoms.constraints else max(int(atoms.get_number_of_degrees_of_freedom()), 1)

    def check(self, atoms: Atoms) -> None:
        """Raise `InputError` where a setting, or what is fixed in the structure, makes no sense here."""
        for name, value in vars(self).items():
            values = value if isinstance(value, tuple) else (value,)
            if name == "temperature_K" and len(values) > 2:
                raise InputError(f"temperature_K is {value}; give one number, or two for a ramp")
            if name != "pressure_GPa" and not all(isinstance(v, str) or 0 < v < np.inf for v in values):
                raise InputError(f"{name} of {type(self).__name__} is {value}; give a positive number")
        if self.timestep_fs > LONGEST_FS:
            raise InputError(f"the time step is {self.timestep_fs:g} fs; give {LONGEST_FS:g} fs or less, mostly 1 or 2")


@dataclass(frozen=True, kw_only=True)
class NVE(Ensemble):
    """Constant energy, by velocity Verlet (10.1063/1.442716)."""

    def dynamics(self, atoms: Atoms, rng: np.random.Generator) -> Any:
        """Velocity Verlet."""
        return VelocityVerlet(atoms, self.timestep_fs * units.fs)

    def conserved(self, dynamics: Any) -> float:
        """The total energy, eV."""
        return float(dynamics.atoms.get_potential_energy() + dynamics.atoms.get_kinetic_energy())


@dataclass(frozen=True, kw_only=True)
class Langevin(Ensemble):
    """Constant temperature by friction and noise on every atom; the only one that goes with fixed atoms.

    Attributes:
        temperature_K: temperature, K; two numbers for a linear ramp from the first to the second.
        friction_per_fs: friction, 1/fs; 0.01 relaxes the temperature in 100 fs and slows diffusion a little.
        timestep_fs: time step, fs.
    """

    temperature_K: Temperature = 300.0
    friction_per_fs: float = 0.01
    timestep_fs: float = 1.0

    def dynamics(self, atoms: Atoms, rng: np.random.Generator) -> Any:
        """Langevin dynamics, the centre of mass not held."""
        return langevin.Langevin(
            atoms,
            self.timestep_fs * units.fs,
            temperature_K=ramp(self.temperature_K, 0.0),
            friction=self.friction_per_fs / units.fs,
            fixcm=False,
            rng=rng,
        )

    def temperature(self, fraction: float) -> float:
        """Temperature of the thermostat, K."""
        return ramp(self.temperature_K, fraction)

    def set_temperature(self, dynamics: Any, temperature_K: float) -> None:
        """Change the noise."""
        dynamics.set_temperature(temperature_K=temperature_K)

    @property
    def settling_ps(self) -> float:
        """Five times the time in which friction takes heat out, ps."""
        return max(1.0, 0.005 / self.friction_per_fs)

    def degrees(self, atoms: Atoms) -> int:
        """All but the fixed ones: the noise moves the centre of mass too."""
        return max(int(atoms.get_number_of_degrees_of_freedom()), 1)


@dataclass(frozen=True, kw_only=True)
class NoseHoover(Ensemble):
    """Constant temperature by a Nosé-Hoover chain (10.1063/1.463940); deterministic, and true to diffusion.

    Attributes:
        temperature_K: temperature, K; two numbers for a linear ramp from the first to the second.
        relaxation_fs: time in which the temperature relaxes, fs.
        timestep_fs: time step, fs.
    """

    temperature_K: Temperature = 300.0
    relaxation_fs: float = 100.0
    timestep_fs: float = 1.0

    def dynamics(self, atoms: Atoms, rng: np.random.Generator) -> Any:
        """A chain of three thermostats."""
        dynamics = nose_hoover_chain.NoseHooverChainNVT(
            atoms,
            self.timestep_fs * units.fs,
            temperature_K=ramp(self.temperature_K, 0.0),
            tdamp=self.relaxation_fs * units.fs,
        )
        return without_centre_of_mass(dynamics)

    def temperature(self, fraction: float) -> float:
        """Temperature of the thermostat, K."""
        return ramp(self.temperature_K, fraction)

    def set_temperature(self, dynamics: Any, temperature_K: float) -> None:
        """Change the energy that the chain exchanges; its masses stay."""
        for bath in (dynamics._thermostat, getattr(dynamics, "_barostat", None)):
            if bath is not None:
                bath._kT = units.kB * temperature_K

    @property
    def settling_ps(self) -> float:
        """Ten times the relaxation time, ps: a chain swings."""
        return max(1.0, 0.01 * self.relaxation_fs)

    def conserved(self, dynamics: Any) -> float | None:
        """Energy of atoms and thermostat (and barostat), eV; None while the temperature is ramped."""
        return float(dynamics.get_conserved_energy()) if np.isscalar(self.temperature_K) else None

    def check(self, atoms: Atoms) -> None:
        """Fixed atoms have no momenta to thermostat, which the chain does not know."""
        super().check(atoms)
        if atoms.constraints:
            raise InputError(f"{type(self).__name__} does not go with fixed atoms; use Langevin")


@dataclass(frozen=True, kw_only=True)
class NPT(NoseHoover):
    """Constant temperature and pressure by the equations of Martyna, Tobias and Klein (10.1063/1.467468).

    Attributes:
        temperature_K: temperature, K; two numbers for a linear ramp from the first to the second.
        pressure_GPa: pressure, GPa.
        cell: what may change: `isotropic` the volume, `axes` the length of each lattice vector, `full` every component.
        relaxation_fs: time in which the temperature relaxes, fs.
        cell_relaxation_fs: time in which the cell relaxes, fs.
        timestep_fs: time step, fs.
    """

    pressure_GPa: float = 0.0
    cell: Literal["isotropic", "axes", "full"] = "full"
    cell_relaxation_fs: float = 1000.0

    def dynamics(self, atoms: Atoms, rng: np.random.Generator) -> Any:
        """Chains of three thermostats for the atoms and for the cell."""
        settings: dict[str, Any] = {
            "temperature_K": ramp(self.temperature_K, 0.0),
            "pressure_au": self.pressure_GPa * units.GPa,  # GPa -> eV/Å³
            "tdamp": self.relaxation_fs * units.fs,
            "pdamp": self.cell_relaxation_fs * units.fs,
        }
        kinds: dict[str, Any] = {
            "isotropic": nose_hoover_chain.IsotropicMTKNPT,
            "axes": partial(nose_hoover_chain.MaskedMTKNPT, mask=(True, True, True)),
            "full": nose_hoover_chain.MTKNPT,
        }
        kind = kinds[self.cell]
        return without_centre_of_mass(kind(atoms, self.timestep_fs * units.fs, **settings))

    def check(self, atoms: Atoms) -> None:
        """A pressure needs a volume on all sides."""
        super().check(atoms)
        if atoms.cell.rank < 3 or not atoms.pbc.all():
            raise InputError("NPT needs a structure that is periodic in all three directions; use Langevin")


def ramp(temperature_K: Temperature, fraction: float) -> float:
    """Temperature (K) after a fraction of a stage."""
    if isinstance(temperature_K, int | float):
        return float(temperature_K)
    first, last = temperature_K
    return float(first + (last - first) * fraction)


def without_centre_of_mass(dynamics: Any) -> Any:
    """Count 3N - 3 degrees of freedom in the thermostat of the atoms: the centre of mass rests and stays so.

    ASE counts 3N, which is too hot by N / (N - 1).
    """
    thermostat = dynamics._thermostat
    n = thermostat._num_atoms_global
    if n > 1:
        thermostat._num_atoms_global = n - 1
        thermostat._Q[0] *= (n - 1) / n
    return dynamics
