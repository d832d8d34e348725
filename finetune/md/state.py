"""The state of running dynamics as plain arrays, so that a restart goes on to the last bit."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from finetune.checksums import CHECKSUM, check_archive, checksum, verify
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
    """Write arrays and plain facts with their checksum as one file, whole."""
    named: dict[str, Any] = {f"array {name}": np.asarray(values) for name, values in arrays.items()}
    named["facts"] = np.array(json.dumps(facts))
    with whole(path) as partial, partial.open("wb") as stream:
        np.savez(stream, **{**named, CHECKSUM: np.array(checksum(named))})


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and facts of a file of `write`, after their checksum is verified; nothing in it is executed.

    Raises:
        InputError: damaged, or another kind of file.
    """
    try:
        check_archive(path)
        with np.load(path, allow_pickle=False) as archive:
            content = {key: archive[key] for key in archive.files}
        if CHECKSUM in content:  # earlier versions wrote none
            verify({key: value for key, value in content.items() if key != CHECKSUM}, str(content[CHECKSUM]))
        arrays = {key.removeprefix("array "): value for key, value in content.items() if key.startswith("array ")}
        return arrays, json.loads(str(content["facts"]))
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
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
