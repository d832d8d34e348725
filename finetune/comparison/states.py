"""Equations of state, and the energies of reactions between phases."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import BaseCalculator
from pymatgen.analysis.eos import EOS, EOSError
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.analysis.reaction_calculator import Reaction, ReactionError
from pymatgen.core import Composition

from finetune.comparison.figures import Curve, Figure, Measured, Tolerance
from finetune.comparison.observable import Observable, single_points
from finetune.data.reading import read
from finetune.errors import InputError

FEWEST = 5  # volumes that a fit takes
GRID = 41  # points at which two curves are compared


@dataclass(frozen=True)
class State:
    """A phase's equation of state, of third order (Birch, Phys. Rev. 71, 809, 1947).

    Attributes:
        formula: of the cell.
        volumes: Å³/atom, ascending.
        energies: eV/atom.
        lowest: energy of the minimum, eV/atom; the lowest computed where there is no fit.
        volume: V0, Å³/atom; NaN where there is no fit.
        bulk_GPa: B0.
        derivative: B0'.
        fitted: energies of the fit on a grid over the volumes, eV/atom.
    """

    formula: Composition
    volumes: np.ndarray
    energies: np.ndarray
    lowest: float
    volume: float
    bulk_GPa: float
    derivative: float
    fitted: np.ndarray


def states(files: Sequence[str], calculator: BaseCalculator) -> dict[str, State]:
    """The equation of state of each phase (group) from frames of several volumes; single points, nothing relaxes."""
    groups: dict[str, list[Atoms]] = {}
    for frame in read(list(files), labelled=False):
        if frame.atoms.pbc.all():
            groups.setdefault(frame.group, []).append(frame.atoms)
    found = {}
    for group, frames in groups.items():
        said = single_points(frames, calculator)
        known = sorted(
            (atoms.get_volume() / len(atoms), float(point.energy[0]) / len(atoms))
            for atoms, point in zip(frames, said, strict=True)
            if point is not None
        )
        if known:
            found[group] = _state(frames[0], np.array(known))
    return found


def _state(atoms: Atoms, known: np.ndarray) -> State:
    volumes, energies = known.T
    formula = Composition(atoms.get_chemical_formula())
    unfitted = State(formula, volumes, energies, energies.min(), np.nan, np.nan, np.nan, np.full(GRID, np.nan))
    if len(volumes) < FEWEST or not np.isfinite(energies).all():
        return unfitted
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = EOS("birch_murnaghan").fit(volumes, energies)
    except (EOSError, RuntimeError, ValueError):
        return unfitted
    if not 0.5 * volumes[0] < fit.v0 < 1.5 * volumes[-1] or fit.b0 <= 0:
        return unfitted
    grid = np.linspace(volumes[0], volumes[-1], GRID)
    return State(
        *(formula, volumes, energies, float(fit.e0), float(fit.v0), float(fit.b0) / units.GPa, float(fit.b1)),
        np.asarray(fit.func(grid)),
    )


@dataclass(frozen=True, kw_only=True)
class EquationOfState(Observable):
    """Energy against volume: V0, B0 and B0' of each phase.

    Attributes:
        files: structures of each phase (group) at five volumes or more; every calculator gets the same ones.
    """

    heading: ClassVar[str] = "Equations of state"
    about: ClassVar[str] = (
        "Third-order Birch-Murnaghan fits to single points at the same structures. Δ is the root mean square "
        "difference of two curves, each from its own minimum, over the volumes that were computed."
    )
    usual: ClassVar[Mapping[str, Tolerance]] = {
        "V0": Tolerance(relative=0.01),
        "B0": Tolerance(0.5, 0.05),
        "Δ": Tolerance(3.0, target=0.0),
    }

    files: Sequence[str]

    def measure(self, calculator: BaseCalculator, place: Path) -> Measured:
        """Fit each phase."""
        figures, curves, notes = [], [], []
        for phase, state in states(self.files, calculator).items():
            figures += [
                Figure(phase, "V0", state.volume, "Å³/atom"),
                Figure(phase, "B0", state.bulk_GPa, "GPa"),
                Figure(phase, "B0'", state.derivative),
            ]
            if np.isnan(state.volume):
                notes.append(f"{phase}: no fit to {len(state.volumes)} volumes: fewer than five, or no minimum")
            above = 1000 * (state.energies - state.lowest)
            labels = ("volume, Å³/atom", "energy above the minimum, meV/atom")
            curves.append(Curve(phase, state.volumes.tolist(), above.tolist(), *labels, style="both"))
        return Measured(figures, curves, notes)

    def against(self, measured: Measured, reference: Measured) -> list[Figure]:
        """Root mean square difference of the curves of each phase, meV/atom."""
        known = {curve.panel: curve for curve in reference.curves}
        found = []
        for curve in measured.curves:
            other = known.get(curve.panel)
            if other is not None and list(other.x) == list(curve.x):
                own, wanted = np.array(curve.y), np.array(other.y)
                found.append(Figure(curve.panel, "Δ", float(np.sqrt(((own - wanted) ** 2).mean())), "meV/atom"))
        return found


@dataclass(frozen=True, kw_only=True)
class Energies(Observable):
    """Energies of reactions between phases; of formation, above the hull and of cohesion where the files allow it.

    Attributes:
        files: as for `EquationOfState`; an element's phase gives energies of formation, a frame without periodicity
            and with one atom that of cohesion.
        reactions: such as `Li7P3S11 + Li -> Li2S + Li3P`, balanced by itself; the names are those of the phases.
    """

    heading: ClassVar[str] = "Energies of reactions"
    about: ClassVar[str] = (
        "At the minimum of each phase's equation of state, without vibrations. Per atom of the reactants; below 0: the "
        "reaction gives energy."
    )
    usual: ClassVar[Mapping[str, Tolerance]] = {
        "reaction energy": Tolerance(10.0),
        "formation energy": Tolerance(10.0),
        "energy above the hull": Tolerance(10.0),
        "cohesive energy": Tolerance(50.0),
    }

    files: Sequence[str]
    reactions: Sequence[str] = ()

    def measure(self, calculator: BaseCalculator, place: Path) -> Measured:
        """Combine the energies of phases."""
        found = states(self.files, calculator)
        figures, notes = [], []
        for text in self.reactions:
            energy = reaction_energy(text, found)
            if energy is None:
                notes.append(f"{text}: a phase is missing")
            else:
                figures.append(Figure(text, "reaction energy", 1000 * energy, "meV/atom"))
        figures += _hull(found) + self._cohesion(found, calculator)
        return Measured(figures, [], notes)

    def _cohesion(self, found: Mapping[str, State], calculator: BaseCalculator) -> list[Figure]:
        """Energy of the atoms alone minus that of the phase, per atom."""
        alone = [
            frame.atoms
            for frame in read(list(self.files), labelled=False)
            if len(frame.atoms) == 1 and not frame.atoms.pbc.any()
        ]
        said = single_points(alone, calculator)
        atoms = {a.symbols[0]: float(p.energy[0]) for a, p in zip(alone, said, strict=True) if p is not None}
        figures = []
        for phase, state in found.items():
            amounts = state.formula.fractional_composition.get_el_amt_dict()
            if set(amounts) <= set(atoms):
                free = sum(share * atoms[symbol] for symbol, share in amounts.items())
                figures.append(Figure(phase, "cohesive energy", 1000 * (free - state.lowest), "meV/atom"))
        return figures


def reaction_energy(text: str, phases: Mapping[str, State]) -> float | None:
    """Energy of products minus reactants, eV per atom of the reactants; None where a phase is not known.

    Raises:
        InputError: the text is no reaction, or cannot be balanced.
    """
    sides = [[name.strip() for name in side.split("+")] for side in text.split("->")]
    if len(sides) != 2 or not all(name for side in sides for name in side):
        raise InputError(f"{text!r} is no reaction; write it as 'Li7P3S11 + Li -> Li2S + Li3P'")
    if not all(name in phases for side in sides for name in side):
        return None
    compositions = {name: phases[name].formula.reduced_composition for side in sides for name in side}
    try:
        balanced = Reaction(*([compositions[name] for name in side] for side in sides))
    except ReactionError as error:
        raise InputError(f"{text!r} cannot be balanced ({error}); name all its phases") from error
    energy, atoms = 0.0, 0.0
    for name, formula in compositions.items():
        share = balanced.get_coeff(formula) * formula.num_atoms
        energy += share * phases[name].lowest
        atoms -= min(share, 0.0)
    return energy / atoms if atoms else None


def _hull(phases: Mapping[str, State]) -> list[Figure]:
    """Energies of formation and above the hull; nothing where an element has no phase of its own."""
    entries = {
        name: PDEntry(state.formula, state.lowest * state.formula.num_atoms, name=name)
        for name, state in phases.items()
        if np.isfinite(state.lowest)
    }
    elements = {element for entry in entries.values() for element in entry.composition}
    pure = {entry.composition.elements[0] for entry in entries.values() if len(entry.composition) == 1}
    if not entries or elements != pure:
        return []
    diagram = PhaseDiagram(list(entries.values()))
    figures = []
    for name, entry in entries.items():
        if len(entry.composition) > 1:
            formation = 1000 * diagram.get_form_energy_per_atom(entry)
            figures.append(Figure(name, "formation energy", formation, "meV/atom"))
            above = 1000 * float(diagram.get_e_above_hull(entry) or 0.0)
            figures.append(Figure(name, "energy above the hull", above, "meV/atom"))
    return figures
