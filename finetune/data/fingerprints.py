"""Fingerprints of structures, by which a structure is found again after another program has written it."""

from __future__ import annotations

import base64
import zlib
from functools import lru_cache

import numpy as np
from ase import Atoms
from ase.geometry import complete_cell
from vesin import NeighborList

from finetune.provenance import SIZE

PAIRS = 8  # shortest distances that count, for each atom
FEWEST = 32  # of them in a small cell, which has that many through its images
NEAR, FAR = 6.0, 16.0  # Å, first and last cutoff of the search for them
SHELL = 5.0  # Å, of the surroundings of an atom
WEIGHT = 0.5  # of the surroundings beside the distance


def fingerprint(atoms: Atoms) -> str:
    """Return a text for a structure, to be compared by `finetune.provenance.matches`.

    The shortest distances between atoms, each with a term for the elements and the surroundings of both, are sorted
    and projected on `SIZE` random directions. Two sorted lists differ by no more than the distances themselves, in the
    root mean square, and random projections keep this difference (Johnson and Lindenstrauss 1984): so the difference
    of two fingerprints is a length in Å. It does not depend on the order of atoms, wrapping, translations, rotations,
    or the choice of the cell.

    Args:
        atoms: a structure; of one without finite positions and volume only the elements count.

    Returns:
        8 hexadecimal digits of the elements, and the projections as base64 of float32.
    """
    box = complete_cell(atoms.cell) if atoms.pbc.any() else np.zeros((3, 3))
    usable = np.isfinite(atoms.positions).all() and np.isfinite(box).all()
    usable &= not atoms.pbc.any() or abs(np.linalg.det(box)) > 1e-6
    values = _values(atoms, box) if usable and len(atoms) else np.full(FEWEST, FAR)
    projected = values @ _directions(1 << (len(values) - 1).bit_length())[: len(values)] / np.sqrt(len(values))
    key = zlib.crc32(np.sort(atoms.numbers).astype("<i8").tobytes())
    return f"{key:08x}{base64.b64encode(projected.astype('<f4').tobytes()).decode()}"


def _values(atoms: Atoms, box: np.ndarray) -> np.ndarray:
    """The smallest distances with their terms, sorted, Å; `FAR` where there are no more pairs."""
    count, cutoff = max(PAIRS * len(atoms), FEWEST), NEAR
    share, weight = (table[atoms.numbers] for table in _elements())
    while True:
        pairs = NeighborList(cutoff=cutoff, full_list=False, n_threads=1)
        i, j, distance = map(np.asarray, pairs.compute(atoms.positions, box, periodic=atoms.pbc, quantities="ijd"))
        near = np.maximum(1 - distance / SHELL, 0) ** 3
        around = np.bincount(i, near * weight[j], len(atoms)) + np.bincount(j, near * weight[i], len(atoms))
        term = share + WEIGHT * around
        values = distance + term[i] + term[j]
        if np.count_nonzero(values < cutoff) >= count or cutoff >= FAR:
            break
        cutoff = min(1.4 * cutoff, FAR)
    values = np.minimum(np.append(values, np.full(count, FAR)), FAR)
    return np.sort(np.partition(values, count - 1)[:count])


@lru_cache(maxsize=1)
def _elements() -> tuple[np.ndarray, np.ndarray]:
    """Random terms (Å) and weights of the elements, by atomic number; the same for ever."""
    first = np.random.RandomState(1).uniform(size=(2, 256))  # frozen numbers (NEP 19)
    return 0.5 * first[0], 0.5 + first[1]


@lru_cache(maxsize=8)
def _directions(count: int) -> np.ndarray:
    """Random directions, shape (count, `SIZE`); those of a smaller count are the first rows of a larger one."""
    rows: np.ndarray = np.random.RandomState(0).standard_normal((count, SIZE))
    return rows
