"""What a simulation is told, and what it tells at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import CalculatorError, PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from finetune.calculators import PotentialCalculator
from finetune.errors import InputError
from finetune.md.ensembles import NPT, Ensemble, NoseHoover
from finetune.md.files import check_name
from finetune.md.guards import Alarm, Ballistic, Energy, Extrapolating, Guard, Pressure, TooClose, TooHot, Uncertain
from finetune.md.snapshot import Snapshot
from finetune.md.structure_guards import Evaporated, PhaseSeparation, Voids

GUARDS: tuple[Guard, ...] = (
    TooHot(), Energy(), Pressure(), TooClose(), Ballistic(), Evaporated(), Voids(), PhaseSeparation(action="warn"),
    Uncertain(action="save"), Extrapolating(action="save"),
)  # fmt: skip
COLUMNS = (
    "step", "time_ps", "stage", "temperature_K", "target_K", "potential_eV", "kinetic_eV", "drift_eV", "pressure_GPa",
    "volume_A3", "energy_std_eV", "largest_forces_std_eV_A", "largest_gamma", "largest_forces_error_eV_A",
)  # fmt: skip


TROUBLE = (InputError, CalculatorError, RuntimeError, OSError, ArithmeticError, ValueError, LookupError)


@dataclass(frozen=True)
class Stage:
    """A part of a simulation.

    Attributes:
        ensemble: what is held constant.
        ps: how long, ps.
    """

    ensemble: Ensemble
    ps: float

    def __post_init__(self) -> None:
        """Numbers of any kind become floats."""
        object.__setattr__(self, "ps", float(self.ps))

    @property
    def steps(self) -> int:
        """Time steps of the stage."""
        return max(round(1000 * self.ps / self.ensemble.timestep_fs), 1)


@dataclass(frozen=True)
class FixedLayer:
    """Atoms that do not move: those between two heights of the cell at the start.

    Attributes:
        lower: fraction of the cell's height from which on they are fixed.
        upper: fraction up to which they are fixed.
        axis: lattice vector along which the height is measured, 0, 1 or 2.
    """

    lower: float
    upper: float
    axis: int = 2

    def constraint(self, atoms: Atoms) -> FixAtoms:
        """ASE's constraint for these atoms.

        Raises:
            InputError: no atom, or every atom, is in the layer.
        """
        if self.axis not in (0, 1, 2):
            raise InputError(f"a layer lies along lattice vector 0, 1 or 2, not {self.axis}")
        heights = atoms.get_scaled_positions(wrap=True)[:, self.axis]
        inside = (heights >= self.lower) & (heights <= self.upper)
        if inside.all() or not inside.any():
            raise InputError(
                f"{inside.sum()} of {len(atoms)} atoms are between {self.lower:g} and {self.upper:g} of the cell along "
                f"lattice vector {self.axis}; fix some and leave some"
            )
        return FixAtoms(mask=inside)


@dataclass(frozen=True)
class Output:
    """Names and intervals of what is written.

    Attributes:
        trajectory: name of the trajectory; `.extxyz` or `.traj`.
        every: steps between frames of the trajectory.
        log_every: steps between lines of `log.csv`.
        momenta: write momenta into the trajectory.
        checkpoint_s: seconds between checkpoints.
        start_K: temperature for which momenta are drawn, K; None for that of the first stage.
    """

    trajectory: str = "trajectory.extxyz"
    every: int = 100
    log_every: int = 10
    momenta: bool = False
    checkpoint_s: float = 60.0
    start_K: float | None = None

    def line(self, now: Snapshot, stage: int) -> list[float | int | None]:
        """The values of `COLUMNS`."""
        atoms, uncertain = now.atoms, (now.forces_std, now.results.get("gamma"), now.results.get("forces_error"))
        volume = atoms.get_volume() if atoms.cell.rank == 3 else None
        return [
            now.step, now.time_ps, stage, now.temperature_K, now.target_K, float(atoms.get_potential_energy()),
            float(atoms.get_kinetic_energy()), now.drift, now.pressure_GPa, volume, now.results.get("energy_std"),
            *(None if values is None else float(values.max(initial=0.0)) for values in uncertain),
        ]  # fmt: skip

    def frame(self, now: Snapshot) -> Atoms:
        """A frame of the trajectory: structure, energy, forces, stress, temperature, uncertainty."""
        frame: Atoms = now.atoms.copy()
        if not self.momenta:
            frame.arrays.pop("momenta", None)
        known = {
            name: now.results[name] for name in ("energy", "free_energy", "forces", "stress") if name in now.results
        }
        for name in known:  # those of the structure's file
            frame.info.pop(name, None)
            frame.arrays.pop(name, None)
        frame.calc = SinglePointCalculator(frame, **known)
        frame.info |= {"step": now.step, "time_ps": round(now.time_ps, 9), "temperature_K": now.temperature_K}
        if "energy_std" in now.results:
            frame.info["energy_std"] = now.results["energy_std"]
        for uncertain in ("forces_std", "gamma", "forces_error"):
            if uncertain in now.results:
                frame.arrays[uncertain] = np.asarray(now.results[uncertain])
        return frame


@dataclass(frozen=True)
class Outcome:
    """How a simulation ended.

    Attributes:
        directory: where everything is.
        steps: steps that were made.
        time_ps: time that was reached, ps.
        planned: steps that were planned.
        alarm: what a guard stopped it for; None if it ended as planned.
    """

    directory: Path
    steps: int
    time_ps: float
    planned: int
    alarm: Alarm | None = None

    @property
    def finished(self) -> bool:
        """It ended as planned."""
        return self.alarm is None and self.steps >= self.planned

    def message(self) -> str:
        """What to tell a user."""
        if self.alarm is None:
            return (
                f"{self.time_ps:.3f} ps in {self.steps} steps; the last structure is {self.directory / 'final.extxyz'}"
            )
        atoms = f"; atoms {', '.join(map(str, self.alarm.atoms[:10]))}" if self.alarm.atoms else ""
        more = f" and {len(self.alarm.atoms) - 10} more" if len(self.alarm.atoms) > 10 else ""
        return (
            f"stopped by {self.alarm.guard} at {self.time_ps:.4f} ps (step {self.steps}): "
            f"{self.alarm.message}{atoms}{more}. "
            f"Frames to label: before.extxyz and after.extxyz in {self.directory}"
        )


def check(atoms: Atoms, stages: Sequence[Stage], output: Output, guards: Sequence[Guard], seed: int) -> None:
    """Raise `InputError` for settings that make no sense."""
    if atoms.calc is None:
        raise InputError("the atoms have no calculator; set atoms.calc = finetune.calculator(...)")
    if not len(atoms):
        raise InputError("there are no atoms to move; give a structure with at least one")
    if not stages:
        raise InputError("there is no stage; give one with an ensemble and its ps")
    for stage in stages:
        if not 0 < stage.ps < np.inf:
            raise InputError(f"a stage lasts {stage.ps} ps; give a positive time")
        stage.ensemble.check(atoms)
    if not atoms.get_momenta().any() and output.start_K is None and stages[0].ensemble.temperature(0.0) is None:
        raise InputError(
            "the structure has no momenta and NVE no temperature to draw them for; set start_K of the output "
            "(--output.start_K 300)"
        )
    for name in ("every", "log_every"):
        if getattr(output, name) < 1:
            raise InputError(f"output.{name} is {getattr(output, name)}; give a number of steps")
    check_name(output.trajectory)
    for guard in guards:
        guard.check_settings()
    if seed < 0:
        raise InputError(f"the seed is {seed}; give 0 or more")
    if output.start_K is not None and not 0 <= output.start_K < np.inf:
        raise InputError(f"output.start_K is {output.start_K}; give a temperature in K")


def probe(atoms: Atoms, stages: Sequence[Stage]) -> None:
    """Ask the calculator once for all that the stages need.

    Raises:
        InputError: it cannot say it, or not for this structure.
    """
    name = type(atoms.calc).__name__
    try:
        atoms.get_forces()
        atoms.get_potential_energy(force_consistent=any(isinstance(s.ensemble, NoseHoover) for s in stages))
        if any(isinstance(stage.ensemble, NPT) for stage in stages):
            atoms.get_stress()
    except PropertyNotImplementedError as error:
        raise InputError(f"{name} does not give what the stages need ({error}); use Langevin or NVE") from error
    except failures(atoms.calc) as error:
        raise InputError(f"{name} fails for the structure ({str(error) or type(error).__name__})") from error


def failures(calculator: Any) -> tuple[type[Exception], ...]:
    """Exceptions that mean that a calculator has failed: any of a third-party one, few of a potential of ours."""
    return TROUBLE if isinstance(calculator, PotentialCalculator) else (Exception,)


def cautions(guards: Sequence[Guard], start: Snapshot) -> list[str]:
    """Return what the guards of a run cannot see, a line each."""
    lines = []
    for guard in guards:
        name = type(guard).__name__
        missing = None if guard in GUARDS else guard.blind(start)  # of the usual ones some always lack something
        if missing:
            lines.append(f"the guard {name} never acts in this run: the calculator gives no {missing}")
        if caution := guard.caution(start):
            lines.append(f"guard {name}: {caution}")
    return lines
