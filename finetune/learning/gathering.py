"""Candidates: explored frames whose uncertainty lies between the thresholds, large ones as sub-cells.

Each run of an exploration is a task of its own for an executor and leaves its part in a file, so that a campaign that
is stopped loses none of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from finetune import models
from finetune.calculators import PotentialCalculator
from finetune.files import make_folder
from finetune.labelling.store import identity
from finetune.learning.describing import scored, worst
from finetune.learning.fanout import fan_out
from finetune.learning.files import part_names, read_part, write_part
from finetune.learning.grades import grading
from finetune.learning.harvesting import Thresholds
from finetune.learning.subcells import Cutter, subcells

PARTS = "gathered"  # directory of the parts, while they come
COUNTS = ("explored", "repeated", "certain", "cut", "certain_cut", "beyond")


def gather_candidates(
    place: Path, thresholds: Thresholds, cutter: Cutter | None, before: Path, executor: Executor
) -> tuple[list[Atoms], dict[str, Any]]:
    """Frames of all runs that are worth asking for, and how many were not.

    Args:
        place: directory of the generation.
        thresholds: between which a frame is asked for; of a sub-cell the atoms `inside` count.
        cutter: how large frames are cut; None asks for them whole.
        before: directory of the generation whose members judge.
        executor: where.

    Returns:
        The candidates; and the counts: frames explored, repeated, certain, cut, sub-cells that are certain where they
        count (`certain_cut`) or beyond the stop threshold, and why some could not be cut.
    """
    make_folder(place / PARTS)
    names = part_names(place / "explored")
    missing = [name for name in names if not (place / PARTS / f"{name}.json").exists()]
    work = [partial(gather_one, name, place, thresholds, cutter, before) for name in missing]
    fan_out(executor, work, "candidates")
    about: dict[str, Any] = {**dict.fromkeys(COUNTS, 0), "refused": []}
    found: dict[str, Atoms] = {}
    for name in names:
        frames, part = read_part(place / PARTS, name)
        about = {key: value + part[key] for key, value in about.items()}
        for atoms in frames:
            about["repeated"] += identity(atoms) in found
            found.setdefault(identity(atoms), atoms)
    return list(found.values()), {**about, "candidates": len(found)}


def clear(place: Path) -> None:
    """Remove the parts, once they are one file."""
    shutil.rmtree(place / PARTS, ignore_errors=True)


def gather_one(name: str, place: Path, thresholds: Thresholds, cutter: Cutter | None, before: Path) -> None:
    """The candidates of one run."""
    torch.set_num_threads(1)
    frames, _ = read_part(place / "explored", name)
    about: dict[str, Any] = {**dict.fromkeys(COUNTS, 0), "explored": len(frames), "refused": []}
    found: list[Atoms] = []
    cuts = _Cuts(thresholds, cutter, before)
    for atoms in _different(frames, about):
        if not atoms.info["score"] >= thresholds.low:
            about["certain"] += 1
        elif cutter is None or len(atoms) <= cutter.atoms:
            found.append(atoms)
        else:
            about["cut"] += 1
            found += cuts.worth_asking(atoms, about)
    write_part(place / PARTS, name, found, about)


def _different(frames: Iterable[Atoms], about: dict[str, Any]) -> Iterable[Atoms]:
    """Each structure once; those before a stop may be in the trajectory as well."""
    seen = set()
    for atoms in frames:
        about["repeated"] += identity(atoms) in seen
        if identity(atoms) not in seen:
            seen.add(identity(atoms))
            yield atoms


class _Cuts:
    """Sub-cells with the uncertainty that a generation's committee sees in them; models are loaded when needed.

    Args:
        thresholds: of the uncertainty.
        cutter: how they are cut.
        before: directory of the generation.
    """

    def __init__(self, thresholds: Thresholds, cutter: Cutter | None, before: Path) -> None:
        self.thresholds, self.cutter, self.before = thresholds, cutter, before
        self.calculator: PotentialCalculator | None = None
        self.relaxer: PotentialCalculator | None = None

    def all(self, atoms: Atoms, scores: np.ndarray, least: float = 0.0) -> tuple[list[Atoms], list[str]]:
        """Sub-cells around the atoms of highest scores, with `scores` and `score` of their own, and refusals."""
        assert self.cutter is not None
        if self.calculator is None or self.relaxer is None:
            self.calculator = grading(self.before, self.thresholds.score)
            self.relaxer = PotentialCalculator(models.load(models.members(self.before)[0]))  # one is enough for that
        parts, refused = subcells(atoms, scores, self.cutter, self.relaxer, least)
        for part in parts:
            values = scored(part, self.calculator, self.thresholds.score)
            own = np.where(part.arrays["inside"], values, 0.0)  # the boundary is nobody's question
            part.info |= {
                "score": round(float(own.max()), 6),
                "worst": worst(part, own),
                "highest": float(values.max()),
            }
            part.arrays["scores"] = own
        return parts, refused

    def worth_asking(self, atoms: Atoms, about: dict[str, Any]) -> list[Atoms]:
        """Those between the thresholds; the others are counted."""
        parts, refused = self.all(atoms, atoms.arrays["scores"], self.thresholds.low)
        about["refused"] += refused
        found = []
        for part in parts:
            if not part.info.pop("highest") < self.thresholds.high:
                about["beyond"] += 1
            elif part.info["score"] < self.thresholds.low:
                about["certain_cut"] += 1
            else:
                found.append(part)
        return found


def cut_at_random(
    frames: Sequence[Atoms],
    thresholds: Thresholds,
    cutter: Cutter,
    before: Path,
    budget: int,
    rng: np.random.Generator,
) -> list[Atoms]:
    """The first frames that are small enough, or of which a sub-cell can be cut around an atom at random."""
    cuts, found = _Cuts(thresholds, replace(cutter, centres=1), before), list[Atoms]()
    for atoms in frames:
        if len(found) == budget:
            break
        if len(atoms) <= cutter.atoms:
            found.append(atoms)
            continue
        for part in cuts.all(atoms, rng.random(len(atoms)))[0]:
            if not part.info.pop("highest") < thresholds.high:
                continue
            part.info |= {key: atoms.info[key] for key in ("selector", "rank", "candidate", "distance", "front")}
            del part.arrays["scores"]
            found.append(part)
    return found
