"""`finetune doctor FILE`: whether labelled structures are fit to train on, or structures fit to be labelled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import jsonargparse
from rich.console import Console

from finetune import models
from finetune.calculators import known_device
from finetune.data.labels import LabelKeys
from finetune.data.reading import read
from finetune.doctor import Examination, examine, examine_structures
from finetune.doctor.examination import WIDTH
from finetune.errors import InputError, UnlabelledError
from finetune.files import write_text


def run(arguments: list[str]) -> int:
    """Examine with arguments as on the command line; the exit status: 0 if training can go on, 1 if it should not."""
    parser = jsonargparse.ArgumentParser(
        prog="finetune doctor",
        usage="finetune doctor FILE [FILE ...] [--model MODEL] [--output DIR] [--OPTION VALUE ...]",
        description="Check labelled structures before training: a table with verdicts and remedies. "
        "Exit status 0: training can go on; 1: it should not.",
    )
    parser.add_argument("file", nargs="+", help="labelled structures: files, folders or glob patterns")
    parser.add_function_arguments(doctor, as_group=False, skip={"file"})
    words = ["--trusted=true" if word == "--trusted" else word for word in arguments[1:]]
    options = parser.instantiate(parser.parse_args(words))
    return 0 if doctor(**options).sound else 1


def doctor(
    file: Sequence[str],
    model: str = "chgnet",
    output: Path | None = None,
    keys: LabelKeys = LabelKeys(),  # noqa: B008  frozen
    limit: int = 2000,
    device: str = "cpu",
    batch_edges: int = 8000,
    trusted: bool = False,
    labels: bool = True,
    crystals: list[str] | None = None,
) -> Examination:
    """Print what all checks find. Several files are taken for parts of a split and are searched for leaks.

    Args:
        file: labelled structures.
        model: a pre-trained model that labels are compared with (name, run directory or checkpoint), or none.
        output: write doctor.json and figures into this folder as well.
        keys: names of the labels in the files.
        limit: largest number of frames, drawn at random, that are compared with the model and with each other.
        device: torch device.
        batch_edges: largest number of edges in a batch.
        trusted: read a foreign `.model`, which is a pickle that runs code; true says that you trust it.
        labels: false looks at the structures alone, before they are labelled.
        crystals: files of crystals of the same elements, to compare bonds with; a list.
    """
    if limit < 1:
        raise InputError(f"--limit {limit} must be at least 1; 2000 is the default")
    try:
        frames = read(list(file), keys, labelled=labels)
    except UnlabelledError as error:
        raise InputError(f"{error}. Structures that are yet to be labelled are looked at by --labels false") from None
    potential = None if model == "none" else models.load(model, trusted=trusted).to(known_device(device))
    if potential is not None and not potential.pretrained:
        raise InputError(f"{model} has random weights and nothing to compare with; name a pre-trained model or none")
    name = None if potential is None else model
    if potential is not None:
        potential.warn_unseen({int(z) for frame in frames for z in frame.atoms.numbers})
    references = None if crystals is None else read(crystals, labelled=False)
    if labels:
        found = examine(frames, keys, potential, name, limit, batch_edges, references)
    else:
        found = examine_structures(frames, potential, name, limit, batch_edges, references)
    console = Console()
    console = Console(width=min(console.width, WIDTH) if console.is_terminal else WIDTH)
    console.print(found.table())
    console.print(found.summary(), soft_wrap=True, highlight=False, markup=False)
    if output is not None:
        write(found, output)
    return found


def write(found: Examination, directory: Path) -> None:
    """Write the findings as JSON, and the figures, into a directory.

    Raises:
        InputError: it cannot be written to.
    """
    from finetune.doctor import figures

    write_text(directory / "doctor.json", json.dumps(found.json(), indent=1, ensure_ascii=False) + "\n")
    paths = figures.draw(found.frames, found.coverage, directory)
    print(f"{directory}: doctor.json, {', '.join(path.name for path in paths)}")
