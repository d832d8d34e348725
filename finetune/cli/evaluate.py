"""`finetune evaluate MODEL FILE`: errors of a model on labelled structures."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path

import jsonargparse
from rich.console import Console

from finetune import models
from finetune.calculators import known_device
from finetune.cli.inputs import switched
from finetune.data.checking import check, check_units
from finetune.data.frames import isolated_message, without_isolated
from finetune.data.labels import LabelKeys
from finetune.data.reading import read
from finetune.evaluation import evaluate as errors_of
from finetune.files import write_text
from finetune.provenance import overlap_message


def run(arguments: list[str]) -> None:
    """Evaluate with arguments as on the command line; `--trusted` alone means true."""
    jsonargparse.auto_cli(evaluate, args=switched(arguments)[1:], prog="finetune evaluate", as_positional=True)


def evaluate(
    model: str,
    file: str,
    json: str | None = None,
    parity: str | None = None,
    device: str = "cpu",
    batch_edges: int = 8000,
    keys: LabelKeys = LabelKeys(),  # noqa: B008  frozen
    units: bool = True,
    trusted: bool = False,
) -> None:
    """Errors of energy (meV/atom), forces (meV/Å) and stress (meV/Å³), for all frames, per family and per element.

    Energies of a model that was not fine-tuned are compared after the best shift per element, and the table says so.

    Args:
        model: a model name, a run directory or a checkpoint.
        file: labelled structures: a file, a folder or a glob pattern.
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
    known = overlap_message(potential.training_data, [frame.structure_hash for frame in frames])
    if known:
        print(f"{model}: {known}; errors on frames that it has not seen are larger")
    if units:
        check_units(frames)
    result = errors_of(potential, frames, shift=not potential.shifted, batch_edges=batch_edges)
    Console().print(result.table())
    if json is not None:
        write_text(Path(json), jsonlib.dumps(result.json(), indent=1, ensure_ascii=False) + "\n")
    if parity is not None:
        from finetune import plots

        plots.parity(result, Path(parity))
