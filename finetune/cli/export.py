"""`finetune export MODEL`: a potential for another programme."""

from __future__ import annotations

import sys
from pathlib import Path

import jsonargparse
from ase import Atoms
from ase.data import chemical_symbols

from finetune import models
from finetune.data.structures import read_structure
from finetune.errors import InputError
from finetune.exporting import beside, lammps_input
from finetune.potential import Potential
from finetune.provenance import unseen_message

CHECKPOINT = "checkpoint"
MANY = 10  # elements without training frames, beyond which the trained ones are listed instead
SUFFIX = {CHECKPOINT: "pt", "lammps": "lammps.pt", "mliap": "mliap.pt", "chgnet": "pth.tar"}


def run(arguments: list[str]) -> None:
    """Export with arguments as on the command line."""
    jsonargparse.auto_cli(export, args=arguments[1:], prog="finetune export", as_positional=True)


def export(model: str, format: str = CHECKPOINT, output: str | None = None, structure: str | None = None) -> None:
    """Write a model as a file for another programme, with an input file that runs it where that is LAMMPS.

    For example: finetune export runs/ace --format yace --structure my_cell.cif

    Args:
        model: a model name, a run directory or a checkpoint.
        format: checkpoint (every model; one file for this package); yace (an atomic cluster expansion; for LAMMPS'
            pair_style pace and whatever else reads pacemaker's files); lammps or mliap (MACE; for LAMMPS' pair_style
            mace or mliap); chgnet (CHGNet; for the chgnet package itself).
        output: the file to write; left out, in the run directory, or here: potential.pt (checkpoint), potential.yace,
            potential.lammps.pt, potential.mliap.pt, potential.pth.tar (chgnet).
        structure: file of a structure for the LAMMPS input.
    """
    potential = models.load(model)
    known = (CHECKPOINT, *potential.formats)
    if format not in known:
        raise potential.no_format(format, known)
    directory = Path(model) if Path(model).is_dir() else Path()
    path = directory / f"potential.{SUFFIX.get(format, format)}" if output is None else Path(output)
    atoms = for_lammps(structure, potential.elements) if structure is not None else None
    unseen = potential.unseen(potential.elements if atoms is None else atoms.numbers.tolist())
    if unseen:
        print(message_of(unseen, potential), file=sys.stderr)
    check_output(path, [path] if format == CHECKPOINT else [path, *beside(path)])
    if format == CHECKPOINT:
        models.save(potential, path)
        written = [path]
    else:
        exported = potential.export(format, path)
        written = [path]
        if exported is not None:
            about = f"{potential.kind}, exported from {model}"
            written += lammps_input(path, exported.symbols, exported.style, exported.coefficients, about, atoms)
    print("\n".join(f"wrote {file}" for file in written))


def message_of(unseen: set[int], potential: Potential) -> str:
    """Warning about elements of an exported potential without training frames; of many, the others are listed."""
    if len(unseen) <= MANY:
        return f"warning: {unseen_message(unseen)}"
    known = ", ".join(chemical_symbols[z] for z in sorted(potential.elements - unseen))
    return f"warning: no training frame contains elements other than {known}: energies of others keep another zero"


def check_output(path: Path, files: list[Path]) -> None:
    """Refuse names that would overwrite something, or that LAMMPS could not read."""
    if len(set(files)) < len(files):
        raise InputError(f"{path.name} is the name of a file that is written beside the model; choose another --output")
    if len(files) > 1 and len(path.name.split()) > 1:
        raise InputError(f"LAMMPS reads {path.name!r} as several words; choose an --output without spaces")
    for file in files:
        if file.exists():
            raise InputError(f"{file} is there already; choose another --output, or remove it")


def for_lammps(file: str, elements: frozenset[int]) -> Atoms:
    """The first structure of a file, in a full cell and of elements that the potential knows."""
    atoms = read_structure(file, index=0)
    if atoms.cell.rank < 3:
        raise InputError(f"{file} has no cell in all three directions, which LAMMPS needs; add vacuum where it ends")
    strange = sorted({chemical_symbols[z] for z in set(atoms.numbers.tolist()) - elements})
    if strange:
        raise InputError(f"{file} contains {', '.join(strange)}, which the model does not know; give another structure")
    return atoms
