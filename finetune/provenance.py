"""Training data of a potential: elements with their counts, and hashes of the structures."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from ase.data import chemical_symbols
from scipy.spatial import cKDTree

FITTED = "frames.json"  # in a run directory: hashes of the structures that its model is fitted to
HASH = 16  # hexadecimal digits of a structure's hash that are kept
WORDS = {"train": "trained on", "valid": "validated on"}
SIZE = 48  # numbers of a fingerprint
KEY = 8  # hexadecimal digits of its elements
SAME = 6e-4  # Å rms between the fingerprints of one structure; positions with three decimals differ by 4e-4


@runtime_checkable
class Structure(Protocol):
    """A structure by its hash, which is that of an exact copy, and its fingerprint, which is that of any copy."""

    @property
    def structure_hash(self) -> str:
        """Hash of elements, positions, cell and periodicity."""

    @property
    def fingerprint(self) -> str:
        """See `finetune.data.fingerprints.fingerprint`."""


@dataclass(frozen=True)
class TrainingData:
    """Frames that a potential was fitted to.

    Attributes:
        elements: numbers of training frames and of training atoms by atomic number; None where not known.
        train: first digits of the hashes of the training structures, those of earlier fits included.
        valid: the same of the validation structures.
        fingerprints: fingerprints of these structures by their hashes; fits by earlier versions have none, and only
            exact copies of their structures are recognised.
    """

    elements: Mapping[int, tuple[int, int]] | None = None
    train: frozenset[str] = field(default_factory=frozenset)
    valid: frozenset[str] = field(default_factory=frozenset)
    fingerprints: Mapping[str, str] = field(default_factory=dict)

    def after(self, earlier: TrainingData | None) -> TrainingData:
        """The same fit, begun from a potential with training data of its own."""
        if earlier is None:
            return self
        train = self.train | earlier.train
        return TrainingData(self.elements, train, self.valid, _of([self, earlier], train | self.valid))

    def contains(self, structures: Sequence[Structure], part: str) -> np.ndarray:
        """Return which structures are among those of a part, `train` or `valid`, shape (structures,).

        Structures are the same where they are exact copies, or where their fingerprints differ by no more than `SAME`.
        """
        hashes: frozenset[str] = getattr(self, part)
        found = np.array([structure.structure_hash[:HASH] in hashes for structure in structures], dtype=bool)
        known = [self.fingerprints[text] for text in hashes if text in self.fingerprints]
        rest = np.flatnonzero(~found)
        if known and len(rest):
            found[rest] = matches([structures[k].fingerprint for k in rest.tolist()], known) >= 0
        return found

    def plain(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        counts = None if self.elements is None else {chemical_symbols[z]: list(n) for z, n in self.elements.items()}
        parts = {"train": sorted(self.train), "valid": sorted(self.valid)}
        return {"elements": counts, **parts, "fingerprints": dict(sorted(self.fingerprints.items()))}

    @classmethod
    def from_plain(cls, content: Any) -> TrainingData | None:
        """Training data from the entry of a checkpoint or from `frames.json`; None where that is not readable."""
        try:
            counts = content.get("elements")
            known = (
                None
                if counts is None
                else {chemical_symbols.index(s): (int(n[0]), int(n[1])) for s, n in counts.items()}
            )
            prints = {str(name): str(text) for name, text in content.get("fingerprints", {}).items()}
            return cls(known, frozenset(content["train"]), frozenset(content["valid"]), prints)
        except (AttributeError, KeyError, TypeError, ValueError, IndexError):
            return None


def training_data(
    numbers: Sequence[np.ndarray],
    train: Iterable[str],
    valid: Iterable[str] = (),
    fingerprints: Mapping[str, str] | None = None,
) -> TrainingData:
    """Training data of a fit.

    Args:
        numbers: atomic numbers of each training frame.
        train: hashes of the training structures.
        valid: hashes of the validation structures.
        fingerprints: fingerprints of the structures by their hashes.
    """
    elements = sorted({int(z) for frame in numbers for z in frame})
    atoms = {z: [int((np.asarray(frame) == z).sum()) for frame in numbers] for z in elements}
    counts = {z: (sum(n > 0 for n in atoms[z]), sum(atoms[z])) for z in elements}
    prints = {h[:HASH]: text for h, text in (fingerprints or {}).items()}
    return TrainingData(counts, frozenset(h[:HASH] for h in train), frozenset(h[:HASH] for h in valid), prints)


def joined(members: Sequence[TrainingData | None]) -> TrainingData | None:
    """Training data of a committee: structures of any member, elements of all of them."""
    known = [member for member in members if member is not None]
    if not known:
        return None
    tables = [member.elements for member in known if member.elements is not None]
    shared = set.intersection(*(set(table) for table in tables)) if tables else set()
    elements = {z: tables[0][z] for z in sorted(shared)} if tables else None
    train, valid = (frozenset[str]().union(*(getattr(member, part) for member in known)) for part in WORDS)
    return TrainingData(elements, train, valid, _of(known, train | valid))


def _of(members: Sequence[TrainingData], hashes: frozenset[str]) -> dict[str, str]:
    """Fingerprints that any member has of structures."""
    return {name: text for member in members for name, text in member.fingerprints.items() if name in hashes}


def matches(fingerprints: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """Return for each fingerprint the index of the other one of the same structure, -1 without any.

    Two structures are the same where their labels would be, to within noise: where their fingerprints differ by less
    than `SAME`, which is a displacement of 5e-4 Å of all atoms and about 2 meV/Å in the forces. On 360 crystals of 1 to
    200 atoms, wrapped, permuted and translated copies differ by less than 1e-6 Å; copies with positions of four
    decimals by 4e-5 (at most 2e-4), of three decimals by 4e-4 (90 % are recognised); displacements of all coordinates
    by 0.01 Å by 6e-3 to 2e-2, of one atom by 0.03 Å by 2e-3 or more, and steps of 1 fs at 300 K by 7e-4 or more.
    """
    places: dict[str, tuple[list[int], list[int]]] = {}
    for side, texts in enumerate((others, fingerprints)):
        for k, text in enumerate(texts):
            places.setdefault(text[:KEY], ([], []))[side].append(k)
    found = np.full(len(fingerprints), -1)
    for there, wanted in places.values():
        if there and wanted:
            limit = SAME * np.sqrt(SIZE)
            tree = cKDTree(_numbers([others[k] for k in there]))
            distance, nearest = tree.query(_numbers([fingerprints[k] for k in wanted]), distance_upper_bound=limit)
            near = np.isfinite(distance)
            found[np.array(wanted)[near]] = np.array(there)[nearest[near]]
    return found


def _numbers(texts: Sequence[str]) -> np.ndarray:
    """Numbers of fingerprints, shape (texts, `SIZE`)."""
    content = b"".join(base64.b64decode(text[KEY:]) for text in texts)
    return np.frombuffer(content, dtype="<f4").reshape(len(texts), SIZE).astype(np.float64)


def of_directory(directory: Path) -> TrainingData | None:
    """Training data that the `frames.json` of a run directory lists, for checkpoints without their own."""
    try:
        return TrainingData.from_plain(json.loads((directory / FITTED).read_text()))
    except (OSError, ValueError):
        return None


def unseen_message(elements: Iterable[int]) -> str:
    """Warning about elements that no training frame contains."""
    names = ", ".join(chemical_symbols[z] for z in sorted(elements))
    return (
        f"no training frame contains {names}: energies of structures with it keep another zero, and forces are "
        "extrapolated. Add such frames to the training set, or leave these structures out"
    )


def overlap(known: TrainingData | None, structures: Sequence[Structure]) -> dict[str, int]:
    """Number of structures that a potential was trained and validated on, by `train` and `valid`; 0 left out."""
    counts = {} if known is None else {part: int(known.contains(structures, part).sum()) for part in WORDS}
    return {part: count for part, count in counts.items() if count}


def overlap_message(known: TrainingData | None, structures: Sequence[Structure]) -> str:
    """`trained on 3 of these 10 frames, validated on 1 of these 10 frames`; empty without any."""
    counts = overlap(known, structures)
    return ", ".join(f"{WORDS[part]} {count} of these {len(structures)} frames" for part, count in counts.items())
