"""Label forces that constraints have set to zero."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from finetune.data.frames import Frame

LEFT_OVER = 0.02  # eV/Å, sum of all forces beyond round-off and the noise of most codes
SHARE = 0.01  # the same, of the root of the sum of squares
DIRECTIONS = 5  # frames that show a single direction to be fixed; rounded labels have a 0 by chance
SHOWN = 5
REMEDY = "write forces with get_forces(apply_constraint=False), or leave the forces of these frames out"


@dataclass(frozen=True)
class Constrained:
    """Atoms whose label forces are exactly zero in frames that have the same atoms.

    The frames are all those of one file or one group, or else some of them.

    Attributes:
        frames: these frames.
        atoms: indices of the atoms, of the first frame where they differ.
        left_over: median size of the sum of all forces along the fixed directions, eV/Å.
    """

    frames: Sequence[Frame]
    atoms: tuple[int, ...]
    left_over: float

    def __str__(self) -> str:
        symbols = self.frames[0].atoms.symbols
        named = ", ".join(f"{symbols[i]} {i}" for i in self.atoms[:SHOWN])
        more = ", ..." if len(self.atoms) > SHOWN else ""
        first = self.frames[0].where()
        where = first if len(self.frames) == 1 else f"{len(self.frames)} frames, first {first}"
        return (
            f"{where}: label forces are exactly 0 on {len(self.atoms)} of {len(symbols)} atoms ({named}{more}) and "
            f"those of all atoms add up to {self.left_over:.2g} eV/Å, as get_forces() writes them with constraints"
        )


def constrained(frames: Sequence[Frame]) -> list[Constrained]:
    """Atoms whose forces constraints have set to zero, by file and atoms.

    Forces that symmetry makes zero are not that: a site symmetry turns the whole structure into itself, so the sum of
    all forces has no component along that direction either. Here it has.
    """
    found = []
    for same in _divided(frames, lambda frame: (frame.source, frame.atoms.numbers.tobytes())):
        whole = _zeros(same)
        parts = [whole] if whole else [_zeros(group) for group in _divided(same, lambda frame: frame.group)]
        known = [part for part in parts if part is not None]
        found += known or _some(same)
    return found


def _some(frames: list[Frame]) -> list[Constrained]:
    """The frames among others that have constrained atoms, as one finding; empty without any.

    Forces that were written with few digits have a 0 by chance and are left out.
    """
    fine = [frame for frame in frames if not _rounded(frame)]
    parts = [part for frame in fine if (part := _zeros([frame])) is not None]
    if not parts:
        return []
    left_over = float(np.median([part.left_over for part in parts]))
    return [Constrained([part.frames[0] for part in parts], parts[0].atoms, left_over)]


def _rounded(frame: Frame) -> bool:
    """Whether all forces are multiples of 0.01 eV/Å."""
    forces = frame.labels.forces.numpy()
    return bool(np.allclose(forces, np.round(forces, 2), rtol=0, atol=1e-9))


def _divided(frames: Sequence[Frame], key: Callable[[Frame], Hashable]) -> list[list[Frame]]:
    """Frames with labelled forces on two atoms or more, by a key."""
    found: dict[Hashable, list[Frame]] = {}
    for frame in frames:
        if "forces" in frame.given and len(frame.atoms) > 1:
            found.setdefault(key(frame), []).append(frame)
    return list(found.values())


def _zeros(frames: list[Frame]) -> Constrained | None:
    """The atoms of such frames that are constrained, if any."""
    forces = np.array([frame.labels.forces.numpy() for frame in frames])
    zero = (forces == 0).all(axis=0)
    if len(frames) < DIRECTIONS:
        zero = np.repeat(zero.all(axis=1)[:, None], 3, axis=1)
    sums, sizes = np.abs(forces.sum(axis=1)), np.linalg.norm(forces, axis=1)
    fixed = zero.any(axis=0) & ~zero.all(axis=0)
    fixed &= np.median(sums, axis=0) > np.maximum(LEFT_OVER, SHARE * np.median(sizes, axis=0))
    atoms = np.flatnonzero(zero[:, fixed].any(axis=1))
    if not len(atoms):
        return None
    left_over = float(np.median(np.linalg.norm(sums[:, fixed], axis=1)))
    return Constrained(frames, tuple(int(i) for i in atoms), left_over)
