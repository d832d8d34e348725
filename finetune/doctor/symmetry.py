"""Forces beside the symmetry of their structures, which needs no potential and no displacement."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from ase import Atoms

from finetune.data.frames import Frame
from finetune.doctor.findings import Finding, some

CHECK = "forces and symmetry"
SYMMETRIC = 1e-3  # Å, deviation from symmetry that is rounding
SMALL = 2e-3  # eV/Å rms, forces within the noise of DFT codes
BROKEN = 0.3  # share of the forces (rms) that symmetry forbids, in a frame whose forces are others'; correct: 0.01
MOSTLY = 0.5  # share of such frames; magnetic order may lower the symmetry in some
MIN_FRAMES = 3
LIMIT = 500  # frames that are looked at


def symmetry_of_forces(frames: Sequence[Frame]) -> Finding:
    """Whether forces have the symmetry of their structures; those of other frames, or shuffled between atoms, have not.

    This also holds near equilibrium, where a foundation model cannot tell.
    """
    known = [frame for frame in frames if "forces" in frame.given and frame.atoms.pbc.all() and len(frame.atoms) > 1]
    known = known[:: max(1, len(known) // LIMIT)]
    shares = []
    for frame in known:
        forces = frame.labels.forces.numpy()
        size = float(np.sqrt((forces**2).mean()))
        if np.isfinite(size) and size > SMALL:
            share = forbidden(frame.atoms, forces)
            if share is not None:
                shares.append((share, frame))
    if len(shares) < MIN_FRAMES:
        words = f"{len(shares)} of {len(known)} frames have a symmetry that restricts forces above {SMALL:g} eV/Å rms; "
        return Finding(CHECK, "skipped", f"{words}{MIN_FRAMES} are needed")
    broken = [frame for share, frame in shares if share > BROKEN]
    if len(broken) > MOSTLY * len(shares):
        words = (
            f"forces of {len(broken)} of {len(shares)} symmetric frames break the symmetry of the structure: "
            f"{some(frame.where() for frame in broken)}"
        )
        remedy = "look whether they are of other frames or in another order of atoms, or in rotated axes"
        return Finding(CHECK, "fault", words, remedy)
    median = float(np.median([share for share, _ in shares]))
    words = f"forces have the symmetry of the structure in {len(shares) - len(broken)} of {len(shares)} frames"
    return Finding(CHECK, "good", f"{words} (median share that it forbids: {100 * median:.1g} %)")


def forbidden(atoms: Atoms, forces: np.ndarray) -> float | None:
    """Share (rms) of the forces that the space group forbids; None where it restricts nothing."""
    import spglib

    cell, scaled = atoms.cell.array, atoms.get_scaled_positions()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # spglib announces that it will raise
        found = spglib.get_symmetry((cell, scaled, atoms.numbers), symprec=SYMMETRIC)
    if found is None or len(found["rotations"]) < 2:
        return None
    average, free = np.zeros_like(forces), np.zeros((len(atoms), 3, 3))
    for rotation, translation in zip(found["rotations"], found["translations"], strict=True):
        turn = cell.T @ rotation @ np.linalg.inv(cell.T)  # of Cartesian vectors
        apart = (scaled @ rotation.T + translation)[:, None] - scaled
        image = np.argmin(np.linalg.norm((apart - np.round(apart)) @ cell, axis=2), axis=1)
        average[image] += forces @ turn.T
        own = image == np.arange(len(atoms))
        free[own] += turn
    count = len(found["rotations"])
    if len(set(found["equivalent_atoms"])) == len(atoms) and np.allclose(free / count, np.eye(3)):
        return None
    return float(np.linalg.norm(forces - average / count) / np.linalg.norm(forces))
