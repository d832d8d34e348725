"""The labelled frames that a campaign is given: to begin with, to judge by, and those that are left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from finetune.data.checking import check
from finetune.data.frames import Frame, isolated_message, without_isolated
from finetune.data.reading import read
from finetune.data.splitting import check_disjoint, split, subset
from finetune.labelling.store import identity
from finetune.learning.refitting import GENERATION

SHARES = (0.8, 0.1, 0.1)  # of train, valid and test where there is only one file
SPARE = "spare"  # training frames that a campaign does not begin with


def read_parts(
    train: list[str], valid: list[str] | None, test: list[str] | None, fraction: float, seed: int, spare: bool
) -> dict[str, list[Frame]]:
    """Checked frames to train on, to judge by, to test on, and, where they are wanted, those that are left out.

    Without frames to judge by, a tenth of the training groups are these, and a tenth, where there are none, to test on.
    """
    whole = labelled(train)
    if valid is None:
        whole, judged, tested = split(whole, SHARES if test is None else (*SHARES[:2], 0.0), seed)
    else:
        judged, tested = labelled(valid), []
    parts = {"train": subset(whole, fraction, seed), "valid": judged}
    if tested or test:
        parts["test"] = tested or labelled(test or [])
    for frames in (whole, *parts.values()):
        check(frames)
    check_disjoint(parts)
    if spare:
        begun = {frame.structure_hash for frame in parts["train"]}
        parts[SPARE] = [frame for frame in whole if frame.structure_hash not in begun]
    return parts


def labelled(files: list[str]) -> list[Frame]:
    """Labelled frames of files, without isolated atoms."""
    frames, alone = without_isolated(read(files))
    if alone:
        print(isolated_message(alone, "the campaign"))
    return frames


def spared(
    spare: Sequence[Atoms], had: Sequence[Atoms], budget: int, generation: int, rng: np.random.Generator
) -> list[Atoms]:
    """Labelled frames at random of those that the control arm has not had."""
    there = {identity(atoms) for atoms in had}
    left = [atoms for atoms in spare if identity(atoms) not in there]
    chosen = [left[k].copy() for k in rng.permutation(len(left))[:budget]]
    for rank, atoms in enumerate(chosen):
        atoms.info |= {"selector": "Random", "rank": rank, GENERATION: generation}
    return chosen
