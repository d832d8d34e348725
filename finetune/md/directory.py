"""The directory of a run belongs to one simulation: its structure, model and settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from finetune.calculators import PotentialCalculator
from finetune.errors import InputError
from finetune.files import settled, write_text
from finetune.md import state
from finetune.md.settings import Output, Stage

SETTINGS = "settings.json"


def identity(atoms: Atoms, stages: Sequence[Stage], output: Output, seed: int) -> dict[str, Any]:
    """What decides the trajectory, as text; the length of the last stage is left open unless it is a ramp."""
    ensemble = stages[-1].ensemble
    open_end = ensemble.temperature(0.0) == ensemble.temperature(1.0)
    return {
        "structure": _hash(
            [atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, atoms.get_momenta(), atoms.get_masses()]
        ),
        "fixed": str([constraint.todict() for constraint in atoms.constraints]),
        "calculator": calculator_identity(atoms),
        "stages": [repr(stage) for stage in stages[:-1]] + [repr(ensemble) if open_end else repr(stages[-1])],
        "output": repr(replace(output, checkpoint_s=0.0)),
        "seed": seed,
    }


def calculator_identity(atoms: Atoms) -> str:
    """The weights of a potential of ours; parameters of another calculator, and the energy that it gives."""
    calculator = atoms.calc
    if isinstance(calculator, PotentialCalculator):
        potential = calculator.potential
        weights = [value.detach().cpu().numpy() for value in potential.state_dict().values()]
        return f"{potential.kind} {_hash(weights)}"
    energy = atoms.get_potential_energy()
    return f"{type(calculator).__name__} {getattr(calculator, 'parameters', '')} {energy:.4f} eV"


def claim(directory: Path, settings: dict[str, Any]) -> None:
    """Write the settings into a new directory.

    Raises:
        InputError: the directory is that of another simulation.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{directory} is a file; choose a directory") from None
    record = directory / SETTINGS
    if settled(record, settings, "simulation"):
        return
    if any(path.suffix != ".partial" for path in directory.iterdir()):
        raise InputError(f"{directory} holds other files; choose a new directory")
    write_text(record, json.dumps(settings, indent=1))


def put_back(atoms: Atoms, checkpoint: Path) -> None:
    """Put atoms that are where a run has left them back to where it began; others stay."""
    if not checkpoint.is_file():
        return
    arrays, facts = state.read(checkpoint)
    there = state.arrays_of(atoms)
    if all(np.array_equal(there[name], arrays[name]) for name in there):
        state.set_arrays(atoms, arrays, "start_")
        if facts["drawn"]:
            del atoms.arrays["momenta"]


def _hash(arrays: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str((array.shape, array.dtype)).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
