"""`finetune sample`: structures from recipes, labelled by a model, as one extended XYZ file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from finetune.cli import inputs
from finetune.cli.inputs import built
from finetune.display import message
from finetune.errors import InputError
from finetune.files import damaged, make_folder, read_frames, read_record, sha256, sweep, write_frames, write_text
from finetune.locks import locked
from finetune.progress import Progress
from finetune.sampling.core import Context, Limits, Recipe, collect, labelled


def run(arguments: list[str]) -> None:
    """Sample with arguments as on the command line."""
    parser = inputs.parser("sample", "Make structures by recipes and label them.")
    parser.add_function_arguments(sample, as_group=False, as_positional=False)
    sample(**inputs.given(parser.instantiate(parser.parse_args(arguments[1:]))))


def sample(
    recipes: list[Recipe],
    output: Path,
    calculator: Calculator | str | None = "chgnet",
    labels: bool = True,
    seed: int = 0,
    limits: Limits = Limits(),  # noqa: B008  frozen
) -> None:
    """Make frames by recipes, labelled by a model or without labels, and write them to one extended XYZ file.

    Every chunk of frames is a file of its own in `OUTPUT.parts`, so the same command goes on where it was stopped.

    Args:
        recipes: families of frames, each with its chain of samplers.
        output: the extended XYZ file to write.
        calculator: name of the model that labels, or an ASE calculator by `class_path`; null if none is needed.
        labels: write the calculator's results as labels; false for structures that are to be labelled by DFT.
        seed: the frames follow from the recipes and this number.
        limits: beyond these a frame is absurd and is rejected with its reason.
    """
    parts = output.with_name(output.name + ".parts")
    labeller = calculator
    if not isinstance(calculator, str | None):
        labeller = f"{type(calculator).__name__}({calculator.parameters})"
    with locked(parts, "choose another --output"):
        claim(parts, f"seed={seed} calculator={labeller} labels={labels} {limits} {recipes}\n")
        sweep(parts, below=False)
        collect_parts(parts, output, recipes, calculator, labels, seed, limits)


def collect_parts(
    parts: Path,
    output: Path,
    recipes: list[Recipe],
    calculator: Calculator | str | None,
    labels: bool,
    seed: int,
    limits: Limits,
) -> None:
    """Make the parts that are missing, and one file of all; see `sample` for the arguments."""
    chunks = [(r, c) for r, recipe in enumerate(recipes) for c in range(-(-recipe.frames // recipe.chunk))]
    chunks.sort(key=lambda rc: (rc[1] * recipes[rc[0]].chunk / recipes[rc[0]].frames, rc))  # all families early
    missing = [(r, c) for r, c in chunks if not (parts / f"{r:02d}-{c:04d}.extxyz").exists()]
    model = built(calculator) if missing and calculator is not None else None
    with Progress("sample", sum(size(recipes[r], c) for r, c in missing), "frames", delay=0.0) as progress:
        for r, c in missing:
            context = Context(np.random.default_rng([seed, r, c]), model, limits, labels)
            progress.update(0, f"{recipes[r].family} {c}")
            frames, rejected = collect(recipes[r], context, size(recipes[r], c))
            name = f"{r:02d}-{c:04d}"
            write_text(parts / f"{name}.rejected.json", json.dumps(rejected))
            written = [as_reference(atoms) if labels else unlabelled(atoms) for atoms in frames]
            digest = write_frames(parts / f"{name}.extxyz", written)
            write_text(parts / f"{name}.sha256", f"{digest}  {name}.extxyz\n")
            progress.update(len(frames))
    merge(parts, output, [f"{r:02d}-{c:04d}" for r, c in chunks])


def size(recipe: Recipe, chunk: int) -> int:
    """Frames in a chunk of a recipe; the last one may be smaller."""
    return min(recipe.chunk, recipe.frames - chunk * recipe.chunk)


def claim(parts: Path, settings: str) -> None:
    """Write the settings beside the parts, or raise `InputError` where the parts were made with other ones."""
    make_folder(parts)
    record = parts / "settings.txt"
    if record.exists() and record.read_text() != settings:
        raise InputError(f"{parts} was made with other settings; remove it or choose another output")
    write_text(record, settings)


def as_reference(atoms: Atoms) -> Atoms:
    """The frame with its results, if any, as labels: REF_energy (eV), REF_forces (eV/Å), REF_stress (3x3, eV/Å³)."""
    frame = unlabelled(atoms)
    if not labelled(atoms):
        return frame
    frame.info["REF_energy"] = atoms.get_potential_energy(apply_constraint=False)
    frame.arrays["REF_forces"] = atoms.get_forces(apply_constraint=False)
    if "stress" in atoms.calc.results:
        frame.info["REF_stress"] = atoms.get_stress(voigt=False, apply_constraint=False)
    return frame


def unlabelled(atoms: Atoms) -> Atoms:
    """The frame without any results."""
    frame: Atoms = atoms.copy()
    return frame


def read_part(parts: Path, name: str) -> list[Atoms]:
    """Frames of a part, none where all were rejected.

    Raises:
        InputError: it is not as it was written.
    """
    path, digest = parts / f"{name}.extxyz", parts / f"{name}.sha256"
    remedy = f"Remove the files {name}.* in {parts}, and the same command makes them anew."
    if digest.is_file() and digest.read_text().split()[:1] != [sha256(path)]:  # earlier versions wrote no checksum
        raise damaged(path, "its checksum differs from its content", remedy)
    return read_frames(path, remedy) if path.stat().st_size else []


def merge(parts: Path, output: Path, names: list[str]) -> None:
    """Write all parts as one file and print frames by family and rejected frames by reason."""
    frames: list[Atoms] = []
    rejected: Counter[str] = Counter()
    for name in names:
        frames += read_part(parts, name)
        remedy = f"Remove the files {name}.* in {parts}, and the same command makes them anew."
        rejected.update(read_record(parts / f"{name}.rejected.json", remedy))
    write_frames(output, frames)
    families = Counter(atoms.info["family"] for atoms in frames)
    print(message(f"{len(frames)} frames in {output}: " + ", ".join(f"{n} {family}" for family, n in families.items())))
    reasons = ", ".join(f"{n} {reason}" for reason, n in rejected.most_common())
    print(message(f"{rejected.total()} rejected" + (f": {reasons}" if reasons else "")))
