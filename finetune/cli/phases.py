"""`finetune phases --reactants A B --output DIR`: the products that thermodynamics predicts between two reactants."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ase.calculators.calculator import Calculator
from pymatgen.entries.computed_entries import ComputedEntry
from rich.console import Console
from rich.table import Table

from finetune.cli import inputs
from finetune.cli.inputs import built
from finetune.cli.sample import claim
from finetune.display import cell, message
from finetune.errors import InputError
from finetune.files import write_frames, write_text
from finetune.sampling import phase_plots
from finetune.sampling.entries import (
    Relaxation,
    crystals_of,
    crystals_of_products,
    entries_text,
    materials_project_entries,
    read_entries,
    relaxed_entries,
)
from finetune.sampling.phases import Prediction, elements_of, hull, predict, side

SHIPPED = "chgnet_entries.json"


def run(arguments: list[str]) -> None:
    """Predict with arguments as on the command line; `--mp` alone means true."""
    parser = inputs.parser(
        "phases", "Products and reaction energies along the mixing line of two reactants, from a convex hull."
    )
    parser.add_argument("--reactants", nargs=2, required=True, metavar="FORMULA", help="formulas of both reactants")
    parser.add_function_arguments(phases, as_group=False, as_positional=False, skip={"reactants"})
    following = [*arguments[1:], ""]
    words = [
        "--mp=true" if word == "--mp" and after not in ("true", "false") else word
        for word, after in zip(arguments[1:], following[1:], strict=True)
    ]
    phases(**inputs.given(parser.instantiate(parser.parse_args(words))))


def phases(
    reactants: Sequence[str],
    output: Path,
    entries: Path | None = None,
    calculator: Calculator | str | None = None,
    mp: bool = False,
    structures: Path = Path("data/structures"),
    relaxation: Relaxation = Relaxation(),  # noqa: B008  frozen
    open: str | None = None,
    potential: float = 0.0,
) -> None:
    """Print the reactions between two reactants, and write phases.json, hull.png, reaction.png and products/.

    Energies come from one of `entries`, `calculator` and `mp`; without any from chgnet_entries.json of `structures`.

    Args:
        reactants: formulas of both.
        output: the directory to write.
        entries: JSON file of computed entries (pymatgen's ComputedEntry), eV per cell.
        calculator: model name, or ASE calculator by `class_path`, that relaxes the crystals of `structures`.
        mp: take the entries from the Materials Project; the key is in the environment's MP_API_KEY.
        structures: folder of CIF files, for the calculator and for the crystals of the products.
        relaxation: how far crystals are relaxed.
        open: an element that comes and goes freely, as from a reservoir.
        potential: chemical potential of the open element relative to its stable form, eV (minus the voltage for Li).
    """
    elements = elements_of([*reactants, *filter(None, [open])])
    if len(elements) < 2:
        raise InputError(f"the reactants {' and '.join(reactants)} are one element; nothing can react")
    if (entries is not None) + (calculator is not None) + mp > 1:
        raise InputError("energies come from one of --entries, --calculator and --mp; give one of them")
    output.mkdir(parents=True, exist_ok=True)
    if mp:
        known, source = materials_project_entries(elements), "Materials Project"
    elif calculator is not None:
        known, source = computed(calculator, structures, elements, relaxation, output)
    else:
        path = entries or structures / SHIPPED
        known, source = read_entries(path), path.name
    if mp or calculator is not None:
        write_text(output / "entries.json", entries_text(known))
    diagram = hull(known, elements)
    prediction = predict(diagram, (reactants[0], reactants[1]), open, potential)
    tell(prediction, f"{source}, {len(diagram.all_entries)} entries")
    content = prediction.json() | {"source": source, "stable": phase_plots.stable_formulas(diagram)}
    write_text(output / "phases.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    write_products(prediction, known, structures, output / "products")
    if phase_plots.draw_hull(diagram, prediction, output / "hull.png"):
        print(f"hull.png, reaction.png and phases.json are in {output}")
    else:
        print(f"reaction.png and phases.json are in {output}; a hull is drawn for two or three elements only")
    phase_plots.draw_reactions(prediction, output / "reaction.png")


def computed(
    calculator: Calculator | str, structures: Path, elements: Sequence[str], relaxation: Relaxation, output: Path
) -> tuple[list[ComputedEntry], str]:
    """Entries relaxed by a calculator, kept in OUTPUT/relaxed; the crystals that were left out are told."""
    name = calculator if isinstance(calculator, str) else type(calculator).__name__
    cache = output / "relaxed"
    settings = "" if isinstance(calculator, str) else f" {calculator.parameters}"
    claim(cache, f"calculator={name}{settings} {relaxation}\n")
    crystals = crystals_of(structures, elements, relaxation.max_atoms)
    known, failed = relaxed_entries(crystals, built(calculator), relaxation, cache, name)
    for crystal, reason in failed.items():
        print(message(f"left out {crystal}: {reason}"))
    return known, name


def tell(prediction: Prediction, source: str) -> None:
    """Print the reactions, and what is taken up of an open element."""
    console = Console()
    first, second = prediction.reactants
    title = f"{first} + {second}"
    if prediction.open_to:
        title += f", open to {prediction.open_to} at {prediction.potential:g} eV"
    table = Table("x", "eV/atom", "kJ/mol", "reaction", title=cell(title, "table.title"))
    for column in table.columns[:3]:
        column.justify = "right"
        column.no_wrap = True
    for r in prediction.reactions:
        strongest = "bold" if r is prediction.strongest and r.energy < 0 else None
        row = (f"{r.x:.3f}", f"{r.energy:z.3f}", f"{r.energy_kJ_per_mol:z.0f}", cell(r.equation))
        table.add_row(*row, style=strongest)
    console.print(table)
    counted = f", {prediction.open_to} not counted" if prediction.open_to else ""
    print(f"x: share of the atoms that come from {first}{counted}")
    print(message(f"energies: {source}"))
    if prediction.uptakes:
        steps = Table("compound", "up to µ, eV", f"{prediction.open_to} taken up", "phases")
        for step in prediction.uptakes:
            steps.add_row(
                cell(step.compound), f"{step.potential:z.3f}", f"{step.amount:z.3g}", cell(side(step.products))
            )
        console.print(steps)
    for name, height in zip(prediction.reactants, prediction.above_hull, strict=True):
        if height > 1e-6:
            print(f"{name} is {1e3 * height:.0f} meV/atom above the hull")
    for name in prediction.assumed:
        print(f"{name} has no entry; its energy is taken as that of the hull, so it reacts less than it would")
    print(f"products: {', '.join(prediction.products) or 'none, the reactants are stable together'}")


def write_products(prediction: Prediction, known: Sequence[ComputedEntry], structures: Path, directory: Path) -> None:
    """Write the crystals of the products, and tell which have none."""
    try:
        found, missing = crystals_of_products(prediction.products, known, structures, 1, 10_000)
    except InputError:  # no crystal at all below the folder
        found, missing = {}, list(prediction.products)
    directory.mkdir(exist_ok=True)
    for old in directory.glob("*.extxyz"):
        old.unlink()
    for formula, atoms in found.items():
        write_frames(directory / f"{formula}.extxyz", [atoms])
    if missing:
        print(f"no crystal of {', '.join(missing)} below {structures}; add a CIF file named by the entry's id")
