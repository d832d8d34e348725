"""Computed entries for a phase diagram: from a file, from the Materials Project, or relaxed by any calculator."""

from __future__ import annotations

import inspect
import json
import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from pymatgen.core import Composition
from pymatgen.entries.computed_entries import (
    CompositionEnergyAdjustment,
    ComputedEntry,
    ConstantEnergyAdjustment,
    EnergyAdjustment,
    ManualEnergyAdjustment,
    TemperatureEnergyAdjustment,
)

from finetune.data.frames import Frame
from finetune.errors import InputError
from finetune.files import write_frames, write_text
from finetune.progress import through
from finetune.sampling.core import Limits, frozen
from finetune.sampling.crystals import primitive_cells

SWELLS = 1.5  # a crystal whose volume grows by more has fallen apart
BOUND = Limits(sparsest_A3=math.inf, isolated_A=None)  # heavy alkali metals are sparse and their atoms far apart
ADJUSTMENTS: tuple[type[Any], ...] = (
    CompositionEnergyAdjustment,
    ConstantEnergyAdjustment,
    ManualEnergyAdjustment,
    TemperatureEnergyAdjustment,
)
KEY = "MP_API_KEY"


@dataclass(frozen=True)
class Relaxation:
    """How a crystal is relaxed, cell and positions, by FIRE on the logarithm of the deformation of the cell.

    Attributes:
        fmax: largest force, and largest component of the virial per atom of the cell's motion, eV/Å.
        steps: largest number of steps; a crystal that needs more is left out.
        max_atoms: larger primitive cells are left out.
    """

    fmax: float = 0.05
    steps: int = 500
    max_atoms: int = 80

    def relax(self, crystal: Atoms, calculator: BaseCalculator) -> Atoms:
        """The relaxed crystal with its energy (eV).

        Raises:
            InputError: the calculator refuses it, the steps do not suffice, or what comes out is absurd.
        """
        atoms = crystal.copy()
        atoms.calc = calculator
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "logm result may be inaccurate")  # by 1e-12
            converged = FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=self.fmax, steps=self.steps)
        if not converged:
            raise InputError(f"not below {self.fmax:g} eV/Å after {self.steps} steps; raise one of them")
        relaxed = frozen(atoms, calculator)
        swelled = relaxed.get_volume() > SWELLS * crystal.get_volume()
        if reason := "it fell apart" if swelled else BOUND.reason(relaxed):
            raise InputError(f"relaxed to an absurd structure: {reason}")
        return relaxed


def read_entries(path: Path) -> list[ComputedEntry]:
    """Entries of a JSON file: a list of pymatgen's `ComputedEntry` as dicts, energies in eV per cell.

    Raises:
        InputError: the file is not there or is something else.
    """
    try:
        entries = [plain_entry(entry) for entry in json.loads(path.read_text())]
    except OSError as error:
        raise InputError(f"cannot read {path} ({error}); give a JSON file of computed entries") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no list of pymatgen ComputedEntry dicts ({error}); see the how-to") from error
    if wrong := [str(entry.entry_id) for entry in entries if not np.isfinite(entry.energy)]:
        raise InputError(f"{path} has entries without an energy: {', '.join(wrong[:5])}; drop them")
    return entries


def plain_entry(content: Mapping[str, Any]) -> ComputedEntry:
    """The entry of a dict as `ComputedEntry.as_dict` writes it; classes that it names are not imported.

    Raises:
        ValueError: an energy adjustment of a kind that pymatgen does not have, or a value that is no number.
    """
    adjustments = [_adjustment(one) for one in content.get("energy_adjustments") or []]
    return ComputedEntry(
        content["composition"],
        float(content["energy"]),
        correction=0.0 if adjustments else float(content["correction"]),
        energy_adjustments=adjustments,
        parameters=content.get("parameters") or {},
        data=content.get("data") or {},
        entry_id=content.get("entry_id"),
    )


def _adjustment(content: Mapping[str, Any]) -> EnergyAdjustment:
    """An energy adjustment from its numbers."""
    kinds = {kind.__name__: kind for kind in ADJUSTMENTS}
    if content["@class"] not in kinds:
        raise ValueError(f"energy adjustment of class {content['@class']}, expected {', '.join(kinds)}")
    kind = kinds[content["@class"]]
    names = [name for name in inspect.signature(kind).parameters if name in content and name not in ("cls", "name")]
    numbers = {name: float(content[name]) for name in names if name != "description" and content[name] is not None}
    return kind(**numbers)


def entries_text(entries: Sequence[ComputedEntry]) -> str:
    """The JSON that `read_entries` reads, one entry per line."""
    keys = ("@module", "@class", "entry_id", "composition", "energy", "correction", "parameters")
    dicts = [{key: entry.as_dict()[key] for key in keys} for entry in entries]
    return "[\n" + ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in dicts) + "\n]\n"


