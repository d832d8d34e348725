"""Labels that are exactly zero where they need not be, as codes write what they have not computed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from ase import Atoms

from finetune.data.frames import Frame

SYMMETRIC = 1e-3  # Å, deviation from symmetry that is rounding
LIMIT = 200  # frames without forces whose symmetry is looked at


def zero_stresses(frames: Sequence[Frame]) -> str:
    """Words for stresses of which each component is exactly 0, as codes write where they compute none; else empty."""
    zero = [frame for frame in frames if "stress" in frame.given and not frame.labels.stress.any()]
    if not zero:
        return ""
    open_ = sum(not frame.atoms.pbc.all() for frame in zero)
    kind = f", {open_} of them not periodic in all directions" if open_ else ""
    return (
        f"stress is exactly 0 in {len(zero)} of {len(frames)} frames, first {zero[0].where()}{kind}: probably not "
        "known rather than 0. Leave the label out of these frames"
    )


def zero_forces(frames: Sequence[Frame]) -> str:
    """Words for frames whose forces are all exactly 0 although symmetry allows others; empty without any."""
    zero = [frame for frame in frames if "forces" in frame.given and not frame.labels.forces.any()]
    if len(zero) > LIMIT:
        found = zero if any(not forces_vanish(frame.atoms) for frame in zero[:LIMIT]) else []
    else:
        found = [frame for frame in zero if not forces_vanish(frame.atoms)]
    if not found:
        return ""
    return (
        f"forces are exactly 0 in {len(found)} of {len(frames)} frames, first {found[0].where()}, though symmetry "
        "allows others: probably not known rather than 0. Leave the label out of these frames"
    )


def forces_vanish(atoms: Atoms) -> bool:
    """Whether symmetry makes the force on each atom zero: no direction is left unchanged by its site symmetry."""
    import spglib

    if len(atoms) == 1:
        return True
    if not atoms.pbc.all():
        return False
    cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", category=DeprecationWarning
        )  # spglib announces that it will raise instead of giving None
        found = spglib.get_symmetry(cell, symprec=SYMMETRIC)
    if found is None:
        return False
    rotations, translations = found["rotations"], found["translations"]
    for place in cell[1]:
        image = rotations @ place + translations - place
        own = rotations[(np.abs((image - np.round(image)) @ cell[0]) < 3 * SYMMETRIC).all(axis=1)]
        if np.abs(own.sum(axis=0)).any():
            return False
    return True
