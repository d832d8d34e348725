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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from scipy.stats import spearmanr
from tqdm import tqdm

from finetune import models
from finetune.calculators import PotentialCalculator
from finetune.committee import Committee
from finetune.data.caching import QUIET_S
from finetune.data.frames import Frame
from finetune.data.reading import read
from finetune.evaluation import evaluate
from finetune.labelling.core import Folders, Labeller, Method, Waiting
from finetune.labelling.run import GIVEN_UP, collect_folders, write_folders
from finetune.labelling.run import label as label_frames
from finetune.labelling.run import report as labels_of
from finetune.labelling.store import Store, identity
from finetune.learning.describing import closeness, describe, scale, scored, worst
from finetune.learning.exploration import Explorer, Task
from finetune.learning.fanout import fan_out
from finetune.learning.files import copy, read_frames
from finetune.learning.harvesting import Thresholds
from finetune.learning.refitting import GENERATION, Job, Refit
from finetune.learning.selectors import Candidates, Selector
from finetune.learning.subcells import Cutter, subcells
from finetune.potential import Potential
from finetune.training.run import write_fitted
from finetune.uncertainty import Graded, active_sets, calibrate

GRADED = "graded.ckpt"


def members(place: Path) -> list[Path]:
    """Checkpoints of the committee of a generation."""
    return sorted(place.glob("member-*.ckpt"))


def committee(place: Path) -> Potential:
    """The committee of a generation; a single member is itself."""
    loaded = [models.load(path) for path in members(place)]
    return Committee(loaded).eval() if len(loaded) > 1 else loaded[0]


def grading(place: Path, score: str) -> PotentialCalculator:
    """The calculator that knows the uncertainty that is asked for: of a committee its spread, else `graded.ckpt`."""
    return PotentialCalculator(committee(place) if score == "forces_std" else models.load(place / GRADED))


def grade(place: Path, score: str, valid: Path) -> None:
    """Write `graded.ckpt`, which gives `gamma` or `forces_error`; nothing for the spread of a committee.

    Grades are those of the first member, whose dynamics cost no more than one potential; errors are those of the
    committee, calibrated on the validation frames.
    """
    path = place / GRADED
    if score == "forces_std" or path.exists():
        return
    if score == "gamma":
        member = models.load(members(place)[0])
        models.save(Graded(member, active_sets(member, read(place / "train.extxyz"))), path)
    else:
        models.save(calibrate(committee(place), read(valid)), path)


def explore(
    explorer: Explorer, tasks: Sequence[Task], before: Path, place: Path, executor: Executor, word: str
) -> None:
    """All runs that have no record yet."""
    missing = [task for task in tasks if not (place / f"{task.name}.json").exists()]
    place.mkdir(parents=True, exist_ok=True)
    fan_out(executor, [partial(explore_one, explorer, task, before, place) for task in missing], word)


def explore_one(explorer: Explorer, task: Task, before: Path, place: Path) -> None:
    """One run, with the committee of the generation before."""
    torch.set_num_threads(1)
    explorer.run(task, grading(before, explorer.thresholds.score), place)


def explored(place: Path) -> list[Atoms]:
    """Sound frames of all runs, in order."""
    return [atoms for path in sorted((place / "explored").glob("*.extxyz")) for atoms in read_frames(path)]


def gather_candidates(
    frames: Sequence[Atoms], thresholds: Thresholds, cutter: Cutter | None, before: Path
) -> tuple[list[Atoms], dict[str, Any]]:
    """Frames whose uncertainty lies between the thresholds, large ones as sub-cells, and how many there were."""
    found: list[Atoms] = []
    about: dict[str, Any] = {"explored": len(frames), "certain": 0, "cut": 0, "beyond": 0, "refused": []}
    calculator = relaxer = None
    for atoms in tqdm(frames, desc="candidates", delay=QUIET_S, disable=None):
        if not atoms.info["score"] >= thresholds.low:
            about["certain"] += 1
            continue
        if cutter is None or len(atoms) <= cutter.atoms:
            found.append(atoms)
            continue
        calculator = calculator or grading(before, thresholds.score)
        relaxer = relaxer or PotentialCalculator(models.load(members(before)[0]))  # one of them is enough for that
        parts, refused = subcells(atoms, atoms.arrays["scores"], cutter, relaxer)
        about["refused"] += refused
        about["cut"] += 1
        for part in parts:
            values = scored(part, calculator, thresholds.score)
            own = np.where(part.arrays["inside"], values, 0.0)  # the boundary is nobody's question
            part.info |= {"score": round(float(own.max()), 6), "worst": worst(part, own)}
            part.arrays["scores"] = own
            if values.max() < thresholds.high:
                found.append(part)
            else:
                about["beyond"] += 1
    about["candidates"] = len(found)
    return found, about


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
    potential = models.load(members(before)[0])
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


def not_failed(candidates: Sequence[Atoms], store: Store) -> list[Atoms]:
    """Candidates that have not been asked for in vain."""
    return [atoms for atoms in candidates if not store.reasons(identity(atoms))]


def label(
    frames: Sequence[Atoms], labeller: Labeller | Folders, executor: Executor, directory: Path, generation: int
) -> list[Atoms]:
    """Labels of frames that have none in the store yet, then the labels of all that could be computed.

    Raises:
        Waiting: the user has to run calculations first.
    """
    if not frames:
        return []
    if isinstance(labeller, Folders):
        inputs = directory.with_name(f"{directory.name}.inputs")
        write_folders(frames, labeller, inputs)
        left = collect_folders(frames, labeller, inputs, directory).missing
        if left:
            raise Waiting(
                f"generation {generation} waits for {len(left)} of {len(frames)} calculations in {inputs}: run the "
                "code in each folder, and the same command goes on; a folder that is to be given up gets a file "
                f"named {GIVEN_UP}"
            )
    else:
        label_frames(frames, labeller, executor, directory)
    return answers(frames, labeller, directory, generation)


def answers(frames: Sequence[Atoms], labeller: Method, directory: Path, generation: int) -> list[Atoms]:
    """The labels that the store has of frames, in their order, told which generation asked for them."""
    found = labels_of(frames, Store(directory, labeller)).labelled if frames else []
    for atoms in found:
        atoms.info[GENERATION] = generation
    return found


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
    fits: Sequence[Refit], place: Path, before: Path | None, valid: Path, seed: int, generation: int, executor: Executor
) -> None:
    """Fit the members that are not there yet; where there is no new label they stay what they were."""
    wanted = [place / f"member-{k}.ckpt" for k in range(len(fits))]
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
    potential = committee(place)
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
