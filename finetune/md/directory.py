"""The directory of a run belongs to one simulation: its structure, model and settings."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from finetune.calculators import PotentialCalculator
from finetune.errors import InputError
from finetune.files import check_directory, settled, write_text
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
    record = directory / SETTINGS
    if settled(record, settings, "simulation"):
        return
    check_directory(directory, (), "a simulation")
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


@contextlib.contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Turn errors of writing into the directory of a run into words.

    Raises:
        InputError: the files were removed, or the disk is full.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(
            f"{directory}: got a directory whose files were removed or replaced while the simulation ran "
            f"({error.filename}), expected them to stay. Begin anew in another directory."
        ) from error
    except OSError as error:
        raise InputError(
            f"cannot write to {directory} ({error.strerror or error}); everything up to the last write is "
            "readable. Free some space; the same command then goes on"
        ) from error


def _hash(arrays: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str((array.shape, array.dtype)).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
