"""Training data of a potential: elements with their counts, and hashes of the structures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols

FITTED = "frames.json"  # in a run directory: hashes of the structures that its model is fitted to
HASH = 16  # hexadecimal digits of a structure's hash that are kept
WORDS = {"train": "trained on", "valid": "validated on"}


@dataclass(frozen=True)
class TrainingData:
    """Frames that a potential was fitted to.

    Attributes:
        elements: numbers of training frames and of training atoms by atomic number; None where not known.
        train: first digits of the hashes of the training structures, those of earlier fits included.
        valid: the same of the validation structures.
    """

    elements: Mapping[int, tuple[int, int]] | None = None
    train: frozenset[str] = field(default_factory=frozenset)
    valid: frozenset[str] = field(default_factory=frozenset)

    def after(self, earlier: TrainingData | None) -> TrainingData:
        """The same fit, begun from a potential with training data of its own."""
        return self if earlier is None else TrainingData(self.elements, self.train | earlier.train, self.valid)

    def plain(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        counts = None if self.elements is None else {chemical_symbols[z]: list(n) for z, n in self.elements.items()}
        return {"elements": counts, "train": sorted(self.train), "valid": sorted(self.valid)}

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
            return cls(known, frozenset(content["train"]), frozenset(content["valid"]))
        except (AttributeError, KeyError, TypeError, ValueError, IndexError):
            return None


def training_data(numbers: Sequence[np.ndarray], train: Iterable[str], valid: Iterable[str] = ()) -> TrainingData:
    """Training data of a fit.

    Args:
        numbers: atomic numbers of each training frame.
        train: hashes of the training structures.
        valid: hashes of the validation structures.
    """
    elements = sorted({int(z) for frame in numbers for z in frame})
    atoms = {z: [int((np.asarray(frame) == z).sum()) for frame in numbers] for z in elements}
    counts = {z: (sum(n > 0 for n in atoms[z]), sum(atoms[z])) for z in elements}
    return TrainingData(counts, frozenset(h[:HASH] for h in train), frozenset(h[:HASH] for h in valid))


def joined(members: Sequence[TrainingData | None]) -> TrainingData | None:
    """Training data of a committee: structures of any member, elements of all of them."""
    known = [member for member in members if member is not None]
    if not known:
        return None
    tables = [member.elements for member in known if member.elements is not None]
    shared = set.intersection(*(set(table) for table in tables)) if tables else set()
    elements = {z: tables[0][z] for z in sorted(shared)} if tables else None
    train, valid = (frozenset[str]().union(*(getattr(member, part) for member in known)) for part in WORDS)
    return TrainingData(elements, train, valid)


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


def overlap(known: TrainingData | None, hashes: Iterable[str]) -> dict[str, int]:
    """Number of structures that a potential was trained and validated on, by `train` and `valid`; 0 left out."""
    judged = {text[:HASH] for text in hashes}
    counts = {} if known is None else {part: len(judged & getattr(known, part)) for part in WORDS}
    return {part: count for part, count in counts.items() if count}


def overlap_message(known: TrainingData | None, hashes: Iterable[str]) -> str:
    """`trained on 3 of these 10 frames, validated on 1 of these 10 frames`; empty without any."""
    judged = {text[:HASH] for text in hashes}
    counts = overlap(known, judged)
    return ", ".join(f"{WORDS[part]} {count} of these {len(judged)} frames" for part, count in counts.items())
