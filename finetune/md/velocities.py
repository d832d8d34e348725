"""Velocities of unknown unit that a file has under other names than ASE's `momenta`."""

from __future__ import annotations

import warnings
from types import MappingProxyType

import numpy as np
from ase import Atoms, units

from finetune.errors import InputError

UNITS = MappingProxyType(  # in ASE's unit, Å (u/eV)^(1/2)
    {
        "ase": 1.0,
        "A/fs": 1.0 / units.fs,
        "A/ps": 1.0 / (1000 * units.fs),
        "nm/ps": 10.0 / (1000 * units.fs),
        "m/s": units.m / units.s,
        "bohr/atomic": units.Bohr / (units._aut * units.s),
    }
)
NAMES = ("velocities", "velocity", "velo", "vel", "v", "velos", "vels", "md_velocities", "ref_velocities")
MOMENTA = ("momentum", "moms", "p")
COLUMNS = tuple(tuple(f"{stem}{axis}" for axis in "xyz") for stem in ("v", "v_", "vel", "vel_", "velocity_"))


def set_velocities(atoms: Atoms, unit: str) -> None:
    """Set the momenta of atoms from velocities under another name, which are removed.

    Args:
        atoms: with an array such as `velocities`, `vel` or the three columns `vx`, `vy`, `vz`.
        unit: of the velocities, a key of `UNITS`.

    Raises:
        InputError: there are no velocities, momenta besides them, or the unit is not known.
    """
    if unit not in UNITS:
        raise InputError(f"velocities: got unit {unit!r}, expected one of {', '.join(UNITS)}. Choose one")
    names = named_velocities(atoms)
    if not names:
        raise InputError(
            f"velocities: got arrays {', '.join(sorted(atoms.arrays))}, expected velocities or vel. Leave the unit out"
        )
    if atoms.get_momenta().any():
        raise InputError(f"velocities: got momenta and {', '.join(names)}, expected one of them. Leave the unit out")
    columns = [np.asarray(atoms.arrays.pop(name), dtype=float) for name in names]
    values = columns[0] if len(columns) == 1 else np.stack(columns, axis=1)
    atoms.set_velocities(values * UNITS[unit])


def named_velocities(atoms: Atoms) -> list[str]:
    """Arrays of a structure that look like velocities: one of shape (atoms, 3), or three columns; empty if none."""
    lower = {name.lower(): name for name, values in atoms.arrays.items() if values.dtype.kind in "iuf"}
    for name in NAMES:
        if name in lower and atoms.arrays[lower[name]].shape == (len(atoms), 3):
            return [lower[name]]
    for columns in COLUMNS:
        if all(name in lower and atoms.arrays[lower[name]].ndim == 1 for name in columns):
            return [lower[name] for name in columns]
    return []


def warn_unread(atoms: Atoms) -> None:
    """Warn where momenta are drawn although the structure has velocities or momenta under another name."""
    others = [name for name in atoms.arrays if name.lower() in MOMENTA and not atoms.has("momenta")]
    if others:
        warnings.warn(
            f"{others[0]} of the structure is not read, and momenta are drawn anew. Write ASE's `momenta`", stacklevel=2
        )
    if names := named_velocities(atoms):
        values = np.stack([np.ravel(atoms.arrays[name]) for name in names])
        if values.any():
            warnings.warn(
                f"{', '.join(names)} of the structure are not read, since their unit is not known, and momenta are "
                f"drawn anew. Give the unit (finetune md --velocities, one of {', '.join(UNITS)}), or write "
                "ASE's `momenta`",
                stacklevel=2,
            )
