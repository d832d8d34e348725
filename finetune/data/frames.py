"""A structure with its DFT labels, and where it came from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import covalent_radii
from ase.geometry import minkowski_reduce
from ase.stress import voigt_6_to_full_3x3_stress
from torch import Tensor

from finetune.data.fingerprints import fingerprint
from finetune.properties import Properties
from finetune.provenance import TrainingData, training_data

PROPERTIES = ("energy", "forces", "stress", "magmoms")
ALONE = {"isolatedatom", "isolatedatoms", "isoatom", "singleatom", "freeatom"}  # values of config_type
APART = (5.0, 8.0)  # Å; least and largest distance of periodic images from which an atom is isolated, and
BONDS = 2.2  # the same in units of a covalent bond; nearest neighbours in crystals are at 1.8 (argon) and less
DOUBT = (4.5, 1.6)  # Å, and units of a bond, from which it may be so


@dataclass(frozen=True, eq=False)
class Frame:
    """One structure and the labels that its file gives.

    Attributes:
        atoms: the structure, without calculator.
        given: labels as they stand in the file (a subset of energy, forces, stress, magmoms), not yet checked; units
            eV, eV/Å, eV/Å³ (positive under tension; 3x3 or Voigt xx yy zz yz xz xy) and Bohr magnetons.
        source: the file, as the user named it.
        index: number of the frame in its file, from 0 as in ASE.
        family: what kind of structure it is; errors are reported per family.
        group: which frames belong together (one trajectory); a group is never divided between train, valid and test.
    """

    atoms: Atoms
    given: Mapping[str, Any]
    source: str
    index: int
    family: str
    group: str

    def where(self) -> str:
        """The frame in words: `frame 12 of train.extxyz`."""
        return f"frame {self.index} of {self.source}"

    @cached_property
    def isolated(self) -> bool:
        """A single atom on its own: by its `config_type` or family, without a cell, or in one that keeps images apart.

        Data sets of MACE and GAP carry one for each element (`config_type=IsolatedAtom`). Its energy is that of the
        free atom, which belongs to cohesive energies and not to the reference energies of a fit.
        """
        if len(self.atoms) != 1:
            return False
        words = (str(self.atoms.info.get("config_type", "")), self.family)
        if any(re.sub("[^a-z]", "", word.lower()) in ALONE for word in words):
            return True
        periodic = self.atoms.cell.array[self.atoms.pbc]
        if not periodic.any(axis=1).all():  # a cell that is missing is reported by others
            return False
        return self.nearest_image > min(max(BONDS * self._bond, APART[0]), APART[1])

    @property
    def nearest_image(self) -> float:
        """Shortest distance of an atom from its periodic images, Å; infinite without any."""
        reduced, _ = minkowski_reduce(self.atoms.cell, self.atoms.pbc)
        return float(np.linalg.norm(reduced[self.atoms.pbc], axis=1).min(initial=np.inf))

    @property
    def perhaps_isolated(self) -> bool:
        """A single atom in a box that is neither that of a crystal nor surely that of a free atom."""
        if len(self.atoms) != 1 or self.isolated or not self.atoms.cell.array[self.atoms.pbc].any(axis=1).all():
            return False
        return self.nearest_image > max(DOUBT[0], DOUBT[1] * self._bond)

    @property
    def _bond(self) -> float:
        """Twice the covalent radius of the first atom, Å."""
        return 2 * float(covalent_radii[self.atoms.numbers[0]])

    @cached_property
    def labels(self) -> Properties:
        """The labels as float64 tensors, NaN where the file gives none; shapes must have been checked."""
        n, stress = len(self.atoms), self.given.get("stress")
        return Properties(
            energy=_tensor(self.given.get("energy"), 1),
            forces=_tensor(self.given.get("forces"), n, 3),
            stress=_tensor(None if stress is None else full_stress(stress), 1, 3, 3),
            magmoms=_tensor(self.given.get("magmoms"), n),
        )

    @cached_property
    def structure_hash(self) -> str:
        """SHA-256 of elements, positions (to 1e-5 Å), cell and periodicity."""
        atoms = self.atoms
        numbers, pbc = atoms.get_atomic_numbers().astype("<i8"), np.asarray(atoms.pbc, dtype="<i8")
        lengths = [np.round(x, 5) + 0.0 for x in (atoms.get_positions(), atoms.cell.array)]
        return _sha256([numbers.tobytes(), pbc.tobytes(), *(x.astype("<f8").tobytes() for x in lengths)])

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint by which other files' copies of the structure are found; see `finetune.provenance.matches`."""
        return fingerprint(self.atoms)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the structure and its labels, to the last bit of the labels."""
        labels = self.labels.known()
        return _sha256([self.structure_hash.encode(), *(labels[name].numpy().tobytes() for name in PROPERTIES)])


def without_isolated(frames: Sequence[Frame]) -> tuple[list[Frame], list[Frame]]:
    """Frames of several interacting atoms, and isolated atoms, each in their order."""
    return [f for f in frames if not f.isolated], [f for f in frames if f.isolated]


def isolated_message(atoms: Sequence[Frame], use: str) -> str:
    """`3 isolated atoms (Li, P, S) in train.extxyz: left out of training`.

    Args:
        atoms: isolated atoms.
        use: what they are left out of.
    """
    symbols = ", ".join(dict.fromkeys(str(frame.atoms.symbols[0]) for frame in atoms))
    files = ", ".join(dict.fromkeys(frame.source for frame in atoms))
    count = f"{len(atoms)} isolated atom" + ("s" if len(atoms) > 1 else "")
    return f"{count} ({symbols}) in {files}: left out of {use}"


def fitted_to(train: Sequence[Frame], valid: Sequence[Frame] = ()) -> TrainingData:
    """Training data of a potential that is fitted to frames."""
    hashes = [[frame.structure_hash for frame in part] for part in (train, valid)]
    prints = {frame.structure_hash: frame.fingerprint for part in (train, valid) for frame in part}
    return training_data([frame.atoms.numbers for frame in train], hashes[0], hashes[1], prints)


def full_stress(stress: Any) -> np.ndarray:
    """A stress as 3x3, from 3x3, nine numbers or Voigt order xx yy zz yz xz xy."""
    values = np.asarray(stress, dtype=np.float64)
    return voigt_6_to_full_3x3_stress(values) if values.size == 6 else values.reshape(3, 3)


def data_hash(frames: Iterable[Frame]) -> str:
    """SHA-256 of labelled frames, whatever their order and the files that they stand in."""
    return _sha256(sorted(frame.content_hash.encode() for frame in frames))


def hash_fraction(seed: int, text: str) -> float:
    """A number in [0, 1) that depends on the seed and the text alone, evenly distributed over texts."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{text}".encode()).digest()[:6], "big") / 2**48


def _tensor(value: Any, *shape: int) -> Tensor:
    if value is None:
        return torch.full(shape, torch.nan, dtype=torch.float64)
    return torch.from_numpy(np.array(value, dtype=np.float64).reshape(shape))


def _sha256(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