def materials_project_entries(elements: Sequence[str], key: str | None = None) -> list[ComputedEntry]:
    """All entries of a chemical system from the Materials Project: PBE and PBE+U with MP2020 corrections.

    Jain et al., 10.1063/1.4812323; corrections: Wang et al., 10.1038/s41598-021-94550-5.

    Args:
        elements: symbols of the elements.
        key: the API key; None takes the environment's `MP_API_KEY`.

    Raises:
        InputError: there is no key, or mp-api is not installed.
    """
    key = key or os.environ.get(KEY)
    if not key:
        raise InputError(f"the Materials Project needs a key and {KEY} is not set; get one at materialsproject.org/api")
    try:
        from mp_api.client import MPRester
    except ImportError as error:
        raise InputError("mp-api is not installed; pip install 'finetune-interface[mp]'") from error
    with MPRester(key) as rester:
        found: list[ComputedEntry] = rester.get_entries_in_chemsys(
            list(elements), additional_criteria={"thermo_types": ["GGA_GGA+U"]}
        )
    return found


def crystals_of(folder: Path, elements: Sequence[str], max_atoms: int) -> list[Atoms]:
    """The ordered crystals below a folder that consist of these elements only, the smallest first."""
    found = [crystal for same in primitive_cells(folder, 1, max_atoms).values() for crystal in same]
    found = [crystal for crystal in found if set(crystal.symbols) <= set(elements)]
    return sorted(found, key=lambda crystal: (len(crystal), crystal.info["made_by"]))


def relaxed_entries(
    crystals: Sequence[Atoms], calculator: BaseCalculator, relaxation: Relaxation, cache: Path, name: str
) -> tuple[list[ComputedEntry], dict[str, str]]:
    """Entries of relaxed crystals, and the reasons of those that were left out.

    Every crystal is a file of its own in the cache, written once, so that a restart goes on at the first one missing.

    Args:
        crystals: what to relax; `made_by` names each and becomes its `entry_id`.
        calculator: gives energies, forces and stress.
        relaxation: how far.
        cache: the directory of the relaxed crystals.
        name: the calculator's name, kept in the entries' parameters.
    """
    cache.mkdir(parents=True, exist_ok=True)
    parameters = {"calculator": name, "fmax": relaxation.fmax}
    entries, failed = [], {}
    for atoms, reason in relaxed(through(crystals, "relax", len(crystals), "crystals"), calculator, relaxation, cache):
        if reason is None:
            formula, energy = Composition(atoms.get_chemical_formula()), float(atoms.get_potential_energy())
            entries.append(ComputedEntry(formula, energy, entry_id=atoms.info["made_by"], parameters=parameters))
        else:
            failed[atoms.info["made_by"]] = reason
    return entries, failed


def relaxed(
    crystals: Iterable[Atoms], calculator: BaseCalculator, relaxation: Relaxation, cache: Path
) -> Iterator[tuple[Atoms, str | None]]:
    """Every crystal relaxed, from the cache where it is there; or as it was, with the reason why not."""
    for crystal in crystals:
        name = f"{crystal.info['made_by']}-{Frame(crystal, {}, '', 0, '', '').structure_hash[:8]}"
        done, refused = (cache / f"{name}{ending}" for ending in (".extxyz", ".failed"))
        if not done.exists() and not refused.exists():
            try:
                result = relaxation.relax(crystal, calculator)
            except InputError as reason:
                write_text(refused, str(reason))
            else:
                write_frames(done, [result])
        if done.exists():
            yield next(ase.io.iread(done)), None
        else:
            yield crystal, refused.read_text()


def crystals_of_products(
    products: Sequence[str], entries: Sequence[ComputedEntry], folder: Path, min_atoms: int, max_atoms: int
) -> tuple[dict[str, Atoms], list[str]]:
    """The crystal of every product, of its lowest entry that the folder has, and the products that have none."""
    cells = primitive_cells(folder, min_atoms, max_atoms)
    by_name = {name: cell for same in cells.values() for cell in same for name in names(cell.info["made_by"])}
    found: dict[str, Atoms] = {}
    for entry in sorted(entries, key=lambda entry: entry.energy_per_atom):
        formula = entry.composition.reduced_formula
        name = next((name for name in names(str(entry.entry_id)) if name in by_name), None)
        if formula in products and formula not in found and name is not None:
            found[formula] = by_name[name].copy()
    return {formula: found[formula] for formula in products if formula in found}, [
        formula for formula in products if formula not in found
    ]


def names(text: str) -> list[str]:
    """Names under which a structure is known: that of its file, and its id of the Materials Project if it has one."""
    return [text, *re.findall(r"mp-\d+", text)]
