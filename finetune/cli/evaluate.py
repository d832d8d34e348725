"""`finetune evaluate MODEL FILE`: errors of a model on labelled structures."""

from __future__ import annotations

import json as jsonlib
import warnings
from pathlib import Path

import jsonargparse
import numpy as np
from rich.console import Console

from finetune import models
from finetune.calculators import known_device
from finetune.cli.inputs import switched
from finetune.data.checking import check, check_units
from finetune.data.frames import isolated_message, without_isolated
from finetune.data.labels import LabelKeys
from finetune.data.reading import read
from finetune.display import message
from finetune.doctor.labels import check_stress
from finetune.errors import InputError
from finetune.evaluation import WIDE, Evaluation, fit_shift
from finetune.evaluation import evaluate as errors_of
from finetune.files import write_text
from finetune.potential import Potential
from finetune.provenance import overlap_message
from finetune.references import References


def run(arguments: list[str]) -> None:
    """Evaluate with arguments as on the command line; `--trusted` alone means true."""
    jsonargparse.auto_cli(evaluate, args=switched(arguments)[1:], prog="finetune evaluate", as_positional=True)


def check_finite(result: Evaluation, file: str) -> None:
    """Check that labels and predictions give errors.

    Raises:
        InputError: a prediction that is not finite, or no error of energy, forces or stress at all.
    """
    ends = np.cumsum(result.n_atoms.numpy())
    for name in ("energy", "forces", "stress"):
        label, predicted = (getattr(part, name).numpy() for part in (result.labels, result.predicted))
        rows = np.flatnonzero((np.isfinite(label) & ~np.isfinite(predicted)).reshape(len(label), -1).any(axis=1))
        if len(rows):
            frame = int(np.searchsorted(ends, rows[0], side="right")) if name == "forces" else int(rows[0])
            raise InputError(
                f"{result.frames[frame].where()}: got {name} of the model that are not finite, expected numbers. Check "
                "the positions, or drop the frame"
            )
    keys = ("energy_mae", "forces_mae", "stress_mae")
    if not any(np.isfinite(result.errors.all.get(key, np.nan)) for key in keys):
        raise InputError(
            f"{file}: got no label of energy, forces or stress that the model predicts, expected one. Name their keys "
            "with --keys"
        )


def evaluate(
    model: str,
    file: str,
    references: str | None = None,
    json: str | None = None,
    parity: str | None = None,
    device: str = "cpu",
    batch_edges: int = 8000,
    keys: LabelKeys = LabelKeys(),  # noqa: B008  frozen
    units: bool = True,
    trusted: bool = False,
) -> None:
    """Errors of energy (meV/atom), forces (meV/Å) and stress (meV/Å³), for all frames, per family and per element.

    Errors of three or more groups have a 95 % interval, from a bootstrap over the groups. A model whose reference
    energies were not fitted to DFT has another energy zero: its energies are compared after a shift per element that is
    fitted to the frames of the other groups, or to those of --references.

    Args:
        model: a model name, a run directory or a checkpoint.
        file: labelled structures: a file, a folder or a glob pattern.
        references: labelled frames to fit the energy shift of a model with another energy zero to, such as the training
            frames: a file, a folder or a glob pattern.
        json: write the figures to this JSON file as well.
        parity: draw parity plots to this PNG file.
        device: torch device.
        batch_edges: largest number of edges in a batch.
        keys: names of the labels in the file.
        units: refuse labels whose units are wrong beyond doubt.
        trusted: read a foreign `.model`, which is a pickle that runs code; true says that you trust it.
    """
    potential = models.load(model, trusted=trusted).to(known_device(device))
    frames = read(file, keys)
    check(frames)
    frames, alone = without_isolated(frames)
    if alone:
        print(isolated_message(alone, "the errors: their energies are those of free atoms"))
    potential.warn_unseen({int(z) for frame in frames for z in frame.atoms.numbers})
    known = overlap_message(potential.training_data, frames)
    if known:
        print(message(f"{model}: {known}; errors on held-out frames are usually larger"))
    if units:
        check_units(frames)
    shift = _shift(potential, model, references, keys, batch_edges)
    result = errors_of(potential, frames, shift=shift, batch_edges=batch_edges)
    check_finite(result, file)
    for words in check_stress(result) if units else []:
        warnings.warn(f"{file}: {words}", stacklevel=1)
    console = Console()
    console = console if console.is_terminal else Console(width=WIDE)
    console.print(result.table(console.width))
    if json is not None:
        write_text(Path(json), jsonlib.dumps(result.json(), indent=1, ensure_ascii=False) + "\n")
    if parity is not None:
        from finetune import plots

        plots.parity(result, Path(parity))


def _shift(
    potential: Potential, model: str, references: str | None, keys: LabelKeys, batch_edges: int
) -> bool | References:
    """Energy shift of a model with another energy zero: by other groups (True), or by the frames of a file."""
    if references is None:
        return not potential.shifted
    if potential.shifted:
        raise InputError(
            f"--references: {model} has reference energies fitted to DFT, so its energies are compared as predicted. "
            "Leave the option out."
        )
    others, _ = without_isolated(read(references, keys))
    check(others)
    return fit_shift(potential, others, batch_edges)
