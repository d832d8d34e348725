"""`finetune grade` and `finetune calibrate`: models that say how far they can be believed."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import jsonargparse
import numpy as np
from ase.data import chemical_symbols
from rich.console import Console

from finetune import models
from finetune.calculators import known_device
from finetune.cli.inputs import new_file, switched
from finetune.data.checking import check
from finetune.data.frames import Frame, isolated_message, without_isolated
from finetune.data.labels import LabelKeys
from finetune.data.reading import read
from finetune.data.zeros import zero_forces
from finetune.errors import InputError
from finetune.files import write_text
from finetune.potential import Potential
from finetune.provenance import TrainingData, overlap, overlap_message
from finetune.uncertainty import Calibrated, Coverage, Graded, active_sets, coverage
from finetune.uncertainty import calibrate as calibrated
from finetune.uncertainty.calibration import ENOUGH_GROUPS


def run_grade(arguments: list[str]) -> None:
    """Grade with arguments as on the command line."""
    jsonargparse.auto_cli(grade, args=switched(arguments)[1:], prog="finetune grade", as_positional=True)


def run_calibrate(arguments: list[str]) -> None:
    """Calibrate with arguments as on the command line."""
    jsonargparse.auto_cli(calibrate, args=switched(arguments)[1:], prog="finetune calibrate", as_positional=True)


def grade(
    model: str,
    file: str,
    output: str = "graded.pt",
    tolerance: float = 1.001,
    batch_edges: int = 8000,
    device: str = "cpu",
    keys: LabelKeys = LabelKeys(),  # noqa: B008  frozen
    trusted: bool = False,
) -> None:
    """Add extrapolation grades to a model: gamma of each atom, up to 1 among the frames that it was trained on.

    For example: finetune grade runs/chgnet data/interface/train.extxyz --output graded.pt

    Args:
        model: a model name, a run directory or a checkpoint.
        file: the frames that the model was trained on: a file, a folder or a glob pattern.
        output: the model to write, a single file.
        tolerance: gamma of the training frames may be up to this, a little above 1.
        batch_edges: largest number of edges that are evaluated together.
        device: torch device.
        keys: names of the labels in the file.
        trusted: read a foreign `.model`, which is a pickle that runs code; true says that you trust it.
    """
    path = new_file(output)
    potential = models.load(model, trusted=trusted)
    if isinstance(potential, Calibrated):
        print(f"the calibration of {model} does not go with new grades and is left out; calibrate what is written")
    bare = potential.bare().to(known_device(device))
    frames = _frames(file, keys, "the active set")
    bare.warn_unseen({int(z) for frame in frames for z in frame.atoms.numbers})
    warn_other_frames(bare, frames, model)
    found = active_sets(bare, frames, tolerance, batch_edges)
    graded = Graded(bare, found)
    models.save(graded, path)
    print("\n".join(active.message(chemical_symbols[number]) for number, active in found.items()))
    if graded.cores:
        pairs = {(a, b): d for (a, b), d in graded.cores.items() if a <= b}
        named = (f"{chemical_symbols[a]}-{chemical_symbols[b]} {d:.2f}" for (a, b), d in sorted(pairs.items()))
        print(f"gamma is infinite within the core repulsion, below these distances, Å: {', '.join(named)}")
    print(f"wrote {path}")


def calibrate(
    model: str,
    file: str,
    output: str = "calibrated.pt",
    level: float = 0.9,
    score: str | None = None,
    report: str | None = None,
    test: str | None = None,
    batch_edges: int = 8000,
    device: str = "cpu",
    keys: LabelKeys = LabelKeys(),  # noqa: B008  frozen
    trusted: bool = False,
) -> None:
    """Add calibrated errors of forces to a model: below them lies the true error with the probability `level`.

    For example: finetune calibrate graded.pt data/interface/valid.extxyz --output calibrated.pt --report runs/coverage

    Args:
        model: a model name, a run directory or a checkpoint.
        file: held-out labelled frames, like those that are to be predicted.
        output: the model to write, a single file.
        level: probability with which the error of a force stays below what is stated.
        score: what errors go with: forces_std (of a committee), energies_std (of shallow readouts), gamma (of a graded
            model) or constant; null takes the first of these that the model has.
        report: directory for coverage.json and reliability.png.
        test: further labelled frames for the report; without them every other group of `file` is left out for a trial.
        batch_edges: largest number of edges that are evaluated together.
        device: torch device.
        keys: names of the labels in the files.
        trusted: read a foreign `.model`, which is a pickle that runs code; true says that you trust it.
    """
    path = new_file(output)
    potential = models.load(model, trusted=trusted).to(known_device(device))
    frames = independent(potential, _frames(file, keys, "calibration"), model)
    others = [] if test is None else _frames(test, keys, "the test of it")
    check_held_out(potential, others, model)
    potential.warn_unseen({int(z) for frame in [*frames, *others] for z in frame.atoms.numbers})
    result = calibrated(potential, frames, level, score, batch_edges=batch_edges)
    print("\n".join(result.messages()))
    if report is not None or test is not None:
        judged = result
        if test is None:
            first, others = halves(frames)
            judged = calibrated(potential, first, level, result.score, batch_edges=batch_edges)
        tell(coverage(judged, others, batch_edges), report)
    models.save(result, path)
    print(f"wrote {path}")


def halves(frames: Sequence[Frame]) -> tuple[list[Frame], list[Frame]]:
    """Frames in two parts that share no group; every other frame where there is one group only.

    Raises:
        InputError: a single frame.
    """
    groups = sorted({frame.group for frame in frames})
    first = set(groups[::2])
    parts = [f for f in frames if f.group in first], [f for f in frames if f.group not in first]
    parts = parts if len(groups) > 1 else (list(frames[::2]), list(frames[1::2]))
    if not parts[1]:
        raise InputError("one frame cannot both calibrate and test; give more of them, or --test")
    return parts


def tell(result: Coverage, directory: str | None) -> None:
    """Print a report, and write it where a directory is given."""
    Console().print(result.table())
    print("\n".join(f"warning: {text}" for text in result.warnings) or "nothing speaks for a shift")
    if directory is not None:
        from finetune import plots

        place = Path(directory)
        write_text(place / "coverage.json", json.dumps(result.json(), indent=1, ensure_ascii=False) + "\n")
        plots.reliability(result, place / "reliability.png")
        print(f"wrote {place / 'coverage.json'} and {place / 'reliability.png'}")


def independent(potential: Potential, frames: Sequence[Frame], model: str) -> list[Frame]:
    """Frames to calibrate by: without those that chose the epoch, where the others have enough groups.

    Raises:
        InputError: some are training frames.
    """
    data = potential.training_data or TrainingData()
    chose = {frame.group for frame, known in zip(frames, data.contains(frames, "valid"), strict=True) if known}
    rest = [frame for frame in frames if frame.group not in chose]
    if chose and len({frame.group for frame in rest}) >= ENOUGH_GROUPS:
        check_held_out(potential, rest, model)
        print(
            f"calibration: {len(rest)} of {len(frames)} frames are used; the others share a group with frames that "
            f"chose the epoch or ridge of {model}"
        )
        return rest
    check_held_out(potential, frames, model)
    return list(frames)


def check_held_out(potential: Potential, frames: Sequence[Frame], model: str) -> None:
    """Refuse frames that a model was trained on for its calibration; warn of those that chose its epoch.

    Raises:
        InputError: some are training frames.
    """
    data = potential.training_data or TrainingData()
    counts = overlap(data, frames)
    if "train" in counts:
        first = frames[int(np.argmax(data.contains(frames, "train")))]
        raise InputError(
            f"{first.where()}: {model} was {overlap_message(data, frames)}; errors there are too small, "
            "expected held-out frames. Give other frames, or drop these"
        )
    if counts:
        warnings.warn(
            f"{model} was {overlap_message(data, frames)}, which chose its epoch or ridge; errors there are "
            f"somewhat too small. Give held-out frames; with {ENOUGH_GROUPS} groups of them the others are left out",
            stacklevel=2,
        )


def warn_other_frames(potential: Potential, frames: Sequence[Frame], model: str) -> None:
    """Warn where grades are made from frames that a model was not trained on; nothing where that is not known."""
    data = potential.training_data
    if data is None or not data.train:
        return
    other = [frame for frame, known in zip(frames, data.contains(frames, "train"), strict=True) if not known]
    if other:
        warnings.warn(
            f"{model} was not trained on {len(other)} of these {len(frames)} frames, first {other[0].where()}; grades "
            "up to 1 mean known only where they are made from the training frames. Give these",
            stacklevel=2,
        )


def _frames(file: str, keys: LabelKeys, use: str) -> list[Frame]:
    frames = read(file, keys)
    check(frames)
    if words := zero_forces(frames):
        warnings.warn(words, stacklevel=2)
    frames, alone = without_isolated(frames)
    if alone and not frames:
        raise InputError(f"{isolated_message(alone, use)}; no other frame is there. Add frames of several atoms")
    if alone:
        print(isolated_message(alone, use))
    return frames
