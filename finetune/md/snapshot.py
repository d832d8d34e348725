"""The state of a simulation at a step, as guards and log see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units


@dataclass(frozen=True)
class Snapshot:
    """A structure in motion, with what the calculator said about it.

    Attributes:
        atoms: positions and momenta; its calculator's results are those of these positions.
        step: steps since the start.
        time_ps: time since the start, ps.
        timestep_fs: time step, fs.
        degrees: degrees of freedom.
        target_K: temperature of the thermostat, K; None without one.
        drift: change of the conserved energy since the stage began, eV; None where nothing is conserved.
        stage_ps: time since the stage began, ps.
        stage_K: temperature at the beginning of the stage, K.
        settling_ps: time in which the thermostat of the stage may still be taking heat out, ps.
    """

    atoms: Atoms
    step: int = 0
    time_ps: float = 0.0
    timestep_fs: float = 1.0
    degrees: int = 1
    target_K: float | None = None
    drift: float | None = None
    stage_ps: float = 0.0
    stage_K: float = 0.0
    settling_ps: float = 1.0

    @property
    def temperature_K(self) -> float:
        """Temperature from the kinetic energy and the degrees of freedom, K."""
        return float(2 * self.atoms.get_kinetic_energy() / (self.degrees * units.kB))

    @property
    def expected_K(self) -> float:
        """Temperature that is to be expected, K: of the thermostat, or of the beginning where it may still last."""
        target = self.stage_K if self.target_K is None else self.target_K
        return max(target, self.stage_K) if self.stage_ps < self.settling_ps else target

    @property
    def results(self) -> dict[str, Any]:
        """What the calculator has worked out, ASE's names and units; nothing new is computed."""
        return {} if self.atoms.calc is None else self.atoms.calc.results

    @property
    def pressure_GPa(self) -> float | None:
        """Pressure with the kinetic part, GPa; None where the calculator gives no stress."""
        if "stress" not in self.results:
            return None
        stress = float(np.mean(self.results["stress"][:3]))
        return float((2 * self.atoms.get_kinetic_energy() / (3 * self.atoms.get_volume()) - stress) / units.GPa)

    @property
    def forces_std(self) -> np.ndarray | None:
        """Spread of the force on each atom among a committee, eV/Å, shape (atoms,): root of the summed variances."""
        spread = self.results.get("forces_std")
        return None if spread is None else np.linalg.norm(spread, axis=-1)
