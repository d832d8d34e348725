"""The state of running dynamics as plain arrays, so that a restart goes on to the last bit."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from finetune.errors import InputError
from finetune.files import whole

NUMBERS = (int, float, np.number, np.ndarray)


def numbers(dynamics: Any) -> dict[str, np.ndarray]:
    """All numbers that the dynamics and their thermostats and barostats hold, by name."""
    return {name: np.asarray(getattr(owner, key)) for name, owner, key in _places(dynamics)}


def set_numbers(dynamics: Any, values: dict[str, np.ndarray]) -> None:
    """Put the numbers back into dynamics that were made with the same settings."""
    for name, owner, key in _places(dynamics):
        old = getattr(owner, key)
        setattr(owner, key, values[name].copy() if isinstance(old, np.ndarray) else values[name].item())


def _places(dynamics: Any) -> Iterator[tuple[str, Any, str]]:
    """Name, object and attribute of each number."""
    for key, value in sorted(vars(dynamics).items()):
        if isinstance(value, NUMBERS) and not isinstance(value, bool):
            yield key, dynamics, key
        elif type(value).__module__ == "ase.md.nose_hoover_chain":
            for inner, number in sorted(vars(value).items()):
                if isinstance(number, NUMBERS) and not isinstance(number, bool):
                    yield f"{key}.{inner}", value, inner


def write(path: Path, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
    """Write arrays and plain facts as one file, whole."""
    with whole(path) as partial, partial.open("wb") as stream:
        named: dict[str, Any] = {f"array {name}": values for name, values in arrays.items()}
        np.savez(stream, facts=np.array(json.dumps(facts)), **named)
        stream.flush()
        os.fsync(stream.fileno())


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What `write` wrote; nothing in it is executed.

    Raises:
        InputError: damaged, or another kind of file.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            arrays = {key.removeprefix("array "): content[key] for key in content.files if key != "facts"}
            return arrays, json.loads(str(content["facts"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged ({error}); remove it to begin anew, or take a copy") from error


def arrays_of(atoms: Atoms, start: str = "") -> dict[str, np.ndarray]:
    """Positions, momenta and cell, their names beginning with `start`."""
    return {
        f"{start}positions": atoms.get_positions(),
        f"{start}momenta": atoms.get_momenta(),
        f"{start}cell": atoms.cell.array.copy(),
    }


def set_arrays(atoms: Atoms, arrays: dict[str, np.ndarray], start: str = "") -> None:
    """Put positions, momenta and cell back, whatever is fixed."""
    atoms.set_cell(arrays[f"{start}cell"])
    atoms.arrays["positions"][:] = arrays[f"{start}positions"]
    atoms.set_array("momenta", arrays[f"{start}momenta"], float, (3,))
