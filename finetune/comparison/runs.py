"""Dynamics that an observable needs, and their frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ase.io
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from finetune.errors import InputError
from finetune.md import Output, Stage, simulate

FRAMES = "trajectory.extxyz"


def steps_between(every_fs: float, timestep_fs: float) -> int:
    """Steps between two frames that count."""
    return max(1, round(every_fs / timestep_fs))


def frames_of(
    start: Atoms, calculator: BaseCalculator, stages: Sequence[Stage], place: Path, every: int, seed: int
) -> list[Atoms]:
    """The frames of dynamics, the first included, one each `every` steps; they go on where they were stopped.

    Raises:
        InputError: a guard has stopped them.
    """
    atoms = start.copy()
    atoms.calc = calculator
    output = Output(trajectory=FRAMES, every=every, log_every=every)
    outcome = simulate(atoms, stages, place, output=output, seed=seed, progress=False)
    if outcome.alarm is not None:
        raise InputError(f"dynamics stopped at {outcome.time_ps:.2f} ps: {outcome.alarm.message}")
    return list(ase.io.iread(place / FRAMES, ":"))
