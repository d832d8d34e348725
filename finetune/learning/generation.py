"""One generation: explore, gather candidates, select, label, fit again, measure; every file is written once.

| file | what |
|---|---|
| `explored/NAME.extxyz`, `explored/NAME.json` | sound frames of an exploration run, and what became of it |
| `candidates.extxyz`, `candidates.json` | frames worth asking for, sub-cells among them, and how many were not |
| `selected.extxyz` | what DFT is asked, and why |
| `labelled.extxyz` | the answers |
| `train.extxyz`, `member-K.ckpt` | all labelled frames, and the members fitted to them |
| `frames.json` | hashes of the structures that the members were fitted to |
| `graded.ckpt` | what knows extrapolation grades or calibrated errors, where these are the score |
| `errors.json` | errors of the committee on the validation frames, and on the test frames where there are some |
| `report.html` | all of the campaign up to here |

`control/` has the same files of the control arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from scipy.stats import spearmanr

from finetune import models
from finetune.data.frames import Frame
from finetune.data.reading import read
from finetune.evaluation import evaluate
from finetune.files import make_folder
from finetune.learning.describing import closeness, describe, scale
from finetune.learning.exploration import Explorer, Task
from finetune.learning.fanout import fan_out
from finetune.learning.files import copy, part_names, read_frames, read_part
from finetune.learning.grades import grading
from finetune.learning.refitting import GENERATION, Job, Refit
from finetune.learning.selectors import Candidates, Selector
from finetune.training.run import write_fitted


def explore(
    explorer: Explorer, tasks: Sequence[Task], before: Path, place: Path, executor: Executor, word: str
) -> None:
    """All runs that have no record yet."""
    missing = [task for task in tasks if not (place / f"{task.name}.json").exists()]
    make_folder(place)
    fan_out(executor, [partial(explore_one, explorer, task, before, place) for task in missing], word)


def explore_one(explorer: Explorer, task: Task, before: Path, place: Path) -> None:
    """One run, with the committee of the generation before."""
    torch.set_num_threads(1)
    explorer.run(task, grading(before, explorer.thresholds.score), place)


def explored(place: Path) -> list[Atoms]:
    """Sound frames of all runs, in order."""
    place = place / "explored"
    return [atoms for name in part_names(place) for atoms in read_part(place, name)[0]]


def select(
    candidates: Sequence[Atoms],
    labelled: Sequence[Atoms],
    before: Path,
    selector: Selector,
    reactants: tuple[str, str] | None,
    budget: int,
    rng: np.random.Generator,
) -> list[Atoms]:
    """The candidates to ask for, each with its reasons in `info`: score, `distance` to what is known, `front`."""
    if not candidates or budget < 1:
        return []
    potential = models.load(models.members(before)[0])
    raw = describe(potential, [*candidates, *labelled])
    features, taken = scale(raw[: len(candidates)], raw[len(candidates) :])
    front = np.array([closeness(atoms, atoms.arrays["scores"], reactants) for atoms in candidates])
    scores = np.array([float(atoms.info["score"]) for atoms in candidates])
    runs = np.array([str(atoms.info.get("run", k)) for k, atoms in enumerate(candidates)])
    described = Candidates(scores, features, front, taken, runs)
    chosen: list[Atoms] = []
    for rank, k in enumerate(selector(described, budget, rng)):
        atoms = candidates[k].copy()
        del atoms.arrays["scores"]
        known = np.concatenate([taken, features[[c.info["candidate"] for c in chosen]]]) if chosen else taken
        distance = float(np.linalg.norm(known - features[k], axis=1).min()) if len(known) else 1.0
        reasons = {"selector": type(selector).__name__, "rank": rank, "candidate": k}
        atoms.info |= {**reasons, "distance": round(distance, 4), "front": round(float(front[k]), 4)}
        chosen.append(atoms)
    return chosen


def as_labelled(frames: Sequence[Frame]) -> list[Atoms]:
    """Frames of a data set as they are written: labels under `REF_` keys."""
    found = []
    for frame in frames:
        atoms = frame.atoms.copy()
        atoms.info |= {"family": frame.family, "group": frame.group, GENERATION: 0}
        for name, value in frame.given.items():
            store = atoms.arrays if name in ("forces", "magmoms") else atoms.info
            store[f"REF_{name}"] = np.asarray(value, dtype=float) if name != "energy" else float(value)
        found.append(atoms)
    return found


def refit(
    fits: Sequence[Refit],
    place: Path,
    before: Path | None,
    valid: Path,
    seed: int,
    generation: int,
    executor: Executor,
    whole: bool = False,
) -> None:
    """Fit the members that are not there yet; where there is no new label they stay what they were.

    `whole` fits the first one to all frames instead of a bootstrap of them.
    """
    wanted = [place / f"member-{k}.ckpt" for k in range(len(fits))]
    fits = [replace(fits[0], bootstrap=False), *fits[1:]] if whole else fits
    write_fitted(place, read(place / "train.extxyz"), read(valid))
    if before is not None and not read_frames(place / "labelled.extxyz"):
        for path in wanted:
            copy(before / path.name, path)
        return
    work = []
    for k, (fit, path) in enumerate(zip(fits, wanted, strict=True)):
        old = None if before is None else before / path.name
        if not path.exists():
            job = Job(place / "train.extxyz", valid, old, generation, (seed, generation, k, 6))
            work.append(partial(fit_one, fit, job, path))
    fan_out(executor, work, f"fit generation {generation}")


def fit_one(fit: Refit, job: Job, path: Path) -> None:
    """Fit one member, with one thread."""
    torch.set_num_threads(1)
    fit.fit(job, path)


def measure(place: Path, parts: dict[str, Path]) -> dict[str, Any]:
    """Errors of the committee on the frames of files, with the rank correlation of spread and true error of forces."""
    potential = models.load(place)
    found: dict[str, Any] = {}
    for name, path in parts.items():
        result = evaluate(potential, read(path))
        found[name] = result.json()
        if result.predicted.forces_std is not None:
            spread = result.predicted.forces_std.norm(dim=1).numpy()
            true = (result.predicted.forces - result.labels.forces).norm(dim=1).numpy()
            known = np.isfinite(true)
            found[name]["rank_correlation"] = float(spearmanr(spread[known], true[known]).statistic)
    return found
